//! What a guest reads, against a page as an EPYC Milan host proposes it.

use super::*;
use proptest::prelude::{prop_assert, prop_assert_eq, proptest};

const MILAN: [[u32; 6]; 33] = [
    [0x0, 0, 0x10, 0x6874_7541, 0x444D_4163, 0x6974_6E65],
    [0x1, 0, 0x00A0_0F11, 0x0102_0800, 0xFEFA_320B, 0x178B_FBFF],
    [0x7, 0, 0, 0x219C_97A9, 0x0040_069C, 0x10],
    [0xB, 0, 1, 2, 0x100, 0],
    [0xD, 0, 0x207, 0x340, 0x988, 0],
    [0xD, 1, 0xF, 0x340, 0x1800, 0],
    [0xD, 2, 0x100, 0x240, 0, 0],
    [0xD, 9, 8, 0x980, 0, 0],
    [0xD, 11, 0x10, 0, 1, 0],
    [0x10, 0, 0, 2, 0, 0],
    [
        0x8000_0000,
        0,
        0x8000_0023,
        0x6874_7541,
        0x444D_4163,
        0x6974_6E65,
    ],
    [
        0x8000_0001,
        0,
        0x00A0_0F11,
        0x4000_0000,
        0x75C2_37FF,
        0x2FD3_FBFF,
    ],
    [
        0x8000_0002,
        0,
        0x2044_4D41,
        0x4359_5045,
        0x3137_2037,
        0x3620_3331,
    ],
    [
        0x8000_0003,
        0,
        0x6F43_2D34,
        0x5020_6572,
        0x6563_6F72,
        0x726F_7373,
    ],
    [
        0x8000_0004,
        0,
        0x2020_2020,
        0x2020_2020,
        0x2020_2020,
        0x0020_2020,
    ],
    [
        0x8000_0005,
        0,
        0xFF40_FF40,
        0xFF40_FF40,
        0x2008_0140,
        0x2008_0140,
    ],
    [
        0x8000_0006,
        0,
        0x4800_2200,
        0x6800_4200,
        0x0200_6140,
        0x0800_9140,
    ],
    [0x8000_0007, 0, 0, 0x3B, 0, 0x6799],
    [0x8000_0008, 0, 0x0030_3030, 0x111E_F657, 0x707F, 0x1_0000],
    [0x8000_000A, 0, 1, 0x8000, 0, 0x119B_9CFF],
    [0x8000_0019, 0, 0xF040_F040, 0xF040_0000, 0, 0],
    [0x8000_001A, 0, 6, 0, 0, 0],
    [0x8000_001B, 0, 0x3FF, 0, 0, 0],
    [0x8000_001D, 0, 0x4121, 0x01C0_003F, 0x3F, 0],
    [0x8000_001D, 1, 0x4122, 0x01C0_003F, 0x3F, 0],
    [0x8000_001D, 2, 0x4143, 0x01C0_003F, 0x3FF, 2],
    [0x8000_001D, 3, 0x0001_C163, 0x03C0_003F, 0x7FFF, 1],
    [0x8000_001E, 0, 5, 0x102, 0x300, 0],
    [0x8000_001F, 0, 0x0101_FD3F, 0x4173, 0x1FD, 1],
    [0x8000_0020, 0, 0, 2, 0, 0],
    [0x8000_0021, 0, 0x2D, 0, 0, 0],
    [0x8000_0022, 0, 1, 6, 0, 0],
    [0x8000_0026, 0, 1, 2, 0x100, 5],
];

/// A page with the given rows of leaf, subleaf, EAX, EBX, ECX, EDX.
pub(crate) fn page_of(rows: &[[u32; 6]]) -> CpuidPage {
    let mut page = CpuidPage::zeroed();
    page.count = u32::try_from(rows.len()).expect("few rows");
    for (entry, row) in page.entries.iter_mut().zip(rows) {
        *entry = CpuidEntry {
            eax_in: row[0],
            ecx_in: row[1],
            eax: row[2],
            ebx: row[3],
            ecx: row[4],
            edx: row[5],
            ..CpuidEntry::default()
        };
    }
    page
}

pub(crate) const INPUTS: CpuidInputs = CpuidInputs {
    vcpus: 4,
    tsc_hz: 2_445_406_000,
    apic_timer_hz: 1_000_000_000,
    identity: HypervisorIdentity::Stockade,
    x2apic: X2Apic::Hidden,
    tsc_adjust: TscAdjust::AlwaysZero,
};

pub(crate) fn policy(inputs: CpuidInputs) -> CpuidPolicy {
    CpuidPolicy::try_new(&page_of(&MILAN), inputs).expect("a good page")
}

const STATE: CpuidState = CpuidState {
    apic_id: 3,
    apic_enabled: true,
    cr4: 0,
    xcr0: 1,
    xss: 0,
};

fn ask(leaf: u32, subleaf: u32) -> CpuidResult {
    policy(INPUTS).query(leaf, subleaf, &STATE)
}

const fn bit(word: u32, number: u32) -> bool {
    word >> number & 1 == 1
}

#[test]
fn sev_svm_and_the_hosts_shape_do_not_show() {
    for leaf in [
        0x8000_001F,
        0x8000_000A,
        0x8000_001B,
        0x8000_001C,
        0x8000_0020,
        0x8000_0022,
        0x8000_0026,
        0x8000_0009,
        0x8000_0018,
        0x2,
        0x3,
        0x4,
        0x5,
        0x8,
        0xA,
        0xF,
        0x10,
        0x12,
        0x14,
        0x1F,
        0xC000_0001,
        0x4001_0000,
        u32::MAX,
    ] {
        assert_eq!(ask(leaf, 0), CpuidResult::ZERO, "{leaf:#x}");
    }
    let svm_skinit_osvw_ibs = [2, 9, 10, 12];
    let counters_mwaitx = [3, 13, 15, 19, 23, 24, 26, 27, 28, 29];
    for number in svm_skinit_osvw_ibs.into_iter().chain(counters_mwaitx) {
        assert!(!bit(ask(0x8000_0001, 0).ecx, number), "{number}");
    }
}

#[test]
fn leaf_1_has_its_own_id_core_count_and_timer() {
    let leaf = ask(1, 0);
    assert_eq!(leaf.eax, 0x00A0_0F11);
    assert_eq!(leaf.ebx, 0x0304_0800);
    assert!(bit(leaf.ecx, 24), "TSC deadline");
    assert!(bit(leaf.ecx, 31), "hypervisor");
    assert!(
        bit(leaf.ecx, 25) && bit(leaf.ecx, 26) && bit(leaf.ecx, 28),
        "AES, XSAVE, AVX"
    );
    assert!(!bit(leaf.ecx, 3), "MONITOR");
    assert!(!bit(leaf.ecx, 21), "x2APIC");
    assert!(
        bit(leaf.edx, 9) && bit(leaf.edx, 12) && bit(leaf.edx, 28),
        "APIC, MTRR, HTT"
    );
}

#[test]
fn leaf_1_and_7_follow_the_vcpu() {
    let policy = policy(INPUTS);
    let state = CpuidState {
        apic_enabled: false,
        cr4: 1 << 18 | 1 << 22,
        ..STATE
    };
    assert!(!bit(ask(1, 0).ecx, 27));
    assert!(bit(policy.query(1, 0, &state).ecx, 27));
    assert!(!bit(policy.query(1, 0, &state).edx, 9));
    assert!(!bit(policy.query(0x8000_0001, 0, &state).edx, 9));
    assert!(!bit(ask(7, 0).ecx, 4));
    assert!(bit(policy.query(7, 0, &state).ecx, 4));
}

#[test]
fn one_core_is_not_many() {
    let single = policy(CpuidInputs { vcpus: 1, ..INPUTS });
    assert!(!bit(single.query(1, 0, &STATE).edx, 28));
    assert!(!bit(single.query(0x8000_0001, 0, &STATE).ecx, 1));
    assert_eq!(single.query(0x8000_0008, 0, &STATE).ecx, 0);
}

#[test]
fn options_show_where_they_should() {
    let open = policy(CpuidInputs {
        x2apic: X2Apic::Offered,
        tsc_adjust: TscAdjust::Absent,
        identity: HypervisorIdentity::Bare,
        ..INPUTS
    });
    assert!(bit(open.query(1, 0, &STATE).ecx, 21));
    assert!(!bit(open.query(1, 0, &STATE).ecx, 31));
    assert!(!bit(open.query(7, 0, &STATE).ebx, 1));
    assert!(bit(ask(7, 0).ebx, 1));
}

#[test]
fn dangerous_bits_of_leaf_7_are_hidden_and_useful_ones_stay() {
    let leaf = ask(7, 0);
    for number in [0, 3, 5, 7, 8, 18, 19, 20, 23, 24, 29] {
        assert!(bit(leaf.ebx, number), "EBX {number}");
    }
    assert!(!bit(leaf.ebx, 12) && !bit(leaf.ebx, 15), "resource control");
    assert!(!bit(leaf.ecx, 7), "shadow stacks");
    assert!(bit(leaf.ecx, 2) && bit(leaf.ecx, 3) && bit(leaf.ecx, 9) && bit(leaf.ecx, 22));
    assert_eq!(ask(7, 2), CpuidResult::ZERO);
}

#[test]
fn tsc_is_invariant_and_its_frequency_exact() {
    assert_eq!(
        ask(0x8000_0007, 0),
        CpuidResult {
            edx: 1 << 8,
            ..CpuidResult::ZERO
        }
    );
    let ratio = ask(0x15, 0);
    let tsc = u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax);
    assert_eq!(tsc, INPUTS.tsc_hz);
    assert_eq!(ask(0x16, 0).eax, 2445);
    let [eax, ebx] = [ask(0x4000_0010, 0).eax, ask(0x4000_0010, 0).ebx];
    assert_eq!((eax, ebx), (2_445_406, 1_000_000));
}

#[test]
fn frequency_that_fits_no_fraction_is_left_out() {
    let odd = policy(CpuidInputs {
        tsc_hz: (1 << 40) + 1,
        ..INPUTS
    });
    assert_eq!(odd.query(0x15, 0, &STATE), CpuidResult::ZERO);
    assert_eq!(odd.query(0x16, 0, &STATE).eax, 0xFFFF);
}

#[test]
fn addresses_end_with_the_last_pci_window() {
    assert_eq!(ask(0x8000_0008, 0).eax, 0x3029);
    assert_eq!(ask(0x8000_0008, 0).ecx, 2 << 12 | 3);
    assert_eq!(ask(0x8000_0008, 0).edx, 0);
}

#[test]
fn xsave_follows_the_guests_xcr0_not_the_pages() {
    let policy = policy(INPUTS);
    let size = |xcr0| policy.query(0xD, 0, &CpuidState { xcr0, ..STATE }).ebx;
    assert_eq!((size(1), size(7), size(0x207)), (576, 832, 2440));
    assert_eq!(ask(0xD, 0).eax, 0x207);
    assert_eq!(ask(0xD, 11), CpuidResult::ZERO);
    assert_eq!(ask(0xD, 1).ecx, 0);
    assert!(policy.is_valid_xcr0(0x207));
    assert!(!policy.is_valid_xcr0(0xE7));
}

#[test]
fn vendor_brand_and_caches_pass() {
    let first = ask(0, 0);
    assert_eq!(
        (first.ebx, first.edx, first.ecx),
        (0x6874_7541, 0x6974_6E65, 0x444D_4163)
    );
    assert_eq!(first.eax, 0x16);
    assert_eq!(ask(0x8000_0000, 0).eax, 0x8000_0021);
    assert_eq!(ask(0x8000_0002, 0).eax, 0x2044_4D41);
    assert_eq!(ask(0x8000_001D, 3).eax, 3 << 14 | 0x163);
    assert_eq!(ask(0x8000_001D, 4), CpuidResult::ZERO);
    assert_eq!(ask(0x8000_001E, 0).eax, 3);
}

#[test]
fn machine_check_extensions_and_p_states_are_hidden() {
    let leaf = ask(0x8000_0007, 0);
    assert_eq!((leaf.eax, leaf.ebx, leaf.ecx), (0, 0, 0));
}

#[test]
fn features_of_msrs_come_from_the_same_page() {
    let features = policy(INPUTS).msr_features();
    assert!(features.has_nx && features.has_fast_fxsr && features.has_xss && features.has_tsc_aux);
    assert!(!features.has_automatic_ibrs);
    assert_eq!(features.spec_ctrl_bits, 0x87);
    assert_eq!(features.pred_cmd_bits, 1);
}

#[test]
fn leaf_without_subleaves_is_found_whatever_its_ecx() {
    let mut rows = MILAN;
    rows[1][1] = 0x1234;
    let policy = CpuidPolicy::try_new(&page_of(&rows), INPUTS).expect("a good page");
    assert_eq!(policy.query(1, 99, &STATE).eax, 0x00A0_0F11);
}

#[test]
fn bad_pages_are_refused() {
    let reason = |page: &CpuidPage| CpuidPolicy::try_new(page, INPUTS).err();
    let mut page = page_of(&MILAN);
    for count in [0, 65, u32::MAX] {
        page.count = count;
        assert_eq!(reason(&page), Some(CpuidError::Count(count)));
    }
    let mut rows = MILAN;
    rows[1][0] = 0x99;
    assert_eq!(reason(&page_of(&rows)), Some(CpuidError::MissingLeaf(1)));
    rows[1] = MILAN[2];
    rows[1][3] ^= 1;
    assert_eq!(reason(&page_of(&rows)), Some(CpuidError::Contradiction(7)));
    let mut rows = MILAN;
    rows[0][3] ^= 1;
    assert_eq!(reason(&page_of(&rows)), Some(CpuidError::Vendor));
}

#[test]
fn impossible_inputs_are_refused() {
    let page = page_of(&MILAN);
    for vcpus in [0, 256] {
        let inputs = CpuidInputs { vcpus, ..INPUTS };
        assert_eq!(
            CpuidPolicy::try_new(&page, inputs).err(),
            Some(CpuidError::Vcpus(vcpus))
        );
    }
    for inputs in [
        CpuidInputs {
            tsc_hz: 0,
            ..INPUTS
        },
        CpuidInputs {
            apic_timer_hz: 0,
            ..INPUTS
        },
    ] {
        assert_eq!(
            CpuidPolicy::try_new(&page, inputs).err(),
            Some(CpuidError::Frequency)
        );
    }
}

#[test]
fn page_with_the_bare_minimum_works() {
    let rows = [MILAN[0], MILAN[1], MILAN[10], MILAN[11]];
    let policy = CpuidPolicy::try_new(&page_of(&rows), INPUTS).expect("a good page");
    let leaf = policy.query(1, 0, &STATE);
    assert!(
        !bit(leaf.ecx, 26) && !bit(leaf.ecx, 28),
        "no XSAVE without sizes"
    );
    assert_eq!(policy.query(0xD, 0, &STATE), CpuidResult::ZERO);
    assert!(!policy.is_valid_xcr0(1));
}

proptest! {
    /// The host proposes the page, the guest chooses the question: neither may stop the paravisor, and SEV never shows.
    #[test]
    fn any_page_and_question_have_an_answer(
        rows: [[u32; 6]; 12],
        leaf_choice in 0_usize..24,
        leaf: u32,
        subleaf: u32,
        xcr0: u64,
    ) {
        let mut all = MILAN.to_vec();
        all.extend(rows);
        let candidates: std::vec::Vec<u32> = all.iter().map(|row| row[0]).chain([leaf]).collect();
        let leaf = candidates[leaf_choice % candidates.len()];
        for count in [MILAN.len(), all.len()] {
            if let Ok(policy) = CpuidPolicy::try_new(&page_of(&all[..count]), INPUTS) {
                let state = CpuidState { xcr0, xss: xcr0, ..STATE };
                let answer = policy.query(leaf, subleaf % 20, &state);
                prop_assert!(leaf != 0x8000_001F || answer == CpuidResult::ZERO);
                prop_assert_eq!(answer, policy.query(leaf, subleaf % 20, &state));
            }
        }
    }
}
