//! A test device: four ports by which a guest speaks to a module of the paravisor. Only on machines with test devices.
//!
//! | port | read | write |
//! |---|---|---|
//! | 0 | the next byte of the response | the next byte of the request |
//! | 1 | [`ChannelState`](crate::module::channel::ChannelState) as a number | 1 post, 2 cancel, 3 forget the request, 4 take the response |
//! | 2 | how many modules there are | which module |
//! | 3 | the rest of the response, in units of 64 bytes | |

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use stockade_bus::{AccessError, PortIo};

use crate::module::channel::LONGEST_MESSAGE;
use crate::module::{Channel, Modules};

/// The device.
pub(super) struct ModulePort {
    modules: Arc<Modules>,
    chosen: usize,
    request: Vec<u8>,
    response: Vec<u8>,
    read: usize,
}

impl ModulePort {
    pub(super) const PORT: u16 = 0x5A0;
    pub(super) const PORTS: u16 = 4;

    pub(super) fn new(modules: Arc<Modules>) -> Self {
        Self {
            modules,
            chosen: 0,
            request: Vec::with_capacity(LONGEST_MESSAGE),
            response: Vec::with_capacity(LONGEST_MESSAGE),
            read: 0,
        }
    }

    pub(super) fn reset(&mut self) {
        if let Some(channel) = self.channel() {
            channel.abandon();
        }
        *self = Self::new(Arc::clone(&self.modules));
    }

    fn channel(&self) -> Option<&Arc<Channel>> {
        self.modules.channels().nth(self.chosen)
    }

    fn command(&mut self, command: u8) {
        let Some(channel) = self.channel().map(Arc::clone) else {
            return;
        };
        match command {
            // A channel that is busy drops it, and says so in its state.
            1 => drop(channel.post(&self.request)),
            2 => channel.cancel(),
            3 => channel.abandon(),
            4 => self.take(&channel),
            _ => {}
        }
        if command == 1 || command == 3 {
            self.request.clear();
        }
    }

    fn take(&mut self, channel: &Channel) {
        let mut buffer = vec![0; LONGEST_MESSAGE];
        let len = match channel.take(&mut buffer) {
            Some(Ok(len)) => len,
            _ => 0,
        };
        buffer.truncate(len);
        self.response = buffer;
        self.read = 0;
    }

    fn next_byte(&mut self) -> u8 {
        let byte = self.response.get(self.read).copied();
        self.read += usize::from(byte.is_some());
        byte.unwrap_or(0)
    }
}

impl PortIo for ModulePort {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        let left = self.response.len() - self.read;
        *byte = match offset {
            0 => self.next_byte(),
            1 => self.channel().map_or(0xFF, |channel| channel.state() as u8),
            2 => u8::try_from(self.modules.channels().count()).unwrap_or(u8::MAX),
            _ => u8::try_from(left.div_ceil(64)).unwrap_or(u8::MAX),
        };
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        match offset {
            0 if self.request.len() < LONGEST_MESSAGE => self.request.push(*byte),
            1 => self.command(*byte),
            2 => self.chosen = usize::from(*byte),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module::runtime::{Body, Turn};
    use alloc::boxed::Box;

    struct Nothing;

    impl Body for Nothing {
        fn turn(&mut self, _: u64) -> Turn {
            Turn::Wait(u64::MAX)
        }
    }

    #[test]
    fn a_message_goes_through_byte_by_byte() {
        let mut modules = Modules::default();
        let channel = Arc::new(Channel::new(modules.bell().clone()));
        modules.add("m", Arc::clone(&channel), Box::new(Nothing));
        let mut port = ModulePort::new(Arc::new(modules));
        let read = |port: &mut ModulePort, offset| {
            let mut byte = [0];
            port.port_read(offset, &mut byte).unwrap();
            byte[0]
        };
        for byte in *b"hi" {
            port.port_write(0, &[byte]).unwrap();
        }
        port.port_write(1, &[1]).unwrap();
        assert_eq!(
            channel.receive(|request| Some(request.to_vec())).unwrap(),
            b"hi"
        );
        channel.answer(|response| {
            response.extend_from_slice(b"ok");
            true
        });
        assert_eq!(read(&mut port, 1), 2);
        port.port_write(1, &[4]).unwrap();
        let answer = [0, 0, 0, 0, 1].map(|offset| read(&mut port, offset));
        assert_eq!(answer, [b'o', b'k', 0, 0, 0]);
        port.port_write(2, &[9]).unwrap();
        assert_eq!((read(&mut port, 1), read(&mut port, 2)), (0xFF, 1));
    }
}
