//! Port accesses, from what the exit said about them: the instruction itself is not looked at. APM vol. 2, 15.10.2.

use iced_x86::Register;
use stockade_abi::exit::IoioInfo;

use super::flags::Width;
use super::guest::Guest;
use super::string::Pointers;
use super::{Done, MmioBus, PortBus, Stop};
use crate::walk::Access;

/// A port access, parsed.
#[derive(Clone, Copy)]
struct PortAccess {
    info: IoioInfo,
    width: Width,
}

/// A port access with its memory side, parsed.
#[derive(Clone, Copy)]
struct StringAccess {
    port: PortAccess,
    pointers: Pointers,
    segment: Register,
}

/// Executes the access an exit describes.
pub(super) fn execute<B: MmioBus + PortBus + ?Sized>(
    mut guest: Guest<'_, B>,
    info: IoioInfo,
    next_rip: u64,
) -> Result<Done, Stop> {
    let flags_before = guest.cpu.flags();
    let access = PortAccess::parse(info)?;
    if info.string() {
        let access = StringAccess::parse(access)?;
        if !guest.string_access(access)? {
            return Ok(guest.cpu.pause(flags_before));
        }
    } else {
        guest.register_access(access);
    }
    Ok(guest.cpu.complete(next_rip, flags_before))
}

impl PortAccess {
    fn parse(info: IoioInfo) -> Result<Self, Stop> {
        let width = match (info.size8(), info.size16(), info.size32()) {
            (true, false, false) => Width::Byte,
            (false, true, false) => Width::Word,
            (false, false, true) => Width::Dword,
            _ => return Err(Stop::MalformedPortExit(info.into_bits())),
        };
        Ok(Self { info, width })
    }
}

impl StringAccess {
    fn parse(port: PortAccess) -> Result<Self, Stop> {
        let info = port.info;
        let malformed = Stop::MalformedPortExit(info.into_bits());
        let pointers = match (info.address16(), info.address32(), info.address64()) {
            (true, false, false) => Pointers::BITS16,
            (false, true, false) => Pointers::BITS32,
            (false, false, true) => Pointers::BITS64,
            _ => return Err(malformed),
        };
        let segment = match info.segment() {
            _ if info.is_in() => Register::ES,
            0 => Register::ES,
            1 => Register::CS,
            2 => Register::SS,
            3 => Register::DS,
            4 => Register::FS,
            5 => Register::GS,
            _ => return Err(malformed),
        };
        Ok(Self {
            port,
            pointers,
            segment,
        })
    }
}

impl<B: MmioBus + PortBus + ?Sized> Guest<'_, B> {
    fn register_access(&mut self, access: PortAccess) {
        let register = match access.width {
            Width::Byte => Register::AL,
            Width::Word => Register::AX,
            _ => Register::EAX,
        };
        if access.info.is_in() {
            let value = self.read_port(access);
            self.cpu.write(register, value);
        } else {
            let value = self.cpu.read(register);
            self.write_port(access, value);
        }
    }

    /// Executes a string access, or as much of it as one call may. Returns whether it is complete.
    fn string_access(&mut self, access: StringAccess) -> Result<bool, Stop> {
        if !access.port.info.rep() {
            self.string_element(access)?;
            return Ok(true);
        }
        for _ in 0..self.cpu.repeat_limit() {
            if self.cpu.is_counted_out(access.pointers) {
                return Ok(true);
            }
            self.string_element(access)?;
            self.cpu.count_down(access.pointers);
        }
        Ok(self.cpu.is_counted_out(access.pointers))
    }

    fn string_element(&mut self, access: StringAccess) -> Result<(), Stop> {
        let width = access.port.width;
        let (pointer, direction) = if access.port.info.is_in() {
            (access.pointers.target, Access::Write)
        } else {
            (access.pointers.source, Access::Read)
        };
        let offset = self.cpu.read(pointer);
        let span = self.locate(access.segment, offset, width.bytes(), direction)?;
        if access.port.info.is_in() {
            let value = self.read_port(access.port);
            self.write_integer(&span, value, width)?;
        } else {
            let value = self.read_integer(&span, width)?;
            self.write_port(access.port, value);
        }
        self.cpu.advance(pointer, width);
        Ok(())
    }

    fn read_port(&mut self, access: PortAccess) -> u64 {
        let mut bytes = [0; 8];
        let data = &mut bytes[..access.width.bytes()];
        self.bus.port_read(access.info.port(), data);
        u64::from_le_bytes(bytes)
    }

    fn write_port(&mut self, access: PortAccess, value: u64) {
        let bytes = value.to_le_bytes();
        self.bus
            .port_write(access.info.port(), &bytes[..access.width.bytes()]);
    }
}
