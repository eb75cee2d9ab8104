//! Which memory is free: the loader's map less what is in use.

use core::ops::Range;

/// Calls `give` for every part of `memory` that touches none of `used`, in order within each range of `memory`.
pub(super) fn free_parts(
    memory: impl Iterator<Item = Range<u64>>,
    used: &[Range<u64>],
    mut give: impl FnMut(Range<u64>),
) {
    for range in memory {
        let mut next = range.start;
        while next < range.end {
            let inside = used.iter().find(|used| used.contains(&next));
            if let Some(inside) = inside {
                next = inside.end;
                continue;
            }
            let end = used
                .iter()
                .map(|used| used.start)
                .filter(|start| *start > next)
                .fold(range.end, u64::min);
            give(next..end);
            next = end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(memory: &[Range<u64>], used: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut parts = Vec::new();
        free_parts(memory.iter().cloned(), used, |part| parts.push(part));
        parts
    }

    #[test]
    fn what_is_used_is_cut_out() {
        let memory = [0..100, 200..300];
        assert_eq!(parts(&memory, &[]), [0..100, 200..300]);
        assert_eq!(
            parts(&memory, &[0..10, 40..50, 45..60, 90..210]),
            [10..40, 60..90, 210..300]
        );
        assert_eq!(parts(&memory, &[0..300, 0..0]), []);
        assert_eq!(parts(&memory, &[150..160, 100..200]), [0..100, 200..300]);
        assert_eq!(parts(&memory, &[50..50, 0..0]), [0..50, 50..100, 200..300]);
    }
}
