use super::*;

const OWNER: Owner = Owner { asid: 1 };
const OTHER: Owner = Owner { asid: 2 };
const ONE: Vmpl = Vmpl::try_new(1).unwrap();
const TWO: Vmpl = Vmpl::try_new(2).unwrap();

/// A table for 4 MiB at an address nobody dereferences.
fn table() -> (Rmp, Phys) {
    // SAFETY: the address is only a number here.
    let base = unsafe { Phys::new(0x4000_0000) };
    (Rmp::new(base, 0x40_0000), base)
}

fn page(base: Phys, index: u64) -> Phys {
    // SAFETY: only a number.
    unsafe { Phys::new(base.get() + index * PAGE_SIZE) }
}

fn private(gpa: u64) -> NewState {
    NewState::Private {
        owner: OWNER,
        gpa: Gpa::new(gpa),
    }
}

fn adjustment(permissions: Permissions) -> Adjustment {
    Adjustment {
        current: Vmpl::ZERO,
        target: TWO,
        permissions,
        vmsa: false,
    }
}

/// A guest that reads a page before it accepted it would read what the host put there.
#[test]
fn an_assigned_page_needs_validation_before_any_access() {
    let (mut rmp, base) = table();
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    let gpa = Gpa::new(0x5000);
    let check = |rmp: &Rmp| rmp.check_guest(base, OWNER, gpa, Vmpl::ZERO, AccessKind::Read);
    assert_eq!(check(&rmp), Err(Violation::NotValidated));
    assert_eq!(
        rmp.pvalidate(base, OWNER, gpa, PageSize::Small, true),
        Outcome::Done(Change::Changed)
    );
    assert_eq!(check(&rmp), Ok(()));
    assert_eq!(
        rmp.pvalidate(base, OWNER, gpa, PageSize::Small, true),
        Outcome::Done(Change::Unchanged)
    );
}

#[test]
fn a_page_at_another_address_or_of_another_guest_is_not_owned() {
    let (mut rmp, base) = table();
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    rmp.pvalidate(base, OWNER, Gpa::new(0x5000), PageSize::Small, true);
    let read =
        |owner, gpa| rmp.check_guest(base, owner, Gpa::new(gpa), Vmpl::ZERO, AccessKind::Read);
    assert_eq!(read(OWNER, 0x6000), Err(Violation::NotOwned));
    assert_eq!(read(OTHER, 0x5000), Err(Violation::NotOwned));
    assert_eq!(read(OWNER, 0x5FFF), Ok(()));
}

/// The remap attack: a page taken away and given back must be validated anew.
#[test]
fn rmpupdate_drops_validation_and_lower_permissions() {
    let (mut rmp, base) = table();
    let gpa = Gpa::new(0x5000);
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    rmp.pvalidate(base, OWNER, gpa, PageSize::Small, true);
    rmp.adjust(
        base,
        OWNER,
        gpa,
        PageSize::Small,
        adjustment(Permissions::ALL),
    );
    rmp.update(base, PageSize::Small, NewState::Shared).unwrap();
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    let entry = rmp.entry(base);
    assert!(!entry.is_validated());
    assert_eq!(entry.permissions(TWO), Permissions::NONE);
    assert!(entry.was_ever_shared());
}

#[test]
fn a_lower_vmpl_has_what_rmpadjust_gave_it() {
    let (mut rmp, base) = table();
    let gpa = Gpa::new(0x5000);
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    rmp.pvalidate(base, OWNER, gpa, PageSize::Small, true);
    let check = |rmp: &Rmp, kind| rmp.check_guest(base, OWNER, gpa, TWO, kind);
    assert_eq!(check(&rmp, AccessKind::Read), Err(Violation::Vmpl));
    let read_only = Permissions::new().with_read(true);
    assert_eq!(
        rmp.adjust(base, OWNER, gpa, PageSize::Small, adjustment(read_only)),
        Outcome::Done(())
    );
    assert_eq!(check(&rmp, AccessKind::Read), Ok(()));
    assert_eq!(check(&rmp, AccessKind::Write), Err(Violation::Vmpl));
    assert_eq!(check(&rmp, AccessKind::Fetch), Err(Violation::Vmpl));
}

#[test]
fn rmpadjust_never_raises_the_caller_or_gives_what_it_lacks() {
    let (mut rmp, base) = table();
    let gpa = Gpa::new(0x5000);
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    rmp.pvalidate(base, OWNER, gpa, PageSize::Small, true);
    let ask = |rmp: &mut Rmp, current, target, permissions| {
        rmp.adjust(
            base,
            OWNER,
            gpa,
            PageSize::Small,
            Adjustment {
                current,
                target,
                permissions,
                vmsa: true,
            },
        )
    };
    assert_eq!(
        ask(&mut rmp, ONE, ONE, Permissions::NONE),
        Outcome::Fail(FailCode::Permission)
    );
    assert_eq!(
        ask(&mut rmp, ONE, Vmpl::ZERO, Permissions::NONE),
        Outcome::Fail(FailCode::Permission)
    );
    assert_eq!(
        ask(&mut rmp, ONE, TWO, Permissions::ALL),
        Outcome::Fail(FailCode::Permission)
    );
    assert_eq!(
        ask(&mut rmp, ONE, TWO, Permissions::NONE),
        Outcome::Done(())
    );
    assert!(!rmp.entry(base).is_vmsa(), "only VMPL0 makes a VMSA");
    assert_eq!(
        ask(&mut rmp, Vmpl::ZERO, ONE, Permissions::NONE),
        Outcome::Done(())
    );
    assert!(rmp.entry(base).is_vmsa());
}

#[test]
fn a_vmsa_page_cannot_be_validated_again() {
    let (mut rmp, base) = table();
    rmp.launch(
        base,
        OWNER,
        Gpa::new(0x5000),
        [Permissions::ALL; VMPLS],
        true,
    );
    let outcome = rmp.pvalidate(base, OWNER, Gpa::new(0x5000), PageSize::Small, false);
    assert_eq!(outcome, Outcome::NotOwned);
}

#[test]
fn sizes_must_agree() {
    let (mut rmp, base) = table();
    rmp.update(base, PageSize::Large, private(0x20_0000))
        .unwrap();
    let gpa = Gpa::new(0x20_0000);
    assert_eq!(
        rmp.pvalidate(base, OWNER, gpa, PageSize::Small, true),
        Outcome::NeedsSmash
    );
    assert_eq!(
        rmp.pvalidate(base, OWNER, gpa, PageSize::Large, true),
        Outcome::Done(Change::Changed)
    );
    rmp.psmash(base).unwrap();
    assert_eq!(
        rmp.pvalidate(base, OWNER, gpa, PageSize::Large, true),
        Outcome::Fail(FailCode::SizeMismatch)
    );
    let inner = Gpa::new(0x20_3000);
    assert_eq!(
        rmp.pvalidate(page(base, 3), OWNER, inner, PageSize::Small, true),
        Outcome::Done(Change::Unchanged)
    );
}

#[test]
fn a_large_entry_speaks_for_all_its_pages_until_smashed() {
    let (mut rmp, base) = table();
    rmp.update(base, PageSize::Large, private(0x20_0000))
        .unwrap();
    rmp.pvalidate(base, OWNER, Gpa::new(0x20_0000), PageSize::Large, true);
    let seventh = page(base, 7);
    let check = |rmp: &Rmp| {
        rmp.check_guest(
            seventh,
            OWNER,
            Gpa::new(0x20_7000),
            Vmpl::ZERO,
            AccessKind::Write,
        )
    };
    assert_eq!(check(&rmp), Ok(()));
    assert_eq!(
        rmp.update(seventh, PageSize::Small, NewState::Shared),
        Err(HostFailure::Overlap)
    );
    rmp.psmash(seventh).unwrap();
    assert_eq!(check(&rmp), Ok(()));
    assert!(rmp.is_uniform(base));
    rmp.update(seventh, PageSize::Small, NewState::Shared)
        .unwrap();
    assert_eq!(check(&rmp), Err(Violation::NotOwned));
    assert!(!rmp.is_uniform(base));
    assert_eq!(rmp.psmash(base), Err(HostFailure::Input));
}

#[test]
fn a_large_entry_needs_alignment_and_room() {
    let (mut rmp, base) = table();
    assert_eq!(
        rmp.update(page(base, 1), PageSize::Large, NewState::Shared),
        Err(HostFailure::Input)
    );
    rmp.update(page(base, 9), PageSize::Small, private(0x9000))
        .unwrap();
    assert_eq!(
        rmp.update(base, PageSize::Large, private(0)),
        Err(HostFailure::Overlap)
    );
}

#[test]
fn the_host_cannot_write_what_a_guest_owns() {
    let (mut rmp, base) = table();
    assert_eq!(rmp.check_host_write(base), Ok(()));
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    assert_eq!(rmp.check_host_write(base), Err(Violation::NotOwned));
}

#[test]
fn query_tells_permissions_of_lower_levels_only() {
    let (mut rmp, base) = table();
    let gpa = Gpa::new(0x5000);
    rmp.update(base, PageSize::Small, private(0x5000)).unwrap();
    assert_eq!(
        rmp.query(base, OWNER, gpa, Vmpl::ZERO, ONE),
        Outcome::NotValidated
    );
    rmp.pvalidate(base, OWNER, gpa, PageSize::Small, true);
    assert!(matches!(
        rmp.query(base, OWNER, gpa, Vmpl::ZERO, ONE),
        Outcome::Done(_)
    ));
    assert_eq!(
        rmp.query(base, OWNER, gpa, ONE, ONE),
        Outcome::Fail(FailCode::Permission)
    );
}
