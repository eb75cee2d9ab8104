//! The last lines of a run: statistics for tests, and where guest memory lies for the host's view of it.

use super::addr::{FrameSource, PAGE_SIZE, Phys};
use super::gpa_map::RangeKind;
use super::memory::Memory;
use super::probe;
use super::vm::{MachineFrames, Vm};
use crate::machine::exit::{Ending, exit};
use crate::machine::{clock, console, iommu};
use crate::psp::certificates;
use crate::psp::chip::Chip;
use core::fmt;

/// Tries for a lock whose holder may never let go any more.
const PATIENCE: u32 = 10_000_000;

impl Vm {
    /// Prints the last lines and ends QEMU. No lock of the machine's is held by this processor.
    pub fn finish(&self, mut ending: Ending) -> ! {
        let memory = (0..PATIENCE).find_map(|_| self.memory.try_lock());
        if let Some(memory) = memory {
            if self.is_probe && !probe::print(&memory) && ending == Ending::PoweredOff {
                ending = Ending::Bug;
            }
            self.print_stats(&memory);
            if self.view {
                print_view(&memory);
            }
        }
        exit(ending)
    }

    fn print_stats(&self, memory: &Memory) {
        if let Some(refused) = iommu::refused() {
            log::warn!("a device was refused memory: {refused}");
        }
        let digest = self
            .host
            .try_lock()
            .map_or([0; 48], |host| host.guest.launched.measurement);
        let pages = PageCounts::of(memory);
        console::line(format_args!(
            "model-stats: {{{},\"milliseconds\":{},\"launch_digest\":\"{}\",{pages}{}}}",
            self.counters,
            clock::since_boot_ns() / 1_000_000,
            Hex(&digest),
            AttackNote(self),
        ));
    }
}

/// Prints what a host has from the chip's maker.
pub(super) fn print_certificates(chip: &Chip) {
    if let Ok(chain) = certificates::chain(chip) {
        let [ark, ask, vcek] = [&chain.ark, &chain.ask, &chain.vcek].map(|it| Hex(it));
        console::line(format_args!(
            "model-certificates: {{\"ark\":\"{ark}\",\"ask\":\"{ask}\",\"vcek\":\"{vcek}\"}}"
        ));
    }
}

struct AttackNote<'a>(&'a Vm);

impl fmt::Display for AttackNote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.attack {
            Some(attack) => {
                write!(
                    f,
                    ",\"attack\":{{\"name\":\"{}\",\"attempts\":{}",
                    attack.name(),
                    attack.attempts()
                )?;
                write!(f, ",\"breaches\":{}}}", attack.breaches())
            }
            None => Ok(()),
        }
    }
}

struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How the pages of each kind of memory stand at the end.
#[derive(Default)]
struct PageCounts {
    private: u64,
    validated: u64,
    vmsas: u64,
    shared: u64,
    /// Guest RAM the host can read now, or could at some time after launch.
    ram_host_readable: u64,
    /// The same of the paravisor's own memory.
    service_host_readable: u64,
}

impl PageCounts {
    fn of(memory: &Memory) -> Self {
        let mut counts = Self::default();
        for range in memory.map.ranges() {
            for (_, len, host) in range.blocks() {
                for page in pages(host, len) {
                    counts.add(memory, range.kind(), page);
                }
            }
        }
        counts
    }

    fn add(&mut self, memory: &Memory, kind: RangeKind, page: Phys) {
        let entry = memory.rmp.entry(page);
        self.private += u64::from(entry.is_assigned());
        self.validated += u64::from(entry.is_validated());
        self.vmsas += u64::from(entry.is_vmsa());
        self.shared += u64::from(!entry.is_assigned());
        let bytes = if entry.was_ever_shared() || !entry.is_assigned() {
            PAGE_SIZE
        } else {
            0
        };
        match kind {
            RangeKind::Ram => self.ram_host_readable += bytes,
            RangeKind::Service => self.service_host_readable += bytes,
            RangeKind::Staging => {}
        }
    }
}

impl fmt::Display for PageCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "\"rmp\":{{\"private\":{},\"validated\":{},\"vmsa\":{},\"shared\":{}}},\"ram_host_readable_bytes\":{},\"service_host_readable_bytes\":{}",
            self.private,
            self.validated,
            self.vmsas,
            self.shared,
            self.ram_host_readable,
            self.service_host_readable
        )
    }
}

fn pages(host: Phys, len: u64) -> impl Iterator<Item = Phys> {
    // SAFETY: a block is as long as it says.
    (0..len / PAGE_SIZE).map(move |page| unsafe { host.add(page * PAGE_SIZE) })
}

/// Bits of a byte of the RMP export.
const PRIVATE: u8 = 1;
const VALIDATED: u8 = 2;
const VMSA: u8 = 4;

/// One line a block: where it is in the guest and in QEMU's memory, and where the bytes that tell of its pages are.
fn print_view(memory: &Memory) {
    console::line(format_args!(
        "model-view: {{\"rmp_format\":\"one byte a 4 KiB page: bit 0 private, bit 1 validated, bit 2 VMSA\"}}"
    ));
    let mut frames = MachineFrames;
    // A page of export holds 4096 bytes: eight blocks of 512 pages.
    let mut export: Option<(Phys, u64)> = None;
    for range in memory.map.ranges() {
        for (gpa, len, host) in range.blocks() {
            let (page, used) = match export.take() {
                Some((page, used)) if used + len / PAGE_SIZE <= PAGE_SIZE => (page, used),
                _ => match frames.frame() {
                    Some(page) => (page, 0),
                    None => return,
                },
            };
            for (host, offset) in pages(host, len).zip(used..) {
                page.in_page(offset)
                    .write_bytes(&[export_byte(memory, host)]);
            }
            console::line(format_args!(
                "model-view: {{\"gpa\":{},\"len\":{len},\"host\":{},\"rmp\":{},\"kind\":\"{:?}\"}}",
                gpa.get(),
                host.get(),
                page.get() + used,
                range.kind(),
            ));
            export = Some((page, used + len / PAGE_SIZE));
        }
    }
}

fn export_byte(memory: &Memory, page: Phys) -> u8 {
    let entry = memory.rmp.entry(page);
    let bit = |is_set: bool, bit| if is_set { bit } else { 0 };
    bit(entry.is_assigned(), PRIVATE)
        | bit(entry.is_validated(), VALIDATED)
        | bit(entry.is_vmsa(), VMSA)
}
