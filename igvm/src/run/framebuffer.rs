//! `--framebuffer FILE`: what the guest shows, as a picture anybody can open.
//!
//! The paravisor writes it to a disk of the machine's that is a file of ours; whenever there is a new one it is written anew as PPM
//! (binary, 24 bits a pixel), whole or not at all.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use stockade_boot::manifest::screen::{DISK_BYTES, Header, PICTURE_OFFSET};

use crate::output;

/// Between two looks at the disk.
const PAUSE: Duration = Duration::from_millis(500);

/// The disk in between and the file at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framebuffer {
    /// What QEMU writes to.
    pub disk: PathBuf,
    /// What the user asked for.
    pub output: PathBuf,
}

impl Framebuffer {
    /// Makes the disk, which takes no room yet.
    ///
    /// # Errors
    /// There is no room for a file.
    pub fn make(&self) -> io::Result<()> {
        File::create(&self.disk)?.set_len(DISK_BYTES)
    }
}

/// Looks for new pictures.
pub(super) struct Painter {
    framebuffer: Framebuffer,
    disk: Option<File>,
    painted: u32,
    looked: Instant,
}

impl Painter {
    pub(super) fn new(framebuffer: &Framebuffer) -> Self {
        Self {
            disk: File::open(&framebuffer.disk).ok(),
            framebuffer: framebuffer.clone(),
            painted: 0,
            looked: Instant::now(),
        }
    }

    /// Writes the picture if it is time to look and there is a new one.
    pub(super) fn look(&mut self) {
        if self.looked.elapsed() >= PAUSE {
            self.looked = Instant::now();
            self.paint();
        }
    }

    /// Writes the picture if there is a new one. What cannot be written is no reason to end the guest.
    pub(super) fn paint(&mut self) {
        let Some(disk) = &self.disk else {
            return;
        };
        let mut header = [0; 512];
        if disk.read_exact_at(&mut header, 0).is_err() {
            return;
        }
        let Some(header) = Header::parse(&header) else {
            return;
        };
        if header.frame() == self.painted {
            return;
        }
        if let Some(picture) = picture(disk, header.shape()) {
            self.painted = header.frame();
            let _ = output::write(&self.framebuffer.output, &picture);
        }
    }
}

/// Returns the picture as PPM.
fn picture(disk: &File, (width, height, stride): (u32, u32, u32)) -> Option<Vec<u8>> {
    const PIXEL: usize = 4;
    let len = u64::from(stride).checked_mul(height.into())?;
    if len == 0 || len > DISK_BYTES - PICTURE_OFFSET {
        return None;
    }
    let mut pixels = vec![0; usize::try_from(len).ok()?];
    disk.read_exact_at(&mut pixels, PICTURE_OFFSET).ok()?;
    let mut picture = format!("P6\n{width} {height}\n255\n").into_bytes();
    let line = usize::try_from(width).ok()?.checked_mul(PIXEL)?;
    for bytes in pixels.chunks(usize::try_from(stride).ok()?) {
        for pixel in bytes.get(..line)?.chunks_exact(PIXEL) {
            let [blue, green, red, ..] = *pixel else {
                return None;
            };
            picture.extend([red, green, blue]);
        }
    }
    Some(picture)
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn a_new_picture_is_written_once_in_the_order_of_ppm() {
        let folder = tempfile::tempdir().unwrap();
        let framebuffer = Framebuffer {
            disk: folder.path().join("disk"),
            output: folder.path().join("screen.ppm"),
        };
        framebuffer.make().unwrap();
        let mut painter = Painter::new(&framebuffer);
        painter.paint();
        assert!(!framebuffer.output.exists());

        let disk = File::options().write(true).open(&framebuffer.disk).unwrap();
        let pixels = [1, 2, 3, 0, 4, 5, 6, 0, 9, 9, 9, 9];
        disk.write_all_at(&pixels, PICTURE_OFFSET).unwrap();
        let header = Header::new(1, 2, 1, 12);
        disk.write_all_at(header.as_bytes(), 0).unwrap();
        painter.paint();
        let picture = std::fs::read(&framebuffer.output).unwrap();
        assert_eq!(picture, b"P6\n2 1\n255\n\x03\x02\x01\x06\x05\x04");

        std::fs::remove_file(&framebuffer.output).unwrap();
        painter.paint();
        assert!(!framebuffer.output.exists());
        // A disk that says what cannot be is left alone.
        let header = Header::new(2, 2, 1, u32::MAX);
        disk.write_all_at(header.as_bytes(), 0).unwrap();
        painter.paint();
        assert!(!framebuffer.output.exists());
    }
}
