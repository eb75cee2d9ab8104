//! A network card: frames, and what was left undone to them, between guest and host.
//!
//! The guest may leave checksums and the splitting of large TCP packets undone whatever the host's card does: what that does not do is done
//! here. Likewise what the host leaves undone and the guest does not take. So a guest sends 64 KiB by one notification, and a frame of the host's is
//! never more than the guest agreed to. Headers of either side are checked before anything is done about them.
//!
//! A frame that comes in while the guest has no buffer for it waits here; the next ones wait with the host.

mod frame;

use stockade_backend::HostBus;
use stockade_backend::net::{MAX_FRAME, MAX_LARGE_FRAME, Net as Wire, Received};
use stockade_backend::shared::AnyShared;
use stockade_bus::GuestMemory;
use stockade_devices::virtio::Features;
use stockade_devices::virtio::net::{
    Address, Given, Header, Listening, Net, NetOptions, Taken, Telling, features,
};

use super::{Engine, Refusals, Turn};
use frame::{Frame, Piece};

/// Frames taken in each direction in a turn.
const BUDGET: usize = 64;
/// Bytes after which a direction's turn is over, too.
const BYTES_BUDGET: usize = 256 << 10;

/// What a look at a ring found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looked {
    /// Nothing, or nothing that can be passed on; somebody will call.
    Nothing,
    /// All there was.
    Found,
    /// As much as a turn may take.
    Enough,
}

impl Looked {
    fn turn(self) -> Turn {
        match self {
            Self::Nothing | Self::Found => Turn::Done,
            Self::Enough => Turn::More,
        }
    }
}

/// What lies between a card and the host's.
pub struct Frames {
    wire: Wire<AnyShared>,
    /// What the host's card may leave undone, and what may be left to it.
    agreed: Features,
    /// The frame on its way out.
    outgoing: Frame,
    /// The frame on its way in.
    incoming: Frame,
    /// The last look at the guest's ring found frames, and the driver is not asked to notify.
    gathers_sent: bool,
    /// The same of the host's ring.
    gathers_received: bool,
    is_plugged: bool,
    /// Frames of the host's, or of the guest's, that are not what their headers say.
    dropped: u64,
}

impl Frames {
    /// Returns the engine in front of `wire`, and a front-end with this address.
    #[must_use]
    pub fn new(wire: Wire<AnyShared>, address: [u8; 6]) -> (Net, Self) {
        let agreed = Features::from_bits_retain(wire.offloads().bits());
        let front = Net::new(NetOptions {
            address: Address(address),
            mtu: None,
            // What the host's card does not do is done here. What it does not leave undone nobody need take.
            offloads: features::TRANSMIT_OFFLOADS | agreed & features::RECEIVE_OFFLOADS,
        });
        let engine = Self {
            wire,
            agreed,
            outgoing: Frame::new(MAX_LARGE_FRAME, MAX_FRAME),
            incoming: Frame::new(MAX_LARGE_FRAME, MAX_FRAME),
            gathers_sent: false,
            gathers_received: false,
            is_plugged: true,
            dropped: 0,
        };
        (front, engine)
    }

    /// Passes on what the guest sends. Without room at the host's card it stays in the guest's ring.
    ///
    /// Where there were frames there may soon be more: the next look finds them, without an exit for each, and without an interrupt for
    /// what the driver sees by itself until then. Only a look that finds none asks the driver to notify.
    fn send(&mut self, net: &mut Net, memory: &dyn GuestMemory) -> Turn {
        // Of what the last look gave back, and the driver has not seen.
        net.tell_of_sent(memory, Telling::Later);
        let looked = self.send_some(net, memory);
        self.gathers_sent = looked == Looked::Found;
        if !self.gathers_sent {
            net.tell_of_sent(memory, Telling::Now);
        }
        looked.turn()
    }

    fn send_some(&mut self, net: &mut Net, memory: &dyn GuestMemory) -> Looked {
        let (mut bytes, mut is_found) = (0, false);
        for _ in 0..BUDGET {
            if bytes >= BYTES_BUDGET {
                return Looked::Enough;
            }
            if self.outgoing.piece().is_none() {
                match net.take_frame(memory, self.outgoing.place()) {
                    Taken::Frame { header, len } => self.begin_out(header, len),
                    Taken::Nothing if is_found => return Looked::Found,
                    Taken::Nothing => match net.listen(memory) {
                        Listening::Already => return Looked::Nothing,
                        Listening::FromNow => continue,
                    },
                    Taken::Later => return Looked::Enough,
                }
                is_found = true;
            }
            let Some(Piece {
                header,
                bytes: piece,
            }) = self.outgoing.piece()
            else {
                continue;
            };
            if !self.wire.send(&header.to_bytes(0), piece) {
                if self.wire.failure().is_some() {
                    self.outgoing.drop_rest();
                    continue;
                }
                // The host's next interrupt says when there is room.
                let has_room = self.wire.listen_for_room(piece.len());
                return if has_room {
                    Looked::Enough
                } else {
                    Looked::Nothing
                };
            }
            bytes += piece.len();
            self.outgoing.advance();
        }
        Looked::Enough
    }

    /// Has a frame of the guest's sent: as it is if the host's card does the rest, else in pieces. The front-end has checked its header.
    fn begin_out(&mut self, header: Header, len: usize) {
        let is_done_outside = header.is_finished() || {
            let frame = self.outgoing.bytes(len);
            header.checked_from_guest(frame, self.agreed).is_some()
        };
        let longest = self.wire.longest_sent();
        if !self.outgoing.begin(header, len, is_done_outside, longest) {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Gives the guest what came in. Only a look that finds nothing asks the host to signal.
    fn receive(&mut self, net: &mut Net, memory: &dyn GuestMemory) -> Turn {
        let looked = self.receive_some(net, memory);
        self.gathers_received = looked == Looked::Found;
        looked.turn()
    }

    fn receive_some(&mut self, net: &mut Net, memory: &dyn GuestMemory) -> Looked {
        let (mut bytes, mut is_found) = (0, false);
        for _ in 0..BUDGET {
            if bytes >= BYTES_BUDGET {
                return Looked::Enough;
            }
            if self.incoming.piece().is_none() {
                let Some(received) = self.wire.receive(self.incoming.place()) else {
                    return if is_found {
                        Looked::Found
                    } else {
                        Looked::Nothing
                    };
                };
                self.begin_in(net, received);
            }
            let Some(Piece {
                header,
                bytes: piece,
            }) = self.incoming.piece()
            else {
                continue;
            };
            bytes += piece.len();
            match net.give_frame(memory, header, piece) {
                Given::Delivered => {
                    is_found = true;
                    self.incoming.advance();
                }
                // Nobody hears of it: it is no reason to leave the host unasked.
                Given::Dropped => self.incoming.advance(),
                // The driver notifies when it has room.
                Given::NoRoom => return Looked::Nothing,
            }
        }
        Looked::Enough
    }

    /// Has a frame of the host's given: as it is if the guest does the rest, else in pieces.
    fn begin_in(&mut self, net: &Net, Received { header, len }: Received) {
        let header = Header::from_bytes(header);
        let frame = self.incoming.bytes(len);
        let is_taken = header
            .checked_for_guest(frame, self.agreed)
            .map(|header| (header, header.is_finished() || net.takes(header, frame)));
        let is_begun = is_taken.is_some_and(|(header, is_taken)| {
            self.incoming.begin(header, len, is_taken, MAX_LARGE_FRAME)
        });
        if !is_begun {
            self.dropped = self.dropped.saturating_add(1);
        }
    }
}

impl Engine for Frames {
    type Front = Net;

    fn gathers(&self, _: &Net) -> bool {
        self.gathers_sent || self.gathers_received
    }

    fn refusals(&self, net: &Net) -> Refusals {
        let here = self.dropped.saturating_add(self.wire.dropped());
        Refusals {
            dropped_frames: here.saturating_add(net.dropped()),
            offline_devices: u64::from(self.wire.failure().is_some()),
            ..Refusals::default()
        }
    }

    fn turn(&mut self, net: &mut Net, memory: &dyn GuestMemory, mut bus: &mut dyn HostBus) -> Turn {
        let sent = self.send(net, memory);
        let received = self.receive(net, memory);
        self.wire.publish(&mut bus);
        if self.is_plugged && self.wire.failure().is_some() {
            self.is_plugged = false;
            net.set_connected(false);
        }
        let listens = !self.gathers_received && self.incoming.piece().is_none();
        let has_more = listens && self.wire.listen();
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

#[cfg(test)]
mod tests;
