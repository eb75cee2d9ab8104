//! A network card of the same kind in the same QEMU TCG: directly, and below us.
//!
//! The guest takes and sends a stretch of bytes by TCP on QEMU's own network, whose other end is a program here: sent 64 KiB at a time as programs
//! that care do, and 1 KiB at a time as busybox's `nc` does. Then it sends back what it gets, byte by byte. The marks are those of [`crate::disks`].

mod echo;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use stockade_rig::{Initrd, Running, Slot, Stockade, appended};

use crate::directly;
use crate::disks::{Exits, exits_of_phase, total};
use echo::Echoes;

const MEMORY: &str = "256M";
const LIMIT: Duration = Duration::from_secs(300);
/// What is carried each way.
const BYTES: usize = 32 << 20;
const MIB: u32 = 32;
/// Sent and taken at once at our end.
const PIECE: usize = 64 << 10;

/// The directions, as the guest sees them.
const DIRECTIONS: [&str; 3] = [
    "to the guest",
    "from the guest, 64 KiB at a time",
    "from the guest, 1 KiB at a time",
];

const SCRIPT: &str = "\
modprobe -a virtio_pci virtio_net cpuid
for i in 1 2 3 4 5 6 7 8 9; do [ -d /sys/class/net/eth0 ] && break; sleep 1; done
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
mark() { dd if=/dev/cpu/0/cpuid of=/dev/null bs=16 count=1 iflag=skip_bytes skip=$((0x53544B00 + $1)) 2>/dev/null; }
port=$(sed 's/.*stockade.port=\\([0-9]*\\).*/\\1/' /proc/cmdline)
dd if=/dev/zero of=/tmp/zeros bs=1M count=32 2>/dev/null
say 'begin 0'; mark 1; nc 10.0.2.2 $port </dev/null >/dev/null; mark 0; say 'end 0'
say 'begin 1'; mark 2
bash -c 'exec 3<>/dev/tcp/10.0.2.2/'$port' && dd if=/tmp/zeros bs=64k >&3 2>/dev/null'
mark 0; say 'end 1'
say 'begin 2'; mark 3; nc 10.0.2.2 $port </tmp/zeros >/dev/null; mark 0; say 'end 2'
say 'begin 3'; bash -c 'exec 3<>/dev/tcp/10.0.2.2/'$port' && cat <&3 >&3'; say 'end 3'
say done
";

/// What one direction cost.
struct Figures {
    wall: Duration,
    cpu: Duration,
    /// Exits of the guest by cause, if anybody counts them.
    exits: Vec<Exits>,
}

/// Measures and returns the table.
pub(crate) fn table() -> String {
    let _alone = Slot::take_all();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let initrd = Initrd::new(SCRIPT)
        .modules(&["virtio_pci", "virtio_net", "cpuid"])
        .program("bash", "bin/bash", &["libtinfo6"])
        .write(folder.path());
    let stats = folder.path().join("stats.json");
    let ways = [
        ("directly", run(|port| directly(&initrd, port), None)),
        (
            "below us",
            run(|port| below_us(&initrd, port, &stats), Some(&stats)),
        ),
    ];
    let echoes = ways
        .each_ref()
        .map(|(way, (_, echoes))| (*way, echoes.clone()));
    let ways = ways.map(|(way, (figures, _))| (way, figures));
    let mut text = String::from(
        "| 32 MiB by TCP | way | MiB/s | CPU ms a MiB | exits a MiB | entries of VMPL0 |\n|---|---|---|---|---|---|\n",
    );
    for (index, direction) in DIRECTIONS.iter().enumerate() {
        for (way, figures) in &ways {
            let figures = &figures[index];
            let mib = f64::from(MIB);
            let [exits, entries] = total(&figures.exits).map(|count| count / mib);
            let exits = if figures.exits.is_empty() {
                "– | –".to_owned()
            } else {
                format!("{exits:.0} | {entries:.0}")
            };
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "| {direction} | {way} | {:.1} | {:.1} | {exits} |",
                f64::from(MIB) / figures.wall.as_secs_f64(),
                figures.cpu.as_secs_f64() * 1000.0 / f64::from(MIB),
            );
        }
    }
    text.push('\n');
    for (direction, figures) in DIRECTIONS.iter().zip(&ways[1].1) {
        text.push_str(&causes(direction, figures));
    }
    text.push('\n');
    text + &echo::table(&echoes)
}

/// Exits of each cause, in a line.
fn causes(direction: &str, figures: &Figures) -> String {
    let exits = figures.exits.iter().map(|exits| {
        let each = exits.count / f64::from(MIB);
        format!("{} {each:.0}", exits.cause)
    });
    let exits: Vec<String> = exits.collect();
    format!("Exits a MiB {direction}: {}.\n", exits.join(", "))
}

fn run(start: impl FnOnce(u16) -> Running, stats: Option<&Path>) -> (Vec<Figures>, Echoes) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a port");
    let port = listener.local_addr().expect("it is bound").port();
    let server = thread::spawn(move || {
        serve(&listener, BYTES);
        echo::measure(&listener)
    });
    let mut running = start(port);
    let times: Vec<(Duration, Duration)> = (0..DIRECTIONS.len())
        .map(|index| {
            running.expect(&format!("begin {index}"));
            let (begun, before) = (Instant::now(), running.cpu());
            running.expect(&format!("end {index}"));
            (begun.elapsed(), running.cpu() - before)
        })
        .collect();
    running.expect("guest-check: done");
    let echoes = server.join().expect("it serves to the end");
    let _ = running.finish();
    let stats = stats.and_then(|path| fs::read_to_string(path).ok());
    let stats = stats.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    let exits = |phase| stats.as_ref().map(|stats| exits_of_phase(stats, phase));
    let figures = (1..)
        .zip(times)
        .map(|(phase, (wall, cpu))| Figures {
            wall,
            cpu,
            exits: exits(phase).unwrap_or_default(),
        })
        .collect();
    (figures, echoes)
}

/// Sends all to who comes first, takes all from who comes then.
pub(crate) fn serve(listener: &TcpListener, bytes: usize) {
    let piece = [0; PIECE];
    if let Ok((mut stream, _)) = listener.accept() {
        for _ in 0..bytes / PIECE {
            if stream.write_all(&piece).is_err() {
                return;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }
    for _ in 1..DIRECTIONS.len() {
        take(listener, bytes);
    }
}

fn take(listener: &TcpListener, bytes: usize) {
    let mut piece = [0; PIECE];
    let Ok((mut stream, _)) = listener.accept() else {
        return;
    };
    let mut left = bytes;
    while left > 0 {
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => left = left.saturating_sub(count),
        }
    }
}

fn directly(initrd: &Path, port: u16) -> Running {
    let mut command = directly::qemu(initrd, MEMORY, &words(port));
    command
        .args(["-netdev", "user,id=net"])
        .args(["-device", "virtio-net-pci,netdev=net,disable-legacy=on"]);
    Running::start(&mut command, "qemu".to_owned(), LIMIT, None)
}

fn below_us(initrd: &Path, port: u16, stats: &Path) -> Running {
    Stockade::new("run")
        .args(["--memory", MEMORY, "--net", "user"])
        .args(["--append", &appended(&words(port)), "--initrd"])
        .arg(initrd)
        .arg("--stats")
        .arg(stats)
        .limit(LIMIT)
        .with_slots_taken()
        .start()
}

pub(crate) fn words(port: u16) -> String {
    format!("stockade.port={port}")
}
