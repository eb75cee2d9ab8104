//! What QEMU says of a device it cannot make: a disk another program uses, a file that is damaged, an interface it may not open.

use serde_json::{Deserializer, Value};

/// Options whose values are words of the device's.
const OPTIONS: [&str; 4] = [" -blockdev ", " -device ", " -netdev ", " -chardev "];
/// What QEMU asks on the next line, with the name of the file.
const QUESTION: &str = "Is another process using";

/// Returns which device QEMU refused, and why, in a line; `None` if it ended for another reason.
pub(super) fn read(log: &str) -> Option<String> {
    let mut lines = log.lines();
    let (option, rest) = lines.by_ref().find_map(complaint)?;
    let (device, why) = if rest.starts_with('{') {
        after_json(rest)?
    } else {
        let (device, why) = rest.split_once(": ")?;
        (device.to_owned(), why)
    };
    let question = lines.next().filter(|line| line.starts_with(QUESTION));
    let question = question.map(|line| format!("; {line}"));
    Some(format!(
        "QEMU cannot use {device} ({}): {why}{}",
        option.trim(),
        question.unwrap_or_default()
    ))
}

/// Returns the option a line is about, and what follows it.
fn complaint(line: &str) -> Option<(&'static str, &str)> {
    let is_of_qemu = line.starts_with("qemu");
    let mut options = OPTIONS.iter().filter(|_| is_of_qemu);
    options.find_map(|option| Some((*option, line.split_once(option)?.1)))
}

/// Returns what names the device, and what follows its description.
fn after_json(text: &str) -> Option<(String, &str)> {
    let mut values = Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    let why = text.get(values.byte_offset()..)?.strip_prefix(": ")?;
    let names = ["/file/filename", "/drive", "/netdev", "/driver"];
    let name = names.iter().find_map(|name| value.pointer(name)?.as_str());
    Some((name.unwrap_or("a device").to_owned(), why))
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn a_refused_device_is_named_with_the_reason() {
        let damaged = "qemu: warning: x\nqemu-system-x86_64: -blockdev {\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"/a: b\"}}: Unsupported cluster size: 2^0\n";
        let said = "QEMU cannot use /a: b (-blockdev): Unsupported cluster size: 2^0";
        assert_eq!(read(damaged).as_deref(), Some(said));
        let used = "qemu-system-x86_64: -device {\"driver\":\"virtio-blk-pci\",\"drive\":\"host2\"}: Failed to get \"write\" lock\nIs another process using the image [/d.img]?\n";
        let said = "QEMU cannot use host2 (-device): Failed to get \"write\" lock; Is another process using the image [/d.img]?";
        assert_eq!(read(used).as_deref(), Some(said));
        let tap = "qemu-system-x86_64: -netdev tap,id=host16,ifname=t: could not configure /dev/net/tun (t): Operation not permitted\n";
        let said = "QEMU cannot use tap,id=host16,ifname=t (-netdev): could not configure /dev/net/tun (t): Operation not permitted";
        assert_eq!(read(tap).as_deref(), Some(said));
    }

    #[test]
    fn other_ends_are_none_of_a_device() {
        for log in [
            "",
            "qemu-system-x86_64: cannot set up guest memory",
            "qemu-system-x86_64: -device {\"driver\"",
            "the guest printed qemu -device x: y",
        ] {
            assert_eq!(read(log), None, "{log}");
        }
    }
}
