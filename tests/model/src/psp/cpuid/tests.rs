use super::*;
use proptest::prelude::*;

/// A processor with every bit of every leaf set, but sane leaf numbers.
struct AllBits;

impl CpuidSource for AllBits {
    fn cpuid(&self, leaf: u32, _: u32) -> Registers {
        let ones = Registers {
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
        };
        match leaf {
            0 => Registers { eax: 0x20, ..ones },
            0x8000_0000 => Registers {
                eax: 0x8000_0028,
                ..ones
            },
            0x8000_0008 => Registers {
                eax: 57 << 8 | 52,
                ..ones
            },
            _ => ones,
        }
    }
}

/// A processor with nothing.
struct NoBits;

impl CpuidSource for NoBits {
    fn cpuid(&self, _: u32, _: u32) -> Registers {
        Registers::default()
    }
}

const LINUX: Options = Options::linux(2);
const PARAVISOR: Options = Options::paravisor(4);

fn leaf(leaf: u32, subleaf: u32, options: &Options) -> CpuidEntry {
    let request = CpuidEntry {
        eax_in: leaf,
        ecx_in: subleaf,
        ..CpuidEntry::default()
    };
    answer(&request, &AllBits, options)
}

#[test]
fn page_without_a_list_gets_the_default_one() {
    let page = fill(&CpuidPage::zeroed(), &AllBits, &PARAVISOR);
    assert_eq!(page.count, 33);
    assert_eq!((page.entries[0].eax_in, page.entries[0].eax), (0, 0x20));
    assert_eq!(page.entries[31].eax_in, 0x8000_001F);
    assert_eq!(page.entries[33], CpuidEntry::default());
}

#[test]
fn page_with_a_list_keeps_its_order() {
    let mut wanted = CpuidPage::zeroed();
    wanted.count = 2;
    wanted.entries[0].eax_in = 0x8000_001F;
    wanted.entries[1].eax_in = 7;
    wanted.entries[2].eax_in = 1;
    let page = fill(&wanted, &AllBits, &PARAVISOR);
    assert_eq!(page.count, 2);
    assert_eq!(
        (page.entries[0].eax_in, page.entries[1].eax_in),
        (0x8000_001F, 7)
    );
    assert_eq!(page.entries[2], CpuidEntry::default());
}

#[test]
fn absurd_count_is_cut_to_the_page() {
    let mut wanted = CpuidPage::zeroed();
    wanted.count = u32::MAX;
    assert_eq!(fill(&wanted, &AllBits, &PARAVISOR).count, 64);
}

#[test]
fn sev_leaf_names_c_bit_reduction_and_features() {
    let sev = leaf(0x8000_001F, 0, &PARAVISOR);
    assert_eq!(sev.ebx, 51 | 1 << 6 | 4 << 12);
    for bit in [1, 3, 4, 5, 12, 13, 14, 16] {
        assert!(sev.eax & 1 << bit != 0, "{bit}");
    }
    assert_eq!(sev.eax & 1 << 8, 0, "Secure TSC only where asked for");
    let secure = Options {
        sev: SevCapabilities::all(),
        ..PARAVISOR
    };
    assert!(leaf(0x8000_001F, 0, &secure).eax & 1 << 8 != 0);
}

/// What the firmware's check refuses or the model cannot keep apart must not be there even if the processor has it.
#[test]
fn forbidden_features_are_masked() {
    let one = leaf(1, 0, &PARAVISOR);
    for (bit, name) in [
        (3, "MONITOR"),
        (5, "VMX"),
        (24, "TSC deadline"),
        (27, "OSXSAVE"),
    ] {
        assert_eq!(one.ecx & 1 << bit, 0, "{name}");
    }
    let seven = leaf(7, 0, &PARAVISOR);
    assert_eq!(seven.ebx & 1 << 1, 0, "TSC_ADJUST");
    assert_eq!(seven.ebx & 1 << 16, 0, "AVX-512");
    assert_eq!(seven.ecx & (1 << 3 | 1 << 7 | 1 << 16), 0, "PKU, CET, LA57");
    assert_eq!(seven.edx & !0x10, 0, "speculation control");
    assert_eq!(leaf(0x8000_0001, 0, &PARAVISOR).ecx & 1 << 2, 0, "SVM");
    assert_eq!(leaf(0x8000_0008, 0, &PARAVISOR).eax, 48 << 8 | 52);
    let svm = leaf(0x8000_000A, 0, &PARAVISOR);
    assert_eq!((svm.eax, svm.edx), (0, 1 << 25), "virtual NMIs");
    for empty in [
        0x2,
        0x4,
        0x5,
        0xA,
        0x10,
        0x8000_001B,
        0x1234_5678,
        0x4000_0000,
    ] {
        let found = leaf(empty, 0, &PARAVISOR);
        assert_eq!(
            (found.eax, found.ebx, found.ecx, found.edx),
            (0, 0, 0, 0),
            "{empty:#x}"
        );
    }
}

#[test]
fn hypervisor_x2apic_and_mtrrs_are_always_there() {
    let request = CpuidEntry {
        eax_in: 1,
        ..CpuidEntry::default()
    };
    let one = answer(&request, &NoBits, &PARAVISOR);
    assert_eq!(one.ecx, 1 << 31 | 1 << 21);
    assert_eq!(one.edx, 1 << 28 | 1 << 12);
}

/// Linux as an SNP guest refuses to start when leaf 0xD subleaf 1 has neither XSAVEC nor XSAVES; with XSAVE hidden in leaf 1
/// it never executes either.
#[test]
fn linux_is_told_of_compaction_but_not_of_xsave() {
    let one = leaf(1, 0, &LINUX);
    assert_eq!(one.ecx & (1 << 26 | 1 << 28 | 1 << 29 | 1 << 12), 0);
    assert_eq!(leaf(7, 0, &LINUX).ebx & 1 << 5, 0);
    let compact = leaf(0xD, 1, &LINUX);
    assert_eq!((compact.eax, compact.xcr0_in, compact.xss_in), (2, 1, 0));
    let legacy = leaf(0xD, 0, &LINUX);
    assert_eq!((legacy.eax, legacy.ebx, legacy.ecx), (3, 0x240, 0x240));
    assert_eq!(leaf(0xD, 2, &LINUX).eax, 0);
}

#[test]
fn paravisor_sees_xsave_as_it_is() {
    assert!(leaf(1, 0, &PARAVISOR).ecx & 1 << 26 != 0);
    let all = leaf(0xD, 0, &PARAVISOR);
    assert_eq!((all.eax, all.ebx, all.ecx), (7, 0x240, 0x340));
    let avx = CpuidEntry {
        eax_in: 0xD,
        xcr0_in: 7,
        ..CpuidEntry::default()
    };
    assert_eq!(answer(&avx, &AllBits, &PARAVISOR).ebx, 0x340);
    assert_eq!(leaf(0xD, 1, &PARAVISOR).eax, 5, "no XSAVEC, no XSAVES");
    let component = leaf(0xD, 2, &PARAVISOR);
    assert_eq!((component.eax, component.ebx), (0x100, 0x240));
    assert_eq!(leaf(0xD, 9, &PARAVISOR).eax, 0);
}

#[test]
fn topology_is_one_package_of_single_thread_cores() {
    let (threads, cores) = (leaf(0xB, 0, &PARAVISOR), leaf(0xB, 1, &PARAVISOR));
    assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
    assert_eq!((cores.eax, cores.ebx, cores.ecx), (2, 4, 0x201));
    assert_eq!(leaf(0xB, 2, &PARAVISOR).ecx, 2);
    assert_eq!(leaf(0x8000_0008, 0, &PARAVISOR).ecx, 2 << 12 | 3);
    assert_eq!(leaf(1, 0, &PARAVISOR).ebx >> 16, 4);
}

#[test]
fn run_time_answers_carry_the_askers_apic_id() {
    let at = |leaf| run_time(leaf, 0, 0, 3, &AllBits, &PARAVISOR);
    assert_eq!(at(1).ebx >> 24, 3);
    assert_eq!(at(0xB).edx, 3);
    assert_eq!((at(0x8000_001E).eax, at(0x8000_001E).ebx), (3, 3));
}

#[test]
fn hypervisor_leaf_is_there_where_asked_for() {
    let options = Options {
        hypervisor: Some(*b"KVMKVMKVM\0\0\0"),
        ..PARAVISOR
    };
    let found = leaf(0x4000_0000, 0, &options);
    assert_eq!(
        (found.eax, found.ebx),
        (0x4000_0001, u32::from_le_bytes(*b"KVMK"))
    );
    assert_eq!(leaf(0x4000_0001, 0, &options).eax, 0);
}

proptest! {
    /// A checked answer passes the check unchanged, whatever was proposed.
    #[test]
    fn answers_are_stable(eax_in: u32, ecx_in in 0_u32..70, xcr0_in: u64, vcpus in 0_u32..300) {
        let options = Options::paravisor(vcpus);
        let request = CpuidEntry { eax_in, ecx_in, xcr0_in, ..CpuidEntry::default() };
        let once = answer(&request, &AllBits, &options);
        prop_assert_eq!(answer(&once, &AllBits, &options), once);
    }
}
