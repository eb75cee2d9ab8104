//! One processor with SEV-SNP, made of one with SVM: VMRUN with a VMSA, and all that hardware does until the host sees
//! an exit.

pub mod deliver;
pub mod extended;
pub mod linear;
pub mod vmsa;
