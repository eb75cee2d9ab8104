//! Vigils: before a vCPU sleeps it looks for a while whether the host has done what a device waits for.
//!
//! To sleep is a call of the host, a signal, its end and the way back. An answer that comes before all that is over is cheaper looked for,
//! and it is there sooner. A vigil takes as long as a sleep would cost, so in vain it costs as much again at most; after some in
//! vain the next ones are left out, more and more of them.

use stockade_abi::terminate::StopReason;
use stockade_apic::Mailbox;

use crate::host::{Host, Timekeeper};
use crate::machine::Machine;
use crate::run_loop::{book, kick_woken};
use crate::stats::Work;
use crate::vcpu::Vcpu;
use crate::virtio::Watched;

/// At most so many sleeps go without a vigil: two to this power.
const MOST_LEFT_OUT: u32 = 6;

/// What came of the last vigils of a vCPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vigils {
    /// So many were in vain, one after the other.
    vain: u32,
    /// So many are left out.
    left_out: u32,
}

/// How a vigil ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// The host has done something.
    News,
    /// There is something else for the vCPU.
    Called,
    /// It took too long.
    Vain,
}

impl Vigils {
    /// Returns whether to keep one.
    fn wants_one(&mut self) -> bool {
        let wants_one = self.left_out == 0;
        self.left_out = self.left_out.saturating_sub(1);
        wants_one
    }

    fn note(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::News => self.vain = 0,
            Outcome::Called => {}
            Outcome::Vain => {
                // The sleep that follows at once is one of them.
                self.vain = (self.vain + 1).min(MOST_LEFT_OUT);
                self.left_out = (1 << self.vain) - 1;
            }
        }
    }
}

/// Whether the vCPU kept a vigil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It did, and is to look at its devices again.
    Yes,
    /// It may sleep.
    No,
}

/// Keeps a vigil if a host's device has something to do and it is worth it.
pub(crate) fn keep<H: Host, C: Timekeeper + Clone>(
    vcpu: &mut Vcpu,
    machine: &Machine<C>,
    host: &mut H,
) -> Result<Kept, StopReason> {
    let bays = machine.bays();
    if !bays.are_expecting() || !vcpu.vigils.wants_one() {
        return Ok(Kept::No);
    }
    kick_woken(vcpu, machine, host)?;
    let watched = bays.begin_vigil();
    if watched.is_empty() {
        return Ok(Kept::No);
    }
    book(vcpu, machine);
    let outcome = look(vcpu, machine, host, watched);
    vcpu.vigils.note(outcome);
    vcpu.work = Work::Wake;
    vcpu.left_at = Some(machine.clock().tsc());
    bays.end_vigil(watched);
    Ok(Kept::Yes)
}

fn look<H: Host, C: Timekeeper + Clone>(
    vcpu: &Vcpu,
    machine: &Machine<C>,
    host: &H,
    watched: Watched,
) -> Outcome {
    let (bays, clock) = (machine.bays(), machine.clock());
    let mailbox = machine.mailboxes().get(vcpu.index);
    let end = clock.tsc_at(clock.now_ns().saturating_add(vcpu.patience.sleep_ns()));
    // No timer is set for it while somebody looks at the clock.
    let due = vcpu.deadline_tsc(machine);
    loop {
        if bays.have_news(watched) {
            return Outcome::News;
        }
        let has_mail = mailbox.is_some_and(|mailbox: &Mailbox| !mailbox.is_empty());
        if has_mail || host.is_signalled() || bays.want_attention() {
            return Outcome::Called;
        }
        let now = clock.tsc();
        if now >= due {
            return Outcome::Called;
        }
        if now >= end {
            return Outcome::Vain;
        }
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Vigils};

    /// Sleeps until the next vigil.
    fn sleeps(vigils: &mut Vigils) -> u32 {
        (0..).find(|_| vigils.wants_one()).unwrap()
    }

    #[test]
    fn in_vain_they_become_rare_and_news_makes_them_the_rule_again() {
        let mut vigils = Vigils::default();
        assert_eq!(sleeps(&mut vigils), 0);
        for expected in [1, 3, 7, 15, 31, 63, 63] {
            vigils.note(Outcome::Vain);
            assert_eq!(sleeps(&mut vigils), expected);
        }
        vigils.note(Outcome::News);
        assert_eq!(sleeps(&mut vigils), 0);
        vigils.note(Outcome::Vain);
        assert_eq!(sleeps(&mut vigils), 1);
    }

    #[test]
    fn one_that_was_cut_short_says_nothing() {
        let mut vigils = Vigils::default();
        vigils.note(Outcome::Vain);
        vigils.note(Outcome::Called);
        assert_eq!(sleeps(&mut vigils), 1);
        vigils.note(Outcome::Vain);
        assert_eq!(sleeps(&mut vigils), 3);
    }
}
