//! A console: characters as they are, copied between guest and host.
//!
//! The guest's driver waits on the spot until its characters are taken, and a vCPU with it. A host's console that is full makes it wait for as
//! long as a disk may keep a request. After that, until there is room again, and once it is offline, characters are taken and lost. What
//! comes in while the guest has no buffer waits here, the rest with the host.

use alloc::boxed::Box;
use alloc::vec;

use stockade_backend::HostBus;
use stockade_backend::console::{BUFFER_BYTES, Console as Wire, Size};
use stockade_backend::shared::AnyShared;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::console::{Console, ConsoleSize};

use super::{Engine, Refusals, Turn};

/// Buffers taken in each direction in a turn.
const BUDGET: usize = 16;

/// What lies between a console and the host's.
pub struct Characters {
    wire: Wire<AnyShared>,
    /// Characters on their way out.
    outgoing: Box<[u8]>,
    /// Characters on their way in, and which of them found no buffer of the guest.
    incoming: Box<[u8]>,
    waiting: core::ops::Range<usize>,
    /// Characters of the guest there was no room for.
    lost: u64,
}

impl Characters {
    /// Returns the engine in front of `wire`, and the front-end.
    #[must_use]
    pub fn new(wire: Wire<AnyShared>) -> (Console, Self) {
        let front = Console::new(size(wire.size()));
        let buffer = || vec![0; BUFFER_BYTES].into_boxed_slice();
        let engine = Self {
            wire,
            outgoing: buffer(),
            incoming: buffer(),
            waiting: 0..0,
            lost: 0,
        };
        (front, engine)
    }

    /// Passes on what the guest writes.
    fn send(&mut self, console: &mut Console, memory: &dyn GuestMemory) -> Turn {
        for _ in 0..BUDGET {
            if !self.wire.can_send() && self.may_take_more() {
                // The host's next interrupt says when there is room.
                let has_room = self.wire.listen_for_room();
                return if has_room { Turn::More } else { Turn::Done };
            }
            let len = console.take_output(memory, &mut self.outgoing);
            if len == 0 {
                return Turn::Done;
            }
            let characters = self.outgoing.get(..len).unwrap_or_default();
            if !self.wire.send(characters) {
                self.lose(len);
            }
        }
        Turn::More
    }

    /// Returns whether a console that is full is waited for.
    fn may_take_more(&self) -> bool {
        self.wire.failure().is_none() && !self.wire.is_stuck()
    }

    fn lose(&mut self, len: usize) {
        if self.lost == 0 {
            log::warn!("console: the host takes nothing: what the guest writes is lost");
        }
        self.lost = self.lost.saturating_add(len as u64);
    }

    /// Gives the guest what came in.
    fn receive(&mut self, console: &mut Console, memory: &dyn GuestMemory) -> Turn {
        for _ in 0..BUDGET {
            if self.waiting.is_empty() {
                self.waiting = 0..self.wire.receive(&mut self.incoming);
            }
            let characters = self.incoming.get(self.waiting.clone()).unwrap_or_default();
            if characters.is_empty() {
                return Turn::Done;
            }
            let given = console.push_input(memory, characters);
            self.waiting.start += given;
            if given == 0 {
                // The driver notifies when it has room.
                return Turn::Done;
            }
        }
        Turn::More
    }
}

impl Engine for Characters {
    type Front = Console;

    fn refusals(&self, _: &Console) -> Refusals {
        Refusals {
            lost_characters: self.lost,
            offline_devices: u64::from(self.wire.failure().is_some()),
            ..Refusals::default()
        }
    }

    fn turn(
        &mut self,
        console: &mut Console,
        memory: &dyn GuestMemory,
        mut bus: &mut dyn HostBus,
    ) -> Turn {
        let was_online = self.wire.failure().is_none();
        console.resize(size(self.wire.size()));
        let sent = self.send(console, memory);
        let received = self.receive(console, memory);
        self.wire.publish(&mut bus);
        // What waits for a console that has just gone offline is taken by the next turn.
        let has_failed = was_online && self.wire.failure().is_some();
        let has_more = has_failed || self.waiting.is_empty() && self.wire.listen();
        if sent == Turn::More || received == Turn::More || has_more {
            return Turn::More;
        }
        Turn::Done
    }

    fn check(&mut self, mut bus: &mut dyn HostBus) {
        self.wire.check(&mut bus);
    }

    fn watch(&mut self, mut bus: &mut dyn HostBus, now_ns: u64) -> Option<u64> {
        self.wire.watch(&mut bus, now_ns)
    }
}

fn size(Size { columns, rows }: Size) -> ConsoleSize {
    ConsoleSize { columns, rows }
}

#[cfg(test)]
mod tests;
