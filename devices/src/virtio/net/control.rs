//! Commands of the control queue (Virtio 1.2, 5.1.6.5).

use stockade_bus::GuestMemory;

use super::config::{Address, features};
use super::filter::AddressTable;
use super::{CONTROL, Net};
use crate::virtio::queue::{Chain, Used, Violation, total};
use crate::virtio::{Features, Work};

const COMMANDS_A_TURN: usize = 16;
/// Class and command.
const COMMAND_BYTES: u64 = 2;
/// Addresses of a table that are looked at; a table that names more is overfull anyway.
const ADDRESSES_READ: u32 = 128;

const OK: u8 = 0;
const ERROR: u8 = 1;

/// A command: its class and its number therein.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Command(u8, u8);

impl Command {
    const PROMISCUOUS: Self = Self(0, 0);
    const ALL_GROUPS: Self = Self(0, 1);
    const ALL_SINGLES: Self = Self(0, 2);
    const NO_GROUPS: Self = Self(0, 3);
    const NO_SINGLES: Self = Self(0, 4);
    const NO_BROADCASTS: Self = Self(0, 5);
    const SET_TABLES: Self = Self(1, 0);
    const SET_ADDRESS: Self = Self(1, 1);
    const SET_OFFLOADS: Self = Self(5, 0);

    /// Returns the feature the command belongs to.
    fn feature(self) -> Option<Features> {
        Some(match self {
            Self::PROMISCUOUS | Self::ALL_GROUPS | Self::SET_TABLES => features::CTRL_RX,
            Self::ALL_SINGLES | Self::NO_GROUPS | Self::NO_SINGLES | Self::NO_BROADCASTS => {
                features::CTRL_RX_EXTRA
            }
            Self::SET_ADDRESS => features::CTRL_MAC_ADDR,
            Self::SET_OFFLOADS => features::CTRL_GUEST_OFFLOADS,
            _ => return None,
        })
    }
}

impl Net {
    /// Carries out commands.
    pub(super) fn serve_control(&mut self, memory: &dyn GuestMemory) -> Result<Work, Violation> {
        for _ in 0..COMMANDS_A_TURN {
            let Some(queue) = &mut self.queues[CONTROL] else {
                return Ok(Work::Done);
            };
            if !queue.pop(memory, &mut self.chain)? {
                return Ok(Work::Done);
            }
            if total(self.chain.writable()) == 0 {
                return Err(Violation::ShortRequest);
            }
            let answer = self.execute(memory)?;
            self.chain.write(memory, 0, &[answer])?;
            let head = self.chain.head();
            if let Some(queue) = &mut self.queues[CONTROL] {
                queue.push(memory, &[Used { head, written: 1 }])?;
            }
        }
        Ok(Work::More)
    }

    /// Carries out the command in the popped chain.
    fn execute(&mut self, memory: &dyn GuestMemory) -> Result<u8, Violation> {
        let mut command = [0; 2];
        if self.chain.read(memory, 0, &mut command)? < command.len() {
            return Err(Violation::ShortRequest);
        }
        let [class, number] = command;
        let command = Command(class, number);
        let is_agreed = command
            .feature()
            .is_some_and(|feature| self.link.features.contains(feature));
        if !is_agreed {
            return Ok(ERROR);
        }
        let done = match command {
            Command::SET_TABLES => self.set_tables(memory)?,
            Command::SET_ADDRESS => self.set_address(memory)?,
            Command::SET_OFFLOADS => self.set_offloads(memory)?,
            _ => self.set_mode(memory, command)?,
        };
        Ok(done.map_or(ERROR, |()| OK))
    }

    fn set_mode(
        &mut self,
        memory: &dyn GuestMemory,
        command: Command,
    ) -> Result<Option<()>, Violation> {
        let Some([value @ (0 | 1)]) = argument::<1>(memory, &self.chain)? else {
            return Ok(None);
        };
        let filter = &mut self.filter.0;
        let mode = match command {
            Command::PROMISCUOUS => &mut filter.is_promiscuous,
            Command::ALL_GROUPS => &mut filter.has_all_groups,
            Command::ALL_SINGLES => &mut filter.has_all_singles,
            Command::NO_GROUPS => &mut filter.has_no_groups,
            Command::NO_SINGLES => &mut filter.has_no_singles,
            Command::NO_BROADCASTS => &mut filter.has_no_broadcasts,
            _ => return Ok(None),
        };
        *mode = value == 1;
        Ok(Some(()))
    }

    /// Takes the tables of single stations and of groups; both or none.
    fn set_tables(&mut self, memory: &dyn GuestMemory) -> Result<Option<()>, Violation> {
        let mut offset = COMMAND_BYTES;
        let Some(singles) = read_table(memory, &self.chain, &mut offset)? else {
            return Ok(None);
        };
        let Some(groups) = read_table(memory, &self.chain, &mut offset)? else {
            return Ok(None);
        };
        (self.filter.0.singles, self.filter.0.groups) = (singles, groups);
        Ok(Some(()))
    }

    fn set_address(&mut self, memory: &dyn GuestMemory) -> Result<Option<()>, Violation> {
        let address = argument(memory, &self.chain)?.map(Address);
        let single = address.filter(|address| !address.is_group());
        self.address = single.unwrap_or(self.address);
        Ok(single.map(drop))
    }

    fn set_offloads(&mut self, memory: &dyn GuestMemory) -> Result<Option<()>, Violation> {
        let wanted = argument(memory, &self.chain)?.map(u64::from_le_bytes);
        let agreed = self.link.features & features::RECEIVE_OFFLOADS;
        let offloads = wanted
            .map(Features::from_bits_retain)
            .filter(|wanted| agreed.contains(*wanted));
        self.offloads = offloads.unwrap_or(self.offloads);
        Ok(offloads.map(drop))
    }
}

/// Reads a command's argument of `N` bytes, if it has that many.
fn argument<const N: usize>(
    memory: &dyn GuestMemory,
    chain: &Chain,
) -> Result<Option<[u8; N]>, Violation> {
    let mut bytes = [0; N];
    let read = chain.read(memory, COMMAND_BYTES, &mut bytes)?;
    Ok((read == N).then_some(bytes))
}

/// Reads a table at `offset` and moves that behind it; `None` if the chain ends before the table does.
fn read_table(
    memory: &dyn GuestMemory,
    chain: &Chain,
    offset: &mut u64,
) -> Result<Option<AddressTable>, Violation> {
    let mut count = [0; 4];
    if chain.read(memory, *offset, &mut count)? < count.len() {
        return Ok(None);
    }
    let count = u32::from_le_bytes(count);
    let start = *offset + 4;
    let end = start + 6 * u64::from(count);
    if end > total(chain.readable()) {
        return Ok(None);
    }
    let mut table = AddressTable::EMPTY;
    for index in 0..count.min(ADDRESSES_READ) {
        let mut address = [0; 6];
        chain.read(memory, start + 6 * u64::from(index), &mut address)?;
        table.push(Address(address));
    }
    *offset = end;
    Ok(Some(table))
}
