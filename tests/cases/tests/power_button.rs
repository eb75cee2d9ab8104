//! The power button: a guest is asked to shut down, and does.

#![expect(clippy::unwrap_used, reason = "tests")]

use nix::sys::signal::Signal;
use stockade_rig::{Initrd, Stockade};

/// Takes two presses of the button, each four events of 24 bytes, and ends.
const SCRIPT: &str = "modprobe -a button evdev
    until [ -e /dev/input/event0 ]; do usleep 100000; done
    exec 3</dev/input/event0
    say \"input $(cat /sys/class/input/input0/name)\"
    for press in 1 2; do
        dd bs=24 count=4 <&3 >/dev/null 2>&1 && say \"pressed $press\"
    done";

/// Ctrl-A B at the console and SIGTERM are the button; the guest switches itself off, and that is the end of a run as any other.
#[test]
fn guest_shuts_down_when_its_button_is_pressed() {
    let folder = tempfile::tempdir().unwrap();
    let initrd = Initrd::new(SCRIPT)
        .modules(&["button", "evdev"])
        .write(folder.path());
    let mut guest = Stockade::guest("").arg("--initrd").arg(&initrd).start();
    guest.expect("Power Button");
    guest.send(b"\x01b");
    guest.expect("pressed 1");
    guest.signal(Signal::SIGTERM);
    guest.expect("pressed 2");
    let run = guest.finish();
    run.assert_code(0);
    run.assert_says(&["the host presses the power button"]);
}
