//! The registers of a launch VMSA.

use std::fmt::{self, Write as _};

use igvm::snp_defs::{SevSelector, SevVmsa};
use stockade_abi::vmsa::SevFeatures;

/// Writes the registers that are not zero, and those that always matter.
pub(super) fn write(text: &mut String, vmsa: &SevVmsa) -> fmt::Result {
    writeln!(text, "  vmpl {}, cpl {}", vmsa.vmpl, vmsa.cpl)?;
    let features = SevFeatures(vmsa.sev_features.into());
    let names: Vec<String> = features
        .iter_names()
        .map(|(name, _)| name.to_lowercase())
        .collect();
    writeln!(
        text,
        "  features       {:#x}: {}",
        features.0,
        names.join(", ")
    )?;
    for (name, value) in important(vmsa) {
        writeln!(text, "  {name:<14} {value:#x}")?;
    }
    for (name, value) in general(vmsa).into_iter().filter(|(_, value)| *value != 0) {
        writeln!(text, "  {name:<14} {value:#x}")?;
    }
    for (name, segment) in segments(vmsa) {
        let SevSelector {
            selector,
            attrib,
            limit,
            base,
        } = *segment;
        writeln!(
            text,
            "  {name:<14} selector {selector:#06x} attributes {attrib:#06x} limit {limit:#010x} base {base:#x}"
        )?;
    }
    Ok(())
}

fn important(vmsa: &SevVmsa) -> [(&'static str, u64); 14] {
    [
        ("rip", vmsa.rip),
        ("rsp", vmsa.rsp),
        ("rflags", vmsa.rflags),
        ("cr0", vmsa.cr0),
        ("cr3", vmsa.cr3),
        ("cr4", vmsa.cr4),
        ("efer", vmsa.efer),
        ("dr6", vmsa.dr6),
        ("dr7", vmsa.dr7),
        ("pat", vmsa.pat),
        ("xcr0", vmsa.xcr0),
        ("mxcsr", vmsa.mxcsr.into()),
        ("x87 control", vmsa.x87_fcw.into()),
        ("virtual tom", vmsa.virtual_tom),
    ]
}

fn general(vmsa: &SevVmsa) -> [(&'static str, u64); 19] {
    [
        ("rax", vmsa.rax),
        ("rbx", vmsa.rbx),
        ("rcx", vmsa.rcx),
        ("rdx", vmsa.rdx),
        ("rbp", vmsa.rbp),
        ("rsi", vmsa.rsi),
        ("rdi", vmsa.rdi),
        ("r8", vmsa.r8),
        ("r9", vmsa.r9),
        ("r10", vmsa.r10),
        ("r11", vmsa.r11),
        ("r12", vmsa.r12),
        ("r13", vmsa.r13),
        ("r14", vmsa.r14),
        ("r15", vmsa.r15),
        ("cr2", vmsa.cr2),
        ("xss", vmsa.xss),
        ("interrupt ctl", vmsa.v_intr_cntrl.0),
        ("event", vmsa.event_inject.0),
    ]
}

fn segments(vmsa: &SevVmsa) -> [(&'static str, &SevSelector); 10] {
    [
        ("cs", &vmsa.cs),
        ("ss", &vmsa.ss),
        ("ds", &vmsa.ds),
        ("es", &vmsa.es),
        ("fs", &vmsa.fs),
        ("gs", &vmsa.gs),
        ("ldtr", &vmsa.ldtr),
        ("tr", &vmsa.tr),
        ("gdtr", &vmsa.gdtr),
        ("idtr", &vmsa.idtr),
    ]
}
