//! A virtio console, as an argument: what QEMU connects it to, and what of it is measured.

use std::path::Path;
use std::str::FromStr;

use clap::Args;
use stockade::image::{BuildOptions, Image};
use stockade::run::devices::ConsolePeer;
use stockade_boot::layout::LARGE_PAGE_SIZE;
use stockade_boot::manifest::{CONSOLE_BYTES, Devices, GuestFlags};

use crate::failure::Failure;

/// A second console of the guest.
#[derive(Debug, Default, Args)]
pub(crate) struct ConsoleArguments {
    /// A virtio console (hvc0 in Linux) besides the serial one: file=FILE, or socket=FILE for a Unix socket to be made
    #[arg(long, value_name = "PEER")]
    virtio_console: Option<Peer>,
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
        match self.virtio_console {
            Some(_) => CONSOLE_BYTES,
            None => 0,
        }
    }

    /// Notes the console in what an image is built of.
    pub(crate) fn measure(&self, options: &mut BuildOptions) -> Result<(), Failure> {
        if self.virtio_console.is_none() {
            return Ok(());
        }
        options.flags |= GuestFlags::CONSOLE;
        // Without disks and cards there is no memory to share yet; a console takes the least there can be.
        if options.devices == Devices::default() {
            let least = u32::try_from(LARGE_PAGE_SIZE).unwrap_or(u32::MAX);
            options.devices =
                Devices::try_new(&[], &[], least).map_err(|_| Failure::TooManyDevices)?;
        }
        Ok(())
    }

    /// Sees whether an image that is there already was built with a console if there is one, and without if there is none.
    pub(crate) fn check(&self, image: &Image) -> Result<(), Failure> {
        let manifest = image.manifest();
        let wanted = manifest.map(|m| m.flags().contains(GuestFlags::CONSOLE));
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
        let (ConsolePeer::File(path) | ConsolePeer::Socket(path)) = peer;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        if !folder.is_dir() {
            return Err(Failure::File {
                path: path.clone(),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        Ok(Some(peer.clone()))
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
        };
        assert!(console("file=/nonexistent/a").host().is_err());
        assert!(console("file=a").host().unwrap().is_some());
        assert!(ConsoleArguments::default().host().unwrap().is_none());
    }

    #[test]
    fn a_console_alone_has_memory_to_share() {
        let mut options = BuildOptions::new(Vec::new(), Vec::new());
        ConsoleArguments::default().measure(&mut options).unwrap();
        assert_eq!(options.devices, Devices::default());
        let console = ConsoleArguments {
            virtio_console: Some("file=a".parse().unwrap()),
        };
        console.measure(&mut options).unwrap();
        assert!(options.flags.contains(GuestFlags::CONSOLE));
        assert_eq!(options.devices.bounce_bytes(), 2 << 20);
    }
}
