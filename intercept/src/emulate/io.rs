//! Port accesses, from what the exit said about them: the instruction itself is not looked at. APM vol. 2, 15.10.2.

use iced_x86::Register;

use super::flags::Width;
use super::guest::Guest;
use super::string::Pointers;
use super::{Done, MmioBus, PortBus, Stop};
use crate::debug::{Touch, Transfer};
use crate::exit::{Direction, IoAccess, StringIo};
use crate::walk::Access;

/// A port access, checked.
#[derive(Clone, Copy)]
struct PortAccess {
    port: u16,
    width: Width,
    direction: Direction,
}

/// The memory side of a port access, checked.
#[derive(Clone, Copy)]
struct Memory {
    pointers: Pointers,
    segment: Register,
}

/// Executes the access an exit describes.
pub(super) fn execute<B: MmioBus + PortBus + ?Sized>(
    mut guest: Guest<'_, B>,
    access: &IoAccess,
    next_rip: u64,
) -> Result<Done, Stop> {
    let flags_before = guest.cpu.flags();
    let port = PortAccess::parse(access).ok_or(Stop::MalformedPortExit)?;
    let Some(string) = access.string else {
        guest.register_access(port);
        return Ok(guest.cpu.complete(next_rip, flags_before, Transfer::None));
    };
    let memory = Memory::parse(string, port).ok_or(Stop::MalformedPortExit)?;
    if !string.rep {
        guest.string_element(port, memory)?;
    } else if !guest.repeat_string(port, memory)? {
        return Ok(guest.cpu.pause(flags_before));
    }
    Ok(guest.cpu.complete(next_rip, flags_before, Transfer::None))
}

impl PortAccess {
    fn parse(access: &IoAccess) -> Option<Self> {
        let width = Width::from_bytes(usize::from(access.width))?;
        Some(Self {
            port: access.port,
            width: Some(width).filter(|width| *width != Width::Qword)?,
            direction: access.direction,
        })
    }
}

impl Memory {
    /// INS writes to ES whatever the prefixes; OUTS reads from the segment the exit names.
    fn parse(string: StringIo, port: PortAccess) -> Option<Self> {
        let pointers = match string.address_size {
            2 => Pointers::BITS16,
            4 => Pointers::BITS32,
            8 => Pointers::BITS64,
            _ => return None,
        };
        let segment = match (port.direction, string.segment) {
            (Direction::Read, _) | (_, 0) => Register::ES,
            (_, 1) => Register::CS,
            (_, 2) => Register::SS,
            (_, 3) => Register::DS,
            (_, 4) => Register::FS,
            (_, 5) => Register::GS,
            _ => return None,
        };
        Some(Self { pointers, segment })
    }
}

impl<B: MmioBus + PortBus + ?Sized> Guest<'_, B> {
    fn register_access(&mut self, access: PortAccess) {
        let register = match access.width {
            Width::Byte => Register::AL,
            Width::Word => Register::AX,
            _ => Register::EAX,
        };
        match access.direction {
            Direction::Read => {
                let value = self.read_port(access);
                self.cpu.write(register, value);
            }
            Direction::Write => {
                let value = self.cpu.read(register);
                self.write_port(access, value);
            }
        }
    }

    /// Executes a repeated access, or as much of it as one call may. Returns whether it is complete.
    fn repeat_string(&mut self, port: PortAccess, memory: Memory) -> Result<bool, Stop> {
        for _ in 0..self.cpu.repeat_limit() {
            if self.cpu.is_counted_out(memory.pointers) {
                return Ok(true);
            }
            self.string_element(port, memory)?;
            self.cpu.count_down(memory.pointers);
            if self.cpu.has_met_breakpoint() {
                break;
            }
        }
        Ok(self.cpu.is_counted_out(memory.pointers))
    }

    /// Moves one element; its memory side is found before the port is touched.
    fn string_element(&mut self, port: PortAccess, memory: Memory) -> Result<(), Stop> {
        let (pointer, access) = match port.direction {
            Direction::Read => (memory.pointers.target, Access::Write),
            Direction::Write => (memory.pointers.source, Access::Read),
        };
        let offset = self.cpu.read(pointer);
        let span = self.locate(memory.segment, offset, port.width.bytes(), access)?;
        match port.direction {
            Direction::Read => {
                let value = self.read_port(port);
                self.write_integer(&span, value, port.width)?;
            }
            Direction::Write => {
                let value = self.read_integer(&span, port.width)?;
                self.write_port(port, value);
            }
        }
        self.cpu.advance(pointer, port.width);
        Ok(())
    }

    fn watch_port(&mut self, access: PortAccess) {
        let first = u64::from(access.port);
        let ports = first..first + access.width.bytes() as u64;
        self.cpu.watch(Touch::Port, ports);
    }

    fn read_port(&mut self, access: PortAccess) -> u64 {
        self.watch_port(access);
        let mut bytes = [0; 8];
        let data = &mut bytes[..access.width.bytes()];
        self.bus.port_read(access.port, data);
        u64::from_le_bytes(bytes)
    }

    fn write_port(&mut self, access: PortAccess, value: u64) {
        self.watch_port(access);
        let bytes = value.to_le_bytes();
        self.bus
            .port_write(access.port, &bytes[..access.width.bytes()]);
    }
}
