//! A virtio console, as an argument: what QEMU connects it to, and what of it is measured.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use stockade::image::{BuildOptions, Image};
use stockade::output;
use stockade::run::devices::ConsolePeer;
use stockade::run::framebuffer::Framebuffer;
use stockade_boot::layout::LARGE_PAGE_SIZE;
use stockade_boot::manifest::{CONSOLE_BYTES, Devices, GuestFlags, screen};

use crate::failure::Failure;

/// A second console of the guest.
#[derive(Debug, Default, Args)]
pub(crate) struct ConsoleArguments {
    /// A virtio console (hvc0 in Linux) besides the serial one: file=FILE, or socket=FILE for a Unix socket to be made
    #[arg(long, value_name = "PEER")]
    virtio_console: Option<Peer>,
    /// Write what a guest of firmware shows on its screen to this file, as PPM, twice a second; the host then sees it, which it otherwise
    /// does not
    #[arg(long, value_name = "FILE")]
    framebuffer: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Peer(ConsolePeer);

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("file", path)) if !path.is_empty() => Ok(Self(ConsolePeer::File(path.into()))),
            Some(("socket", path)) if !path.is_empty() => {
                Ok(Self(ConsolePeer::Socket(path.into())))
            }
            _ => Err("give file= or socket= and a path".to_owned()),
        }
    }
}

impl ConsoleArguments {
    /// Returns how much of the devices' shared memory it takes.
    pub(crate) fn shared_bytes(&self) -> u64 {
        let console = self.virtio_console.iter().map(|_| CONSOLE_BYTES);
        let screen = self.framebuffer.iter().map(|_| screen::SHARED_BYTES);
        console.chain(screen).sum()
    }

    /// Notes the console in what an image is built of.
    pub(crate) fn measure(&self, options: &mut BuildOptions) -> Result<(), Failure> {
        if self.virtio_console.is_none() && self.framebuffer.is_none() {
            return Ok(());
        }
        let (has_console, has_screen) = (self.virtio_console.is_some(), self.framebuffer.is_some());
        if has_screen && options.firmware.is_none() {
            return Err(Failure::ScreenWithoutFirmware);
        }
        options.flags.set(GuestFlags::CONSOLE, has_console);
        options.flags.set(GuestFlags::SCREEN, has_screen);
        // Without disks and cards there is no memory to share yet; a console takes the least there can be.
        if options.devices == Devices::default() {
            let least = u32::try_from(LARGE_PAGE_SIZE).unwrap_or(u32::MAX);
            options.devices = Devices::try_new(&[], &[], least).map_err(Failure::Devices)?;
        }
        Ok(())
    }

    /// Sees whether an image that is there already was built with a console if there is one, and without if there is none.
    pub(crate) fn check(&self, image: &Image) -> Result<(), Failure> {
        let manifest = image.manifest();
        let wanted = manifest
            .as_ref()
            .map(|m| m.flags().contains(GuestFlags::CONSOLE));
        let shown = manifest.map(|m| m.flags().contains(GuestFlags::SCREEN));
        match (shown, self.framebuffer.is_some()) {
            (Some(true), false) => {
                let words = "the image was built with --framebuffer; say where the picture goes";
                return Err(Failure::OtherDevices(words.to_owned()));
            }
            (Some(false), true) => {
                let words = "the image was built without --framebuffer";
                return Err(Failure::OtherDevices(words.to_owned()));
            }
            _ => {}
        }
        let words = match (wanted, self.virtio_console.is_some()) {
            (Some(true), false) => "the image was built with --virtio-console; say where it goes",
            (Some(false), true) => "the image was built without --virtio-console",
            _ => return Ok(()),
        };
        Err(Failure::OtherDevices(words.to_owned()))
    }

    /// Returns what QEMU connects it to, if its folder is there.
    pub(crate) fn host(&self) -> Result<Option<ConsolePeer>, Failure> {
        let Some(Peer(peer)) = &self.virtio_console else {
            return Ok(None);
        };
        let (path, checked) = match peer {
            ConsolePeer::File(path) => (path, output::check(path)),
            ConsolePeer::Socket(path) => (path, output::folder(path).map(drop)),
        };
        checked.map_err(|source| Failure::VirtioConsole {
            path: path.clone(),
            source,
        })?;
        Ok(Some(peer.clone()))
    }

    /// Returns where what the guest shows goes, if its folder is there; `disk` is the name of a file to be made.
    pub(crate) fn framebuffer(&self, disk: &Path) -> Result<Option<Framebuffer>, Failure> {
        let Some(output) = &self.framebuffer else {
            return Ok(None);
        };
        output::check(output).map_err(|source| Failure::Framebuffer {
            path: output.clone(),
            source,
        })?;
        let (disk, output) = (disk.to_owned(), output.clone());
        let framebuffer = Framebuffer { disk, output };
        framebuffer.make().map_err(|source| Failure::File {
            path: framebuffer.disk.clone(),
            source,
        })?;
        Ok(Some(framebuffer))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_console_goes_to_a_file_or_a_socket() {
        let peer: Peer = "file=a=b".parse().unwrap();
        assert_eq!(peer, Peer(ConsolePeer::File("a=b".into())));
        let peer: Peer = "socket=/s".parse().unwrap();
        assert_eq!(peer, Peer(ConsolePeer::Socket("/s".into())));
        for nonsense in ["", "file", "file=", "pty", "socket="] {
            assert!(nonsense.parse::<Peer>().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn a_console_in_a_folder_that_is_not_there_is_named() {
        let console = |text: &str| ConsoleArguments {
            virtio_console: Some(text.parse().unwrap()),
            ..ConsoleArguments::default()
        };
        assert!(console("file=/nonexistent/a").host().is_err());
        assert!(console("file=a").host().unwrap().is_some());
        assert!(ConsoleArguments::default().host().unwrap().is_none());
    }

    #[test]
    fn a_picture_that_cannot_be_written_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let shown = |output: &Path| {
            let console = ConsoleArguments {
                framebuffer: Some(output.into()),
                ..ConsoleArguments::default()
            };
            console.framebuffer(&folder.path().join("disk"))
        };
        assert!(shown(&folder.path().join("a.ppm")).is_ok());
        for output in [folder.path(), Path::new("/proc/a.ppm")] {
            let refused = shown(output);
            assert!(matches!(refused, Err(Failure::Framebuffer { .. })));
        }
    }

    #[test]
    fn a_console_alone_has_memory_to_share() {
        let mut options = BuildOptions::new(Vec::new(), Vec::new());
        ConsoleArguments::default().measure(&mut options).unwrap();
        assert_eq!(options.devices, Devices::default());
        let console = ConsoleArguments {
            virtio_console: Some("file=a".parse().unwrap()),
            ..ConsoleArguments::default()
        };
        console.measure(&mut options).unwrap();
        assert!(options.flags.contains(GuestFlags::CONSOLE));
        assert_eq!(options.devices.bounce_bytes(), 2 << 20);
    }
}
