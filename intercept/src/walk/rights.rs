//! What the entries on a path allow together.

use super::{Access, PageFaultCode, WalkContext, control};

const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const NO_EXECUTE: u64 = 1 << 63;

/// Rights after the entries seen so far: each can only take some away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rights {
    is_writable: bool,
    is_user: bool,
    is_executable: bool,
}

impl Rights {
    pub(super) const ALL: Self = Self {
        is_writable: true,
        is_user: true,
        is_executable: true,
    };

    pub(super) fn narrowed_by(self, entry: u64) -> Self {
        Self {
            is_writable: self.is_writable && entry & WRITABLE != 0,
            is_user: self.is_user && entry & USER != 0,
            is_executable: self.is_executable && entry & NO_EXECUTE == 0,
        }
    }

    /// Checks an access through a path that ends in `leaf`. An error has the extra bits for the error code. APM vol. 2, 5.6.
    pub(super) fn check(
        self,
        context: &WalkContext,
        leaf: u64,
        access: Access,
    ) -> Result<(), PageFaultCode> {
        let is_allowed = if context.is_user() {
            self.is_user && self.allows_user(access)
        } else {
            self.allows_supervisor(context, access)
        };
        if !is_allowed {
            return Err(PageFaultCode::empty());
        }
        if access != Access::Fetch && !self.key_allows(context, leaf, access) {
            return Err(PageFaultCode::PROTECTION_KEY);
        }
        Ok(())
    }

    fn allows_user(self, access: Access) -> bool {
        match access {
            Access::Read => true,
            Access::Write => self.is_writable,
            Access::Fetch => self.is_executable,
        }
    }

    fn allows_supervisor(self, context: &WalkContext, access: Access) -> bool {
        if access == Access::Fetch {
            let is_prevented = self.is_user && context.cr4 & control::CR4_SMEP != 0;
            return self.is_executable && !is_prevented;
        }
        let is_prevented = self.is_user
            && context.cr4 & control::CR4_SMAP != 0
            && context.rflags & control::RFLAGS_AC == 0;
        let is_read_only = !self.is_writable && context.cr0 & control::CR0_WP != 0;
        !is_prevented && (access == Access::Read || !is_read_only)
    }

    /// Protection keys: two bits of PKRU for each of sixteen keys, for user pages in long mode. APM vol. 2, 5.6.7.
    fn key_allows(self, context: &WalkContext, leaf: u64, access: Access) -> bool {
        if !self.is_user || !context.is_long() || context.cr4 & control::CR4_PKE == 0 {
            return true;
        }
        let key = (leaf >> 59) & 0xF;
        let denied = context.pkru >> (2 * key);
        let respects_write = context.is_user() || context.cr0 & control::CR0_WP != 0;
        let denies_access = denied & 1 != 0;
        let denies_write = denied & 2 != 0 && respects_write;
        !(denies_access || access == Access::Write && denies_write)
    }
}
