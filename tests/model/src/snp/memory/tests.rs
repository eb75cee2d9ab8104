use super::*;
use crate::snp::addr::fake::HeapFrames;
use crate::snp::rmp::FailCode;
use crate::snp::rmp::Permissions;

const OWNER: Owner = Owner { asid: 1 };
const RAM: u64 = 0x40_0000;
const ZERO: Who = Who {
    vmpl: Vmpl::ZERO,
    layout: Layout::CBit,
    top: 0,
};
const TWO: Who = Who {
    vmpl: Vmpl::try_new(2).unwrap(),
    layout: Layout::Flat,
    top: 1 << 46,
};

/// 4 MiB of RAM from 0, assigned and not validated.
fn guest() -> (Memory, HeapFrames) {
    let mut frames = HeapFrames::new(0x100_0000);
    // SAFETY: the arena starts there.
    let rmp = Rmp::new(unsafe { Phys::new(frames.base) }, frames.size);
    let mut memory = Memory::new(rmp, OWNER, 7);
    memory
        .map
        .add_blocks(Gpa::new(0), RAM, RangeKind::Ram, &mut frames)
        .unwrap();
    memory.assign_all(RangeKind::Ram);
    (memory, frames)
}

fn accept(memory: &mut Memory, gpa: u64, size: PageSize) {
    let (outcome, _) = memory.pvalidate(Gpa::new(gpa), size, Validate::Set);
    assert_eq!(outcome, Outcome::Done(Change::Changed));
}

fn grant(memory: &mut Memory, gpa: u64, size: PageSize, permissions: Permissions) {
    let what = Adjustment {
        current: Vmpl::ZERO,
        target: TWO.vmpl,
        permissions,
        vmsa: false,
    };
    assert_eq!(
        memory.adjust(Gpa::new(gpa), size, what).0,
        Outcome::Done(())
    );
}

#[test]
fn a_page_faults_until_validated_and_then_maps_large() {
    let (mut memory, mut frames) = guest();
    let address = 0x20_3000 | C_BIT;
    let mut touch = |memory: &mut Memory| {
        memory.fault(ZERO, address, AccessKind::Write, Stage::Final, &mut frames)
    };
    assert_eq!(touch(&mut memory), Resolution::NotValidated);
    accept(&mut memory, 0x20_0000, PageSize::Large);
    assert_eq!(touch(&mut memory), Resolution::Mapped);
    let (host, size) = memory.tables.lookup(ZERO.view(), address).unwrap();
    assert_eq!(size, PageSize::Large);
    assert_eq!(Some(host), memory.map.translate(Gpa::new(0x20_0000)));
}

#[test]
fn a_lower_vmpl_sees_only_what_it_was_given() {
    let (mut memory, mut frames) = guest();
    accept(&mut memory, 0, PageSize::Large);
    let mut touch =
        |memory: &mut Memory, kind| memory.fault(TWO, 0x5000, kind, Stage::Final, &mut frames);
    assert_eq!(touch(&mut memory, AccessKind::Read), Resolution::Denied);
    grant(
        &mut memory,
        0x5000,
        PageSize::Small,
        Permissions::new().with_read(true),
    );
    assert_eq!(touch(&mut memory, AccessKind::Read), Resolution::Mapped);
    assert_eq!(touch(&mut memory, AccessKind::Write), Resolution::Denied);
    assert_eq!(
        memory.tables.lookup(TWO.view(), 0x5000).unwrap().1,
        PageSize::Small
    );
}

#[test]
fn taking_a_permission_away_unmaps_for_that_vmpl_only() {
    let (mut memory, mut frames) = guest();
    accept(&mut memory, 0, PageSize::Large);
    grant(&mut memory, 0, PageSize::Large, Permissions::ALL);
    memory.fault(TWO, 0x5000, AccessKind::Read, Stage::Final, &mut frames);
    memory.fault(
        ZERO,
        0x5000 | C_BIT,
        AccessKind::Read,
        Stage::Final,
        &mut frames,
    );
    let what = Adjustment {
        current: Vmpl::ZERO,
        target: TWO.vmpl,
        permissions: Permissions::NONE,
        vmsa: false,
    };
    assert_eq!(
        memory.adjust(Gpa::new(0x5000), PageSize::Small, what).1,
        Unmapped::Something
    );
    assert_eq!(memory.tables.lookup(TWO.view(), 0x5000), None);
    assert!(memory.tables.lookup(ZERO.view(), 0x5000 | C_BIT).is_some());
}

#[test]
fn device_space_and_misplaced_c_bits_have_no_memory() {
    let (mut memory, mut frames) = guest();
    let mut touch =
        |who, address| memory.fault(who, address, AccessKind::Read, Stage::Final, &mut frames);
    assert_eq!(touch(TWO, 0xFEC0_0000), Resolution::Device);
    assert_eq!(touch(ZERO, 0xFEC0_0000 | C_BIT), Resolution::Device);
    assert_eq!(touch(TWO, 0x1000 | C_BIT), Resolution::Device);
}

/// What the host writes into a page before the guest takes it must not be what the guest reads.
#[test]
fn a_page_that_changes_hands_reads_as_noise() {
    let (mut memory, _) = guest();
    let gpa = Gpa::new(0x5000);
    accept(&mut memory, 0x5000, PageSize::Small);
    let host = memory
        .locate(ZERO, 0x5000 | C_BIT, AccessKind::Write, Stage::Final)
        .unwrap();
    host.write_u64(0x1234);
    memory
        .change_state(gpa, PageSize::Small, PageState::Shared)
        .unwrap();
    assert_ne!(memory.host_page(gpa).unwrap().read_u64(), 0x1234);
    memory
        .change_state(gpa, PageSize::Small, PageState::Private)
        .unwrap();
    assert_eq!(memory.host_page(gpa), None);
    let refused = memory.locate(ZERO, 0x5000 | C_BIT, AccessKind::Read, Stage::Final);
    assert_eq!(refused, Err(AccessFault::Rmp(Violation::NotValidated)));
}

#[test]
fn asking_for_the_state_a_page_has_keeps_its_validation() {
    let (mut memory, _) = guest();
    accept(&mut memory, 0, PageSize::Large);
    let unchanged = memory.change_state(Gpa::new(0x5000), PageSize::Small, PageState::Private);
    assert_eq!(unchanged, Some(Unmapped::Nothing));
    assert!(
        memory
            .rmp
            .entry(memory.map.translate(Gpa::new(0x5000)).unwrap())
            .is_validated()
    );
    assert!(
        memory
            .change_state(Gpa::new(0), PageSize::Large, PageState::Private)
            .is_some()
    );
    assert!(
        memory
            .rmp
            .entry(memory.map.translate(Gpa::new(0x5000)).unwrap())
            .is_validated()
    );
}

#[test]
fn large_state_changes_work_on_mixed_pages_too() {
    let (mut memory, _) = guest();
    let shared = |memory: &Memory, gpa| memory.host_page(Gpa::new(gpa)).is_some();
    memory
        .change_state(Gpa::new(0x3000), PageSize::Small, PageState::Shared)
        .unwrap();
    assert!(shared(&memory, 0x3000) && !shared(&memory, 0x4000));
    memory
        .change_state(Gpa::new(0), PageSize::Large, PageState::Shared)
        .unwrap();
    assert!(shared(&memory, 0) && shared(&memory, 0x1F_F000));
    memory
        .change_state(Gpa::new(0), PageSize::Large, PageState::Private)
        .unwrap();
    assert!(!shared(&memory, 0) && !shared(&memory, 0x1F_F000));
}

#[test]
fn a_write_without_the_c_bit_converts_and_a_read_sees_noise() {
    let (mut memory, mut frames) = guest();
    accept(&mut memory, 0, PageSize::Large);
    let mut touch =
        |memory: &mut Memory, kind, stage| memory.fault(ZERO, 0x5000, kind, stage, &mut frames);
    assert_eq!(
        touch(&mut memory, AccessKind::Write, Stage::Walk),
        Resolution::WalkWithoutCBit
    );
    assert_eq!(
        touch(&mut memory, AccessKind::Read, Stage::Final),
        Resolution::Mapped
    );
    let (noise, _) = memory.tables.lookup(ZERO.view(), 0x5000).unwrap();
    assert_ne!(Some(noise), memory.map.translate(Gpa::new(0x5000)));
    let converted = Resolution::Converted(Gpa::new(0x5000));
    assert_eq!(
        touch(&mut memory, AccessKind::Write, Stage::Final),
        converted
    );
    assert_eq!(
        touch(&mut memory, AccessKind::Write, Stage::Final),
        Resolution::Mapped
    );
    assert!(memory.host_page(Gpa::new(0x5000)).is_some());
}

/// The alias of a private page must go when the page does: a stale one would be a hole in the model.
#[test]
fn a_stolen_page_is_gone_from_every_table() {
    let (mut memory, mut frames) = guest();
    accept(&mut memory, 0, PageSize::Large);
    grant(&mut memory, 0, PageSize::Large, Permissions::ALL);
    memory.fault(TWO, 0x5000, AccessKind::Read, Stage::Final, &mut frames);
    memory.fault(
        ZERO,
        0x5000 | C_BIT,
        AccessKind::Read,
        Stage::Final,
        &mut frames,
    );
    assert_eq!(memory.steal(Gpa::new(0x5678)), Some(Unmapped::Something));
    let again = memory.fault(TWO, 0x5000, AccessKind::Read, Stage::Final, &mut frames);
    assert_eq!(again, Resolution::Converted(Gpa::new(0x5000)));
    let again = memory.fault(TWO, 0x5000, AccessKind::Read, Stage::Final, &mut frames);
    assert_eq!(again, Resolution::NotValidated);
}

#[test]
fn a_large_pvalidate_of_small_pages_tells_the_guest() {
    let (mut memory, _) = guest();
    accept(&mut memory, 0x1000, PageSize::Small);
    let (outcome, _) = memory.pvalidate(Gpa::new(0), PageSize::Large, Validate::Set);
    assert_eq!(outcome, Outcome::Fail(FailCode::SizeMismatch));
    let (outcome, _) = memory.pvalidate(Gpa::new(RAM), PageSize::Small, Validate::Set);
    assert_eq!(outcome, Outcome::NotOwned);
}

/// KVM makes a page private when its guest validates it; a guest that relies on that must get an unvalidated page.
#[test]
fn validating_a_shared_page_makes_it_the_guests() {
    let (mut memory, _) = guest();
    memory
        .change_state(Gpa::new(0x5000), PageSize::Small, PageState::Shared)
        .unwrap();
    accept(&mut memory, 0x5000, PageSize::Small);
    assert_eq!(memory.host_page(Gpa::new(0x5000)), None);
}

/// A device reaches what the host itself reaches: nothing private, before, between or after.
#[test]
fn devices_reach_a_page_exactly_while_it_is_shared() {
    let (mut memory, frames) = guest();
    memory.change_state(Gpa::new(0x3000), PageSize::Small, PageState::Shared);
    let dma = crate::snp::dma::DmaTables::try_new(Box::new(frames), || {}).unwrap();
    memory.lend_to_devices(dma);
    let host = |memory: &Memory, gpa| memory.map.translate(Gpa::new(gpa));
    let reached = |memory: &mut Memory, gpa| memory.dma().unwrap().translate(gpa);
    assert_eq!(reached(&mut memory, 0x3000), host(&memory, 0x3000));
    assert_eq!(reached(&mut memory, 0x4000), None);
    memory.change_state(Gpa::new(0x20_0000), PageSize::Large, PageState::Shared);
    assert_eq!(reached(&mut memory, 0x3F_F000), host(&memory, 0x3F_F000));
    memory.change_state(Gpa::new(0x20_1000), PageSize::Small, PageState::Private);
    assert_eq!(reached(&mut memory, 0x20_1000), None);
    assert_eq!(reached(&mut memory, 0x20_2000), host(&memory, 0x20_2000));
    memory.pvalidate(Gpa::new(0x3000), PageSize::Small, Validate::Set);
    assert_eq!(reached(&mut memory, 0x3000), None);
    memory.steal(Gpa::new(0x3000));
    assert_eq!(reached(&mut memory, 0x3000), host(&memory, 0x3000));
}
