//! A guest of 2 MiB: identity-mapped, ring 0, 64-bit, running code from `guests.s`.

use alloc::boxed::Box;
use core::arch::global_asm;

use crate::machine::memory::{HostPa, PageBox, write};
use crate::machine::{frames, processor};
use crate::svm::{
    self, Exit, ExtendedState, GuestRegisters, Intercepts1, Intercepts2, InterruptControl,
    IoPermissionMap, MsrPermissionMap, NestedControl, Segment, Vmcb,
};

global_asm!(include_str!("guests.s"), options(att_syntax));

unsafe extern "C" {
    static selftest_start: u8;
    static selftest_end: u8;
    static selftest_cpuid: u8;
    static selftest_spin: u8;
    static selftest_mark: u8;
    static selftest_look: u8;
    static selftest_words: u8;
}

/// Where a guest begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Entry {
    /// An exit for each CPUID.
    Cpuid,
    /// No exit.
    Spin,
    /// Marks the extended state, halts, reads it, halts.
    Mark,
    /// Reads the extended state, halts.
    Look,
    /// IN, RDMSR, VMMCALL, HLT, PVALIDATE.
    Words,
}

const TABLES: u64 = 0x1000;
const CODE: u64 = 0x1_0000;
const STACK: u64 = 0x2_0000;
/// Present, writable, user.
const TABLE: u64 = 7;
/// The same, a large page, accessed and dirty.
const LARGE: u64 = 0xE7;

/// One guest context and the memory it runs in.
pub(super) struct Guest {
    pub(super) vmcb: PageBox<Vmcb>,
    pub(super) registers: GuestRegisters,
    pub(super) extended: Box<ExtendedState>,
    ports: Box<IoPermissionMap>,
    msrs: Box<MsrPermissionMap>,
    nested: [PageBox<[u64; 512]>; 4],
}

impl Guest {
    /// Returns a guest about to run from `entry`; `None` when memory is exhausted.
    pub(super) fn try_new(entry: Entry) -> Option<Self> {
        let memory = frames::allocate_chunk()?;
        let mut nested: [PageBox<[u64; 512]>; 4] = [
            PageBox::try_new_zeroed()?,
            PageBox::try_new_zeroed()?,
            PageBox::try_new_zeroed()?,
            PageBox::try_new_zeroed()?,
        ];
        for level in 0..3 {
            nested[level][0] = nested[level + 1].address().as_u64() | TABLE;
        }
        nested[3][0] = memory.as_u64() | LARGE;
        fill(memory);
        let mut guest = Self {
            vmcb: PageBox::try_new_zeroed()?,
            registers: GuestRegisters::default(),
            extended: ExtendedState::new_reset(),
            ports: IoPermissionMap::intercept_all(),
            msrs: MsrPermissionMap::intercept_all(),
            nested,
        };
        guest.set_control();
        guest.set_state(entry);
        Some(guest)
    }

    fn set_control(&mut self) {
        let control = &mut self.vmcb.control;
        control.intercept_exceptions = u32::MAX;
        control.intercepts1 = Intercepts1::INTR
            | Intercepts1::NMI
            | Intercepts1::CPUID
            | Intercepts1::HLT
            | Intercepts1::IOIO_PROT
            | Intercepts1::MSR_PROT
            | Intercepts1::SHUTDOWN;
        control.intercepts2 = Intercepts2::VMRUN | Intercepts2::VMMCALL;
        control.iopm_base = self.ports.address().as_u64();
        control.msrpm_base = self.msrs.address().as_u64();
        control.asid = 1;
        control.interrupt_control = InterruptControl::new().with_masking(true);
        control.nested_control = NestedControl::new().with_nested_paging(true);
        control.nested_cr3 = self.nested[0].address().as_u64();
    }

    fn set_state(&mut self, entry: Entry) {
        let save = &mut self.vmcb.save;
        let data = Segment {
            selector: 0x10,
            attributes: 0xC93,
            limit: u32::MAX,
            base: 0,
        };
        save.cs = Segment {
            selector: 8,
            attributes: 0xA9B,
            limit: u32::MAX,
            base: 0,
        };
        (save.ds, save.es, save.ss, save.fs, save.gs) = (data, data, data, data, data);
        save.tr = Segment {
            selector: 0x18,
            attributes: 0x8B,
            limit: 0x67,
            base: 0,
        };
        save.efer = 0x1500;
        save.cr0 = 0x8001_0033;
        save.cr3 = TABLES;
        // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE.
        save.cr4 = 0x4_0620;
        save.dr6 = 0xFFFF_0FF0;
        save.dr7 = 0x400;
        save.rflags = 2;
        save.rip = CODE + offset(entry);
        save.rsp = STACK;
        save.g_pat = 0x0007_0406_0007_0406;
    }

    /// Runs to the next exit.
    pub(super) fn run(&mut self) -> Exit {
        // SAFETY: the nested tables map one chunk of the guest's own, the maps are `self`'s and pass nothing, the intercepts are those of
        // `set_control`, and the self-test runs with interrupts off.
        unsafe { svm::run(&mut self.vmcb, &mut self.registers, &mut self.extended) }
    }

    /// Runs to the next exit that is not a physical interrupt's.
    pub(super) fn run_on(&mut self) -> Exit {
        loop {
            let exit = self.run();
            if exit.code != Exit::INTERRUPT {
                return exit;
            }
        }
    }

    /// Runs until this processor's `done` says so.
    pub(super) fn run_until(&mut self, done: impl Fn(&processor::PerCpu) -> bool) {
        while !done(processor::current()) {
            self.run();
        }
    }

    /// Skips an instruction.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.vmcb.save.rip += bytes;
    }
}

/// Writes page tables and code into a guest's memory.
fn fill(memory: HostPa) {
    let start = &raw const selftest_start;
    let length = (&raw const selftest_end).addr() - start.addr();
    // SAFETY: the bytes between the labels are the blob.
    let code = unsafe { core::slice::from_raw_parts(start, length) };
    let put = |at: u64, bytes: &[u8]| {
        if let Some(to) = memory.checked_add(at) {
            // SAFETY: within the guest's chunk, which nothing refers to.
            unsafe { write(to, bytes) };
        }
    };
    put(TABLES, &((TABLES + 0x1000) | TABLE).to_le_bytes());
    put(TABLES + 0x1000, &((TABLES + 0x2000) | TABLE).to_le_bytes());
    put(TABLES + 0x2000, &LARGE.to_le_bytes());
    put(CODE, code);
}

fn offset(entry: Entry) -> u64 {
    let label = match entry {
        Entry::Cpuid => &raw const selftest_cpuid,
        Entry::Spin => &raw const selftest_spin,
        Entry::Mark => &raw const selftest_mark,
        Entry::Look => &raw const selftest_look,
        Entry::Words => &raw const selftest_words,
    };
    (label.addr() - (&raw const selftest_start).addr()) as u64
}
