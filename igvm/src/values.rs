//! Values of arguments, read and checked.

use stockade_boot::layout::MINIMUM_RAM;
use stockade_boot::ram::RamMap;

/// The most vCPUs a guest can have.
pub(crate) const MAX_CPUS: u32 = 16;

pub(crate) fn parse_cpus(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(cpus @ 1..=MAX_CPUS) => Ok(cpus),
        Ok(0) => Err("a guest needs at least one vCPU".to_owned()),
        Ok(_) => Err(format!("a guest can have {MAX_CPUS} vCPUs at most")),
        Err(_) => Err(format!("give a number of vCPUs, 1 to {MAX_CPUS}")),
    }
}

pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes() {
        [.., b'K' | b'k'] => (&text[..text.len() - 1], 10),
        [.., b'M' | b'm'] => (&text[..text.len() - 1], 20),
        [.., b'G' | b'g'] => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "give bytes, or a number with K, M or G, such as 512M".to_owned())?;
    let bytes = number
        .checked_mul(1 << shift)
        .ok_or("that is more than there can be")?;
    if bytes < MINIMUM_RAM {
        return Err(format!("a guest needs at least {}M", MINIMUM_RAM >> 20));
    }
    // Memory is given in large pages.
    let rounded = bytes & !0x1F_FFFF;
    RamMap::of_size(rounded).map_err(|error| error.to_string())?;
    Ok(rounded)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{parse_cpus, parse_size};

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("1g"), Ok(1 << 30));
        assert_eq!(parse_size("67108864"), Ok(64 << 20));
        for nonsense in [
            "",
            "M",
            "12Q",
            "-1",
            "99999999999999999999",
            "18446744073709551615G",
            "16M",
            "1000000G",
        ] {
            assert!(parse_size(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn cpu_counts_that_cannot_be_are_refused_with_words() {
        for (text, cpus) in [("1", 1), ("2", 2), ("16", 16)] {
            assert_eq!(parse_cpus(text), Ok(cpus));
        }
        for (nonsense, words) in [
            ("0", "at least one"),
            ("17", "16 vCPUs at most"),
            ("1000", "16 vCPUs at most"),
            ("99999999999", "1 to 16"),
            ("x", "1 to 16"),
            ("-1", "1 to 16"),
            ("", "1 to 16"),
        ] {
            let error = parse_cpus(nonsense).unwrap_err();
            assert!(error.contains(words), "{nonsense}: {error}");
        }
    }
}
