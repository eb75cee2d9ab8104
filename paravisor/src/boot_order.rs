//! The order in which firmware of the guest's tries to start from disks: what QEMU's file `bootorder` says.
//!
//! Firmware knows a disk by where it is, in Open Firmware's words. A disk is where the next slot was when it was fitted, so one that the
//! host left out moves those behind it: the file is made of what there is.

use alloc::format;
use alloc::vec::Vec;

use crate::machine::SlotNumber;

/// The disks that have a place in the order.
#[derive(Clone, Debug, Default)]
pub struct BootOrder(Vec<(u8, SlotNumber)>);

impl BootOrder {
    /// Adds the disk in `slot`, if it is there and has a place.
    pub fn add(&mut self, index: Option<u8>, slot: Option<SlotNumber>) {
        self.0.extend(index.zip(slot));
    }

    /// Returns the file, unless there is no such disk: a line each, the first to try first, and a zero at the end.
    #[must_use]
    pub fn file(&self) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return None;
        }
        let mut order = self.0.clone();
        order.sort_by_key(|(index, _)| *index);
        let mut file = Vec::new();
        for (_, slot) in order {
            let device = slot.address().device();
            // The bus behind ports CF8 and CFC, a virtio disk's controller, and its only disk.
            file.extend(format!("/pci@i0cf8/scsi@{device:x}/disk@0,0\n").into_bytes());
        }
        file.push(0);
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use alloc::sync::Arc;

    use super::*;
    use crate::machine::{Functions, SlotFunction};
    use stockade_devices::pci::PciFunction;

    struct Nothing;

    impl SlotFunction for Nothing {
        fn with(&self, _: &mut dyn FnMut(&mut dyn PciFunction)) {}
    }

    #[test]
    fn disks_are_named_by_their_devices_the_lowest_index_first() {
        let mut functions = Functions::default();
        let mut slots = [(); 12].map(|()| functions.fit(Arc::new(Nothing)));
        let mut order = BootOrder::default();
        order.add(Some(7), slots[11].take());
        order.add(None, slots[0].take());
        order.add(Some(2), slots[1].take());
        order.add(Some(0), None);
        let file = order.file().unwrap();
        assert_eq!(
            file,
            b"/pci@i0cf8/scsi@2/disk@0,0\n/pci@i0cf8/scsi@c/disk@0,0\n\0"
        );
    }

    #[test]
    fn nothing_to_say_is_no_file() {
        let mut order = BootOrder::default();
        order.add(None, None);
        assert_eq!(order.file(), None);
    }
}
