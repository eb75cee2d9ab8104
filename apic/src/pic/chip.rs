//! One 8259A (Intel 8259A data sheet, 231468).

mod saved;

use stockade_bus::Level;

/// Bits of ICW1.
const ICW1: u8 = 1 << 4;
const ICW1_NEEDS_ICW4: u8 = 1 << 0;
const ICW1_SINGLE: u8 = 1 << 1;
/// Bits of ICW4.
const ICW4_AUTO_EOI: u8 = 1 << 1;
const ICW4_FULLY_NESTED: u8 = 1 << 4;
/// Bits of OCW3.
const OCW3: u8 = 1 << 3;
const OCW3_POLL: u8 = 1 << 2;

/// What the next write to the data port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    /// Nothing yet: the chip was never initialised.
    PowerOn,
    Icw2,
    Icw3,
    Icw4,
    /// OCW1.
    Ready,
}

/// What a read of the command port gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Select {
    Request,
    InService,
}

/// Modes that OCW2, OCW3 and ICW4 switch.
mod mode {
    pub(super) const SPECIAL_MASK: u8 = 1 << 0;
    pub(super) const ROTATES_ON_AUTO_EOI: u8 = 1 << 1;
    pub(super) const POLL: u8 = 1 << 2;
    pub(super) const ALL: u8 = SPECIAL_MASK | ROTATES_ON_AUTO_EOI | POLL;
}

/// One 8259A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chip {
    /// The inputs that another chip drives, a bit each.
    cascade: u8,

    sequence: Sequence,
    select: Select,
    modes: u8,
    icw1: u8,
    /// The five upper bits of the vectors.
    base: u8,
    icw3: u8,
    icw4: u8,
    mask: u8,
    in_service: u8,
    /// Edges that rose and were not served.
    edges: u8,
    edge_level: u8,
    /// The input with the lowest priority; the next one has the highest.
    lowest: u8,

    inputs: u8,
    /// An input was served since [`Chip::take_acknowledged`]: the output has been low for a moment.
    is_acknowledged: bool,
}

impl Chip {
    pub(super) const fn new(cascade: u8) -> Self {
        Self {
            cascade,
            sequence: Sequence::PowerOn,
            select: Select::Request,
            modes: 0,
            icw1: 0,
            base: 0,
            icw3: 0,
            icw4: 0,
            mask: 0,
            in_service: 0,
            edges: 0,
            edge_level: 0,
            lowest: 7,
            inputs: 0,
            is_acknowledged: false,
        }
    }

    pub(super) const fn reset(&mut self) {
        let inputs = self.inputs;
        *self = Self::new(self.cascade);
        self.inputs = inputs;
    }

    pub(super) const fn edge_level(&self) -> u8 {
        self.edge_level
    }

    pub(super) const fn set_edge_level(&mut self, value: u8) {
        self.edge_level = value;
    }

    pub(super) const fn set_input(&mut self, input: u8, level: Level) {
        let bit = 1 << input;
        match level {
            Level::High => {
                self.edges |= bit & !self.inputs;
                self.inputs |= bit;
            }
            Level::Low => {
                self.edges &= !bit;
                self.inputs &= !bit;
            }
        }
    }

    /// Returns the input that makes the output high.
    pub(super) fn requesting(&self) -> Option<u8> {
        if self.sequence != Sequence::Ready {
            return None;
        }
        let candidate = self.first(self.requests() & !self.mask)?;
        let mut blocking = self.in_service;
        if self.modes & mode::SPECIAL_MASK != 0 {
            blocking &= !self.mask;
        }
        let Some(served) = self.first(blocking) else {
            return Some(candidate);
        };
        // What the secondary has in service does not hold back its own higher requests, if the guest says so.
        let is_nested =
            self.icw4 & ICW4_FULLY_NESTED != 0 && candidate == served && self.is_cascade(candidate);
        (self.rank(candidate) < self.rank(served) || is_nested).then_some(candidate)
    }

    pub(super) const fn is_cascade(&self, input: u8) -> bool {
        self.icw1 & ICW1_SINGLE == 0 && self.cascade & self.icw3 & 1 << input != 0
    }

    pub(super) const fn vector(&self, input: u8) -> u8 {
        self.base | input
    }

    pub(super) const fn spurious(&self) -> u8 {
        self.vector(7)
    }

    pub(super) fn irq_of(&self, vector: u8) -> Option<u8> {
        (self.sequence == Sequence::Ready && vector & 0xF8 == self.base).then_some(vector & 7)
    }

    /// Does what the second acknowledge pulse does.
    pub(super) const fn serve(&mut self, input: u8) {
        let bit = 1 << input;
        self.edges &= !bit;
        self.is_acknowledged = true;
        if self.icw4 & ICW4_AUTO_EOI == 0 {
            self.in_service |= bit;
        } else if self.modes & mode::ROTATES_ON_AUTO_EOI != 0 {
            self.lowest = input;
        }
    }

    /// Returns whether an input was served since the last call.
    pub(super) const fn take_acknowledged(&mut self) -> bool {
        core::mem::replace(&mut self.is_acknowledged, false)
    }

    pub(super) fn read_command(&mut self) -> u8 {
        if let Some(answer) = self.poll() {
            return answer;
        }
        match self.select {
            Select::Request => self.requests(),
            Select::InService => self.in_service,
        }
    }

    pub(super) fn read_data(&mut self) -> u8 {
        self.poll().unwrap_or(self.mask)
    }

    pub(super) fn write_command(&mut self, value: u8) {
        if value & ICW1 != 0 {
            self.start_sequence(value);
        } else if value & OCW3 != 0 {
            self.write_ocw3(value);
        } else {
            self.write_ocw2(value);
        }
    }

    pub(super) fn write_data(&mut self, value: u8) {
        self.sequence = match self.sequence {
            Sequence::Icw2 => {
                self.base = value & 0xF8;
                if self.icw1 & ICW1_SINGLE == 0 {
                    Sequence::Icw3
                } else {
                    self.after_icw3()
                }
            }
            Sequence::Icw3 => {
                self.icw3 = value;
                self.after_icw3()
            }
            Sequence::Icw4 => {
                self.icw4 = value & (ICW4_AUTO_EOI | ICW4_FULLY_NESTED);
                Sequence::Ready
            }
            // A mask can be written before initialisation too: Linux tells by it whether there is an 8259.
            sequence @ (Sequence::PowerOn | Sequence::Ready) => {
                self.mask = value;
                sequence
            }
        };
    }

    const fn after_icw3(&self) -> Sequence {
        if self.icw1 & ICW1_NEEDS_ICW4 != 0 {
            Sequence::Icw4
        } else {
            Sequence::Ready
        }
    }

    /// ICW1 clears edges, masks, service and modes, and makes input 7 the lowest.
    const fn start_sequence(&mut self, icw1: u8) {
        let (inputs, edge_level) = (self.inputs, self.edge_level);
        *self = Self::new(self.cascade);
        self.inputs = inputs;
        self.edge_level = edge_level;
        self.icw1 = icw1;
        self.sequence = Sequence::Icw2;
    }

    fn write_ocw2(&mut self, value: u8) {
        let input = value & 7;
        match value >> 5 {
            0b000 => self.modes &= !mode::ROTATES_ON_AUTO_EOI,
            0b001 => {
                self.end_highest();
            }
            0b011 => self.in_service &= !(1 << input),
            0b100 => self.modes |= mode::ROTATES_ON_AUTO_EOI,
            0b101 => {
                if let Some(ended) = self.end_highest() {
                    self.lowest = ended;
                }
            }
            0b110 => self.lowest = input,
            0b111 => {
                self.in_service &= !(1 << input);
                self.lowest = input;
            }
            _ => {}
        }
    }

    fn write_ocw3(&mut self, value: u8) {
        match value >> 5 & 0b11 {
            0b10 => self.modes &= !mode::SPECIAL_MASK,
            0b11 => self.modes |= mode::SPECIAL_MASK,
            _ => {}
        }
        if value & OCW3_POLL != 0 {
            self.modes |= mode::POLL;
            return;
        }
        match value & 0b11 {
            0b10 => self.select = Select::Request,
            0b11 => self.select = Select::InService,
            _ => {}
        }
    }

    /// Answers the read after a poll command, which is an acknowledge cycle.
    fn poll(&mut self) -> Option<u8> {
        if self.modes & mode::POLL == 0 {
            return None;
        }
        self.modes &= !mode::POLL;
        Some(match self.requesting() {
            Some(input) => {
                self.serve(input);
                0x80 | input
            }
            None => 0,
        })
    }

    /// Ends the highest input in service; in special mask mode a masked one stays.
    fn end_highest(&mut self) -> Option<u8> {
        let mut candidates = self.in_service;
        if self.modes & mode::SPECIAL_MASK != 0 {
            candidates &= !self.mask;
        }
        let input = self.first(candidates)?;
        self.in_service &= !(1 << input);
        Some(input)
    }

    /// Returns IRR: edges that rose, levels that are high.
    const fn requests(&self) -> u8 {
        self.edges & !self.edge_level | self.inputs & self.edge_level
    }

    /// Returns the input of `set` with the highest priority.
    fn first(&self, set: u8) -> Option<u8> {
        let rotation = u32::from((self.lowest + 1) & 7);
        let [rank, ..] = set.rotate_right(rotation).trailing_zeros().to_le_bytes();
        (set != 0).then_some((self.lowest + 1 + rank) & 7)
    }

    /// Returns how many inputs go before `input`.
    const fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest + 1) & 7
    }
}
