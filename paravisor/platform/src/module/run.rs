//! Running a module on this processor.

use stockade_entry::module::{self, Gate, SYSCALL, USER_CODE_SELECTOR, USER_DATA_SELECTOR};

use super::{ModuleExit, ModuleRegisters, ModuleSpace};
use crate::cpu;
use crate::processor;

const FS_BASE: u32 = 0xC000_0100;
/// One past the canonical addresses a user may have.
const USER_HALF: u64 = 1 << 47;
/// #HV, and what an impossible RIP ends in.
const HV: u64 = 28;
const PROTECTION: u8 = 13;
/// Flags a user may set: CF, PF, AF, ZF, SF, TF, DF, OF, AC, ID.
const USER_FLAGS: u64 = 0x0024_0DD5;
/// The flag that is always one, and IF: hosts judge by it whether an #HV is welcome.
const FIXED_FLAGS: u64 = 1 << 1 | 1 << 9;

impl ModuleSpace {
    /// Runs the module until it gives the processor back. With a signal of the host waiting that is at once.
    ///
    /// # Panics
    /// If this processor has no area or no GHCB yet: modules run after the start.
    pub fn run(&mut self, registers: &mut ModuleRegisters) -> ModuleExit {
        // A return to a non-canonical address would fault here, not there (APM vol. 3, IRET).
        if registers.rip >= USER_HALF {
            return ModuleExit::Exception(PROTECTION, 0, 0);
        }
        let area = cpu::current().expect("modules run after the start");
        area.ghcb()
            .expect("modules run after the start")
            .invalidate();
        let fs_base = registers.fs_base & (USER_HALF - 1);
        // SAFETY: 1. every 64-bit processor has the register. 2. Nothing of the paravisor uses FS.
        unsafe { processor::write_msr(FS_BASE, fs_base) };
        let gate = area.gate();
        let (doorbell, states) = {
            // SAFETY: the gate is this processor's, and no module runs on it now.
            let gate = unsafe { &*gate };
            (gate.doorbell, gate.states)
        };
        let entered = Gate {
            general: registers.general,
            rax: registers.rax,
            frame: [
                registers.rip,
                u64::from(USER_CODE_SELECTOR),
                registers.rflags & USER_FLAGS | FIXED_FLAGS,
                registers.rsp,
                u64::from(USER_DATA_SELECTOR),
            ],
            module_cr3: self.tables.cr3(),
            vectors: (&raw mut *self.vectors).expose_provenance() as u64,
            doorbell,
            states,
            ..Gate::new()
        };
        // SAFETY: as above; no reference to it is left.
        unsafe { gate.write(entered) };
        // SAFETY: 1. the gate is behind GS here, and only raw pointers name it. 2. as just written: `USER_FLAGS` has no system flag, RIP is
        // in the lower half. 3. the tables are a module's, with the gate's entry; this processor was opened to them before it ran
        // modules. 4. `Vectors` is such an area. 5. The start installed them.
        unsafe { module::enter(gate) };
        // SAFETY: the module has left, so nothing else uses the gate.
        let left = unsafe { gate.read() };
        let [rip, _, rflags, rsp, _] = left.frame;
        *registers = ModuleRegisters {
            general: left.general,
            rax: left.rax,
            rsp,
            rip,
            rflags,
            fs_base,
        };
        match left.vector {
            SYSCALL => ModuleExit::Call,
            HV => ModuleExit::Interrupted,
            vector => ModuleExit::Exception(vector.to_le_bytes()[0], left.error, left.cr2),
        }
    }
}
