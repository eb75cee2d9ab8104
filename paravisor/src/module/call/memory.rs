//! Memory: only anonymous, never executable. What may be executed is what was loaded and measured.

use super::{Call, Context, Errno};
use crate::module::call::number::Number;
use crate::module::memory::{MayMove, MemoryError, Place};
use crate::module::space::{Access, Space};

const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
const MREMAP_MAYMOVE: u64 = 1;
/// The pages are zeros afterwards: more than advice.
const MADV_DONTNEED: u64 = 4;

impl From<MemoryError> for Errno {
    fn from(error: MemoryError) -> Self {
        match error {
            MemoryError::NoMemory => Self::ENOMEM,
            MemoryError::Invalid => Self::EINVAL,
            MemoryError::Taken => Self::EEXIST,
        }
    }
}

impl<S: Space + ?Sized> Context<'_, S> {
    /// Carries out a call about memory.
    pub(super) fn memory_call(&mut self, call: &Call) -> Result<u64, Errno> {
        let [address, bytes, third, flags, ..] = call.arguments;
        let space = &mut *self.space;
        match call.number {
            Number::MMAP if flags & MAP_ANONYMOUS == 0 => Err(Errno::ENODEV),
            Number::MMAP => {
                let place = if flags & MAP_FIXED_NOREPLACE != 0 {
                    Place::Free(address)
                } else if flags & MAP_FIXED != 0 {
                    Place::Instead(address)
                } else {
                    Place::Any
                };
                Ok(self.memory.map(space, place, bytes, access(third)?)?)
            }
            Number::MPROTECT => {
                self.memory.protect(space, address, bytes, access(third)?)?;
                Ok(0)
            }
            Number::MUNMAP => {
                self.memory.unmap(space, address, bytes)?;
                Ok(0)
            }
            Number::MREMAP => {
                let may_move = match flags {
                    0 => MayMove::No,
                    MREMAP_MAYMOVE => MayMove::Yes,
                    _ => return Err(Errno::EINVAL),
                };
                Ok(self.memory.resize(space, address, bytes, third, may_move)?)
            }
            Number::MADVISE if third == MADV_DONTNEED => Err(Errno::EINVAL),
            Number::MADVISE => Ok(0),
            _ => Ok(self.memory.set_break(space, address)),
        }
    }
}

fn access(protection: u64) -> Result<Access, Errno> {
    if protection & PROT_EXEC != 0 {
        return Err(Errno::EACCES);
    }
    Ok(match protection {
        0 => Access::None,
        _ if protection & PROT_WRITE != 0 => Access::Write,
        _ => Access::Read,
    })
}
