//! A network card: frames as they are, without offloads, one copy of our own between guest and host.
//!
//! A frame that comes in while the guest has no buffer for it waits here; the next ones wait with the host.

use alloc::boxed::Box;
use alloc::vec;

use stockade_backend::HostBus;
use stockade_backend::net::{MAX_FRAME, Net as Wire};
use stockade_backend::shared::AnyShared;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::Features;
use stockade_devices::virtio::net::{Address, Given, Header, Net, NetOptions, Taken};

use super::{Engine, Turn};

/// Frames taken in each direction in a turn.
const BUDGET: usize = 64;

/// What lies between a card and the host's.
pub struct Frames {
    wire: Wire<AnyShared>,
    /// The frame on its way out.
    outgoing: Box<[u8]>,
    /// The frame on its way in.
    incoming: Box<[u8]>,
    /// How much of it is there and found no buffer of the guest.
    waiting: Option<usize>,
    is_plugged: bool,
}

impl Frames {
    /// Returns the engine in front of `wire`, and a front-end with this address.
    #[must_use]
    pub fn new(wire: Wire<AnyShared>, address: [u8; 6]) -> (Net, Self) {
        let front = Net::new(NetOptions {
            address: Address(address),
            mtu: None,
            offloads: Features::empty(),
        });
        let buffer = || vec![0; MAX_FRAME].into_boxed_slice();
        let engine = Self {
            wire,
            outgoing: buffer(),
            incoming: buffer(),
            waiting: None,
            is_plugged: true,
        };
        (front, engine)
    }

    /// Passes on what the guest sends. Without room at the host's card it stays in the guest's ring.
    fn send(&mut self, net: &mut Net, memory: &dyn GuestMemory) -> Turn {
        for _ in 0..BUDGET {
            if !self.wire.can_send() {
                // The host's next interrupt says when there is room.
                let came = self.wire.listen_for_room() && self.wire.can_send();
                return if came { Turn::More } else { Turn::Done };
            }
            match net.take_frame(memory, &mut self.outgoing) {
                Taken::Frame { len, .. } => {
                    let frame = self.outgoing.get(..len).unwrap_or_default();
                    self.wire.send(frame);
                }
                Taken::Nothing => return Turn::Done,
                Taken::Later => return Turn::More,
            }
        }
        Turn::More
    }

    /// Gives the guest what came in.
    fn receive(&mut self, net: &mut Net, memory: &dyn GuestMemory) -> Turn {
        for _ in 0..BUDGET {
            let waiting = self.waiting.take();
            let Some(len) = waiting.or_else(|| self.wire.receive(&mut self.incoming)) else {
                return Turn::Done;
            };
            let frame = self.incoming.get(..len).unwrap_or_default();
            match net.give_frame(memory, Header::default(), frame) {
                Given::Delivered | Given::Dropped => {}
                Given::NoRoom => {
                    self.waiting = Some(len);
                    // The driver notifies when it has room.
                    return Turn::Done;
                }
            }
        }
        Turn::More
    }
}

impl Engine for Frames {
    type Front = Net;

    fn turn(&mut self, net: &mut Net, memory: &dyn GuestMemory, mut bus: &mut dyn HostBus) -> Turn {
        let sent = self.send(net, memory);
        let received = self.receive(net, memory);
        self.wire.publish(&mut bus);
        if self.is_plugged && self.wire.failure().is_some() {
            self.is_plugged = false;
            net.set_connected(false);
        }
        let has_more = self.waiting.is_none() && self.wire.listen();
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
