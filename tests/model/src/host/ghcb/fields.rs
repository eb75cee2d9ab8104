//! A private copy of a GHCB: its fields, its valid bitmap, its scratch area.

use alloc::boxed::Box;
use core::mem::offset_of;
use stockade_abi::ghcb::{self as abi, GhcbError, GhcbField, SHARED_BUFFER_SIZE};

/// Bytes of a GHCB.
pub const PAGE_BYTES: usize = 4096;
/// Offset of the shared buffer.
pub const SHARED_BUFFER: usize = offset_of!(abi::Ghcb, shared_buffer);

/// The largest scratch area outside the GHCB a request may name; the bound Linux's KVM has, too.
const SCRATCH_LIMIT: usize = 4 * PAGE_BYTES;
const VALID_BITMAP: usize = offset_of!(abi::Ghcb, valid_bitmap);
const PROTOCOL_VERSION: usize = offset_of!(abi::Ghcb, protocol_version);
const USAGE: usize = offset_of!(abi::Ghcb, usage);

/// Where a request's buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scratch {
    /// In the GHCB itself: [`Ghcb::scratch`] has its bytes.
    InGhcb {
        /// Offset from the start of the GHCB page.
        offset: usize,
        /// Bytes.
        len: usize,
    },
    /// In other memory, which the host must find shared before it touches it.
    Shared {
        /// Guest-physical address of the first byte.
        gpa: u64,
        /// Bytes.
        len: usize,
    },
}

/// A private copy of a guest's GHCB.
#[derive(Clone)]
pub struct Ghcb {
    gpa: u64,
    page: Box<[u8; PAGE_BYTES]>,
}

impl Ghcb {
    /// Takes a private copy of the GHCB at `gpa`.
    #[must_use]
    pub fn copy_in(gpa: u64, page: &[u8; PAGE_BYTES]) -> Self {
        Self {
            gpa,
            page: Box::new(*page),
        }
    }

    /// Takes a page that was copied in already.
    #[must_use]
    pub const fn new(gpa: u64, page: Box<[u8; PAGE_BYTES]>) -> Self {
        Self { gpa, page }
    }

    /// Gives the page back, to be used for the next copy.
    #[must_use]
    pub fn into_page(self) -> Box<[u8; PAGE_BYTES]> {
        self.page
    }

    /// Returns the GHCB's guest-physical address.
    #[must_use]
    pub const fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Returns the whole page, to be written back to the guest after an answer.
    #[must_use]
    pub fn bytes(&self) -> &[u8; PAGE_BYTES] {
        &self.page
    }

    /// Checks usage and protocol version (GHCB 2.6); only version 2 knows SNP.
    pub fn check_format(&self) -> Result<(), GhcbError> {
        if self.chunk::<4>(USAGE) != abi::USAGE_GHCB.to_le_bytes() {
            return Err(GhcbError::INVALID_USAGE);
        }
        if self.chunk::<2>(PROTOCOL_VERSION) != abi::PROTOCOL_VERSION_2.to_le_bytes() {
            return Err(GhcbError::INVALID_INPUT);
        }
        Ok(())
    }

    /// Returns the field, or that the guest did not mark it valid.
    pub fn field(&self, field: GhcbField) -> Result<u64, GhcbError> {
        if self.is_valid(field) {
            Ok(u64::from_le_bytes(self.chunk(field.offset())))
        } else {
            Err(GhcbError::MISSING_INPUT)
        }
    }

    /// Returns whether the guest marked the field valid.
    #[must_use]
    pub fn is_valid(&self, field: GhcbField) -> bool {
        let bit = field.valid_bit();
        self.page[VALID_BITMAP + bit / 8] & (1 << (bit % 8)) != 0
    }

    /// Returns the bytes of a scratch area inside the GHCB, `None` for one that is elsewhere.
    #[must_use]
    pub fn scratch(&self, scratch: Scratch) -> Option<&[u8]> {
        match scratch {
            Scratch::InGhcb { offset, len } => self.page.get(offset..offset.checked_add(len)?),
            Scratch::Shared { .. } => None,
        }
    }

    /// Resolves `SW_SCRATCH` for a buffer of `len` bytes.
    pub(super) fn scratch_area(&self, len: usize) -> Result<Scratch, GhcbError> {
        let invalid = GhcbError::INVALID_SCRATCH_AREA;
        let gpa = self.field(GhcbField::SW_SCRATCH)?;
        if gpa == 0 || len == 0 || len > SCRATCH_LIMIT {
            return Err(invalid);
        }
        let end = gpa.checked_add(len as u64).ok_or(invalid)?;
        let page_end = self.gpa.checked_add(PAGE_BYTES as u64).ok_or(invalid)?;
        if end <= self.gpa || gpa >= page_end {
            return Ok(Scratch::Shared { gpa, len });
        }
        let offset = gpa
            .checked_sub(self.gpa)
            .and_then(|offset| usize::try_from(offset).ok())
            .ok_or(invalid)?;
        if offset < SHARED_BUFFER || offset + len > SHARED_BUFFER + SHARED_BUFFER_SIZE {
            return Err(invalid);
        }
        Ok(Scratch::InGhcb { offset, len })
    }

    pub(super) fn set(&mut self, field: GhcbField, value: u64) {
        let offset = field.offset();
        self.page[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        let bit = field.valid_bit();
        self.page[VALID_BITMAP + bit / 8] |= 1 << (bit % 8);
    }

    pub(super) fn clear_valid(&mut self) {
        self.page[VALID_BITMAP..VALID_BITMAP + 16].fill(0);
    }

    pub(super) fn scratch_mut(&mut self, offset: usize, len: usize) -> Option<&mut [u8]> {
        self.page.get_mut(offset..offset.checked_add(len)?)
    }

    /// Offsets come from the layout, never from the guest.
    fn chunk<const N: usize>(&self, offset: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.page[offset..offset + N]);
        bytes
    }
}
