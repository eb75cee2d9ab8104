//! The processor's shape: one socket of as many single-threaded cores as there are vCPUs, APIC ids from zero (APM vol. 3, E.4).

use stockade_abi::cpuid_page::CpuidEntry;

use super::CpuidResult;

/// Level types of leaf B.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// How many cores there are: 1 to [`Topology::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    cores: u32,
}

impl Topology {
    /// xAPIC ids are 0 to 254; 255 is the broadcast.
    pub(super) const MAX: u32 = 255;

    /// Returns the topology of `cores` vCPUs, if that many have ids.
    pub(super) fn try_new(cores: u32) -> Option<Self> {
        (1..=Self::MAX).contains(&cores).then_some(Self { cores })
    }

    /// Number of cores.
    pub(super) const fn cores(self) -> u32 {
        self.cores
    }

    /// Bits of an APIC id that number cores.
    pub(super) const fn id_bits(self) -> u32 {
        self.cores.next_power_of_two().trailing_zeros()
    }

    /// Leaf B: threads, cores, and the id in EDX at every level.
    pub(super) const fn extended(self, level: u32, apic_id: u32) -> CpuidResult {
        let (shift, count, kind) = match level {
            0 => (0, 1, LEVEL_THREAD),
            1 => (self.id_bits(), self.cores, LEVEL_CORE),
            _ => (0, 0, 0),
        };
        CpuidResult {
            eax: shift,
            ebx: count,
            ecx: level & 0xFF | kind << 8,
            edx: apic_id,
        }
    }

    /// Leaf 8000_0008, ECX: cores less one, and how many bits number them.
    pub(super) const fn core_count(self) -> u32 {
        self.id_bits() << 12 | (self.cores - 1)
    }

    /// Leaf 8000_001D: the page's cache with the sharing of this topology: the last level by all, the others by one.
    pub(super) fn cache(self, entry: &CpuidEntry) -> CpuidResult {
        let level = entry.eax >> 5 & 7;
        let sharing = if level >= 3 { self.cores - 1 } else { 0 };
        CpuidResult {
            eax: entry.eax & 0x3FFF | sharing << 14,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        }
    }

    /// Leaf 8000_001E: the id, one thread a core, one node a socket.
    pub(super) const fn core(self, apic_id: u32) -> CpuidResult {
        CpuidResult {
            eax: apic_id,
            ebx: apic_id & 0xFF,
            ecx: 0,
            edx: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(cores: u32) -> Topology {
        Topology::try_new(cores).expect("a legal number")
    }

    #[test]
    fn one_to_255_cores_have_ids() {
        assert_eq!(Topology::try_new(0), None);
        assert_eq!(Topology::try_new(256), None);
        assert_eq!(shape(255).cores(), 255);
    }

    #[test]
    fn ids_get_as_many_bits_as_the_highest_needs() {
        for (cores, bits) in [
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (64, 6),
            (65, 7),
            (255, 8),
        ] {
            assert_eq!(shape(cores).id_bits(), bits, "{cores}");
        }
    }

    #[test]
    fn extended_topology_names_threads_then_cores_then_nothing() {
        let three = shape(3);
        assert_eq!(
            three.extended(0, 2),
            CpuidResult {
                eax: 0,
                ebx: 1,
                ecx: 0x100,
                edx: 2
            }
        );
        assert_eq!(
            three.extended(1, 2),
            CpuidResult {
                eax: 2,
                ebx: 3,
                ecx: 0x201,
                edx: 2
            }
        );
        assert_eq!(
            three.extended(2, 2),
            CpuidResult {
                eax: 0,
                ebx: 0,
                ecx: 2,
                edx: 2
            }
        );
    }

    #[test]
    fn only_the_last_level_cache_is_shared() {
        let entry = |eax| CpuidEntry {
            eax,
            ..CpuidEntry::default()
        };
        assert_eq!(shape(4).cache(&entry(0x0000_4121)).eax, 0x121);
        assert_eq!(shape(4).cache(&entry(0x0007_C163)).eax, 3 << 14 | 0x163);
    }
}
