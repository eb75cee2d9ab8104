//! Where the register blocks lie, and the capabilities that say so (Virtio 1.2, 4.1.4).

use super::super::bars::Bar;
use super::super::endpoint::Endpoint;

/// The BAR of the MSI-X table.
pub(super) const MSIX_BAR: Bar = bar(1);
/// The BAR of the register blocks.
pub(super) const REGISTER_BAR: Bar = bar(4);
/// Bytes of [`REGISTER_BAR`]: a page a block.
pub(super) const SIZE: u64 = 4 * PAGE as u64;

const PAGE: u32 = 0x1000;
/// Bytes of the common configuration: all fields up to the device area.
pub(super) const COMMON_LEN: u32 = 0x38;
const ISR_LEN: u32 = 4;
/// Notification addresses are this far apart.
const NOTIFY_MULTIPLIER: u32 = 4;

/// Vendor-specific capability (PCI Local Bus 3.0, appendix H).
const VENDOR_CAPABILITY: u8 = 0x09;
/// Bytes of `struct virtio_pci_cap` and of the two that have a field more.
const CAPABILITY_LEN: u8 = 16;
const LONG_CAPABILITY_LEN: u8 = 20;
/// `VIRTIO_PCI_CAP_PCI_CFG`.
const WINDOW_TYPE: u8 = 5;

const fn bar(number: u8) -> Bar {
    match Bar::try_new(number) {
        Some(bar) => bar,
        None => unreachable!(),
    }
}

/// A register block, in the order they lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Common configuration (4.1.4.3).
    Common,
    /// ISR status (4.1.4.5).
    Isr,
    /// Device-specific configuration (4.1.4.6).
    Device,
    /// Notification (4.1.4.4).
    Notify,
}

impl Block {
    const ALL: [Self; 4] = [Self::Common, Self::Isr, Self::Device, Self::Notify];

    fn kind(self) -> u8 {
        match self {
            Self::Common => 1,
            Self::Notify => 2,
            Self::Isr => 3,
            Self::Device => 4,
        }
    }

    fn len(self) -> u32 {
        match self {
            Self::Common => COMMON_LEN,
            Self::Isr => ISR_LEN,
            Self::Device | Self::Notify => PAGE,
        }
    }
}

/// Returns the block at an offset of [`REGISTER_BAR`], and the offset within it.
pub(super) fn find(offset: u64) -> Option<(Block, u32)> {
    let offset = u32::try_from(offset).ok()?;
    let index = usize::try_from(offset / PAGE).ok()?;
    Some((*Block::ALL.get(index)?, offset % PAGE))
}

/// Returns the queue whose notification address is this offset of the block.
pub(super) fn notified_queue(offset: u32) -> u16 {
    u16::try_from(offset / NOTIFY_MULTIPLIER).unwrap_or(u16::MAX)
}

/// Adds the capabilities; returns also where the last one, PCI configuration access, begins.
pub(super) fn with_capabilities(mut endpoint: Endpoint) -> (Endpoint, u8) {
    for (block, offset) in Block::ALL.into_iter().zip((0..).step_by(PAGE as usize)) {
        let mut body = [0; LONG_CAPABILITY_LEN as usize - 2];
        let len = match block {
            Block::Notify => LONG_CAPABILITY_LEN,
            _ => CAPABILITY_LEN,
        };
        body[..3].copy_from_slice(&[len, block.kind(), REGISTER_BAR.number()]);
        body[6..10].copy_from_slice(&u32::to_le_bytes(offset));
        body[10..14].copy_from_slice(&block.len().to_le_bytes());
        body[14..].copy_from_slice(&NOTIFY_MULTIPLIER.to_le_bytes());
        let body = &body[..usize::from(len - 2)];
        endpoint.add_capability(VENDOR_CAPABILITY, body, &[]);
    }
    let mut body = [0; LONG_CAPABILITY_LEN as usize - 2];
    body[..2].copy_from_slice(&[LONG_CAPABILITY_LEN, WINDOW_TYPE]);
    // The driver chooses BAR, offset and length.
    let mut writable = [0; 14];
    writable[2] = 0xFF;
    writable[6..].fill(0xFF);
    let window = endpoint.add_capability(VENDOR_CAPABILITY, &body, &writable);
    (endpoint, window)
}
