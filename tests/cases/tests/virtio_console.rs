//! A virtio console: the stock kernel's `hvc0`, with a socket of the host at its other end.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use stockade_rig::guest::finding;
use stockade_rig::{Initrd, Stockade, appended};

const LIMIT: Duration = Duration::from_secs(300);

/// Tells the kernel's log something once the console is there, then repeats what is typed.
const SCRIPT: &str = r#"
modprobe -a virtio_pci virtio_console
for i in 1 2 3 4 5 6 7 8 9; do [ -c /dev/hvc0 ] && break; sleep 1; done
say "console $(cat /sys/class/tty/console/active)"
echo "<1>the kernel speaks" >/dev/kmsg
stty -echo </dev/hvc0
exec 3<>/dev/hvc0
echo "ready on hvc0" >&3
while read -r line <&3; do
    [ "$line" = quit ] && break
    echo "echo: $line" >&3
done
dd if=/dev/zero bs=1000 count=200 2>/dev/null | tr '\0' x >&3
echo "end" >&3
"#;

/// Connects once QEMU listens.
fn connect(path: &Path) -> UnixStream {
    let until = Instant::now() + LIMIT;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Reads until these words are there; returns everything up to them.
fn read_until(stream: &mut impl BufRead, words: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(words.as_bytes()) {
        let count = stream.read_until(b'\n', &mut text).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn the_kernel_writes_to_hvc0_and_what_is_typed_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("hvc0");
    let initrd = Initrd::new(SCRIPT).modules(&["virtio_pci", "virtio_console"]);
    let running = Stockade::new("run")
        .args(["--memory", "256M"])
        .args(["--append", &appended("console=hvc0")])
        .arg("--initrd")
        .arg(initrd.write(folder.path()))
        .arg("--virtio-console")
        .arg(format!("socket={}", socket.display()))
        .limit(LIMIT)
        .start();
    let mut typing = connect(&socket);
    typing.set_read_timeout(Some(LIMIT)).unwrap();
    // QEMU drops what the socket has no room for, so this reads in large pieces.
    let mut stream = BufReader::with_capacity(1 << 18, typing.try_clone().unwrap());
    read_until(&mut stream, "the kernel speaks\r\n");
    read_until(&mut stream, "ready on hvc0\r\n");
    // More than all buffers on the way hold at once.
    let lines: Vec<String> = (0..20)
        .map(|n| format!("{n:03}{}", "y".repeat(900)))
        .collect();
    for line in &lines {
        typing.write_all(format!("{line}\n").as_bytes()).unwrap();
        read_until(&mut stream, &format!("echo: {line}\r\n"));
    }
    typing.write_all(b"quit\n").unwrap();
    let long = read_until(&mut stream, "end\r\n");
    assert_eq!(long.bytes().filter(|byte| *byte == b'x').count(), 200_000);
    let finished = running.finish();
    finished.assert_code(0);
    assert_eq!(finding(&finished.stdout, "console"), Some("ttyS0 hvc0"));
}
