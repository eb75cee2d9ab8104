//! What a failing test shows of a call: the end of everything that was said, and where all of it is.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::workshop;

/// Lines of the guest's console that are shown.
const CONSOLE_LINES: usize = 60;
/// Lines of our own words that are shown.
const OWN_LINES: usize = 30;

/// Returns how a call ended, with the last lines of its console and of its own words; all lines are in a file it names.
pub(crate) fn of(name: &str, ended: &str, console: &str, own: &str) -> String {
    let all = format!("`{name}` {ended}\n--- console\n{console}\n--- stderr\n{own}\n");
    let kept = keep(&all).map_or_else(
        |error| format!("not kept: {error}"),
        |path| path.display().to_string(),
    );
    format!(
        "`{name}` {ended}\n--- console, its end (everything: {kept})\n{}\n--- stderr, its end\n{}",
        end_of(console, CONSOLE_LINES),
        end_of(own, OWN_LINES)
    )
}

fn keep(all: &str) -> std::io::Result<PathBuf> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = workshop().locks.join("transcripts");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{number}.log", std::process::id()));
    fs::write(&path, all)?;
    Ok(path)
}

fn end_of(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn the_last_lines_are_shown_and_all_of_a_short_text() {
        assert_eq!(end_of("a\nb\nc\n", 2), "b\nc");
        assert_eq!(end_of("a\nb", 5), "a\nb");
        assert_eq!(end_of("", 5), "");
    }
}
