//! The guest's lives: all vCPUs start it together, run it to its end, and start it again after a reset.
//!
//! The first vCPU leads ([`lead`]), the others follow ([`follow`]); [`crate::crew`] has the order in which they meet.

use stockade_abi::terminate::StopReason;
use stockade_abi::vmsa::Vmsa;
use stockade_boot::manifest::Start;
use stockade_bus::GuestMemory;

use crate::crew::End;
use crate::host::{Host, Processor, Timekeeper};
use crate::machine::Machine;
use crate::run_loop;
use crate::share;
use crate::vcpu::Vcpu;

/// How many resets in a row, each soon after the one before, are a loop.
const RESET_LOOP_LIMIT: u32 = 4;
/// What soon is for a kernel, and for firmware, which is sooner where a guest can ask for the next reset.
const RESET_LOOP_NS: u64 = 10_000_000_000;
const FIRMWARE_RESET_LOOP_NS: u64 = 1_000_000_000;
/// How long the first vCPU waits for the others' last figures.
const PATIENCE_NS: u64 = 500_000_000;

/// A vCPU and all it works with.
pub struct Post<'a, P, H, C> {
    /// The vCPU.
    pub vcpu: &'a mut Vcpu,
    /// The machine it belongs to.
    pub machine: &'a Machine<C>,
    /// The processor that runs it.
    pub processor: &'a mut P,
    /// The host as that processor sees it.
    pub host: &'a mut H,
    /// Guest memory.
    pub memory: &'a dyn GuestMemory,
}

impl<P: Processor, H: Host, C: Timekeeper + Clone> Post<'_, P, H, C> {
    fn power_on(&mut self) {
        self.processor.reset();
        self.vcpu.power_on(self.machine);
        let signature = self.vcpu.signature(self.processor.vmsa());
        self.processor.vmsa_mut().rdx = u64::from(signature);
    }

    fn run(&mut self) -> End {
        run_loop::run(
            self.vcpu,
            self.machine,
            self.processor,
            self.host,
            self.memory,
        )
    }

    /// Waits for what another vCPU will kick this one for.
    fn wait_until(&mut self, is_done: impl Fn(&Machine<C>) -> bool) -> Result<(), StopReason> {
        loop {
            run_loop::listen(self.vcpu, self.machine, self.host)?;
            if is_done(self.machine) {
                return Ok(());
            }
            self.host.wait()?;
        }
    }

    /// Waits until all others have done as ordered.
    fn muster(&mut self) -> Result<(), StopReason> {
        self.wait_until(|machine| machine.crew().is_complete())
    }

    /// Gives the next order.
    fn order(&mut self) -> Result<(), StopReason> {
        let crew = self.machine.crew();
        crew.order();
        crew.others(self.vcpu.index)
            .try_for_each(|other| self.host.kick(other))
    }

    /// Reports to the first and waits for the next order.
    fn report(&mut self) -> Result<(), StopReason> {
        let crew = self.machine.crew();
        let order = crew.last_order();
        crew.report();
        self.host.kick(0)?;
        self.wait_until(|machine| machine.crew().last_order() != order)
    }

    /// Waits a while for what the others have counted. One that its host keeps in the guest is not waited for.
    fn collect_figures(&mut self) -> Result<(), StopReason> {
        let until = self.machine.clock().now_ns() + PATIENCE_NS;
        self.host.arm_timer(self.machine.clock().tsc_at(until))?;
        self.wait_until(|machine| {
            machine.crew().is_complete() || machine.clock().now_ns() >= until
        })?;
        self.machine
            .with_ledger(|ledger| self.vcpu.stats.add(ledger));
        Ok(())
    }
}

/// Starts the guest again and again, until it ends otherwise than by a reset. `start` writes what the guest starts with to its memory
/// and its first vCPU's registers.
pub fn lead<P: Processor, H: Host, C: Timekeeper + Clone>(
    mut post: Post<'_, P, H, C>,
    start: &mut dyn FnMut(&mut Vmsa) -> Result<(), StopReason>,
) -> End {
    let end = lives(&mut post, start).unwrap_or_else(End::Stop);
    // Figures are all that is lost without.
    let _ = post.collect_figures();
    end
}

fn lives<P: Processor, H: Host, C: Timekeeper + Clone>(
    post: &mut Post<'_, P, H, C>,
    start: &mut dyn FnMut(&mut Vmsa) -> Result<(), StopReason>,
) -> Result<End, StopReason> {
    let mut watch = ResetWatch::new(post.machine.start());
    loop {
        post.muster()?;
        post.power_on();
        share::start_modules(post.vcpu, post.machine, post.host)?;
        share::start_tpm(post.vcpu, post.machine, post.host)?;
        start(post.processor.vmsa_mut())?;
        log::info!("entering the guest");
        post.order()?;
        let end = post.run();
        if end != End::Reset && !resets_by_shutdown(post.machine, end) {
            share::keep_variables(post.vcpu, post.machine, post.host)?;
            return Ok(end);
        }
        post.vcpu.stats.resets += 1;
        post.muster()?;
        if watch.is_loop_after(post.machine.clock().now_ns()) {
            share::keep_variables(post.vcpu, post.machine, post.host)?;
            return Err(StopReason::GUEST_RESET_LOOP);
        }
        match end {
            End::Reset => log::info!("the guest resets"),
            _ => log::info!("the guest resets by a triple fault"),
        }
        post.machine.reset();
        post.machine.crew().begin();
        post.order()?;
    }
}

/// Returns whether the processor has shut down and the machine resets for it, as a PC does. Without firmware to start over from the end is
/// worth more: it says what went wrong.
fn resets_by_shutdown<C>(machine: &Machine<C>, end: End) -> bool
where
    C: Timekeeper + Clone,
{
    machine.start() == Start::Firmware && end == End::Stop(StopReason::GUEST_TRIPLE_FAULT)
}

/// Runs a further vCPU through all lives of the guest. Returns only when its host fails it.
pub fn follow<P: Processor, H: Host, C: Timekeeper + Clone>(
    mut post: Post<'_, P, H, C>,
) -> StopReason {
    loop {
        if let Err(reason) = one_life(&mut post) {
            return reason;
        }
    }
}

fn one_life<P: Processor, H: Host, C: Timekeeper + Clone>(
    post: &mut Post<'_, P, H, C>,
) -> Result<(), StopReason> {
    post.power_on();
    post.report()?;
    post.run();
    let figures = core::mem::take(&mut post.vcpu.stats);
    post.machine.with_ledger(|ledger| ledger.add(&figures));
    post.report()
}

/// Tells a guest that resets now and then from one that does nothing else.
#[derive(Debug)]
struct ResetWatch {
    soon_ns: u64,
    in_a_row: u32,
    last_ns: u64,
}

impl ResetWatch {
    fn new(start: Start) -> Self {
        Self {
            soon_ns: match start {
                Start::Kernel => RESET_LOOP_NS,
                Start::Firmware => FIRMWARE_RESET_LOOP_NS,
            },
            in_a_row: 0,
            last_ns: 0,
        }
    }

    fn is_loop_after(&mut self, now_ns: u64) -> bool {
        let is_soon = now_ns - self.last_ns < self.soon_ns;
        self.in_a_row = if is_soon { self.in_a_row + 1 } else { 1 };
        self.last_ns = now_ns;
        self.in_a_row > RESET_LOOP_LIMIT
    }
}

#[cfg(test)]
mod tests;
