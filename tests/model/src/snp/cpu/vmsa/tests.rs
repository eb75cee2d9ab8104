use super::*;
use crate::snp::addr::FrameSource;
use crate::snp::addr::fake::HeapFrames;
use crate::snp::rmp::{Permissions, VMPLS};
use zerocopy::FromZeros;

const OWNER: Owner = Owner { asid: 1 };
const GPA: Gpa = Gpa::new(0x80_0001_5000);

fn runnable() -> Vmsa {
    let mut vmsa = Vmsa::zeroed();
    vmsa.efer = EFER_SVME | EFER_LME | EFER_LMA;
    vmsa.cr0 = CR0_PE | CR0_PG;
    vmsa.cr4 = CR4_PAE;
    vmsa.xcr0 = 1;
    vmsa.sev_features = SevFeatures::SNP_ACTIVE;
    vmsa
}

fn launched(vmsa: &Vmsa) -> (Rmp, Phys) {
    let mut frames = HeapFrames::new(0x40_0000);
    let page = frames.frame().unwrap();
    // SAFETY: the arena starts there.
    let mut rmp = Rmp::new(unsafe { Phys::new(frames.base) }, frames.size);
    rmp.launch(page, OWNER, GPA, [Permissions::ALL; VMPLS], true);
    page.write_bytes(vmsa.as_bytes());
    (rmp, page)
}

fn load(vmsa: &Vmsa) -> Result<(), Refusal> {
    let (rmp, page) = launched(vmsa);
    Image::new().load(&rmp, OWNER, GPA, page, 0)
}

#[test]
fn a_sound_vmsa_loads_and_knows_its_processor() {
    let (rmp, page) = launched(&runnable());
    assert_eq!(Image::new().load(&rmp, OWNER, GPA, page, 4), Ok(()));
    assert_eq!(page.in_page(0x3D8).read_u64(), 5);
}

#[test]
fn only_a_vmsa_page_of_the_guest_at_that_address_runs() {
    let (mut rmp, page) = launched(&runnable());
    let mut image = Image::new();
    assert_eq!(
        image.load(&rmp, OWNER, Gpa::new(0x1000), page, 0),
        Err(Refusal::NotVmsa)
    );
    assert_eq!(
        image.load(&rmp, Owner { asid: 2 }, GPA, page, 0),
        Err(Refusal::NotVmsa)
    );
    rmp.launch(page, OWNER, GPA, [Permissions::ALL; VMPLS], false);
    assert_eq!(image.load(&rmp, OWNER, GPA, page, 0), Err(Refusal::NotVmsa));
}

/// The paravisor edits a VMSA under its busy bit; a host that runs it meanwhile must get nothing but an error.
#[test]
fn a_busy_vmsa_is_refused_with_its_own_code() {
    let mut vmsa = runnable();
    vmsa.vintr_ctrl.set_busy(true);
    assert_eq!(load(&vmsa), Err(Refusal::Busy));
    assert_eq!(Refusal::Busy.exit_code(), ExitCode::BUSY);
}

#[test]
fn impossible_states_are_invalid() {
    let cases: [fn(&mut Vmsa); 14] = [
        |vmsa| vmsa.efer &= !EFER_SVME,
        |vmsa| vmsa.efer &= !EFER_LMA,
        |vmsa| vmsa.efer |= 1 << 9,
        |vmsa| vmsa.efer |= 1 << 40,
        |vmsa| vmsa.cr0 |= 1 << 32,
        |vmsa| vmsa.cr0 |= 1 << 29,
        |vmsa| vmsa.cr0 &= !CR0_PE,
        |vmsa| vmsa.cr4 &= !CR4_PAE,
        |vmsa| vmsa.cr4 |= 1 << 33,
        |vmsa| vmsa.dr7 |= 1 << 32,
        |vmsa| vmsa.xcr0 = 2,
        |vmsa| vmsa.vmpl = 4,
        |vmsa| vmsa.sev_features = SevFeatures::empty(),
        |vmsa| {
            vmsa.sev_features |=
                SevFeatures::RESTRICTED_INJECTION | SevFeatures::ALTERNATE_INJECTION;
        },
    ];
    for (index, break_it) in cases.iter().enumerate() {
        let mut vmsa = runnable();
        break_it(&mut vmsa);
        let error = load(&vmsa).unwrap_err();
        assert_eq!(
            error.exit_code(),
            ExitCode::INVALID,
            "case {index}: {error}"
        );
    }
}

#[test]
fn events_that_do_not_exist_are_invalid_under_alternate_injection_only() {
    let mut vmsa = runnable();
    vmsa.event_inj = EventInfo::from_bits(0x8000_0320);
    assert_eq!(load(&vmsa), Ok(()));
    vmsa.sev_features |= SevFeatures::ALTERNATE_INJECTION;
    assert_eq!(load(&vmsa), Err(Refusal::Event(0x8000_0320)));
    vmsa.event_inj = EventInfo::from_bits(0x8000_030D);
    assert_eq!(load(&vmsa), Ok(()));
}

#[test]
fn registers_survive_entry_and_exit() {
    let mut vmsa = runnable();
    (vmsa.rip, vmsa.rsp, vmsa.rax, vmsa.r15, vmsa.cr2) = (1, 2, 3, 4, 5);
    vmsa.gs.base = 0xFFFF_8000_0000_0000;
    vmsa.cpl = 3;
    let (rmp, page) = launched(&vmsa);
    let mut image = Image::new();
    image.load(&rmp, OWNER, GPA, page, 0).unwrap();
    let mut save = SaveArea::new_zeroed();
    let mut registers = GuestRegisters::default();
    image.enter(&mut save, &mut registers);
    assert_eq!(
        (save.rip, save.rax, registers.r15, save.gs.base),
        (1, 3, 4, 0xFFFF_8000_0000_0000)
    );
    assert_eq!(
        save.ss.attributes & 0x60,
        0x60,
        "QEMU reads the CPL from SS"
    );
    (save.rip, registers.rbx) = (0x10, 0x20);
    image.leave(&mut save, &registers);
    image.store(page, Busy::Keep);
    assert_eq!(page.in_page(0x178).read_u64(), 0x10);
    assert_eq!(page.in_page(0x318).read_u64(), 0x20);
}

#[test]
fn an_exit_writes_back_only_its_part_of_the_interrupt_control() {
    let mut vmsa = runnable();
    vmsa.vintr_ctrl = VintrControl::new()
        .with_v_irq(true)
        .with_vector(0x41)
        .with_v_gif(true);
    let (rmp, page) = launched(&vmsa);
    let mut image = Image::new();
    image.load(&rmp, OWNER, GPA, page, 0).unwrap();
    image.edit().vintr_ctrl = VintrControl::new().with_v_tpr(3).with_vector(0x99);
    image.store(page, Busy::Set);
    let after = VintrControl::from_bits(page.in_page(VINTR as u64).read_u64());
    let expected = VintrControl::new()
        .with_v_tpr(3)
        .with_vector(0x41)
        .with_v_gif(true)
        .with_busy(true);
    assert_eq!(after, expected);
}
