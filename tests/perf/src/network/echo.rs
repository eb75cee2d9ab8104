//! A byte to the guest and back: how long it is on its way.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// How a byte follows the one before it.
struct Pace {
    words: &'static str,
    count: usize,
    /// How long nothing is on its way before it.
    quiet: Duration,
}

const PACES: [Pace; 2] = [
    Pace {
        words: "at once after the last one",
        count: 1000,
        quiet: Duration::ZERO,
    },
    Pace {
        words: "after 30 ms of quiet",
        count: 100,
        quiet: Duration::from_millis(30),
    },
];

/// How long bytes were on their way, by their pace, the quickest first.
pub(super) type Echoes = Vec<Vec<Duration>>;

/// Sends bytes to who comes next and waits for each.
pub(super) fn measure(listener: &TcpListener) -> Echoes {
    let Ok((mut stream, _)) = listener.accept() else {
        return Vec::new();
    };
    let _ = stream.set_nodelay(true);
    let mut all = |pace: &Pace| {
        let mut times: Vec<Duration> = (0..pace.count)
            .map_while(|_| one(&mut stream, pace.quiet))
            .collect();
        times.sort_unstable();
        times
    };
    PACES.iter().map(&mut all).collect()
}

fn one(stream: &mut TcpStream, quiet: Duration) -> Option<Duration> {
    thread::sleep(quiet);
    let begun = Instant::now();
    stream.write_all(b"?").ok()?;
    stream.read_exact(&mut [0]).ok()?;
    Some(begun.elapsed())
}

/// The table of some ways.
pub(super) fn table(ways: &[(&str, Echoes)]) -> String {
    let mut text = String::from(
        "| a byte to the guest and back | way | median, ms | nine in ten within, ms |\n|---|---|---|---|\n",
    );
    for (index, pace) in PACES.iter().enumerate() {
        for (way, echoes) in ways {
            let times = echoes.get(index).map_or(&[][..], Vec::as_slice);
            assert_eq!(times.len(), pace.count, "{way}, {}", pace.words);
            let [median, most] = [50, 90].map(|percent| percentile(times, percent));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "| {} | {way} | {median:.2} | {most:.2} |", pace.words);
        }
    }
    text
}

/// Milliseconds that so many of a hundred stay within.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = sorted.len() * percent / 100;
    sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_has_half_of_all_on_either_side() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert!((percentile(&times, 50) - 51.0).abs() < 1e-9);
        assert!((percentile(&times, 90) - 91.0).abs() < 1e-9);
        assert!(percentile(&[], 50).abs() < 1e-9);
    }
}
