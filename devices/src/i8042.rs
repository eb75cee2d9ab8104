//! The keyboard controller (Intel 8042 as the PC/AT uses it) with nothing plugged in.
//!
//! It passes its self-test, keeps its command byte, answers that no keyboard and no mouse reply, and pulses the reset line:
//! what kernels that probe it, or reboot through it, need. The ACPI tables do not announce it.

use bitflags::bitflags;
use stockade_bus::{AccessError, PortIo};

use crate::RestoreError;
use crate::state::check_version;

/// Offset of the data port (60h).
pub const DATA: u16 = 0;
/// Offset of the command and status port (64h).
pub const COMMAND: u16 = 4;

bitflags! {
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Status: u8 {
        const OUTPUT_FULL = 1 << 0;
        const SYSTEM = 1 << 2;
        const COMMAND = 1 << 3;
        const UNLOCKED = 1 << 4;
        const AUX_OUTPUT = 1 << 5;
        const TIMEOUT = 1 << 6;
    }
}

/// Command byte after power-on: translation, both clocks disabled, self-test passed once it was run.
const COMMAND_BYTE_DEFAULT: u8 = 0x74;
/// The output port: reset not pulled, A20 open.
const OUTPUT_PORT: u8 = 0x03;
/// A device that does not answer.
const NO_REPLY: u8 = 0xFE;

/// What the next byte to the data port means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    /// It goes to the keyboard.
    Keyboard,
    CommandByte,
    OutputPort,
    /// It is to come back as if the keyboard or the mouse had sent it.
    Echo(Status),
    /// It goes to the mouse.
    Mouse,
}

impl Expect {
    /// Returns what a command expects behind it, if it expects anything.
    const fn after(command: u8) -> Option<Self> {
        Some(match command {
            0x60 => Self::CommandByte,
            0xD1 => Self::OutputPort,
            0xD2 => Self::Echo(Status::empty()),
            0xD3 => Self::Echo(Status::AUX_OUTPUT),
            0xD4 => Self::Mouse,
            _ => return None,
        })
    }

    /// Returns the command that expects this.
    const fn command(self) -> Option<u8> {
        Some(match self {
            Self::Keyboard => return None,
            Self::CommandByte => 0x60,
            Self::OutputPort => 0xD1,
            Self::Echo(kind) if kind.is_empty() => 0xD2,
            Self::Echo(_) => 0xD3,
            Self::Mouse => 0xD4,
        })
    }
}

/// The controller. A reset pulse is taken out by the machine with [`Keyboard8042::take_reset`].
#[derive(Debug)]
pub struct Keyboard8042 {
    command_byte: u8,
    expect: Expect,
    output: Option<(u8, Status)>,
    was_command: bool,
    is_reset_asked: bool,
}

impl Default for Keyboard8042 {
    fn default() -> Self {
        Self::new()
    }
}

impl Keyboard8042 {
    /// Returns the controller after power-on.
    #[must_use]
    pub fn new() -> Self {
        Self {
            command_byte: COMMAND_BYTE_DEFAULT,
            expect: Expect::Keyboard,
            output: None,
            was_command: false,
            is_reset_asked: false,
        }
    }

    /// Puts the controller back to power-on.
    pub fn reset(&mut self) {
        *self = Self::new();
    }

    /// Returns whether the guest pulsed the reset line since the last call.
    pub fn take_reset(&mut self) -> bool {
        core::mem::take(&mut self.is_reset_asked)
    }

    fn status(&self) -> u8 {
        let mut status = Status::SYSTEM | Status::UNLOCKED;
        status.set(Status::COMMAND, self.was_command);
        if let Some((_, kind)) = self.output {
            status |= Status::OUTPUT_FULL | kind;
        }
        status.bits()
    }

    fn answer(&mut self, byte: u8) {
        self.output = Some((byte, Status::empty()));
    }

    fn command(&mut self, command: u8) {
        self.was_command = true;
        self.expect = Expect::after(command).unwrap_or(Expect::Keyboard);
        match command {
            0x20 => self.answer(self.command_byte),
            0xA7 => self.command_byte |= 0x20,
            0xA8 => self.command_byte &= !0x20,
            // Interface tests pass; the controller's own answers 55h.
            0xA9 | 0xAB => self.answer(0x00),
            0xAA => self.answer(0x55),
            0xAD => self.command_byte |= 0x10,
            0xAE => self.command_byte &= !0x10,
            0xC0 => self.answer(0x80),
            0xD0 => self.answer(OUTPUT_PORT),
            // F0h to FFh pulse the output port's low bits that are zero; bit 0 is reset.
            0xF0..=0xFF => self.is_reset_asked |= command & 1 == 0,
            _ => {}
        }
    }

    fn data(&mut self, byte: u8) {
        self.was_command = false;
        match core::mem::replace(&mut self.expect, Expect::Keyboard) {
            Expect::CommandByte => self.command_byte = byte,
            Expect::OutputPort => self.is_reset_asked |= byte & 1 == 0,
            Expect::Echo(kind) => self.output = Some((byte, kind)),
            Expect::Keyboard => self.output = Some((NO_REPLY, Status::TIMEOUT)),
            Expect::Mouse => {
                self.output = Some((NO_REPLY, Status::TIMEOUT | Status::AUX_OUTPUT));
            }
        }
    }
}

impl PortIo for Keyboard8042 {
    fn port_read(&mut self, offset: u16, data: &mut [u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        *byte = match offset {
            DATA => self.output.take().map_or(0, |(byte, _)| byte),
            COMMAND => self.status(),
            _ => return Err(AccessError::NoRegister),
        };
        Ok(())
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        let [byte] = data else {
            return Err(AccessError::Width);
        };
        match offset {
            DATA => self.data(*byte),
            COMMAND => self.command(*byte),
            _ => return Err(AccessError::NoRegister),
        }
        Ok(())
    }
}

/// The controller as firmware sees it: there is nothing to read, and a reset line to pulse.
///
/// Firmware that finds a controller waits seconds for a keyboard; kernels are told by ACPI that there is none.
#[derive(Debug)]
pub struct ResetLine<'a>(pub &'a mut Keyboard8042);

impl PortIo for ResetLine<'_> {
    fn port_read(&mut self, _offset: u16, _data: &mut [u8]) -> Result<(), AccessError> {
        Err(AccessError::NoRegister)
    }

    fn port_write(&mut self, offset: u16, data: &[u8]) -> Result<(), AccessError> {
        match (offset, data) {
            (COMMAND, [0xF0..=0xFF]) => self.0.port_write(offset, data),
            _ => Err(AccessError::NoRegister),
        }
    }
}

/// The controller's state, version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyboardState {
    /// Format version: 1.
    pub version: u32,
    /// The command byte.
    pub command_byte: u8,
    /// An unread answer and its status bits.
    pub output: Option<(u8, u8)>,
    /// A command that waits for its data byte.
    pub command: Option<u8>,
    /// Whether the last byte written was a command.
    pub was_command: bool,
}

impl Keyboard8042 {
    /// Returns the state to save.
    #[must_use]
    pub fn save(&self) -> KeyboardState {
        let Self {
            command_byte,
            expect,
            output,
            was_command,
            // The machine asks for it after each access.
            is_reset_asked: _,
        } = self;
        KeyboardState {
            version: 1,
            command_byte: *command_byte,
            output: output.map(|(byte, kind)| (byte, kind.bits())),
            command: expect.command(),
            was_command: *was_command,
        }
    }

    /// Takes a saved state.
    pub fn restore(&mut self, state: &KeyboardState) -> Result<(), RestoreError> {
        check_version(state.version, 1)?;
        let expect = match state.command {
            None => Expect::Keyboard,
            Some(command) => {
                Expect::after(command).ok_or(RestoreError::Impossible("keyboard command"))?
            }
        };
        self.reset();
        self.command_byte = state.command_byte;
        (self.expect, self.was_command) = (expect, state.was_command);
        self.output = state
            .output
            .map(|(byte, kind)| (byte, Status::from_bits_truncate(kind)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use stockade_bus::PortIo;

    use super::{COMMAND, DATA, Keyboard8042, ResetLine};

    fn ask(controller: &mut Keyboard8042, command: u8) -> u8 {
        controller.port_write(COMMAND, &[command]).unwrap();
        read(controller, DATA)
    }

    fn read(controller: &mut Keyboard8042, port: u16) -> u8 {
        let mut byte = [0];
        controller.port_read(port, &mut byte).unwrap();
        byte[0]
    }

    #[test]
    fn self_test_passes() {
        assert_eq!(ask(&mut Keyboard8042::new(), 0xAA), 0x55);
    }

    #[test]
    fn command_byte_is_kept() {
        let mut controller = Keyboard8042::new();
        controller.port_write(COMMAND, &[0x60]).unwrap();
        controller.port_write(DATA, &[0x47]).unwrap();
        assert_eq!(ask(&mut controller, 0x20), 0x47);
    }

    #[test]
    fn reset_line_has_nothing_to_read_and_pulses() {
        let mut controller = Keyboard8042::new();
        let mut line = ResetLine(&mut controller);
        assert!(line.port_read(COMMAND, &mut [0]).is_err());
        assert!(line.port_write(COMMAND, &[0xAA]).is_err());
        assert!(line.port_write(DATA, &[0xF4]).is_err());
        line.port_write(COMMAND, &[0xFE]).unwrap();
        assert!(controller.take_reset());
        assert_eq!(read(&mut controller, COMMAND) & 1, 0);
    }

    #[test]
    fn fe_pulses_reset() {
        let mut controller = Keyboard8042::new();
        controller.port_write(COMMAND, &[0xFE]).unwrap();
        assert!(controller.take_reset());
        assert!(!controller.take_reset());
    }

    #[test]
    fn nothing_answers_behind_the_ports() {
        let mut controller = Keyboard8042::new();
        controller.port_write(DATA, &[0xFF]).unwrap();
        assert_eq!(read(&mut controller, COMMAND) & 0x41, 0x41);
        assert_eq!(read(&mut controller, DATA), 0xFE);
        assert_eq!(read(&mut controller, COMMAND) & 0x01, 0);
    }

    #[test]
    fn auxiliary_loop_back_is_marked_as_mouse_data() {
        let mut controller = Keyboard8042::new();
        controller.port_write(COMMAND, &[0xD3]).unwrap();
        controller.port_write(DATA, &[0x5A]).unwrap();
        assert_eq!(read(&mut controller, COMMAND) & 0x21, 0x21);
        assert_eq!(read(&mut controller, DATA), 0x5A);
    }

    #[test]
    fn restored_controller_gives_the_unread_answer() {
        let mut saved = Keyboard8042::new();
        saved.port_write(COMMAND, &[0xAA]).unwrap();
        let mut restored = Keyboard8042::new();
        restored.restore(&saved.save()).unwrap();
        assert_eq!(read(&mut restored, DATA), 0x55);
    }
}
