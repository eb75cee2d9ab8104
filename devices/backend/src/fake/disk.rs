//! The disk of a fake host: its content is bytes, and it notes what it is asked.

use super::{FakeBuffer, FakeHost};

impl FakeHost {
    /// Serves every request of the disk's queue; returns how many.
    pub fn serve_disk(&mut self) -> usize {
        self.serve_disk_requests(usize::MAX)
    }

    /// The same for so many requests at most.
    pub fn serve_disk_requests(&mut self, most: usize) -> usize {
        let mut served = 0;
        while served < most
            && let Some((head, buffers)) = self.next_chain(0)
        {
            let written = self.serve_request(&buffers);
            self.finish(0, u32::from(head), written);
            served += 1;
        }
        served
    }

    fn serve_request(&mut self, buffers: &[FakeBuffer]) -> u32 {
        let header = self.memory.device_read(buffers[0].address, 16);
        let kind = u32::from_le_bytes(header[..4].try_into().expect("4 bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("8 bytes"));
        let mut at = usize::try_from(sector * 512).expect("small disks");
        let (status, data) = buffers[1..].split_last().expect("a status");
        self.asked.push((kind, sector));
        if self.failing == Some(kind) {
            self.memory.device_write(status.address, &[1]);
            let readable = data.iter().filter(|buffer| buffer.is_writable);
            return 1 + readable
                .map(|buffer| u32::try_from(buffer.len).expect("small buffers"))
                .sum::<u32>();
        }
        let mut written = 1;
        for buffer in data {
            match kind {
                0 => {
                    let bytes = self.disk[at..at + buffer.len].to_vec();
                    self.memory.device_write(buffer.address, &bytes);
                    written += u32::try_from(buffer.len).expect("small buffers");
                }
                1 => {
                    let bytes = self.memory.device_read(buffer.address, buffer.len);
                    self.disk[at..at + buffer.len].copy_from_slice(&bytes);
                }
                11 | 13 => {
                    let range = self.memory.device_read(buffer.address, 16);
                    let first = u64::from_le_bytes(range[..8].try_into().expect("8 bytes"));
                    let count = u32::from_le_bytes(range[8..12].try_into().expect("4 bytes"));
                    let start = usize::try_from(first * 512).expect("small disks");
                    self.disk[start..start + count as usize * 512].fill(0);
                }
                _ => {}
            }
            at += buffer.len;
        }
        self.memory.device_write(status.address, &[0]);
        written
    }
}
