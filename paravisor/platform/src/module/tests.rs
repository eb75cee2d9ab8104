//! Address spaces in ordinary memory: a process maps itself one to one.

use super::*;
use crate::paging::{ADDRESS, ENCRYPTED, NO_EXECUTE, PRESENT, WRITABLE, entry_in};
use std::boxed::Box;
use std::vec;

const BASE: u64 = 0x40_0000;
const USER: u64 = 1 << 2;
/// Stands for the gate's entry; nothing here follows it.
const GATE: u64 = 0xABC_D003;
/// As many frames as there are.
const ALL: usize = usize::MAX;

fn memory(frames: usize) -> ModuleMemory {
    let memory = Box::leak(vec![0_u64; 512 * (frames + 1)].into_boxed_slice());
    let start = (memory.as_mut_ptr().expose_provenance() as u64).next_multiple_of(4096);
    // SAFETY: 1. the memory is leaked, zero and used by nothing else. 2. nothing translates by these tables.
    unsafe { ModuleMemory::new(start..start + 4096 * frames as u64, GATE) }
}

fn space(frames: usize) -> ModuleSpace {
    memory(frames).space().unwrap()
}

/// Translates as the processor would: the rights all levels agree on, and the frame.
fn walk(space: &ModuleSpace, address: u64) -> Option<(u64, u64)> {
    let mut table = space.tables.cr3() & ADDRESS;
    let (mut rights, mut deny) = (USER | WRITABLE, 0);
    for level in (0..4).rev() {
        // SAFETY: the tables were made by the code under test in leaked memory.
        let value = unsafe { entry_in(table, address, level).read() };
        if value & PRESENT == 0 {
            return None;
        }
        assert_ne!(value & ENCRYPTED, 0, "tables and pages are private");
        rights &= value;
        deny |= value & NO_EXECUTE;
        table = value & ADDRESS;
    }
    Some((rights & (USER | WRITABLE) | deny, table))
}

#[test]
fn most_bytes_are_what_was_taken_at_once() {
    let memory = memory(20);
    let mut space = memory.space().unwrap();
    let map = |space: &mut ModuleSpace, index: u64| {
        space
            .map(BASE + index * 0x1000, PageAccess::Write, ALL)
            .unwrap();
    };
    map(&mut space, 0);
    map(&mut space, 1);
    let most = memory.most_bytes();
    assert_eq!(most, 4096 * space.frames() as u64);
    space.unmap(BASE..BASE + 0x2000);
    map(&mut space, 0);
    assert_eq!(memory.most_bytes(), most);
    map(&mut space, 1);
    map(&mut space, 2);
    assert!(memory.most_bytes() > most);
}

#[test]
fn pages_have_the_access_they_were_given_and_no_other() {
    let mut space = space(20);
    for (index, (access, expected)) in (0..).zip([
        (PageAccess::Read, USER | NO_EXECUTE),
        (PageAccess::Write, USER | WRITABLE | NO_EXECUTE),
        (PageAccess::Execute, USER),
    ]) {
        let page = BASE + index * 0x1000;
        space.map(page, access, ALL).unwrap();
        assert_eq!(walk(&space, page).unwrap().0, expected);
        space.map(page, PageAccess::None, ALL).unwrap();
        assert_eq!(walk(&space, page).unwrap().0 & USER, 0);
    }
    space.map(BASE + 0x9000, PageAccess::None, ALL).unwrap();
    assert_eq!(walk(&space, BASE + 0x9000), None);
}

#[test]
fn what_is_written_is_read_across_pages_and_only_with_the_right() {
    let mut space = space(20);
    space.map(BASE, PageAccess::Write, ALL).unwrap();
    space.map(BASE + 0x1000, PageAccess::Write, ALL).unwrap();
    space.write(BASE + 0xFFE, b"abcd").unwrap();
    let mut back = [0; 4];
    space.read(BASE + 0xFFE, &mut back).unwrap();
    assert_eq!(&back, b"abcd");
    space.map(BASE + 0x1000, PageAccess::Execute, ALL).unwrap();
    let refused = space.write(BASE + 0xFFE, b"WXYZ");
    assert_eq!(refused, Err(NoPage(BASE + 0x1000)));
    space.load(BASE + 0x1000, b"Z").unwrap();
    space.read(BASE + 0xFFE, &mut back).unwrap();
    assert_eq!(&back, b"abZd");
    space.map(BASE, PageAccess::None, ALL).unwrap();
    assert_eq!(space.read(BASE, &mut back), Err(NoPage(BASE)));
    assert!(space.read(u64::MAX, &mut back).is_err());
}

/// A module whose tables could be made to map the gate's addresses could read the paravisor.
#[test]
fn addresses_outside_are_refused() {
    let mut space = space(20);
    for page in [
        0,
        1 << 39,
        (1 << 39) + 0x1000,
        (1 << 39) - 0x1000,
        1 << 47,
        0xFFFF_8000_0000_0000,
        BASE + 1,
    ] {
        assert_eq!(
            space.map(page, PageAccess::Write, ALL),
            Err(NoFrames),
            "{page:#x}"
        );
        assert!(space.load(page, &[0]).is_err());
        assert!(space.read(page, &mut [0]).is_err());
    }
    space.unmap(0..!0xFFF);
    let top = entry_in(space.tables.cr3() & ADDRESS, 1 << 39, 3);
    // SAFETY: the entry is in the space's top-level table.
    assert_eq!(unsafe { top.read() }, GATE);
    assert_eq!(space.frames(), 1);
}

#[test]
fn frames_come_back_zero() {
    let memory = memory(5);
    let mut space = memory.space().unwrap();
    space.map(BASE, PageAccess::Write, ALL).unwrap();
    space.write(BASE, b"secret").unwrap();
    assert_eq!(
        space.map(BASE + 0x1000, PageAccess::Read, ALL),
        Err(NoFrames)
    );
    space.unmap(BASE..BASE + 0x1000);
    space.map(BASE + 0x1000, PageAccess::Read, ALL).unwrap();
    let mut back = [9; 6];
    space.read(BASE + 0x1000, &mut back).unwrap();
    assert_eq!(back, [0; 6]);
    space.clear();
    assert_eq!(space.frames(), 1);
    drop(space);
    let mut other = memory.space().unwrap();
    other.map(BASE, PageAccess::Write, ALL).unwrap();
    assert_eq!(other.frames(), 5);
}

/// What a table costs counts too, also of a page that is then refused: or a module far above its limit would leave others nothing.
#[test]
fn a_space_at_its_limit_takes_nothing_from_another() {
    const LIMIT: usize = 20;
    let memory = memory(2 * LIMIT);
    let [mut greedy, mut modest] = [(); 2].map(|()| memory.space().unwrap());
    let map = |space: &mut ModuleSpace, page| space.map(page, PageAccess::Write, LIMIT);
    // First all in one table, then each in a table of its own, then each below another third-level table.
    for (count, stride) in [(100, 0x1000), (100, 2 << 20), (400, 1 << 30)] {
        for index in 0..count {
            let _ = map(&mut greedy, BASE + index * stride);
            assert!(greedy.frames() <= LIMIT);
        }
    }
    assert_eq!(greedy.frames(), LIMIT);
    let moved = greedy.shift(BASE, 0x7F_0000_0000, LIMIT);
    assert_eq!((moved, greedy.frames()), (Err(NoFrames), LIMIT));
    let pages = (0..).map(|index| BASE + index * 0x1000);
    let given = pages.take_while(|page| map(&mut modest, *page).is_ok());
    assert_eq!(given.count(), LIMIT - 4);
    assert_eq!(memory.most_bytes(), 4096 * 2 * LIMIT as u64);
}

#[test]
fn two_spaces_share_no_frame() {
    let memory = memory(20);
    let [mut first, mut second] = [(); 2].map(|()| memory.space().unwrap());
    first.map(BASE, PageAccess::Write, ALL).unwrap();
    second.map(BASE, PageAccess::Write, ALL).unwrap();
    first.write(BASE, b"first").unwrap();
    let mut back = [9; 5];
    second.read(BASE, &mut back).unwrap();
    assert_eq!(back, [0; 5]);
    assert_ne!(walk(&first, BASE), walk(&second, BASE));
}

#[test]
fn a_page_moves_with_its_content() {
    let mut space = space(20);
    space.map(BASE, PageAccess::Write, ALL).unwrap();
    space.write(BASE, b"x").unwrap();
    space.shift(BASE, 0x7F_0000_0000, ALL).unwrap();
    let mut back = [0];
    space.read(0x7F_0000_0000, &mut back).unwrap();
    assert_eq!((&back, walk(&space, BASE)), (b"x", None));
    space.map(BASE, PageAccess::Write, ALL).unwrap();
    assert_eq!(space.shift(BASE, 0x7F_0000_0000, ALL), Err(NoFrames));
}

#[test]
fn giving_back_the_whole_space_is_quick() {
    let mut space = space(20);
    space.map(BASE, PageAccess::Write, ALL).unwrap();
    space.map(0x70_0000_0000, PageAccess::Write, ALL).unwrap();
    space.unmap(0..1 << 39);
    assert_eq!(
        (walk(&space, BASE), walk(&space, 0x70_0000_0000)),
        (None, None)
    );
}
