//! The way from a machine to whoever holds its disks' keys: a virtio console, whose other end is ours.
//!
//! QEMU connects it to a socket of the run. Behind that, [`KeySource::Server`] has every byte carried to a key server and back, and
//! [`KeySource::Here`] answers itself, with keys that are on the host: for the model and for development, for then there is
//! nobody else who keeps them.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use serde_json::json;
use stockade_boot::manifest::KEYS_HOST_DEVICE;
use stockade_storage::DiskKey;
use stockade_storage::release::RefusalCode;
use stockade_storage::release::message::refusal;

use super::devices::pci_function;
use super::follow::Sink;
use super::{RunError, certificates};
use crate::attest::{Certificates, RootChoice};
use crate::keys::{Address, Holder, Stream};

/// Who has the keys.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// This process, for a machine with this launch digest.
    Here {
        /// The keys.
        keys: Arc<Vec<DiskKey>>,
        /// The launch digest.
        measurement: [u8; 48],
    },
    /// A key server.
    Server(Address),
}

/// The near end of the way, and what it has to say.
#[derive(Debug)]
pub(super) struct KeyDesk(Receiver<String>);

impl KeyDesk {
    /// Opens the way, before there is a machine at the other end.
    pub(super) fn open(
        source: &KeySource,
        socket: &Path,
        model_log: &Path,
    ) -> Result<Self, RunError> {
        let listener = UnixListener::bind(socket).map_err(RunError::io(socket))?;
        let (tell, told) = channel();
        match source {
            KeySource::Here { keys, measurement } => {
                let holder = holder(keys, *measurement, model_log);
                std::thread::spawn(move || answer(&listener, &holder, &tell));
            }
            KeySource::Server(address) => {
                let server = address.connect().map_err(|source| RunError::KeyServer {
                    address: address.clone(),
                    source,
                })?;
                std::thread::spawn(move || carry(&listener, server, &tell));
            }
        }
        Ok(Self(told))
    }

    /// Passes on what there is to say.
    pub(super) fn pump(&self, sink: &mut Sink) {
        self.0.try_iter().for_each(|line| sink.line("keys", &line));
    }
}

/// Returns QEMU's options for the machine's end, with their values.
pub(super) fn arguments(socket: &Path) -> [(&'static str, String); 3] {
    let name = socket.to_string_lossy().replace(',', ",,");
    let mut bus = pci_function("virtio-serial-pci", KEYS_HOST_DEVICE);
    bus["id"] = "keys".into();
    bus["max_ports"] = 1.into();
    let port = json!({ "driver": "virtconsole", "bus": "keys.0", "chardev": "keys" });
    [
        ("-chardev", format!("socket,id=keys,path={name},server=off")),
        ("-device", bus.to_string()),
        ("-device", port.to_string()),
    ]
}

/// Returns a holder that knows the model's chip by what the model says of it.
fn holder(keys: &Arc<Vec<DiskKey>>, measurement: [u8; 48], model_log: &Path) -> Holder {
    let log: PathBuf = model_log.into();
    Holder {
        keys: Arc::clone(keys),
        measurements: vec![measurement],
        certificates: Box::new(move || {
            let text = std::fs::read_to_string(&log)?;
            let [ark, ask, vcek] = certificates::read(&text)
                .ok_or_else(|| io::Error::other("the model did not say its certificates"))?;
            Ok(vec![Certificates::of_model(ark, ask, vcek)])
        }),
        root: RootChoice::AmdOrModel,
        ledger: None,
    }
}

fn answer(listener: &UnixListener, holder: &Holder, tell: &Sender<String>) {
    let Ok((mut machine, _)) = listener.accept() else {
        return;
    };
    let line = match holder.answer(&mut machine) {
        Ok(given) => given.to_string(),
        Err(error) => error.to_string(),
    };
    // Nobody listens any more when the machine has ended.
    let _ = tell.send(line);
}

/// Carries bytes both ways until one side ends. A machine is told when its server went away.
fn carry(listener: &UnixListener, server: Stream, tell: &Sender<String>) {
    let carried = listener
        .accept()
        .and_then(|(machine, _)| carry_both_ways(machine, server));
    if let Err(error) = carried {
        let _ = tell.send(format!("the key server is out of reach: {error}"));
    }
}

fn carry_both_ways(mut machine: UnixStream, mut server: Stream) -> io::Result<()> {
    let (mut from_machine, mut to_server) = (machine.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || copy(&mut from_machine, &mut to_server));
    let copied = copy(&mut server, &mut machine);
    // After an answer nobody reads this.
    let _ = machine.write_all(&refusal(RefusalCode::GONE));
    let _ = machine.shutdown(Shutdown::Write);
    copied
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    io::copy(from, to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_end_is_one_port_behind_the_iommu_at_its_place() {
        let [(_, backend), (_, bus), (_, port)] = arguments(Path::new("/a,b"));
        assert_eq!(backend, "socket,id=keys,path=/a,,b,server=off");
        let bus: serde_json::Value = serde_json::from_str(&bus).unwrap();
        assert_eq!(
            (&bus["addr"], &bus["iommu_platform"]),
            (&"0x1a.0".into(), &true.into())
        );
        assert!(port.contains("virtconsole"));
    }

    #[test]
    fn bytes_go_both_ways_and_the_end_of_a_server_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (folder.path().join("a"), folder.path().join("b"));
        let server = UnixListener::bind(&theirs).unwrap();
        let source = KeySource::Server(Address::Unix(theirs));
        let desk = KeyDesk::open(&source, &ours, Path::new("/nonexistent")).unwrap();
        let mut machine = UnixStream::connect(&ours).unwrap();
        let (mut far, _) = server.accept().unwrap();
        machine.write_all(b"question").unwrap();
        let mut bytes = [0; 8];
        far.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"question");
        far.write_all(b"answer").unwrap();
        drop(far);
        let mut rest = Vec::new();
        machine.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, [&b"answer"[..], &refusal(RefusalCode::GONE)].concat());
        drop(desk);
    }

    #[test]
    fn a_server_that_is_not_there_is_named_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let source = KeySource::Server(Address::Unix(folder.path().join("none")));
        let opened = KeyDesk::open(&source, &folder.path().join("a"), Path::new("/nonexistent"));
        let words = opened.unwrap_err().to_string();
        assert!(words.contains("unix:") && words.contains("none"), "{words}");
    }
}
