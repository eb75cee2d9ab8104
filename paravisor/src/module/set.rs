//! All modules, and when they have a processor: idle ones first, and of a busy one a share.
//!
//! A vCPU whose guest has nothing to do gives modules its time until the guest has. One that is busy gives them a slice of at most
//! [`SLICE_NS`], if no vCPU sleeps that could, and then has [`REST`] times as long for its guest. Without modules that want a processor all
//! of this is one look at one word ([`Modules::due_ns`]).

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use spin::Mutex;

use super::channel::{Bell, Channel};
use super::runtime::{Body, Turn};

/// The longest a module holds a vCPU whose guest has something to do.
pub const SLICE_NS: u64 = 1_000_000;
/// The longest it holds one whose guest has not, before the vCPU looks around.
pub const IDLE_SLICE_NS: u64 = 4_000_000;
/// How many times the length of a slice a busy guest has for itself afterwards.
const REST: u64 = 4;

struct Tenant {
    name: String,
    channel: Arc<Channel>,
    body: Mutex<Box<dyn Body>>,
    /// Somebody wanted to give it a turn while it had one.
    is_missed: AtomicBool,
}

/// The modules of a machine.
#[derive(Default)]
pub struct Modules {
    tenants: Vec<Tenant>,
    bell: Bell,
    /// From when on a busy vCPU may give modules a slice.
    share_from_ns: AtomicU64,
    /// vCPUs that sleep, a bit each of the first 64.
    asleep: AtomicU64,
    /// Who is first the next time.
    first: AtomicUsize,
}

impl fmt::Debug for Modules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.tenants.iter().map(|tenant| &tenant.name))
            .finish()
    }
}

impl Modules {
    /// Returns what the channels of modules to be added ring.
    #[must_use]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    /// Adds a module.
    pub fn add(&mut self, name: &str, channel: Arc<Channel>, body: Box<dyn Body>) {
        self.tenants.push(Tenant {
            name: String::from(name),
            channel,
            body: Mutex::new(body),
            is_missed: AtomicBool::new(false),
        });
        self.bell.ring();
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }

    /// Returns the channel of the module of this name.
    #[must_use]
    pub fn channel(&self, name: &str) -> Option<Arc<Channel>> {
        let tenant = self.tenants.iter().find(|tenant| tenant.name == name);
        tenant.map(|tenant| Arc::clone(&tenant.channel))
    }

    /// Returns the channels in the order the modules were added.
    pub fn channels(&self) -> impl Iterator<Item = &Arc<Channel>> {
        self.tenants.iter().map(|tenant| &tenant.channel)
    }

    /// Returns when a module next wants a processor; `u64::MAX` if none does.
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        self.bell.due_ns()
    }

    /// Returns when a busy vCPU is to look at modules; `u64::MAX` if it need not.
    #[must_use]
    pub fn share_ns(&self) -> u64 {
        match self.bell.due_ns() {
            u64::MAX => u64::MAX,
            due => due.max(self.share_from_ns.load(Ordering::Relaxed)),
        }
    }

    /// Notes that vCPU `index` goes to sleep, or that it is awake.
    pub fn note(&self, index: usize, rest: Rest) {
        let bit = bit(index);
        match rest {
            Rest::Asleep => self.asleep.fetch_or(bit, Ordering::SeqCst),
            Rest::Awake => self.asleep.fetch_and(!bit, Ordering::SeqCst),
        };
    }

    /// Returns a vCPU that sleeps, to be woken for modules, as a bit; 0 if none does. Busy ones leave it some time to get up.
    pub fn sleeper(&self, now_ns: u64) -> u64 {
        let asleep = self.asleep.load(Ordering::SeqCst);
        let lowest = asleep & asleep.wrapping_neg();
        if lowest != 0 {
            self.leave_alone_until(now_ns.saturating_add(SLICE_NS));
        }
        lowest
    }

    /// Notes that a busy vCPU has given modules its time from one moment to another.
    pub fn shared(&self, from_ns: u64, to_ns: u64) {
        let rest = to_ns.saturating_sub(from_ns).saturating_mul(REST);
        self.leave_alone_until(to_ns.saturating_add(rest));
    }

    fn leave_alone_until(&self, ns: u64) {
        self.share_from_ns.store(ns, Ordering::Relaxed);
    }

    /// Gives each module that has no processor a turn, until one goes on at `until_ns`.
    pub fn serve(&self, until_ns: u64) {
        self.bell.take();
        let count = self.tenants.len();
        let first = self.first.load(Ordering::Relaxed);
        for index in (first..first + count).map(|index| index % count) {
            if self.serve_one(&self.tenants[index], until_ns) == Some(Turn::More) {
                self.first.store((index + 1) % count, Ordering::Relaxed);
                self.bell.ring();
                return;
            }
        }
    }

    /// Gives a module a turn, unless it has one elsewhere: then it gets another afterwards.
    fn serve_one(&self, tenant: &Tenant, until_ns: u64) -> Option<Turn> {
        let body = match tenant.body.try_lock() {
            Some(body) => Some(body),
            None => {
                tenant.is_missed.store(true, Ordering::SeqCst);
                // Its turn may have ended before it could see this.
                tenant.body.try_lock()
            }
        };
        let mut body = body?;
        tenant.is_missed.store(false, Ordering::SeqCst);
        let turn = body.turn(until_ns);
        drop(body);
        if tenant.is_missed.load(Ordering::SeqCst) {
            self.bell.ring();
        }
        if let Turn::Wait(until_ns) = turn {
            self.bell.ring_at(until_ns);
        }
        Some(turn)
    }
}

/// Whether a vCPU sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// It does.
    Asleep,
    /// It does not.
    Awake,
}

fn bit(index: usize) -> u64 {
    u32::try_from(index)
        .ok()
        .and_then(|index| 1_u64.checked_shl(index))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(Vec<Turn>, Arc<AtomicUsize>);

    impl Body for Script {
        fn turn(&mut self, _: u64) -> Turn {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.pop().unwrap_or(Turn::Over)
        }
    }

    fn modules(scripts: &[&[Turn]]) -> (Modules, Vec<Arc<AtomicUsize>>) {
        let mut modules = Modules::default();
        let mut counts = Vec::new();
        for script in scripts {
            let count = Arc::new(AtomicUsize::new(0));
            let channel = Arc::new(Channel::new(modules.bell().clone()));
            let script = script.iter().rev().copied().collect();
            let body = Box::new(Script(script, Arc::clone(&count)));
            modules.add("m", channel, body);
            counts.push(count);
        }
        (modules, counts)
    }

    #[test]
    fn none_want_nothing() {
        let modules = Modules::default();
        assert_eq!((modules.due_ns(), modules.share_ns()), (u64::MAX, u64::MAX));
        modules.serve(0);
    }

    #[test]
    fn those_that_go_on_take_turns() {
        let more = &[Turn::More; 10][..];
        let (modules, counts) = modules(&[more, more, more]);
        for _ in 0..6 {
            assert_eq!(modules.due_ns(), 0);
            modules.serve(0);
        }
        assert!(
            counts
                .iter()
                .all(|count| count.load(Ordering::Relaxed) == 2)
        );
    }

    #[test]
    fn one_that_waits_is_due_at_its_time_or_by_its_channel() {
        let wait = &[Turn::Wait(500), Turn::Wait(u64::MAX)][..];
        let (modules, _) = modules(&[wait]);
        modules.serve(0);
        assert_eq!(modules.due_ns(), 500);
        modules.serve(0);
        assert_eq!(modules.due_ns(), u64::MAX);
        modules.channel("m").unwrap().post(b"x").unwrap();
        assert_eq!(modules.due_ns(), 0);
    }

    /// A request that comes while the module's turn on another vCPU ends must not be forgotten.
    #[test]
    fn a_turn_missed_is_made_up_for() {
        let (modules, counts) = modules(&[&[Turn::Wait(u64::MAX); 3]]);
        let tenant = &modules.tenants[0];
        let body = tenant.body.lock();
        assert_eq!(modules.serve_one(tenant, 0), None);
        assert!(tenant.is_missed.load(Ordering::SeqCst));
        drop(body);
        modules.serve(0);
        assert_eq!(counts[0].load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_busy_guest_has_four_times_what_modules_took() {
        let (modules, _) = modules(&[&[Turn::More; 3]]);
        assert_eq!(modules.share_ns(), 0);
        modules.serve(0);
        modules.shared(1000, 1500);
        assert_eq!((modules.due_ns(), modules.share_ns()), (0, 3500));
    }

    #[test]
    fn a_sleeper_is_found_and_given_time_to_wake() {
        let (modules, _) = modules(&[&[]]);
        assert_eq!(modules.sleeper(0), 0);
        modules.note(5, Rest::Asleep);
        modules.note(2, Rest::Asleep);
        assert_eq!(modules.sleeper(7), 4);
        assert_eq!(modules.share_ns(), 7 + SLICE_NS);
        modules.note(2, Rest::Awake);
        assert_eq!(modules.sleeper(7), 32);
    }
}
