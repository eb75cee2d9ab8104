//! What the default guest says of itself: lines `guest-check: …`.

const PREFIX: &str = "guest-check: ";

/// Returns the guest's findings in order.
#[must_use]
pub fn findings(console: &str) -> Vec<&str> {
    console
        .lines()
        .filter_map(|line| Some(line.trim_end().split_once(PREFIX)?.1))
        .collect()
}

/// Returns what the guest found for `name`, if it did.
#[must_use]
pub fn finding<'a>(console: &'a str, name: &str) -> Option<&'a str> {
    findings(console).into_iter().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.is_empty()
            .then_some(rest)
            .or_else(|| rest.strip_prefix(' '))
    })
}

/// Returns the bytes of the hexadecimal dump between `begin NAME` and `end NAME`.
#[must_use]
pub fn dump(console: &str, name: &str) -> Option<Vec<u8>> {
    let start = console.find(&format!("{PREFIX}begin {name}"))?;
    let body = console.get(start..)?.split_once('\n')?.1;
    let body = body.split_once(&format!("{PREFIX}end {name}"))?.0;
    let digits: Vec<u32> = body.chars().filter_map(|c| c.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).ok();
    digits.chunks_exact(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::{dump, finding, findings};

    const CONSOLE: &str = "[ 0.1] noise\r\nguest-check: cpus 1\r\nguest-check: done\r\n";

    #[test]
    fn findings_are_the_marked_lines() {
        assert_eq!(findings(CONSOLE), ["cpus 1", "done"]);
        assert_eq!(finding(CONSOLE, "cpus"), Some("1"));
        assert_eq!(finding(CONSOLE, "done"), Some(""));
        assert_eq!(finding(CONSOLE, "cpu"), None);
    }

    #[test]
    fn a_dump_is_the_hexadecimal_digits_between_its_marks() {
        let console = "guest-check: begin DSDT\r\n44 53\r\n44 54\r\nguest-check: end DSDT\r\n";
        assert_eq!(dump(console, "DSDT").as_deref(), Some(&b"DSDT"[..]));
        assert_eq!(dump(console, "FADT"), None);
    }
}
