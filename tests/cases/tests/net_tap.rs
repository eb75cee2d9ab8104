//! A network card on a TAP interface of the host's kernel: pings both ways, and transfers in packets larger than any frame, which shows that
//! what the host's card offers to leave undone is taken, and right.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use stockade_rig::guest::finding;
use stockade_rig::{Initrd, Stockade, package_file};

use crate::net::{content, serve};

const TRANSFER: usize = 8 << 20;
/// The longest packet that is not split.
const PACKET: u64 = 1514;
const HOST: &str = "10.213.87.1";
const GUEST: &str = "10.213.87.2";

/// `nc` sends what it gets back, so the bytes cross the card twice.
const SCRIPT: &str = r#"
modprobe -a virtio_pci virtio_net
sleep 1
ifconfig eth0 10.213.87.2 netmask 255.255.255.0 up
features=$(cat /sys/class/net/eth0/device/features)
say "features $features"
ping -c 3 -W 5 10.213.87.1 >/tmp/ping.log
say "ping $?"
port=$(sed 's/.*stockade.port=\([0-9]*\).*/\1/' /proc/cmdline)
nc 10.213.87.1 "$port" </dev/null >/tmp/got
nc 10.213.87.1 "$port" </tmp/got >/tmp/answer
say "answer $(cat /tmp/answer)"
cd /sys/class/net/eth0/statistics
say "received $(cat rx_bytes) $(cat rx_packets)"
say "sent $(cat tx_bytes) $(cat tx_packets)"
say "errors $(($(cat rx_errors) + $(cat tx_errors) + $(cat rx_dropped) + $(cat rx_frame_errors)))"
say "checksums $(sed -n 's/^Tcp: .* \([0-9]*\)$/\1/p' /proc/net/snmp)"
say "quiet"
read -t 60 done
"#;

/// A TAP interface, gone when this is.
struct Interface(String);

impl Interface {
    /// Makes one, unless this machine does not let us.
    fn try_new() -> Option<Self> {
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun");
        if let Err(error) = device {
            let is_denied = matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            );
            assert!(is_denied, "/dev/net/tun: {error}");
            return skipped(&format!("/dev/net/tun: {error}"));
        }
        let interface = Self(format!("stk{}", std::process::id()));
        let name = interface.0.as_str();
        let address = format!("{HOST}/24");
        if !ip(&["tuntap", "add", "dev", name, "mode", "tap"]) {
            return skipped("`ip tuntap` may not make one");
        }
        assert!(ip(&["address", "add", &address, "dev", name]));
        assert!(ip(&["link", "set", name, "up"]));
        Some(interface)
    }

    /// Bytes a packet on an average, `rx` from the guest or `tx` to it.
    fn average(&self, direction: &str) -> u64 {
        let folder = Path::new("/sys/class/net").join(&self.0).join("statistics");
        let number = |what: &str| -> u64 {
            let text = fs::read_to_string(folder.join(format!("{direction}_{what}"))).unwrap();
            text.trim().parse().unwrap()
        };
        number("bytes") / number("packets").max(1)
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        ip(&["link", "delete", &self.0]);
    }
}

/// Says why, past the harness, which shows nothing of a test that passes. With `STOCKADE_TAP` set it is to be tested.
fn skipped(why: &str) -> Option<Interface> {
    let why = format!("no TAP interface can be made here: {why}");
    assert!(std::env::var_os("STOCKADE_TAP").is_none(), "{why}");
    let said = std::io::stderr().write_all(format!("net_tap: skipped, {why}\n").as_bytes());
    said.unwrap();
    None
}

fn ip(arguments: &[&str]) -> bool {
    let status = Command::new("ip").args(arguments).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn a_tap_interface_carries_pings_and_large_packets_both_ways() {
    let Some(interface) = Interface::try_new() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((HOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || serve(&listener, &content(TRANSFER)));

    let mut running = Stockade::guest(&format!("stockade.port={port}"))
        .arg("--initrd")
        .arg(
            Initrd::new(SCRIPT)
                .modules(&["virtio_pci", "virtio_net"])
                .write(folder.path()),
        )
        .args(["--net", &format!("tap={}", interface.0)])
        .limit(Duration::from_secs(240))
        .start();
    running.expect("guest-check: quiet");
    let pinged = Command::new(package_file("busybox-static", "bin/busybox"))
        .args(["ping", "-c", "3", "-W", "5", GUEST])
        .output()
        .unwrap();
    let averages = ["rx", "tx"].map(|direction| interface.average(direction));
    running.send_line("done");
    let run = running.finish();

    run.assert_code(0);
    assert!(pinged.status.success(), "{pinged:?}");
    assert_eq!(finding(&run.stdout, "ping"), Some("0"));
    assert_eq!(finding(&run.stdout, "answer"), Some("same"));
    assert_eq!(finding(&run.stdout, "errors"), Some("0"));
    assert_eq!(finding(&run.stdout, "checksums"), Some("0"));
    // The host's kernel splits neither what it sends nor what it gets; nor did we.
    let [sent, received] = averages;
    assert!(
        sent > PACKET && received > PACKET,
        "{averages:?} bytes a packet"
    );
    let taken = finding(&run.stdout, "received").unwrap();
    let taken: Vec<u64> = taken.split(' ').map(|word| word.parse().unwrap()).collect();
    assert!(taken[0] / taken[1] > PACKET, "{taken:?}");
}
