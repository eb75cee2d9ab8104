//! What the guest said, as a host reads it.
//!
//! [`Report::parse`] takes all of the console; lines it does not know (firmware, kernel messages) are passed over, so a report is
//! only as good as its [`Report::check_complete`].

use std::str::FromStr;

/// How one check ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It held.
    Passed,
    /// It did not; the guest's own words, `got X, want Y (WHAT)`.
    Failed(String),
    /// The machine lacks what it is about; the guest's reason.
    Skipped(String),
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `group.check`.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Why plain QEMU is known to fail it, if it is.
    pub known_qemu: Option<String>,
}

impl Check {
    /// Returns whether it failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed(_))
    }
}

/// The guest's own count, its last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Checks that held.
    pub passed: usize,
    /// Checks that did not.
    pub failed: usize,
    /// Checks that were not tried.
    pub skipped: usize,
}

/// A run of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The checks in the order they ran.
    pub checks: Vec<Check>,
    /// How many CPUs the guest found.
    pub cpus: Option<usize>,
    /// What the guest counted, if it came to its end.
    pub totals: Option<Totals>,
    /// The check that had begun and not ended, if the guest was told to trace.
    pub unfinished: Option<String>,
    /// Names and claims, if the guest was told to list.
    pub listed: Vec<(String, String)>,
}

/// Why a report is not to be relied on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    /// The guest never came to its last line.
    #[error("the guest did not say \"done\"; {} checks ended, last {last}, then {}", checks, unfinished.as_deref().unwrap_or("silence"))]
    NoEnd {
        /// Checks that ended.
        checks: usize,
        /// The name of the last of them.
        last: String,
        /// The check it was in, if known.
        unfinished: Option<String>,
    },
    /// The guest counted other than what is on the console: lines are lost.
    #[error("the guest counted {told:?}, its lines say {seen:?}")]
    Miscounted {
        /// The guest's last line.
        told: Totals,
        /// What the lines add up to.
        seen: Totals,
    },
}

impl Report {
    /// Reads all the guest wrote.
    #[must_use]
    pub fn parse(console: &str) -> Self {
        let mut report = Self::default();
        let mut known = None;
        for line in console.lines() {
            report.take(line.trim_end_matches('\r'), &mut known);
        }
        report
    }

    fn take(&mut self, line: &str, known: &mut Option<(String, String)>) {
        let Some((word, rest)) = line.split_once(' ') else {
            return;
        };
        let (name, text) = rest.split_once(": ").unwrap_or((rest, ""));
        let verdict = match word {
            "pass" if text.is_empty() => Verdict::Passed,
            "fail" => Verdict::Failed(text.to_owned()),
            "skip" => Verdict::Skipped(text.to_owned()),
            _ => return self.take_other(word, rest, known),
        };
        if !is_name(name) {
            return;
        }
        self.unfinished = None;
        self.checks.push(Check {
            name: name.to_owned(),
            verdict,
            known_qemu: known
                .take()
                .filter(|(known, _)| known == name)
                .map(|(_, why)| why),
        });
    }

    fn take_other(&mut self, word: &str, rest: &str, known: &mut Option<(String, String)>) {
        match (word, rest.split_once(": ")) {
            ("known", Some((name, why))) => *known = Some((name.to_owned(), why.to_owned())),
            ("test", Some((name, claim))) if is_name(name) => {
                self.listed.push((name.to_owned(), claim.to_owned()));
            }
            ("begin", None) if is_name(rest) => self.unfinished = Some(rest.to_owned()),
            ("cpus", None) => self.cpus = rest.parse().ok().or(self.cpus),
            ("done:", _) => self.totals = rest.parse().ok(),
            _ => {}
        }
    }

    /// Returns what the lines add up to.
    #[must_use]
    pub fn counted(&self) -> Totals {
        let mut totals = Totals::default();
        for check in &self.checks {
            match check.verdict {
                Verdict::Passed => totals.passed += 1,
                Verdict::Failed(_) => totals.failed += 1,
                Verdict::Skipped(_) => totals.skipped += 1,
            }
        }
        totals
    }

    /// Says whether the guest came to its end and no line of it is lost.
    pub fn check_complete(&self) -> Result<Totals, Incomplete> {
        let seen = self.counted();
        match self.totals {
            None => Err(Incomplete::NoEnd {
                checks: self.checks.len(),
                last: self
                    .checks
                    .last()
                    .map_or_else(|| "none".to_owned(), |check| check.name.clone()),
                unfinished: self.unfinished.clone(),
            }),
            Some(told) if told != seen => Err(Incomplete::Miscounted { told, seen }),
            Some(told) => Ok(told),
        }
    }

    /// Returns a check by its name.
    #[must_use]
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().find(|check| check.name == name)
    }

    /// Returns the checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.has_failed())
    }

    /// Returns the failures of a run on plain QEMU that are not known ones.
    pub fn unexpected_under_qemu(&self) -> impl Iterator<Item = &Check> {
        self.failures().filter(|check| check.known_qemu.is_none())
    }

    /// Returns the checks that end differently here and in `other` (skipped ones do not count): name, here, there.
    pub fn differences<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (&'a str, &'a Verdict, &'a Verdict)> {
        self.checks.iter().filter_map(|here| {
            let there = other.check(&here.name)?;
            let is_skipped = [here, there]
                .iter()
                .any(|check| matches!(check.verdict, Verdict::Skipped(_)));
            let differs = here.has_failed() != there.has_failed() && !is_skipped;
            differs.then_some((here.name.as_str(), &here.verdict, &there.verdict))
        })
    }
}

impl FromStr for Totals {
    type Err = ();

    /// Reads `N passed, M failed, K skipped`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = ["passed", "failed", "skipped"]
            .iter()
            .zip(text.split(", "))
            .map(|(word, part)| {
                let number = part.strip_suffix(word)?.trim_end();
                number.parse::<usize>().ok()
            });
        let mut next = || numbers.next().flatten().ok_or(());
        Ok(Self {
            passed: next()?,
            failed: next()?,
            skipped: next()?,
        })
    }
}

/// A name is `group.check`, of lower-case letters, digits and underscores.
fn is_name(text: &str) -> bool {
    text.contains('.')
        && text
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "SeaBIOS (version 1)\r\ncpus 2\r\npass apic.version_is_integrated\r\n\
        known pic.spurious: QEMU does not\r\nfail pic.spurious: got 0x0, want 0x1 (count)\r\n\
        skip hpet.counts: no HPET\r\ndone: 1 passed, 1 failed, 1 skipped\r\n";

    #[test]
    fn a_complete_run_is_read_line_by_line() {
        let report = Report::parse(RUN);
        let totals = report.check_complete().unwrap();
        assert_eq!(
            totals,
            Totals {
                passed: 1,
                failed: 1,
                skipped: 1
            }
        );
        assert_eq!(report.cpus, Some(2));
        let names: Vec<_> = report.checks.iter().map(|check| &check.name).collect();
        assert_eq!(
            names,
            ["apic.version_is_integrated", "pic.spurious", "hpet.counts"]
        );
        assert_eq!(
            report.check("hpet.counts").unwrap().verdict,
            Verdict::Skipped("no HPET".to_owned())
        );
    }

    #[test]
    fn a_known_line_belongs_to_the_next_check_of_that_name_only() {
        let report = Report::parse(RUN);
        let spurious = report.check("pic.spurious").unwrap();
        assert_eq!(spurious.known_qemu.as_deref(), Some("QEMU does not"));
        assert_eq!(
            spurious.verdict,
            Verdict::Failed("got 0x0, want 0x1 (count)".to_owned())
        );
        assert_eq!(report.unexpected_under_qemu().count(), 0);
        assert_eq!(report.failures().count(), 1);
        let other = Report::parse("known a.b: why\npass a.c\n");
        assert_eq!(other.checks[0].known_qemu, None);
    }

    #[test]
    fn a_run_cut_short_says_where() {
        let report = Report::parse("pass a.b\nbegin a.c\n");
        let incomplete = report.check_complete().unwrap_err();
        assert_eq!(
            incomplete.to_string(),
            "the guest did not say \"done\"; 1 checks ended, last a.b, then a.c"
        );
    }

    #[test]
    fn a_lost_line_is_noticed() {
        let report = Report::parse("pass a.b\ndone: 2 passed, 0 failed, 0 skipped\n");
        assert!(matches!(
            report.check_complete(),
            Err(Incomplete::Miscounted { .. })
        ));
    }

    #[test]
    fn foreign_lines_are_passed_over() {
        let report =
            Report::parse("pass\nfail everything: now\nskip it\npassing a.b\ndone: soon\n");
        assert_eq!(report, Report::default());
    }

    #[test]
    fn differences_leave_out_what_was_skipped() {
        let here = Report::parse("pass a.b\nfail a.c: got 0x1, want 0x2\nskip a.d: no\n");
        let there =
            Report::parse("fail a.b: got 0x1, want 0x2\nfail a.c: got 0x3, want 0x2\npass a.d\n");
        let names: Vec<_> = here.differences(&there).map(|(name, ..)| name).collect();
        assert_eq!(names, ["a.b"]);
    }

    #[test]
    fn a_listing_is_read() {
        let report = Report::parse("test a.b: It does: always.\n");
        assert_eq!(
            report.listed,
            [("a.b".to_owned(), "It does: always.".to_owned())]
        );
    }
}
