//! Requests read from a GHCB: which fields an event needs and what they may hold (GHCB 4.1, table 6).

use super::{ApCreation, Direction, DoorbellRequest, Ghcb, Request, SHARED_BUFFER, Scratch, Width};
use stockade_abi::exit::IoioInfo;
use stockade_abi::ghcb::{
    self as abi, ApCreationOp, GhcbError, GhcbField, NaeExit, SHARED_BUFFER_SIZE, doorbell_action,
};

const PAGE_MASK: u64 = 0xFFF;

impl Ghcb {
    /// Reads the request. The page's format is checked first, then the three exit fields, then what the event needs.
    pub fn request(&self) -> Result<Request, GhcbError> {
        self.check_format()?;
        let code = NaeExit(self.field(GhcbField::SW_EXIT_CODE)?);
        let info1 = self.field(GhcbField::SW_EXIT_INFO1)?;
        let info2 = self.field(GhcbField::SW_EXIT_INFO2)?;
        match code {
            NaeExit(..=0x7FFF_FFFF) => self.instruction(code, info1, info2),
            NaeExit::HYPERVISOR_FEATURES => Ok(Request::HypervisorFeatures),
            NaeExit::TERMINATE => Ok(Request::Terminate {
                set: byte(info1),
                code: byte(info2),
            }),
            NaeExit::UNSUPPORTED => Ok(Request::UnsupportedEvent { code: info1 }),
            NaeExit::MMIO_READ
            | NaeExit::MMIO_WRITE
            | NaeExit::NMI_COMPLETE
            | NaeExit::AP_RESET_HOLD => self.software_event(code, info1, info2),
            _ => self.snp_event(code, info1, info2),
        }
    }

    fn instruction(&self, code: NaeExit, info1: u64, info2: u64) -> Result<Request, GhcbError> {
        Ok(match code {
            NaeExit::RDTSC => Request::Rdtsc,
            NaeExit::RDTSCP => Request::Rdtscp,
            NaeExit::RDPMC => Request::Rdpmc {
                counter: self.field(GhcbField::RCX)?,
            },
            NaeExit::CPUID => Request::Cpuid {
                leaf: low32(self.field(GhcbField::RAX)?),
                subleaf: low32(self.field(GhcbField::RCX)?),
                xcr0: self.field(GhcbField::XCR0).ok(),
                xss: self.field(GhcbField::XSS).ok(),
            },
            NaeExit::INVD => Request::Invd,
            NaeExit::WBINVD => Request::Wbinvd,
            NaeExit::MONITOR => Request::Monitor,
            NaeExit::MWAIT => Request::Mwait,
            NaeExit::DR7_READ => Request::Dr7Read,
            NaeExit::DR7_WRITE => Request::Dr7Write(self.field(GhcbField::RAX)?),
            NaeExit::IOIO => return self.port(info1, info2),
            NaeExit::MSR => return self.msr(info1),
            NaeExit::VMMCALL => {
                // CPL is the fourth byte of its quadword.
                Request::Vmmcall {
                    rax: self.field(GhcbField::RAX)?,
                    cpl: byte(self.field(GhcbField::CPL)? >> 24),
                }
            }
            _ => return Err(GhcbError::INVALID_EVENT),
        })
    }

    /// IOIO: `SW_EXITINFO1` as the VMCB has it (APM vol. 2, 15.10.2), `SW_EXITINFO2` the count of a string.
    fn port(&self, info1: u64, info2: u64) -> Result<Request, GhcbError> {
        let info = IoioInfo::from_bits(info1);
        let port = info.port();
        let direction = if info.is_in() {
            Direction::In
        } else {
            Direction::Out
        };
        let width = match (info.size8(), info.size16(), info.size32()) {
            (true, false, false) => Width::Byte,
            (false, true, false) => Width::Word,
            (false, false, true) => Width::Double,
            _ => return Err(GhcbError::INVALID_INPUT),
        };
        if info.string() {
            let count = usize::try_from(info2).map_err(|_| GhcbError::INVALID_INPUT)?;
            let len = count
                .checked_mul(width.bytes())
                .ok_or(GhcbError::INVALID_INPUT)?;
            let scratch = self.scratch_area(len)?;
            return Ok(Request::PortString {
                port,
                width,
                direction,
                count,
                scratch,
            });
        }
        if direction == Direction::In {
            return Ok(Request::PortIn { port, width });
        }
        let value = low32(self.field(GhcbField::RAX)?) & width.mask();
        Ok(Request::PortOut { port, width, value })
    }

    fn msr(&self, info1: u64) -> Result<Request, GhcbError> {
        let index = low32(self.field(GhcbField::RCX)?);
        match info1 {
            0 => Ok(Request::MsrRead { index }),
            1 => {
                let low = self.field(GhcbField::RAX)? & 0xFFFF_FFFF;
                let high = self.field(GhcbField::RDX)? & 0xFFFF_FFFF;
                Ok(Request::MsrWrite {
                    index,
                    value: high << 32 | low,
                })
            }
            _ => Err(GhcbError::INVALID_INPUT),
        }
    }

    fn software_event(&self, code: NaeExit, info1: u64, info2: u64) -> Result<Request, GhcbError> {
        if code == NaeExit::NMI_COMPLETE {
            return Ok(Request::NmiComplete);
        }
        if code == NaeExit::AP_RESET_HOLD {
            return Ok(Request::ApResetHold);
        }
        let len = match info2 {
            1 => 1,
            2 => 2,
            4 => 4,
            8 => 8,
            _ => return Err(GhcbError::INVALID_INPUT),
        };
        let scratch = self.scratch_area(len)?;
        Ok(if code == NaeExit::MMIO_READ {
            Request::MmioRead {
                gpa: info1,
                len,
                scratch,
            }
        } else {
            Request::MmioWrite {
                gpa: info1,
                len,
                scratch,
            }
        })
    }

    fn snp_event(&self, code: NaeExit, info1: u64, info2: u64) -> Result<Request, GhcbError> {
        Ok(match code {
            NaeExit::PAGE_STATE_CHANGE => return self.page_state_change(),
            NaeExit::GUEST_REQUEST => {
                guest_request_pages(info1, info2)?;
                Request::GuestRequest {
                    request: info1,
                    response: info2,
                }
            }
            NaeExit::EXTENDED_GUEST_REQUEST => {
                guest_request_pages(info1, info2)?;
                let data = page_aligned(self.field(GhcbField::RAX)?)?;
                let pages = self.field(GhcbField::RBX)?;
                Request::ExtendedGuestRequest {
                    request: info1,
                    response: info2,
                    data,
                    pages,
                }
            }
            NaeExit::AP_CREATION => return self.ap_creation(info1, info2),
            NaeExit::HV_DOORBELL => Request::Doorbell(match info1 {
                doorbell_action::GET_PREFERRED => DoorbellRequest::Preferred,
                doorbell_action::SET => DoorbellRequest::Set(page_aligned(info2)?),
                doorbell_action::QUERY => DoorbellRequest::Query,
                doorbell_action::CLEAR => DoorbellRequest::Clear,
                _ => return Err(GhcbError::INVALID_INPUT),
            }),
            NaeExit::HV_IPI => Request::HvIpi { icr: info1 },
            NaeExit::HV_TIMER => Request::HvTimer { info1, info2 },
            NaeExit::APIC_ID_LIST => Request::ApicIds {
                gpa: page_aligned(info1)?,
                pages: self.field(GhcbField::RAX)?,
            },
            NaeExit::RUN_VMPL => Request::RunVmpl { vmpl: vmpl(info1)? },
            NaeExit::CONFIGURE_INTERRUPT_INJECTION => Request::ConfigureInterruptInjection {
                vector: fitting_byte(info1)?,
            },
            NaeExit::DISABLE_ALTERNATE_INJECTION => Request::DisableAlternateInjection {
                vmpl: vmpl(info1 >> 16)?,
                tpr: byte(info1 >> 8),
                in_shadow: info1 & 2 != 0,
                interrupts_enabled: info1 & 1 != 0,
            },
            NaeExit::SPECIFIC_EOI => Request::SpecificEoi {
                vector: byte(info1),
                vmpl: vmpl(info1 >> 16)?,
            },
            _ => return Err(GhcbError::INVALID_EVENT),
        })
    }

    /// The list must be in the GHCB's shared buffer; an address elsewhere is refused, as the specification allows.
    fn page_state_change(&self) -> Result<Request, GhcbError> {
        let Scratch::InGhcb { offset, .. } = self.scratch_area(8)? else {
            return Err(GhcbError::INVALID_SCRATCH_AREA);
        };
        let len = SHARED_BUFFER + SHARED_BUFFER_SIZE - offset;
        Ok(Request::PageStateChange {
            scratch: Scratch::InGhcb { offset, len },
        })
    }

    fn ap_creation(&self, info1: u64, info2: u64) -> Result<Request, GhcbError> {
        let info = abi::ApCreation::from_bits(info1);
        let action = match info.operation() {
            ApCreationOp::ON_INIT => ApCreation::OnInit,
            ApCreationOp::CREATE => ApCreation::Now,
            ApCreationOp::DESTROY => ApCreation::Destroy,
            _ => return Err(GhcbError::INVALID_INPUT),
        };
        let (vmpl, apic_id) = (vmpl(u64::from(info.vmpl()))?, info.apic_id());
        if action == ApCreation::Destroy {
            return Ok(Request::ApCreation {
                action,
                vmpl,
                apic_id,
                vmsa: info2,
                sev_features: None,
            });
        }
        let vmsa = page_aligned(info2)?;
        let sev_features = Some(self.field(GhcbField::RAX)?);
        Ok(Request::ApCreation {
            action,
            vmpl,
            apic_id,
            vmsa,
            sev_features,
        })
    }
}

/// Both pages aligned, and not the same (GHCB specification, 4.1.7).
fn guest_request_pages(request: u64, response: u64) -> Result<(), GhcbError> {
    page_aligned(request)?;
    page_aligned(response)?;
    if request == response {
        Err(GhcbError::INVALID_INPUT)
    } else {
        Ok(())
    }
}

fn page_aligned(gpa: u64) -> Result<u64, GhcbError> {
    if gpa & PAGE_MASK == 0 {
        Ok(gpa)
    } else {
        Err(GhcbError::INVALID_INPUT)
    }
}

fn vmpl(value: u64) -> Result<u8, GhcbError> {
    fitting_byte(value).and_then(|vmpl| {
        if vmpl < 4 {
            Ok(vmpl)
        } else {
            Err(GhcbError::INVALID_INPUT)
        }
    })
}

fn fitting_byte(value: u64) -> Result<u8, GhcbError> {
    u8::try_from(value).map_err(|_| GhcbError::INVALID_INPUT)
}

const fn byte(value: u64) -> u8 {
    value.to_le_bytes()[0]
}

fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}
