//! What a stock boot does with MSRs, and what a hostile guest tries.

extern crate std;

use super::*;
use crate::cpuid::CpuidInputs;
use crate::cpuid::tests::{INPUTS, policy};
use proptest::prelude::{any, prop_assert, proptest};
use stockade_abi::vmsa::reset;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

fn file() -> MsrFile {
    MsrFile::new(policy(INPUTS).msr_features())
}

fn vmsa() -> Vmsa {
    let mut vmsa = Vmsa::zeroed();
    vmsa.efer = reset::EFER_SVME;
    vmsa
}

fn value(file: &MsrFile, msr: Msr) -> u64 {
    match file.read(msr, &vmsa()) {
        Ok(MsrRead::Value(value)) => value,
        other => unreachable!("{msr:?}: {other:?}"),
    }
}

#[test]
fn every_register_a_stock_boot_reads_unchecked_is_there() {
    let all = [
        0xFE,
        0x277,
        0x2FF,
        0x8B,
        0x174,
        0x175,
        0x176,
        0x179,
        0x17A,
        0x17B,
        0x0,
        0x3B,
        0x48,
        0xC000_0080,
        0xC000_0081,
        0xC000_0084,
        0xC000_0100,
        0xC000_0102,
        0xC000_0103,
        0xC001_0010,
        0xC001_0015,
        0xC001_001F,
        0xC001_0058,
        0xC001_1029,
        0xDA0,
    ];
    let ranges = (0x200..=0x20F)
        .chain(0x400..=0x40F)
        .chain(0xC001_0000..=0xC001_0007);
    for number in all.into_iter().chain(ranges) {
        value(&file(), Msr(number));
    }
}

#[test]
fn sev_svm_and_intel_registers_do_not_exist() {
    for number in [
        0xC001_0130,
        0xC001_0131,
        0xC001_0132,
        0xC001_0114,
        0xC001_0117,
        0xC000_0104,
        0x3A,
        0x10A,
        0x1A0,
        0x600,
        0xC001_0140,
        0xC001_0200,
        0xC001_029A,
        0xC001_0299,
        0xC001_1030,
        0x4000_0000,
        0x6A2,
        u32::MAX,
    ] {
        let msr = Msr(number);
        assert_eq!(
            file().read(msr, &vmsa()),
            Err(MsrFault::Unknown),
            "{number:#x}"
        );
        let write = file().write(msr, 0, &mut vmsa());
        assert_eq!(write, Err(MsrFault::Unknown), "{number:#x}");
    }
}

#[test]
fn registers_of_the_apic_are_handed_on() {
    let x2apic = policy(CpuidInputs {
        x2apic: X2Apic::Offered,
        ..INPUTS
    });
    let mut open = MsrFile::new(x2apic.msr_features());
    for (number, apic) in [
        (0x1B, ApicMsr::Base),
        (0x6E0, ApicMsr::TscDeadline),
        (0x80B, ApicMsr::X2Apic(0x0B)),
        (0x8FF, ApicMsr::X2Apic(0xFF)),
    ] {
        assert_eq!(open.read(Msr(number), &vmsa()), Ok(MsrRead::Apic(apic)));
        assert_eq!(
            open.write(Msr(number), 1, &mut vmsa()),
            Ok(MsrWrite::Apic(apic))
        );
    }
    assert_eq!(open.read(Msr(0x900), &vmsa()), Err(MsrFault::Unknown));
    assert_eq!(file().read(Msr(0x80B), &vmsa()), Err(MsrFault::Unknown));
}

/// With an invariant TSC, Linux looks for this bit and complains about firmware if it is clear.
#[test]
fn tsc_counts_at_the_base_frequency_whatever_is_written() {
    let mut file = file();
    assert_eq!(
        file.write(Msr::HWCR, 1 << 18, &mut vmsa()),
        Ok(MsrWrite::Done)
    );
    assert_eq!(value(&file, Msr::HWCR), 1 << 24 | 1 << 18);
    assert_eq!(
        file.write(Msr::HWCR, 1 << 35, &mut vmsa()),
        Err(MsrFault::Refused)
    );
}

#[test]
fn tsc_is_read_from_the_hardware_and_cannot_be_shifted() {
    let mut file = file();
    assert_eq!(file.read(Msr::TSC, &vmsa()), Ok(MsrRead::Tsc));
    assert_eq!(file.write(Msr::TSC, 5, &mut vmsa()), Ok(MsrWrite::Done));
    assert_eq!(value(&file, Msr::TSC_ADJUST), 0);
    assert_eq!(
        file.write(Msr::TSC_ADJUST, 0, &mut vmsa()),
        Ok(MsrWrite::Done)
    );
    assert_eq!(
        file.write(Msr::TSC_ADJUST, 1, &mut vmsa()),
        Err(MsrFault::Refused)
    );
    let absent = policy(CpuidInputs {
        tsc_adjust: TscAdjust::Absent,
        ..INPUTS
    });
    let file = MsrFile::new(absent.msr_features());
    assert_eq!(file.read(Msr::TSC_ADJUST, &vmsa()), Err(MsrFault::Unknown));
}

#[test]
fn counters_never_count_and_keep_nothing() {
    let mut file = file();
    assert_eq!(
        file.write(Msr(0xC001_0004), 0xFFFF, &mut vmsa()),
        Ok(MsrWrite::Done)
    );
    assert_eq!(value(&file, Msr(0xC001_0004)), 0);
}

/// Kernels of all ages read and write them to work around errata of chips this is none of.
#[test]
fn configuration_nobody_needs_reads_zero_and_takes_anything() {
    for number in [
        0xC001_0055,
        0xC001_1020,
        0xC001_1021,
        0xC001_1022,
        0xC001_1028,
        0xC001_102A,
    ] {
        let mut file = file();
        assert_eq!(value(&file, Msr(number)), 0, "{number:#x}");
        let written = file.write(Msr(number), u64::MAX, &mut vmsa());
        assert_eq!(written, Ok(MsrWrite::Done), "{number:#x}");
        assert_eq!(value(&file, Msr(number)), 0, "{number:#x}");
    }
}

#[test]
fn barrier_is_asked_for_and_cannot_be_read() {
    let mut file = file();
    let write = |file: &mut MsrFile, value| file.write(Msr::PRED_CMD, value, &mut vmsa());
    assert_eq!(write(&mut file, 1), Ok(MsrWrite::PredictionBarrier(1)));
    assert_eq!(write(&mut file, 0), Ok(MsrWrite::Done));
    assert_eq!(write(&mut file, 2), Err(MsrFault::Refused));
    assert_eq!(file.read(Msr::PRED_CMD, &vmsa()), Err(MsrFault::Refused));
}

#[test]
fn lfence_stays_serializing() {
    let mut file = file();
    assert_eq!(
        file.write(Msr::DE_CFG, 1 << 9, &mut vmsa()),
        Ok(MsrWrite::Done)
    );
    assert_eq!(value(&file, Msr::DE_CFG), 1 << 9 | 1 << 1);
    assert_eq!(
        file.write(Msr::DE_CFG, 4, &mut vmsa()),
        Err(MsrFault::Refused)
    );
}

#[test]
fn configuration_keeps_what_it_knows_and_refuses_the_rest() {
    let mut file = file();
    for (msr, good, bad) in [
        (Msr::SYSCFG, 1 << 19, 1 << 23),
        (Msr::NB_CFG, 1 << 46, 1),
        (Msr::TOP_MEM, 0xB000_0000, 0xB000_0001),
        (Msr::TOP_MEM2, 0x1_8000_0000, 1 << 41),
    ] {
        assert_eq!(file.write(msr, good, &mut vmsa()), Ok(MsrWrite::Done));
        assert_eq!(file.write(msr, bad, &mut vmsa()), Err(MsrFault::Refused));
        assert_eq!(value(&file, msr), good);
    }
    assert_eq!(
        file.write(Msr::MMIO_CFG_BASE, 1, &mut vmsa()),
        Err(MsrFault::Refused)
    );
    assert_eq!(
        file.write(Msr::MTRR_CAP, 0, &mut vmsa()),
        Err(MsrFault::Refused)
    );
}

#[test]
fn without_firmware_the_registers_look_as_if_there_had_been_one() {
    let mut file = file();
    file.set_as_firmware_would(Gpa(0xB000_0000), Gpa(0x5000_0000));
    assert_eq!(value(&file, Msr::MTRR_DEF_TYPE), 0xC06);
    assert_eq!(value(&file, Msr::TOP_MEM), 0xB000_0000);
    assert_eq!(value(&file, Msr::TOP_MEM2), 1 << 32);
    let mut other = self::file();
    assert_eq!(other.restore(&file.save()), Ok(()));
}

#[test]
fn restored_registers_read_as_the_saved_ones() {
    let mut file = file();
    file.set_as_firmware_would(Gpa(0xB000_0000), Gpa(1 << 33));
    for (number, value) in [
        (0x200, 0x6),
        (0x404, 0xFF),
        (0xC001_0010, 1 << 20),
        (0xC001_1029, 1 << 9),
    ] {
        assert_eq!(
            file.write(Msr(number), value, &mut vmsa()),
            Ok(MsrWrite::Done)
        );
    }
    let bytes = file.save();
    let saved = SavedMsrFile::read_from_bytes(bytes.as_bytes()).expect("its own size");
    let mut other = self::file();
    assert_eq!(other.restore(&saved), Ok(()));
    assert_eq!(other, file);
}

#[test]
fn foreign_or_illegal_saved_state_changes_nothing() {
    let mut file = file();
    let before = file.clone();
    assert_eq!(
        file.restore(&SavedMsrFile::new_zeroed()),
        Err(RestoreMsrError::Version(0))
    );
    let good = file.save();
    let mut bytes = [0; size_of::<SavedMsrFile>()];
    for at in (8..bytes.len()).step_by(8) {
        bytes.copy_from_slice(good.as_bytes());
        bytes[at..at + 8].fill(0xFF);
        let saved = SavedMsrFile::read_from_bytes(&bytes).expect("its own size");
        let mut other = before.clone();
        // Free-form registers are legal whatever they hold; in all others ones are not.
        if other.restore(&saved).is_err() {
            assert_eq!(other, before, "{at}");
        }
    }
    bytes.copy_from_slice(good.as_bytes());
    let last = bytes.len() - 8;
    bytes[last..].fill(0);
    let saved = SavedMsrFile::read_from_bytes(&bytes).expect("its own size");
    assert_eq!(file.restore(&saved), Err(RestoreMsrError::Value));
}

proptest! {
    /// Whatever a guest writes: no panic, EFER.SVME stays, and what is kept could be saved and restored.
    #[test]
    fn any_writes_leave_a_legal_state(
        writes in proptest::collection::vec((0_usize..64, any::<u32>(), any::<u64>()), 0..40),
    ) {
        let known: std::vec::Vec<u32> = (0..0x500)
            .chain([0x6E0, 0x800, 0xDA0])
            .chain(0xC000_0080..0xC000_0108)
            .chain(0xC001_0000..0xC001_0140)
            .chain(0xC001_1020..0xC001_1030)
            .collect();
        let (mut file, mut vmsa) = (file(), vmsa());
        for (choice, number, value) in writes {
            let index = usize::try_from(number).unwrap_or(0) % known.len();
            let msr = Msr(if choice == 0 { number } else { known[index] });
            let value = if choice % 2 == 0 { value & 0xFFFF } else { value };
            let _ = file.write(msr, value, &mut vmsa);
            let _ = file.read(msr, &vmsa);
        }
        prop_assert!(vmsa.efer & reset::EFER_SVME != 0);
        prop_assert!(self::file().restore(&file.save()).is_ok());
    }
}
