//! What CPUID tells an ordinary guest on an AMD machine (APM vol. 3, appendix E).

use core::arch::asm;

use super::{Context, Outcome, equal, holds, needs, tests, within};
use crate::machine::acpi;
use crate::machine::processor::{cpuid, cr4, has_feature_ecx, rdtsc, set_cr4};
use crate::machine::time::wait;

const EXTENDED: u32 = 0x8000_0000;
const OSXSAVE: u64 = 1 << 18;

tests! {
    vendor_is_amd_in_both_halves, "Leaves 0 and 80000000h say AuthenticAMD.";
    highest_leaves_are_enough, "There are leaves up to Dh and 80000008h at least.";
    leaf_beyond_the_highest_reads_zero, "A basic leaf beyond the highest reads zero (AMD).",
        known_qemu: "answers with the highest basic leaf, as Intel does";
    extended_leaf_beyond_the_highest_reads_zero, "An extended leaf beyond the highest reads zero.",
        known_qemu: "answers with the highest basic leaf, as Intel does";
    upper_halves_are_cleared, "CPUID clears bits 63:32 of its four registers.";
    leaf_1_ignores_the_subleaf, "Leaf 1 does not look at ECX.";
    signature_is_the_same_in_both_halves, "Leaves 1 and 80000001h have the same family, model and stepping.";
    long_mode_basics_are_there, "FPU, TSC, MSR, PAE, CX8, APIC, SEP, MTRR, PGE, CMOV, PAT, FXSR, SSE, SSE2, SYSCALL, NX and LM are told.";
    svm_is_hidden, "Leaf 80000001h ECX[2] is clear.",
        known_qemu: "shows SVM unless started with -svm";
    monitor_is_hidden, "Leaf 1 ECX[3] is clear.",
        known_qemu: "the model max shows MONITOR";
    memory_encryption_is_hidden, "Leaf 8000001Fh reads zero.",
        known_qemu: "the model max has no such leaf and answers with another";
    svm_leaf_reads_zero, "Leaf 8000000Ah reads zero.",
        known_qemu: "shows SVM unless started with -svm";
    osxsave_is_the_bit_of_cr4, "Leaf 1 ECX[27] is CR4[18].";
    initial_apic_id_is_leaf_b, "Leaf 1 EBX[31:24] is leaf Bh EDX.";
    leaf_b_counts_the_cpus, "The last level of leaf Bh counts as many CPUs as started.";
    leaf_b_ends_with_type_zero, "The level after the last has type 0 and its own number.";
    address_widths_are_possible, "Leaf 80000008h tells 36 to 52 physical and 48 or 57 linear bits.";
    tsc_is_invariant, "Leaf 80000007h EDX[8]: the TSC is invariant.",
        known_qemu: "TCG has no invariant TSC";
    tsc_frequency_is_true, "Leaf 15h, if told, is the TSC's frequency by the ACPI timer.";
    xsave_area_grows_with_xcr0, "Leaf Dh EBX is the size of what XCR0 enables: 576, and 832 with AVX.";
    xsave_components_are_in_order, "Leaf Dh: AVX state is 256 bytes at 576.";
    brand_is_text, "Leaves 80000002h to 80000004h are text.";
    structured_features_have_a_limit, "Leaf 7 tells a highest subleaf, and a subleaf beyond it reads zero.";
}

fn words(leaf: u32, subleaf: u32) -> [u32; 4] {
    let result = cpuid(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

fn zero(what: &'static str, leaf: u32, subleaf: u32) -> Outcome {
    let sum = words(leaf, subleaf).iter().fold(0, |sum, word| sum | word);
    equal(what, sum, 0_u32)
}

fn vendor_is_amd_in_both_halves(_: &mut Context) -> Outcome {
    for leaf in [0, EXTENDED] {
        let [_, ebx, ecx, edx] = words(leaf, 0);
        equal("Auth", ebx, u32::from_le_bytes(*b"Auth"))?;
        equal("enti", edx, u32::from_le_bytes(*b"enti"))?;
        equal("cAMD", ecx, u32::from_le_bytes(*b"cAMD"))?;
    }
    Ok(())
}

fn highest_leaves_are_enough(_: &mut Context) -> Outcome {
    within("highest basic leaf", u64::from(words(0, 0)[0]), 0xD, 0xFF)?;
    within(
        "highest extended leaf",
        u64::from(words(EXTENDED, 0)[0]),
        0x8000_0008,
        0x8000_00FF,
    )
}

fn leaf_beyond_the_highest_reads_zero(_: &mut Context) -> Outcome {
    zero("leaf", words(0, 0)[0] + 1, 0)?;
    zero("leaf 1000h", 0x1000, 0)
}

fn extended_leaf_beyond_the_highest_reads_zero(_: &mut Context) -> Outcome {
    zero("leaf", words(EXTENDED, 0)[0] + 1, 0)
}

fn upper_halves_are_cleared(_: &mut Context) -> Outcome {
    let (a, b, c, d): (u64, u64, u64, u64);
    unsafe {
        asm!(
            "mov {keep}, rbx", "mov rbx, -1", "cpuid", "xchg {keep}, rbx",
            keep = out(reg) b, inout("rax") 0xFFFF_FFFF_0000_0000_u64 => a,
            inout("rcx") 0xFFFF_FFFF_0000_0000_u64 => c, inout("rdx") u64::MAX => d,
        );
    }
    equal("upper halves", (a | b | c | d) >> 32, 0_u64)
}

fn leaf_1_ignores_the_subleaf(_: &mut Context) -> Outcome {
    let (first, second) = (words(1, 0), words(1, 7));
    for (one, other) in first.iter().zip(second) {
        equal("register", other, *one)?;
    }
    Ok(())
}

fn signature_is_the_same_in_both_halves(_: &mut Context) -> Outcome {
    equal("80000001h EAX", words(EXTENDED + 1, 0)[0], words(1, 0)[0])
}

fn long_mode_basics_are_there(_: &mut Context) -> Outcome {
    let basic = [0_u32, 4, 5, 6, 8, 9, 11, 12, 13, 15, 16, 24, 25, 26];
    let edx = words(1, 0)[3];
    for bit in basic {
        equal(
            "bit of leaf 1 EDX that is missing",
            if edx >> bit & 1 == 0 { bit } else { 0 },
            0_u32,
        )?;
    }
    let extended = words(EXTENDED + 1, 0)[3];
    for bit in [11_u32, 20, 29] {
        equal(
            "bit of leaf 80000001h EDX that is missing",
            if extended >> bit & 1 == 0 { bit } else { 0 },
            0_u32,
        )?;
    }
    Ok(())
}

fn svm_is_hidden(_: &mut Context) -> Outcome {
    equal("SVM", words(EXTENDED + 1, 0)[2] >> 2 & 1, 0_u32)
}

fn monitor_is_hidden(_: &mut Context) -> Outcome {
    equal("MONITOR", words(1, 0)[2] >> 3 & 1, 0_u32)
}

fn memory_encryption_is_hidden(_: &mut Context) -> Outcome {
    zero("leaf 8000001Fh", EXTENDED + 0x1F, 0)
}

fn svm_leaf_reads_zero(_: &mut Context) -> Outcome {
    zero("leaf 8000000Ah", EXTENDED + 0xA, 0)
}

fn osxsave_is_the_bit_of_cr4(_: &mut Context) -> Outcome {
    needs("no XSAVE in CPUID", has_feature_ecx(26))?;
    let before = cr4();
    set_cr4(before & !OSXSAVE);
    let clear = has_feature_ecx(27);
    set_cr4(before | OSXSAVE);
    let set = has_feature_ecx(27);
    set_cr4(before);
    equal("OSXSAVE with CR4[18] clear", clear, false)?;
    equal("OSXSAVE with CR4[18] set", set, true)
}

fn has_leaf_b() -> Outcome {
    needs("no leaf Bh", words(0, 0)[0] >= 0xB && words(0xB, 0)[1] != 0)
}

fn initial_apic_id_is_leaf_b(_: &mut Context) -> Outcome {
    has_leaf_b()?;
    equal("leaf Bh EDX", words(0xB, 0)[3], words(1, 0)[1] >> 24)
}

fn levels() -> u32 {
    (0..8)
        .take_while(|level| words(0xB, *level)[2] >> 8 & 0xFF != 0)
        .count() as u32
}

fn leaf_b_counts_the_cpus(context: &mut Context) -> Outcome {
    has_leaf_b()?;
    let last = words(0xB, levels() - 1);
    equal(
        "CPUs of the last level",
        last[1] & 0xFFFF,
        context.cpus.count_ones(),
    )
}

fn leaf_b_ends_with_type_zero(_: &mut Context) -> Outcome {
    has_leaf_b()?;
    let beyond = levels();
    let [_, ebx, ecx, edx] = words(0xB, beyond);
    within("levels", u64::from(beyond), 1, 6)?;
    equal("ECX", ecx, beyond)?;
    equal("EBX", ebx, 0_u32)?;
    equal("EDX", edx, words(0xB, 0)[3])
}

fn address_widths_are_possible(_: &mut Context) -> Outcome {
    let widths = words(EXTENDED + 8, 0)[0];
    within("physical", u64::from(widths & 0xFF), 36, 52)?;
    holds("linear", matches!(widths >> 8 & 0xFF, 48 | 57))
}

fn tsc_is_invariant(_: &mut Context) -> Outcome {
    equal("invariant TSC", words(EXTENDED + 7, 0)[3] >> 8 & 1, 1_u32)
}

fn tsc_frequency_is_true(_: &mut Context) -> Outcome {
    needs("no leaf 15h", words(0, 0)[0] >= 0x15)?;
    let [denominator, numerator, crystal, _] = words(0x15, 0);
    needs("leaf 15h is empty", denominator != 0 && crystal != 0)?;
    let told = u64::from(crystal) * u64::from(numerator) / u64::from(denominator);
    let mut outcome = Ok(());
    for _ in 0..5 {
        let (first, start) = (acpi::timer(), rdtsc());
        wait(20_000);
        let (last, end) = (acpi::timer(), rdtsc());
        let ticks = u64::from(last.wrapping_sub(first) & 0xFF_FFFF);
        let measured = (end - start) * acpi::TIMER_HZ / ticks.max(1);
        outcome = within(
            "kHz",
            measured / 1000,
            told / 1000 * 98 / 100,
            told / 1000 * 102 / 100,
        );
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn set_xcr0(value: u32) {
    unsafe { asm!("xsetbv", in("ecx") 0, in("eax") value, in("edx") 0) };
}

fn xsave_area_grows_with_xcr0(_: &mut Context) -> Outcome {
    needs("no XSAVE in CPUID", has_feature_ecx(26))?;
    let has_avx = words(0xD, 0)[0] >> 2 & 1 != 0;
    let before = cr4();
    set_cr4(before | OSXSAVE);
    set_xcr0(3);
    let small = words(0xD, 0)[1];
    if has_avx {
        set_xcr0(7);
    }
    let large = words(0xD, 0)[1];
    set_xcr0(1);
    set_cr4(before);
    equal("size for x87 and SSE", small, 576_u32)?;
    equal("size with AVX", large, if has_avx { 832_u32 } else { 576 })
}

fn xsave_components_are_in_order(_: &mut Context) -> Outcome {
    needs("no XSAVE in CPUID", has_feature_ecx(26))?;
    needs("no AVX state", words(0xD, 0)[0] >> 2 & 1 != 0)?;
    let [size, offset, ..] = words(0xD, 2);
    equal("size", size, 256_u32)?;
    equal("offset", offset, 576_u32)
}

fn brand_is_text(_: &mut Context) -> Outcome {
    for leaf in 2..5 {
        for word in words(EXTENDED + leaf, 0) {
            for byte in word.to_le_bytes() {
                let is_text = byte == 0 || (0x20..0x7F).contains(&byte);
                equal("byte that is no text", if is_text { 0 } else { byte }, 0_u8)?;
            }
        }
    }
    Ok(())
}

fn structured_features_have_a_limit(_: &mut Context) -> Outcome {
    let last = words(7, 0)[0];
    within("highest subleaf", u64::from(last), 0, 16)?;
    zero("subleaf beyond", 7, last + 1)
}
