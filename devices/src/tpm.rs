//! Words of the TPM 2.0 that its front-end, the paravisor and the engine share: what a command and a response begin with
//! ([`command`]), and how a machine speaks with the program that is the engine ([`message`]).

pub mod command;
pub mod message;
