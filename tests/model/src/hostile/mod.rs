//! The hostile host: one attack a file, chosen by `attack=NAME` on the command line.
//!
//! An [`Attack`] is asked at the points where a host can misbehave. It counts its attempts, and as breaches what the
//! modelled hardware should have refused and did not; whether the *paravisor* withstands is for a test to see, on the
//! guest's side and in the paravisor's own statistics.

mod doorbell_storm;
mod drop_page;
mod hv_flood;
mod late_timer;
mod lie_npf;
mod psp_busy;
mod repeat_timer;
mod replay_exit;
mod run_busy_vmsa;
mod spurious_return;
mod virtio;

use core::fmt;

use crate::host::ghcb::page_state::Change;
use crate::snp::addr::Gpa;
use crate::snp::cpu::{HostExit, NestedLie, Processor};
use crate::snp::rmp::Vmpl;
use crate::snp::vcpu::Vcpu;
use crate::snp::vm::Vm;
use crate::tap::Lie;

/// What the host does in place of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instead {
    /// Nothing: the entry happens.
    Enter,
    /// The lower VMPL is not run; its caller is told it was.
    GiveBack,
}

/// One way to misbehave.
pub trait Attack: Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;
    /// Takes the number after the name on the command line.
    fn set(&self, _number: u64) {}
    /// How often it was tried.
    fn attempts(&self) -> u64;
    /// How often the modelled hardware let through what it must refuse.
    fn breaches(&self) -> u64 {
        0
    }
    /// The vCPU is about to be entered.
    fn before_entry(&self, _vm: &Vm, _vcpu: &mut Vcpu) -> Instead {
        Instead::Enter
    }
    /// The vCPU left the guest at `vmpl`; the exit may be changed, and the processor used.
    fn after_exit(
        &self,
        _vm: &Vm,
        _vcpu: &mut Vcpu,
        _vmpl: Vmpl,
        _exit: &mut HostExit,
        _processor: &mut Processor,
    ) {
    }
    /// The guest asks for a page state change; `true` says it was made, though it was not.
    fn on_page_state(&self, _vm: &Vm, _change: &Change) -> bool {
        false
    }
    /// The guest has a message for the secure processor on this page; `true` says that there is no time for it.
    fn on_guest_request(&self, _page: &[u8; 4096]) -> bool {
        false
    }
    /// The lie about virtio devices it consists of, if it does.
    fn lie(&'static self) -> Option<&'static dyn Lie> {
        None
    }
    /// The host looks for events to deliver.
    fn on_events(&self, _vm: &Vm, _vcpu: &mut Vcpu) {}
    /// How much later than asked for, in microseconds, a timer of the guest's host fires.
    fn timer_lateness_us(&self) -> u64 {
        0
    }
    /// A nested page fault at memory that is there.
    fn on_nested_fault(&self, _vm: &Vm, _gpa: Gpa) -> Option<NestedLie> {
        None
    }
}

static ATTACKS: [&'static dyn Attack; 49] = [
    &doorbell_storm::ATTACK,
    &drop_page::ATTACK,
    &hv_flood::ATTACK,
    &late_timer::ATTACK,
    &lie_npf::ATTACK,
    &psp_busy::ATTACK,
    &repeat_timer::ATTACK,
    &replay_exit::ATTACK,
    &run_busy_vmsa::ATTACK,
    &spurious_return::ATTACK,
    &virtio::bar_moves::ATTACK,
    &virtio::block_flipped::ATTACK,
    &virtio::block_replayed::ATTACK,
    &virtio::block_rolled_back::ATTACK,
    &virtio::block_swapped::ATTACK,
    &virtio::config_shrinks::ATTACK,
    &virtio::descriptors_overwritten::ATTACK,
    &virtio::device_id_changes::ATTACK,
    &virtio::device_vanishes::ATTACK,
    &virtio::double_fetch::ATTACK,
    &virtio::early_completion::ATTACK,
    &virtio::features_appear::ATTACK,
    &virtio::features_unacked::ATTACK,
    &virtio::interrupt_storm::ATTACK,
    &virtio::length_long::ATTACK,
    &virtio::length_short::ATTACK,
    &virtio::mute_completions::ATTACK,
    &virtio::net_buffers_beyond::ATTACK,
    &virtio::net_checksum_beyond::ATTACK,
    &virtio::net_frame_long::ATTACK,
    &virtio::net_frame_short::ATTACK,
    &virtio::net_gso_size_zero::ATTACK,
    &virtio::net_gso_unknown::ATTACK,
    &virtio::net_header_length_beyond::ATTACK,
    &virtio::net_header_nonsense::ATTACK,
    &virtio::power_cut::ATTACK,
    &virtio::power_cut::LAST,
    &virtio::queue_size_changes::ATTACK,
    &virtio::sealed_flipped::ATTACK,
    &virtio::sealed_foreign::ATTACK,
    &virtio::sealed_older::ATTACK,
    &virtio::sealed_refused::ATTACK,
    &virtio::sealed_swapped::ATTACK,
    &virtio::silence::ATTACK,
    &virtio::silent_interrupts::ATTACK,
    &virtio::status_lies::ATTACK,
    &virtio::used_index_jumps::ATTACK,
    &virtio::used_never_posted::ATTACK,
    &virtio::used_twice::ATTACK,
];

/// The attack of that name; `NAME:NUMBER` is one that is told a number.
pub fn find(words: &str) -> Option<&'static dyn Attack> {
    let (name, number) = words.split_once(':').unwrap_or((words, "0"));
    let attack = ATTACKS.into_iter().find(|attack| attack.name() == name)?;
    attack.set(number.parse().ok()?);
    Some(attack)
}

/// The names of all attacks, to be printed.
#[derive(Clone, Copy, Debug)]
pub struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, attack) in ATTACKS.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", attack.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attack_is_found_by_its_name_and_no_two_share_one() {
        for (index, attack) in ATTACKS.iter().enumerate() {
            let found = ATTACKS
                .iter()
                .position(|other| other.name() == attack.name());
            assert_eq!(found, Some(index));
        }
        assert!(find("nothing").is_none());
        assert!(find("late-timer:7").is_some() && find("late-timer:x").is_none());
    }
}
