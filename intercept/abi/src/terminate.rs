//! Why the paravisor stops the machine: the reason it gives the host (GHCB 2.3.1, termination request).

use core::fmt;

/// Reason set of the paravisor in a termination request; 0 is the specification's, 1 is Linux's.
pub const STOCKADE_REASON_SET: u8 = 5;

/// A reason code within [`STOCKADE_REASON_SET`]: any number, with names for those given out. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StopReason(pub u8);

macro_rules! stop_reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $words:literal;)*) => {
        impl StopReason {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// Every reason with a name, by rising number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the reason in words, if it has a name.
            #[must_use]
            pub const fn words(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($words),)*
                    _ => None,
                }
            }
        }
    };
}

stop_reasons! {
    /// SEV_STATUS lacks a feature the paravisor needs.
    MISSING_SEV_FEATURE = 1, "a required SEV feature is not active";
    /// The host's feature answer lacks a required bit.
    MISSING_HYPERVISOR_FEATURE = 2, "the host lacks a required GHCB feature";
    /// The CPUID page names another C-bit than the measured page tables use.
    C_BIT_MISMATCH = 3, "the encryption bit is not where the image expects it";
    /// The host did not take the GHCB.
    GHCB_REFUSED = 4, "the host refused the GHCB page";
    /// The host answered a GHCB call against the protocol.
    GHCB_PROTOCOL = 5, "the host broke the GHCB protocol";
    /// A page could not be validated.
    ACCEPT_FAILED = 6, "a page could not be accepted";
    /// The memory map from the host makes no sense.
    MEMORY_MAP_INVALID = 7, "the host's memory map is invalid";
    /// A payload file named by the manifest is not in the staging range.
    PAYLOAD_MISSING = 8, "a payload file is missing";
    /// The kernel is not the measured one.
    KERNEL_DIGEST_MISMATCH = 9, "the kernel differs from the measured one";
    /// The initrd is not the measured one.
    INITRD_DIGEST_MISMATCH = 10, "the initrd differs from the measured one";
    /// The command line is not the measured one.
    COMMAND_LINE_DIGEST_MISMATCH = 11, "the command line differs from the measured one";
    /// The kernel is no bootable kernel.
    KERNEL_INVALID = 12, "the kernel image is invalid";
    /// The manifest is malformed.
    MANIFEST_INVALID = 13, "the manifest is invalid";
    /// A guest VMSA could not be created or registered.
    VMSA_CREATE_FAILED = 14, "a guest save area could not be created";
    /// The guest's VMSA could not be entered.
    VMSA_INVALID = 15, "the guest state could not be entered";
    /// The guest shut down by a triple fault.
    GUEST_TRIPLE_FAULT = 16, "the guest took a triple fault";
    /// The guest resets again and again.
    GUEST_RESET_LOOP = 17, "the guest is in a reset loop";
    /// Guest RAM faults again and again: the host took it away.
    HOST_WITHDREW_MEMORY = 18, "the host withdrew guest memory";
    /// The host said something our own records contradict.
    HOST_LIED = 19, "the host contradicted a known fact";
    /// The CPUID page is malformed.
    CPUID_PAGE_INVALID = 20, "the CPUID page is invalid";
    /// The secrets page is malformed.
    SECRETS_INVALID = 21, "the secrets page is invalid";
    /// No memory is left.
    OUT_OF_MEMORY = 22, "the paravisor is out of memory";
    /// An invariant of the paravisor does not hold.
    INTERNAL_PANIC = 23, "the paravisor panicked";
    /// The paravisor itself took an exception.
    UNEXPECTED_EXCEPTION = 24, "the paravisor took an unexpected exception";
    /// The guest exited in a way that cannot be answered.
    UNSUPPORTED_EXIT = 25, "the guest took an exit nobody can answer";
    /// Firmware or its variables are not the measured ones.
    FIRMWARE_DIGEST_MISMATCH = 26, "the firmware differs from the measured one";
    /// Firmware's variables are in the store and not to be had: an older or a template's set would be another machine.
    VARIABLES_LOST = 27, "the firmware's variables cannot be read from the sealed store";
    /// The TPM's state is in the store and not to be had, or its engine is not the measured one: a failed TPM, or a new one, would be another
    /// machine.
    TPM_LOST = 28, "the TPM's state or its engine cannot be read as it was left or measured";
    /// Whoever holds the disks' keys knows the sealed store for an older copy.
    STORE_ROLLED_BACK = 29, "the sealed store is an older copy or another one";
    /// The host's parameters have no vCPU, or more than the manifest allows.
    VCPUS_INVALID = 30, "the host offers a number of vCPUs the image does not allow";
}

impl StopReason {
    /// Returns the number for the termination request.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }
}

impl From<u8> for StopReason {
    fn from(code: u8) -> Self {
        Self(code)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.words() {
            Some(words) => f.write_str(words),
            None => write!(f, "reason {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn reasons_are_numbered_from_one_without_gaps() {
        for (reason, number) in StopReason::ALL.iter().zip(1..) {
            assert_eq!(reason.code(), number);
            assert_eq!(StopReason::from(number), *reason);
        }
        assert_eq!(StopReason::ALL.len(), 30);
    }

    #[test]
    fn a_number_without_a_name_still_displays() {
        assert_eq!(StopReason(200).to_string(), "reason 200");
        assert_eq!(
            StopReason::GUEST_RESET_LOOP.to_string(),
            "the guest is in a reset loop"
        );
    }
}
