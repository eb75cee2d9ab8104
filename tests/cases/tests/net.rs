//! A network card on QEMU's own network: an address by DHCP, ping, a transfer whose sum is right, and a way in from the host.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use stockade_rig::guest::finding;
use stockade_rig::{Initrd, Stockade};

const MODULES: [&str; 3] = ["virtio_pci", "virtio_net", "af_packet"];
const TRANSFER: usize = 32 << 20;

/// The host is 10.0.2.2 there. `nc` sends what it gets back, so the bytes cross the card twice.
const SCRIPT: &str = r#"
modprobe -a virtio_pci virtio_net af_packet
sleep 1
cat >/tmp/lease <<'END'
#!/bin/busybox sh
[ "$1" = bound ] && ifconfig "$interface" "$ip" netmask "$subnet" && route add default gw "$router" && echo "$ip" >/tmp/address
exit 0
END
chmod +x /tmp/lease
ifconfig eth0 up
say "mac $(cat /sys/class/net/eth0/address)"
udhcpc -i eth0 -n -q -t 10 -s /tmp/lease >/dev/null 2>&1
say "address $(cat /tmp/address)"
ping -c 3 -W 5 10.0.2.2 >/tmp/ping.log
say "ping $?"
port=$(sed 's/.*stockade.port=\([0-9]*\).*/\1/' /proc/cmdline)
nc 10.0.2.2 "$port" </dev/null >/tmp/got
say "got $(wc -c </tmp/got) $(md5sum </tmp/got | cut -c1-32)"
nc 10.0.2.2 "$port" </tmp/got >/tmp/answer
say "answer $(cat /tmp/answer)"
say "listening"
say "visitor $(nc -l -p 7)"
"#;

/// Bytes in no order a fault of copying would keep.
pub(crate) fn content(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state
    };
    (0..bytes / 8).flat_map(|_| next().to_le_bytes()).collect()
}

/// Serves two connections: sends the content, then takes it back and answers whether it is the same.
pub(crate) fn serve(listener: &TcpListener, content: &[u8]) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(content).unwrap();
    drop(stream);
    let (mut stream, _) = listener.accept().unwrap();
    let mut back = vec![0; content.len()];
    let same = stream.read_exact(&mut back).is_ok() && back == content;
    stream
        .write_all(if same { b"same" } else { b"other" })
        .unwrap();
}

/// Says a word to the guest. QEMU takes every connection, and closes those the guest does not take: it may not listen yet.
fn knock(way_in: SocketAddr) {
    for _ in 0..100 {
        let mut stream = TcpStream::connect(way_in).unwrap();
        stream.write_all(b"good evening").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        // Its end is closed when it has read.
        if stream.read(&mut [0]).is_ok_and(|read| read == 0) {
            return;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_card_gets_an_address_pings_and_carries_32_mib_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let content = content(TRANSFER);
    let expected = folder.path().join("content");
    std::fs::write(&expected, &content).unwrap();
    let sum = std::process::Command::new("md5sum").arg(&expected).output();
    let sum = String::from_utf8(sum.unwrap().stdout).unwrap();
    thread::spawn(move || serve(&listener, &content));

    // A port that was free a moment ago.
    let way_in = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|it| it.local_addr());
    let way_in = way_in.unwrap();
    let mut guest = Stockade::guest(&format!("stockade.port={port}"))
        .arg("--initrd")
        .arg(Initrd::new(SCRIPT).modules(&MODULES).write(folder.path()))
        .arg("--net")
        .arg(format!("user,hostfwd=tcp:{way_in}-:7"))
        .limit(Duration::from_secs(240))
        .start();
    guest.expect("listening");
    knock(way_in);
    let run = guest.finish();

    run.assert_code(0);
    assert_eq!(finding(&run.stdout, "mac"), Some("52:54:00:57:ad:00"));
    assert_eq!(finding(&run.stdout, "address"), Some("10.0.2.15"));
    assert_eq!(finding(&run.stdout, "ping"), Some("0"));
    let got = format!("{TRANSFER} {}", &sum[..32]);
    assert_eq!(finding(&run.stdout, "got"), Some(got.as_str()));
    assert_eq!(finding(&run.stdout, "answer"), Some("same"));
    assert_eq!(finding(&run.stdout, "visitor"), Some("good evening"));
}
