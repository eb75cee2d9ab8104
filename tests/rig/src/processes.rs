//! The processes of this machine, as `/proc` has them.

use std::time::Duration;

use procfs::process::{Process, Stat, all_processes};

/// Returns all processes; those that end meanwhile are left out.
///
/// # Panics
/// If the system does not list them.
pub(crate) fn all() -> impl Iterator<Item = Stat> {
    let listed = all_processes().expect("processes are listed");
    listed.filter_map(|process| process.ok()?.stat().ok())
}

/// Returns the processor time a process has taken, by itself and by the kernel for it.
pub(crate) fn time(process: &Stat) -> Duration {
    let ticks = process.utime + process.stime;
    Duration::from_millis(ticks * 1000 / procfs::ticks_per_second())
}

/// Returns the command line of a process, if it has not ended.
pub(crate) fn command_line(process: i32) -> Option<Vec<String>> {
    Process::new(process).ok()?.cmdline().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{all, command_line, time};

    #[test]
    fn our_own_process_is_among_them_and_its_time_is_what_it_works() {
        let own = i32::try_from(std::process::id()).expect("process numbers are small");
        let ours = || all().find(|stat| stat.pid == own).expect("we run");
        let before = time(&ours());
        let begun = Instant::now();
        while time(&ours()) < before + Duration::from_millis(50) {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        let words = command_line(own).expect("we run");
        let first = std::env::args().next();
        assert_eq!(words.first(), first.as_ref());
    }
}
