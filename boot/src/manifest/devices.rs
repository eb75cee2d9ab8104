//! Which of the host's devices the guest gets, and as what.
//!
//! The host decides what is behind them; that there is a disk, that it is sealed, and where it is looked for are measured.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ManifestError;
use crate::layout::{BOUNCE_MAX_SIZE, LARGE_PAGE_SIZE};

/// How many disks a manifest has room for.
pub const MAX_DISKS: usize = 14;
/// How many network cards a manifest has room for.
pub const MAX_NETS: usize = 8;

/// The least shared memory a disk or the store works with.
pub const LEAST_DISK_BYTES: u64 = 340 << 10;
/// Shared memory of a network card.
pub const NET_BYTES: u64 = 520 << 10;
/// Shared memory of a console.
pub const CONSOLE_BYTES: u64 = 24 << 10;

/// Device number, on bus 0 of the host, of the way to whoever holds the disks' keys: a virtio console, if there is such a key.
pub const KEYS_HOST_DEVICE: u8 = 26;
/// Shared memory of that way.
pub const KEYS_BYTES: u64 = CONSOLE_BYTES;

/// What becomes of a disk's content on its way to the host. Whoever writes the image chooses the number.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(transparent)]
pub struct DiskMode(pub u8);

impl DiskMode {
    /// No disk.
    pub const NONE: Self = Self(0);
    /// It goes as the guest wrote it.
    pub const PLAIN: Self = Self(1);
    /// It is encrypted, and any change is noticed.
    pub const SEALED: Self = Self(2);
    /// It is not the guest's: our own sealed records.
    pub const STORE: Self = Self(3);
}

/// What the guest may do with a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskAccess {
    /// Everything.
    ReadWrite,
    /// Read it.
    ReadOnly,
}

/// A disk.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(C)]
pub struct DiskEntry {
    mode: DiskMode,
    is_read_only: u8,
    host_device: u8,
    /// 0: none; else one more than the index.
    boot: u8,
    /// All zero for a key of our own.
    key_id: [u8; 32],
}

impl DiskEntry {
    /// The highest boot index.
    pub const MAX_BOOT_INDEX: u8 = 254;

    /// Returns the entry of the disk that is device `host_device` on bus 0 of the host.
    #[must_use]
    pub fn new(mode: DiskMode, access: DiskAccess, host_device: u8) -> Self {
        Self {
            mode,
            is_read_only: u8::from(access == DiskAccess::ReadOnly),
            host_device,
            boot: 0,
            key_id: [0; 32],
        }
    }

    /// Returns the entry of a sealed disk whose key is released elsewhere; `key_id` says which key is the right one.
    #[must_use]
    pub fn with_key(self, key_id: [u8; 32]) -> Self {
        Self { key_id, ..self }
    }

    /// Returns the id of the key that is released elsewhere, if the disk has not one of our own.
    #[must_use]
    pub fn key_id(&self) -> Option<&[u8; 32]> {
        Some(&self.key_id).filter(|id| **id != [0; 32])
    }

    /// Returns the entry with a place in the order in which firmware tries to start from disks, the lowest first; at most
    /// [`Self::MAX_BOOT_INDEX`].
    #[must_use]
    pub fn with_boot_index(self, index: u8) -> Self {
        Self {
            boot: index.saturating_add(1),
            ..self
        }
    }

    /// Returns its place in the order in which firmware tries disks, if it has one.
    #[must_use]
    pub fn boot_index(&self) -> Option<u8> {
        self.boot.checked_sub(1)
    }

    /// Returns what becomes of its content.
    #[must_use]
    pub fn mode(&self) -> DiskMode {
        self.mode
    }

    /// Returns what the guest may do with it.
    #[must_use]
    pub fn access(&self) -> DiskAccess {
        match self.is_read_only {
            0 => DiskAccess::ReadWrite,
            _ => DiskAccess::ReadOnly,
        }
    }

    /// Returns its device number on bus 0 of the host.
    #[must_use]
    pub fn host_device(&self) -> u8 {
        self.host_device
    }

    fn check(self) -> Result<(), ManifestError> {
        let is_known = matches!(
            self.mode,
            DiskMode::PLAIN | DiskMode::SEALED | DiskMode::STORE
        );
        if !is_known || self.is_read_only > 1 || self.host_device > 31 {
            return Err(ManifestError::Disk);
        }
        if self.key_id().is_some() && self.mode != DiskMode::SEALED {
            return Err(ManifestError::Key);
        }
        Ok(())
    }
}

/// A network card.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(C)]
pub struct NetEntry {
    is_present: u8,
    host_device: u8,
    mac: [u8; 6],
}

impl NetEntry {
    /// Returns the entry of the card that is device `host_device` on bus 0 of the host.
    #[must_use]
    pub fn new(host_device: u8, mac: [u8; 6]) -> Self {
        Self {
            is_present: 1,
            host_device,
            mac,
        }
    }

    /// Returns its device number on bus 0 of the host.
    #[must_use]
    pub fn host_device(&self) -> u8 {
        self.host_device
    }

    /// Returns the address the guest sees.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    fn check(self) -> Result<(), ManifestError> {
        let is_group = self.mac[0] & 1 != 0;
        if self.is_present != 1 || self.host_device > 31 || is_group {
            return Err(ManifestError::Net);
        }
        Ok(())
    }
}

/// All of the host's devices.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Default,
)]
#[repr(C)]
pub struct Devices {
    /// Bytes of shared memory their data is bounced through.
    bounce_bytes: U32,
    disks: [DiskEntry; MAX_DISKS],
    nets: [NetEntry; MAX_NETS],
    /// Not the guest's: our own sealed records.
    store: DiskEntry,
}

const _: () = assert!(size_of::<DiskEntry>() == 36);
const _: () = assert!(size_of::<Devices>() == 4 + 36 * (MAX_DISKS + 1) + 8 * MAX_NETS);

impl Devices {
    /// Returns these devices, checked.
    pub fn try_new(
        disks: &[DiskEntry],
        nets: &[NetEntry],
        bounce_bytes: u32,
    ) -> Result<Self, ManifestError> {
        let mut devices = Self {
            bounce_bytes: bounce_bytes.into(),
            ..Self::default()
        };
        let disk_places = devices.disks.get_mut(..disks.len());
        disk_places
            .ok_or(ManifestError::Disk)?
            .copy_from_slice(disks);
        let net_places = devices.nets.get_mut(..nets.len());
        net_places.ok_or(ManifestError::Net)?.copy_from_slice(nets);
        devices.check()?;
        Ok(devices)
    }

    /// Returns these devices with a sealed store that is device `host_device` on bus 0 of the host, checked.
    pub fn try_with_store(mut self, host_device: u8) -> Result<Self, ManifestError> {
        self.store = DiskEntry::new(DiskMode::STORE, DiskAccess::ReadWrite, host_device);
        self.check()?;
        Ok(self)
    }

    /// Returns the sealed store, if there is to be one.
    #[must_use]
    pub fn store(&self) -> Option<&DiskEntry> {
        Some(&self.store).filter(|store| store.mode == DiskMode::STORE)
    }

    /// Returns how many bytes their data is bounced through.
    #[must_use]
    pub fn bounce_bytes(&self) -> u64 {
        u64::from(self.bounce_bytes.get())
    }

    /// Returns the least number of bytes they can work with.
    #[must_use]
    pub fn least_bounce_bytes(&self) -> u64 {
        let disks = self.disks().count() + self.store().iter().count();
        let keys = if self.key_ids().next().is_some() {
            KEYS_BYTES
        } else {
            0
        };
        disks as u64 * LEAST_DISK_BYTES + self.nets().count() as u64 * NET_BYTES + keys
    }

    /// Returns the ids of the keys that are released elsewhere, in the order of their disks.
    pub fn key_ids(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.disks().filter_map(DiskEntry::key_id)
    }

    /// Returns the disks in the guest's order.
    pub fn disks(&self) -> impl Iterator<Item = &DiskEntry> {
        self.disks.iter().filter(|disk| disk.mode != DiskMode::NONE)
    }

    /// Returns the network cards in the guest's order.
    pub fn nets(&self) -> impl Iterator<Item = &NetEntry> {
        self.nets.iter().filter(|net| net.is_present != 0)
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let bytes = self.bounce_bytes();
        if bytes > BOUNCE_MAX_SIZE || !bytes.is_multiple_of(LARGE_PAGE_SIZE) {
            return Err(ManifestError::Bounce(bytes));
        }
        let used = self
            .disks
            .iter()
            .filter(|disk| **disk != DiskEntry::default());
        let mut seen = 0_u32;
        for disk in used {
            disk.check()?;
            if disk.mode == DiskMode::STORE {
                return Err(ManifestError::Disk);
            }
            seen = claim(seen, disk.host_device, ManifestError::Disk)?;
        }
        if self.store != DiskEntry::default() {
            self.store.check()?;
            if self.store.mode != DiskMode::STORE || self.store.is_read_only != 0 {
                return Err(ManifestError::Store);
            }
            seen = claim(seen, self.store.host_device, ManifestError::Store)?;
        }
        for net in self.nets.iter().filter(|net| **net != NetEntry::default()) {
            net.check()?;
            seen = claim(seen, net.host_device, ManifestError::Net)?;
        }
        self.check_keys(seen)?;
        if bytes < self.least_bounce_bytes() {
            return Err(ManifestError::Bounce(bytes));
        }
        Ok(())
    }

    /// With one key for two disks the host could put each in the other's place.
    fn check_keys(&self, seen: u32) -> Result<(), ManifestError> {
        if self.key_ids().next().is_some() {
            claim(seen, KEYS_HOST_DEVICE, ManifestError::Key)?;
        }
        let is_shared = |(index, id)| self.key_ids().skip(index + 1).any(|other| other == id);
        if self.key_ids().enumerate().any(is_shared) {
            return Err(ManifestError::Key);
        }
        Ok(())
    }
}

/// One device cannot be two.
fn claim(seen: u32, host_device: u8, error: ManifestError) -> Result<u32, ManifestError> {
    let bit = 1_u32.checked_shl(host_device.into()).ok_or(error)?;
    if seen & bit != 0 {
        return Err(error);
    }
    Ok(seen | bit)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    const BOUNCE: u32 = 4 << 20;

    fn disk(mode: DiskMode, place: u8) -> DiskEntry {
        DiskEntry::new(mode, DiskAccess::ReadWrite, place)
    }

    #[test]
    fn devices_come_back_in_their_order() {
        let disks = [
            disk(DiskMode::PLAIN, 2),
            DiskEntry::new(DiskMode::SEALED, DiskAccess::ReadOnly, 3),
        ];
        let nets = [NetEntry::new(16, [0x52, 0x54, 0, 1, 2, 3])];
        let devices = Devices::try_new(&disks, &nets, BOUNCE).unwrap();
        assert!(devices.disks().eq(&disks) && devices.nets().eq(&nets));
        assert_eq!(devices.bounce_bytes(), 4 << 20);
        assert_eq!(disks[1].access(), DiskAccess::ReadOnly);
    }

    #[test]
    fn impossible_devices_are_refused_by_name() {
        let two = [disk(DiskMode::PLAIN, 2), disk(DiskMode::PLAIN, 2)];
        let cases: [(&[DiskEntry], &[NetEntry], u32); 7] = [
            (&[disk(DiskMode(9), 2)], &[], BOUNCE),
            (&[disk(DiskMode::PLAIN, 32)], &[], BOUNCE),
            (&two, &[], BOUNCE),
            (&[], &[NetEntry::new(2, [1, 0, 0, 0, 0, 0])], BOUNCE),
            (&two[..1], &[NetEntry::new(2, [2; 6])], BOUNCE),
            (&two[..1], &[], 0),
            (&two[..1], &[], BOUNCE + 4096),
        ];
        for (disks, nets, bounce) in cases {
            assert!(Devices::try_new(disks, nets, bounce).is_err());
        }
        assert_eq!(Devices::default().check(), Ok(()));
    }

    #[test]
    fn a_key_from_elsewhere_is_one_sealed_disks_alone() {
        let entry = |mode, place, id| disk(mode, place).with_key([id; 32]);
        let devices = |disks: &[DiskEntry]| Devices::try_new(disks, &[], BOUNCE);
        let (plain, sealed) = (DiskMode::PLAIN, DiskMode::SEALED);
        let own = devices(&[disk(sealed, 2)]).unwrap();
        let disks = [disk(plain, 2), entry(sealed, 3, 1), entry(sealed, 4, 2)];
        let keyed = devices(&disks).unwrap();
        assert!(own.key_ids().next().is_none());
        assert!(keyed.key_ids().eq([&[1; 32], &[2; 32]]));
        assert_eq!(
            keyed.least_bounce_bytes(),
            3 * LEAST_DISK_BYTES + KEYS_BYTES
        );
        for wrong in [
            vec![entry(plain, 2, 1)],
            vec![entry(sealed, 2, 1), entry(sealed, 3, 1)],
            vec![entry(sealed, KEYS_HOST_DEVICE, 1)],
        ] {
            assert_eq!(devices(&wrong), Err(ManifestError::Key));
        }
    }

    #[test]
    fn a_store_is_at_a_place_of_its_own_and_no_disk() {
        let devices = Devices::try_new(&[disk(DiskMode::SEALED, 2)], &[], BOUNCE).unwrap();
        assert_eq!(devices.store(), None);
        let kept = devices.try_with_store(24).unwrap();
        assert_eq!(kept.store().map(DiskEntry::host_device), Some(24));
        assert_eq!(kept.disks().count(), 1);
        for place in [2, 32] {
            assert!(devices.try_with_store(place).is_err());
        }
        assert!(Devices::try_new(&[disk(DiskMode::STORE, 2)], &[], BOUNCE).is_err());
        assert!(Devices::default().try_with_store(24).is_err());
        let mut odd = devices;
        odd.store = disk(DiskMode::SEALED, 24);
        assert_eq!(odd.check(), Err(ManifestError::Store));
    }
}
