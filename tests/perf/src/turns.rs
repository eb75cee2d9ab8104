//! How long the paravisor keeps a vCPU: from an exit of the guest to its next entry, and what of it devices take.
//!
//! A guest works on a sealed disk, 128 KiB at a time by four jobs. Once in counted time, where a step of AES is an instruction as it is on a
//! processor that has it, and once by the clock, where QEMU emulates it; then it takes and sends by TCP, too, which in counted time would end
//! no sooner than the network's other end lets it.

use std::fmt::Write;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use stockade_rig::{Initrd, Slot, Stockade, appended};

use crate::network;

const LIMIT: Duration = Duration::from_secs(300);
/// What is carried each way.
const BYTES: usize = 4 << 20;

const SCRIPT: &str = "\
modprobe -a virtio_pci virtio_blk virtio_net
for i in 1 2 3 4 5 6 7 8 9; do [ -d /sys/class/net/eth0 ] && break; sleep 1; done
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
port=$(sed 's/.*stockade.port=\\([0-9]*\\).*/\\1/' /proc/cmdline)
dd if=/dev/zero of=/tmp/zeros bs=1M count=4 2>/dev/null
[ $port = 0 ] || (nc 10.0.2.2 $port </dev/null >/dev/null; nc 10.0.2.2 $port </tmp/zeros >/dev/null; nc 10.0.2.2 $port </tmp/zeros >/dev/null; say net) &
fio --name=load --filename=/dev/vda --size=1M --offset_increment=12M --numjobs=4 --rw=randrw --bs=128k --ioengine=libaio \
 --direct=1 --iodepth=1 --loops=8 --output=/dev/null && say disk
wait
say done
";

/// What a counter of the guest's load is called, and in the table.
const ROWS: [(&str, &str); 7] = [
    ("device-turns", "of it, devices' turns"),
    ("mmio", "a notification, or another device register"),
    ("host", "an interrupt of the host"),
    ("hlt", "HLT, up to the sleep"),
    ("wake", "from a sleep to the entry"),
    ("eoi", "end of interrupt"),
    ("port", "a port"),
];

/// Measures and returns the table.
pub(crate) fn table() -> String {
    let _alone = Slot::take_all();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = Initrd::new(SCRIPT)
        .modules(&["virtio_pci", "virtio_blk", "virtio_net"])
        .fio()
        .write(folder.path());
    let [counted, timed] =
        [Time::Counted, Time::Clock].map(|time| run(&initrd, folder.path(), time));
    let mut text = String::from(
        "| from exit to entry | count | mean, µs | longest, µs | by the clock: mean | longest |\n|---|---|---|---|---|---|\n",
    );
    for (name, title) in ROWS {
        let [(count, mean, most), (_, mean_timed, most_timed)] =
            [&counted, &timed].map(|figures| row(figures, name));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {title} | {count:.0} | {mean:.0} | {most:.0} | {mean_timed:.0} | {most_timed:.0} |"
        );
    }
    text
}

/// What the machine goes by.
#[derive(Clone, Copy)]
enum Time {
    /// Instructions.
    Counted,
    /// The clock, with the network.
    Clock,
}

/// What a run left.
struct Ran {
    stats: Value,
    /// Ticks of its counter in a microsecond.
    mhz: f64,
}

/// Count, mean and most, in microseconds.
fn row(Ran { stats, mhz }: &Ran, name: &str) -> (f64, f64, f64) {
    let of = |what: &str| {
        let number = stats.pointer(&format!("/paravisor/costs/{name}/{what}"));
        number.and_then(Value::as_f64).unwrap_or(0.0)
    };
    (
        of("count"),
        of("mean_cycles") / *mhz,
        of("most_cycles") / *mhz,
    )
}

fn run(initrd: &Path, folder: &Path, time: Time) -> Ran {
    let disk = folder.join("disk");
    let stats = folder.join("stats.json");
    // Whatever was there is nothing to the next run.
    let _ = fs::remove_file(&disk);
    Stockade::new("disk")
        .args(["create", "--size", "64M", "--sealed"])
        .arg(&disk)
        .finish()
        .assert_code(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || network::serve(&listener, BYTES));
    let (time, port, said): (_, _, &[_]) = match time {
        Time::Counted => (&["--icount"][..], 0, &["disk"]),
        Time::Clock => (&[][..], port, &["disk", "net"]),
    };
    let finished = Stockade::new("run")
        .args(["--memory", "512M", "--net", "user"])
        .args(["--append", &appended(&network::words(port)), "--initrd"])
        .arg(initrd)
        .arg("--disk")
        .arg(format!("{},mode=sealed", disk.display()))
        .args(time)
        .arg("--stats")
        .arg(&stats)
        .limit(LIMIT)
        .with_slots_taken()
        .finish();
    finished.assert_code(0);
    for work in said {
        let said = format!("guest-check: {work}");
        assert!(finished.stdout.contains(&said), "{}", finished.transcript());
    }
    let text = fs::read_to_string(&stats).expect("the run wrote it");
    Ran {
        stats: serde_json::from_str(&text).expect("it is JSON"),
        mhz: mhz(&finished.stderr).expect("the paravisor says so"),
    }
}

/// What the paravisor says of its counter.
fn mhz(log: &str) -> Option<f64> {
    let (_, words) = log.split_once("time-stamp counter at ")?;
    words.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counters_rate_is_found_in_the_log() {
        let log = "paravisor: info: time-stamp counter at 2596 MHz\nparavisor: info: more";
        assert_eq!(super::mhz(log), Some(2596.0));
    }
}
