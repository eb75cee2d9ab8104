//! The guest's serial console, both ways, on stdin and stdout.

use stockade_rig::Stockade;

const BANNER: &str = "a shell in the confidential guest";

#[test]
fn what_is_typed_comes_back_from_the_guest() {
    let mut guest = Stockade::guest("stockade.mode=echo").start();
    guest.expect("guest-check: echoing");
    for word in [
        "hello",
        "a longer line with several words in it",
        "0123456789",
    ] {
        guest.send_line(word);
        guest.expect(&format!("echo: {word}"));
    }
    guest.send_line("quit");
    guest.finish().assert_code(0);
}

/// More than the FIFO of a 16550 holds at once, and more than the host's: nothing is lost in either direction.
#[test]
fn a_long_paste_arrives_whole() {
    let mut guest = Stockade::guest("stockade.mode=echo").start();
    guest.expect("guest-check: echoing");
    let lines: Vec<String> = (0..20)
        .map(|n| format!("{n:03}{}", "x".repeat(150)))
        .collect();
    guest.send(format!("{}\n", lines.join("\n")).as_bytes());
    for line in &lines {
        guest.expect(&format!("echo: {line}"));
    }
    guest.send_line("quit");
    guest.finish().assert_code(0);
}

#[test]
fn the_shell_runs_commands_and_reboot_starts_the_guest_anew() {
    let mut guest = Stockade::guest("stockade.mode=shell").start();
    guest.expect(BANNER);
    guest.send_line("echo $((6 * 7))-from-the-guest; touch /tmp/before");
    guest.expect("42-from-the-guest");
    guest.send_line("reboot -f");
    guest.expect(BANNER);
    guest.send_line("ls /tmp/before; echo status-$?");
    let said = guest.expect("status-1");
    assert!(said.contains("No such file"), "{said}");
    guest.send_line("poweroff -f");
    guest.finish().assert_code(0);
}

#[test]
fn a_console_nobody_types_at_does_not_end_the_guest() {
    // The shell reads a closed stdin as silence: only the time-out ends it.
    let guest = Stockade::guest("stockade.mode=shell")
        .arg("--timeout")
        .arg("40")
        .finish();
    guest.assert_code(13).assert_says(&["--timeout"]);
    assert!(guest.stdout.contains(BANNER), "{}", guest.transcript());
}

/// The command and the logs of its machine write to one file.
#[test]
fn our_words_go_to_the_host_log_and_none_is_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("log");
    std::fs::write(&log, "what an earlier run had to say\n").expect("it is writable");
    let finished = Stockade::guest("stockade.mode=check")
        .arg("--host-log")
        .arg(&log)
        .finish();
    finished.assert_code(0);
    let text = std::fs::read_to_string(&log).expect("it is text");
    let at = |words: &str| {
        text.find(words)
            .unwrap_or_else(|| unreachable!("no {words}\n{text}"))
    };
    assert!(at("stockade: launch digest") < at("paravisor: info: entering the guest"));
    assert!(at("paravisor: info: entering the guest") < at("stockade: summary"));
    for line in text.lines() {
        let source = line.split(": ").next().unwrap_or_default();
        assert!(
            ["stockade", "paravisor", "model"].contains(&source),
            "{line}"
        );
    }
    assert!(!finished.stderr.contains("entering the guest"));
}
