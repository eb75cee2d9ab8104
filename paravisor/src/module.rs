//! Modules: ordinary static Linux programs that run beside the guest at CPL-3, each in an address space of its own.
//!
//! In the order of a module's life: [`load`] takes its ELF file ([`elf_file`]) from staging, [`process`] runs it, slice by slice, in a
//! [`space`], whose addresses [`memory`] keeps the books of; [`call`] carries out its system calls. It serves requests that come by its
//! [`channel`] and keeps [`records`]. [`runtime`] starts it again when it fails, and [`set`] decides when it has a processor.
//!
//! All of this is safe code over the traits [`space::Space`] and [`outside::Outside`], and is tested on any machine. What a module says is
//! believed no more than what a guest says: it can only end itself. The interface as its programmer sees it is in `docs/modules.md`.

pub mod call;
pub mod channel;
pub mod elf_file;
pub mod load;
pub mod memory;
pub mod output;
pub mod outside;
pub mod process;
pub mod records;
pub mod runtime;
pub mod set;
pub mod space;
pub mod statement;

mod regions;

#[cfg(test)]
pub(crate) mod fake;

pub use channel::{Channel, ChannelError, ChannelState};
pub use outside::Outside;
pub use records::{NoRecords, RecordStore, SealedRecords, VolatileRecords};
pub use set::Modules;
