//! Bare-metal conformance guests, and the reader of what they say.
//!
//! # The program
//!
//! `cargo build --profile image -p stockade-guests --features image` makes one ELF, `target/image/guests`, that any loader of
//! multiboot 1 or PVH kernels starts: plain QEMU (`-kernel`), `stockade run --kernel`, or a boot loader on a machine of metal. It
//! checks what a PC owes its operating system: interrupt controllers, timers, injection of events, processor modes, MSRs, CPUID,
//! memory-mapped registers. Each check is one behaviour, judged by the AMD manual (APM), the Intel one (SDM) and the chips' data
//! sheets, never by what some hypervisor does; where QEMU's emulator is known to be wrong the check says so.
//!
//! A plain run:
//!
//! ```text
//! qemu-system-x86_64 -M q35 -cpu max -smp 2 -accel tcg,thread=multi -m 128 -nodefaults -display none -serial stdio -no-reboot \
//!     -device isa-debug-exit,iobase=0xf4,iosize=4 -device pc-testdev -kernel target/image/guests -append "cpus=2"
//! ```
//!
//! Words of the command line, in any order; what is not known is ignored:
//!
//! | word | meaning |
//! |---|---|
//! | `test=TEXT` | only checks whose name contains TEXT; may be given several times |
//! | `skip=TEXT` | no check whose name contains TEXT |
//! | `cpus=N` | how many CPUs there must be; without it the CPUs that start are counted |
//! | `list` | say what the checks are and run none |
//! | `trace` | say `begin NAME` before each check, for a guest that hangs |
//! | `bench` | check nothing, time operations: lines `bench NUMBER NAME TIMES MEDIAN LEAST MEAN` in ticks of the TSC, then `done: bench` |
//! | `risky` | run the few checks of control registers too that stop TCG for good, plain or below a hypervisor |
//!
//! # The output, on COM1
//!
//! | line | meaning |
//! |---|---|
//! | `start KIND` | how the loader started the guest, `multiboot` or `pvh` |
//! | `pass NAME` | the check held |
//! | `fail NAME: got X, want Y (WHAT)` | it did not |
//! | `skip NAME: WHY` | this machine lacks what the check is about |
//! | `known NAME: WHY` | before the verdict: plain QEMU is known to fail this |
//! | `begin NAME` | with `trace` |
//! | `test NAME: CLAIM` | with `list` |
//! | `cpus N` | how many CPUs came up |
//! | `done: N passed, M failed, K skipped` | the end |
//!
//! Then the guest writes 0 (all passed) or 1 to port 0xF4, which QEMU's isa-debug-exit turns into exit status 1 or 3, and if it
//! is still there turns the power off by ACPI. A NAME is `group.check`, and a check's name is its claim.
//!
//! # The sources
//!
//! `src/main.rs` is the program: `machine/` is the computer (start, traps, paging, chips), `suite/` the checks, a table and a file
//! a group. A new check is a function of the context and a line in its file's table. [`report`] is for the
//! host: it reads the output into a [`Report`](report::Report).

#![forbid(unsafe_code)]
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "tests"))]

pub mod report;
