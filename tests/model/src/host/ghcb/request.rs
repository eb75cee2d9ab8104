//! Non-automatic exits as values (GHCB specification, table 6 and its sections 4.1.1 to 4.1.22).

use super::Scratch;

/// Bytes of one port access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// One byte.
    Byte,
    /// Two bytes.
    Word,
    /// Four bytes.
    Double,
}

impl Width {
    /// Returns the width in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Double => 4,
        }
    }

    /// Returns the bits of a value of this width: what floats high on an empty port.
    #[must_use]
    pub const fn mask(self) -> u32 {
        match self {
            Self::Byte => 0xFF,
            Self::Word => 0xFFFF,
            Self::Double => 0xFFFF_FFFF,
        }
    }
}

/// Which way a port access goes, as seen by the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The guest reads.
    In,
    /// The guest writes.
    Out,
}

/// What to do with a VMSA (GHCB specification, 4.1.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApCreation {
    /// Use it at the next INIT.
    OnInit,
    /// Use it now.
    Now,
    /// Stop using it.
    Destroy,
}

/// What to do with the #HV doorbell page (GHCB specification, 4.1.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoorbellRequest {
    /// Tell the address the host prefers; answer in `SW_EXITINFO2`, all ones for none.
    Preferred,
    /// Use the page at this address.
    Set(u64),
    /// Tell the address in use; answer in `SW_EXITINFO2`.
    Query,
    /// Use none any more.
    Clear,
}

/// One non-automatic exit. Addresses are guest-physical; page-aligned where the specification wants it, else allegations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// RDTSC; answer RAX, RDX.
    Rdtsc,
    /// RDTSCP; answer RAX, RCX, RDX.
    Rdtscp,
    /// RDPMC; answer RAX, RDX.
    Rdpmc {
        /// RCX.
        counter: u64,
    },
    /// CPUID; answer RAX, RBX, RCX, RDX.
    Cpuid {
        /// EAX.
        leaf: u32,
        /// ECX.
        subleaf: u32,
        /// The guest's XCR0, sent for leaf 0xD.
        xcr0: Option<u64>,
        /// The guest's XSS, where sent for leaf 0xD.
        xss: Option<u64>,
    },
    /// INVD; no answer.
    Invd,
    /// WBINVD; no answer.
    Wbinvd,
    /// MONITOR; no answer.
    Monitor,
    /// MWAIT; no answer.
    Mwait,
    /// Read of DR7; answer RAX.
    Dr7Read,
    /// Write of DR7.
    Dr7Write(u64),
    /// IN of one value; answer RAX.
    PortIn {
        /// The port.
        port: u16,
        /// Its width.
        width: Width,
    },
    /// OUT of one value.
    PortOut {
        /// The port.
        port: u16,
        /// Its width.
        width: Width,
        /// The value, zero-extended.
        value: u32,
    },
    /// INS or OUTS through a scratch area of `count` values.
    PortString {
        /// The port.
        port: u16,
        /// Width of each value.
        width: Width,
        /// In fills the scratch area, Out drains it.
        direction: Direction,
        /// Number of values; the scratch area is `count * width` bytes.
        count: usize,
        /// Where the values are.
        scratch: Scratch,
    },
    /// RDMSR; answer RAX, RDX.
    MsrRead {
        /// ECX.
        index: u32,
    },
    /// WRMSR.
    MsrWrite {
        /// ECX.
        index: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// VMMCALL; answer RAX.
    Vmmcall {
        /// RAX.
        rax: u64,
        /// The caller's privilege level.
        cpl: u8,
    },
    /// MMIO read into the scratch area.
    MmioRead {
        /// Address in guest-physical space.
        gpa: u64,
        /// 1, 2, 4 or 8.
        len: usize,
        /// Where the value goes.
        scratch: Scratch,
    },
    /// MMIO write from the scratch area.
    MmioWrite {
        /// Address in guest-physical space.
        gpa: u64,
        /// 1, 2, 4 or 8.
        len: usize,
        /// Where the value is.
        scratch: Scratch,
    },
    /// The guest finished an NMI.
    NmiComplete,
    /// An AP waits for INIT-SIPI; answer `SW_EXITINFO2` non-zero when woken.
    ApResetHold,
    /// Page state change; see [`page_state`](super::page_state). The scratch area is the GHCB's shared buffer.
    PageStateChange {
        /// Where the list is.
        scratch: Scratch,
    },
    /// SNP guest request; answer `SW_EXITINFO2`.
    GuestRequest {
        /// Page with the request.
        request: u64,
        /// Page for the response.
        response: u64,
    },
    /// SNP extended guest request; answer `SW_EXITINFO2`, and RBX when the buffer is too small.
    ExtendedGuestRequest {
        /// Page with the request.
        request: u64,
        /// Page for the response.
        response: u64,
        /// First page for the certificates.
        data: u64,
        /// Number of those pages.
        pages: u64,
    },
    /// SNP AP creation.
    ApCreation {
        /// What to do.
        action: ApCreation,
        /// VMPL of the VMSA.
        vmpl: u8,
        /// The vCPU.
        apic_id: u32,
        /// The VMSA; meaningless for [`ApCreation::Destroy`].
        vmsa: u64,
        /// SEV features the VMSA has; `None` for [`ApCreation::Destroy`].
        sev_features: Option<u64>,
    },
    /// #HV doorbell page.
    Doorbell(DoorbellRequest),
    /// #HV IPI: the guest sends an interrupt with this value of the x2APIC's ICR.
    HvIpi {
        /// The ICR.
        icr: u64,
    },
    /// #HV timer. Its words are not public in a form we could check: this host does not offer the feature.
    HvTimer {
        /// SW_EXITINFO1.
        info1: u64,
        /// SW_EXITINFO2.
        info2: u64,
    },
    /// APIC-ID list: u32 count, then u32 IDs; answer RAX = pages needed when `pages` is too small.
    ApicIds {
        /// First page for the list.
        gpa: u64,
        /// Number of pages there.
        pages: u64,
    },
    /// Run another VMPL of this vCPU.
    RunVmpl {
        /// Which.
        vmpl: u8,
    },
    /// Configure interrupt injection (draft, as COCONUT-SVSM speaks it).
    ConfigureInterruptInjection {
        /// The vector that tells of per-VMPL events.
        vector: u8,
    },
    /// The SVSM gives up alternate injection for a VMPL (draft).
    DisableAlternateInjection {
        /// Which.
        vmpl: u8,
        /// Its task priority.
        tpr: u8,
        /// Whether it is in an interrupt shadow.
        in_shadow: bool,
        /// Whether it takes interrupts.
        interrupts_enabled: bool,
    },
    /// EOI of one vector for a VMPL (draft).
    SpecificEoi {
        /// The vector.
        vector: u8,
        /// Whose.
        vmpl: u8,
    },
    /// Hypervisor feature bitmap; answer `SW_EXITINFO2`.
    HypervisorFeatures,
    /// The guest wants to be terminated.
    Terminate {
        /// Reason code set.
        set: u8,
        /// Reason code.
        code: u8,
    },
    /// The guest met a #VC it does not know; `SW_EXITINFO1` has its error code.
    UnsupportedEvent {
        /// The #VC's error code.
        code: u64,
    },
}
