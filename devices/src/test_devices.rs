//! The small devices that test kernels expect of QEMU: `isa-debug-exit` and `pc-testdev`.
//!
//! A machine has them only when the user asks for test devices. They give a guest nothing it could not have otherwise: a way to
//! end with a status, a latch, wires of its own interrupt controllers, and some memory that is reached by emulation.

mod debug_exit;
mod pc_testdev;

pub use debug_exit::DebugExit;
pub use pc_testdev::{
    LATCH_PORT, LINE_COUNT, LINES, MEMORY_BASE, MEMORY_SIZE, PcTestdev, TestdevState,
};
