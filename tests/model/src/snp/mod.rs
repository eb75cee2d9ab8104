//! SEV-SNP on a processor that has only SVM: the hardware being modelled, and the loop each of its processors runs.
//!
//! Below: [`addr`], the two kinds of address; [`gpa_map`], which guest addresses have memory; [`rmp`], to whom each page
//! belongs. On these stands [`vm::Vm`], the machine all processors share.

pub mod addr;
pub mod bus;
pub mod calls;
pub mod cpu;
pub mod decode;
pub mod devices;
pub mod dma;
pub mod events;
pub mod gpa_map;
pub mod launch;
pub mod memory;
pub mod npt;
pub mod probe;
pub mod report;
pub mod restart;
pub mod rmp;
pub mod run;
pub mod stats;
mod tapped;
pub mod vcpu;
pub mod vm;
pub mod walk;
pub mod work;
