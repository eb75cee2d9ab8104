//! A module of the paravisor that uses AVX, of which CPUID does not tell it. It keeps something of its own in each vector register, in MXCSR and in
//! the x87 control word, and looks again and again whether it is still there. What it keeps comes from its name, so that no two keep the same.
//!
//! Built by the tests with `rustc` alone, as a static program.

use std::arch::asm;
use std::hash::{DefaultHasher, Hash, Hasher};

/// How often it looks, and how long it waits in between, which is many slices in all.
const LOOKS: u64 = 100;
const ROUNDS: u64 = 400_000;
/// Sixteen registers of 32 bytes.
type Registers = [[u64; 4]; 16];

/// Loads them, waits, and returns what they are then, with the upper halves.
#[target_feature(enable = "avx")]
fn keep_ymm(kept: &Registers) -> Registers {
    let mut found = [[0; 4]; 16];
    // SAFETY: each move is within one of the two arrays; every register it changes is said to be.
    unsafe {
        asm!(
            ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovdqu ymm\\number, [{kept} + 32 * \\number]",
            ".endr",
            "2: dec {rounds}",
            "jnz 2b",
            ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "vmovdqu [{found} + 32 * \\number], ymm\\number",
            ".endr",
            kept = in(reg) kept,
            found = in(reg) &mut found,
            rounds = inout(reg) ROUNDS => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _, out("ymm14") _, out("ymm15") _,
            options(nostack)
        );
    }
    found
}

/// Returns rounding of SSE and of x87 as they are while others had their turns.
fn keep_rounding(rounding: u32) -> (u32, u16) {
    let (mxcsr, control) = (0x1F80 | rounding << 13, 0x37F | (rounding as u16) << 10);
    let (mut then, mut usual) = ((mxcsr, control), (0_u32, 0_u16));
    // SAFETY: what was in both registers is put back.
    unsafe {
        asm!(
            "stmxcsr [{usual_sse}]", "fnstcw [{usual_x87}]",
            "ldmxcsr [{sse}]", "fldcw [{x87}]",
            "2: dec {rounds}", "jnz 2b",
            "stmxcsr [{sse}]", "fnstcw [{x87}]",
            "ldmxcsr [{usual_sse}]", "fldcw [{usual_x87}]",
            sse = in(reg) &mut then.0, x87 = in(reg) &mut then.1,
            usual_sse = in(reg) &mut usual.0, usual_x87 = in(reg) &mut usual.1,
            rounds = inout(reg) ROUNDS => _,
            options(nostack)
        );
    }
    (then.0 >> 13 & 3, then.1 >> 10 & 3)
}

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    let own = hasher.finish();
    let rounding = 1 + (own % 3) as u32;
    for look in 0..LOOKS {
        let kept: Registers = std::array::from_fn(|register| {
            std::array::from_fn(|part| own ^ look << 32 ^ (register as u64) << 8 ^ part as u64)
        });
        // SAFETY: QEMU's processors have AVX, and it is on, whatever a module is told.
        let found = unsafe { keep_ymm(&kept) };
        let rounds = keep_rounding(rounding);
        if found != kept || rounds != (rounding, rounding as u16) {
            eprintln!("found {found:x?} {rounds:?} for {kept:x?} {rounding} at look {look}");
            return;
        }
    }
    eprintln!("found its own {LOOKS} times");
}
