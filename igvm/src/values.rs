//! Values of arguments, read and checked.

use stockade_boot::layout::MINIMUM_RAM;
use stockade_boot::ram::RamMap;

/// What a disk has whole ones of.
const SECTOR: u64 = 512;
/// The smallest disk.
const LEAST_DISK: u64 = 1 << 20;
/// The largest disk: its blocks and the spare ones have numbers of 32 bits.
const MOST_DISK: u64 = 15 << 40;

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
    let bytes = parse_bytes(text)?;
    if bytes < MINIMUM_RAM {
        return Err(format!("a guest needs at least {}M", MINIMUM_RAM >> 20));
    }
    // Memory is given in large pages.
    let rounded = bytes & !0x1F_FFFF;
    RamMap::of_size(rounded).map_err(|error| error.to_string())?;
    Ok(rounded)
}

/// The size of a disk.
pub(crate) fn parse_disk_size(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes @ LEAST_DISK..=MOST_DISK if bytes.is_multiple_of(SECTOR) => Ok(bytes),
        bytes @ LEAST_DISK..=MOST_DISK => {
            let (below, above) = (bytes / SECTOR * SECTOR, bytes.next_multiple_of(SECTOR));
            Err(format!(
                "a disk has whole sectors of {SECTOR} bytes; give {below} or {above}"
            ))
        }
        _ => Err("a disk has 1M to 15T".to_owned()),
    }
}

/// A launch digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measurement(pub(crate) [u8; 48]);

/// A launch digest, as `stockade measure` prints it.
pub(crate) fn parse_digest(text: &str) -> Result<Measurement, String> {
    let mut digest = Measurement([0; 48]);
    hex::decode_to_slice(text, &mut digest.0)
        .map_err(|_| "give 96 hexadecimal digits, as `stockade measure` prints them")?;
    Ok(digest)
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes() {
        [.., b'K' | b'k'] => (&text[..text.len() - 1], 10),
        [.., b'M' | b'm'] => (&text[..text.len() - 1], 20),
        [.., b'G' | b'g'] => (&text[..text.len() - 1], 30),
        [.., b'T' | b't'] => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "give bytes, or a number with K, M, G or T, such as 512M".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "that is more than there can be".to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::{parse_cpus, parse_disk_size, parse_size};

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
    fn disks_have_a_mebibyte_at_least_and_fifteen_tebibytes_at_most() {
        assert_eq!(parse_disk_size("1M"), Ok(1 << 20));
        assert_eq!(parse_disk_size("15T"), Ok(15 << 40));
        for nonsense in ["0", "1023K", "16T", "1P", "", "-1G"] {
            assert!(parse_disk_size(nonsense).is_err(), "{nonsense}");
        }
    }

    /// No machine would take such a file.
    #[test]
    fn disks_have_whole_sectors() {
        assert_eq!(parse_disk_size("1049088"), Ok(2049 * 512));
        let error = parse_disk_size("1048577").unwrap_err();
        assert!(error.contains("1048576 or 1049088"), "{error}");
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
