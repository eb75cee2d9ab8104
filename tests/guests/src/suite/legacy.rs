//! Real mode, protected mode of 16 and 32 bits, compatibility mode: ports, registers and events in each (APM vol. 2, 1.3, 5.2).

use super::{Context, Outcome, Stop, equal, holds, needs, tests};
use crate::machine::apic::{self, EXTINT, LVT_LINT0, TPR, VERSION};
use crate::machine::legacy::{BUFFER, Mode, TABLES, address, run};
use crate::machine::memory::{ACCESSED, DIRTY, read8, read32, read64, write8, write32, write64};
use crate::machine::port::inb;
use crate::machine::processor::cpuid;
use crate::machine::uart::{SCRATCH, lower_line, raise_line};
use crate::machine::{ioapic, pic, pit, uart};

unsafe extern "C" {
    static real_where: u8;
    static real_ports: u8;
    static real_strings: u8;
    static real_software_interrupt: u8;
    static real_interrupt: u8;
    static real_halt: u8;
    static real_exceptions: u8;
    static real_step: u8;
    static real_cpuid: u8;
    static real_unreal: u8;
    static real_nmi: u8;
    static protected_16_segment: u8;
    static protected_16_prefixes: u8;
    static flat_32_forms: u8;
    static flat_32_ports: u8;
    static paged_32: u8;
    static paged_32_events: u8;
    static flat_on_40: u8;
    static flat_on_41: u8;
    static flat_on_page_fault: u8;
}

const INTERRUPT_FLAG: u32 = 1 << 9;
const PSE: u32 = 1 << 4;
const PAE: u32 = 1 << 5;
/// The second page of the tables; the third; the interrupt table.
const TABLES_2: u64 = TABLES + 0x1000;
const TABLES_3: u64 = TABLES + 0x2000;
const GATES: u64 = TABLES + 0x3000;
/// Present, writable, uncached.
const PAGE: u64 = 0x13;
const LARGE: u64 = 0x83;

tests! {
    real_mode_is_reached_and_left, "The way from long mode to real mode and back works: CR0.PE is clear, CS is 0.";
    real_mode_ports, "IN and OUT of 1, 2 and 4 bytes in real mode.";
    real_mode_port_strings, "REP OUTSB and REP INSB in real mode, 16-bit registers, ES at its base.";
    real_mode_software_interrupt, "INT n by the real-mode table: IF clear within, set again after, the next IP saved.";
    real_mode_hardware_interrupt, "An 8259 interrupt by the real-mode table.";
    real_mode_halt_wakes, "HLT in real mode wakes by IRQ 0.";
    real_mode_exceptions, "#DE, #BP, #OF and #UD by the real-mode table.";
    real_mode_limit, "A word at FFFFh is #GP by the real-mode table.",
        known_qemu: "does not check segment limits";
    real_mode_step_over_in, "TF over IN in real mode: #DB right after it.";
    real_mode_cpuid, "CPUID in real mode.";
    real_mode_registers_by_a_large_segment, "A register above 1 MiB in real mode with a 4 GiB segment and 32-bit addresses.";
    real_mode_nmi, "An NMI by the real-mode table.";
    protected_16_register_by_segment_base, "A register by a 16-bit offset in a segment at FEE00000.";
    protected_16_register_by_32_bit_address, "A register from 16-bit code by address-size and operand-size prefixes.";
    protected_32_register_forms = forms_32::<2>, "MOV, ADD, XCHG and STOSD on registers in flat protected mode.";
    protected_32_ports = ports_32::<2>, "IN, OUT, REP OUTSB and REP INSB in flat protected mode.";
    compatibility_register_forms = forms_32::<3>, "MOV, ADD, XCHG and STOSD on registers in compatibility mode.";
    compatibility_ports = ports_32::<3>, "IN, OUT, REP OUTSB and REP INSB in compatibility mode.";
    paging_32_reaches_registers, "Registers by two-level 32-bit paging.";
    paging_32_sets_accessed_and_dirty, "Two-level paging sets accessed and dirty of the register's page.";
    paging_pae_reaches_registers, "Registers by PAE paging.";
    paging_pae_sets_accessed_and_dirty, "PAE paging sets accessed and dirty of the register's page.";
    paging_32_events, "INT n, an APIC interrupt and #PF(0) on an absent register page by a 32-bit IDT.";
}

fn version() -> u32 {
    apic::read(VERSION)
}

fn real_mode_is_reached_and_left(_: &mut Context) -> Outcome {
    let [cr0, cs, ..] = run(Mode::Real, &raw const real_where, &[]);
    equal("CR0.PE", cr0 & 1, 0_u32)?;
    equal("CS", cs, 0_u32)
}

fn real_mode_ports(_: &mut Context) -> Outcome {
    let [byte, double, word, ..] = run(Mode::Real, &raw const real_ports, &[]);
    equal("byte", byte, 0x5A_u32)?;
    equal("double word", double, 0x8000_0000_u32)?;
    equal("word", word, 0x8086_u32)
}

fn fill_buffer() {
    for at in 0..16 {
        write8(BUFFER + at, 0x10 + at as u8);
        write8(BUFFER + 0x100 + at, 0);
    }
}

/// Holds if the scratch register has the last byte out and the buffer the five in from `start` on.
fn strings_ran(start: u64) -> Outcome {
    equal("scratch register", inb(SCRATCH), 0x17_u8)?;
    for at in 0..5 {
        equal("byte in", read8(start + at), 0x17_u8)?;
    }
    equal("byte behind", read8(start + 5), 0_u8)
}

fn real_mode_port_strings(_: &mut Context) -> Outcome {
    fill_buffer();
    let [si, out_left, di, in_left, ..] = run(Mode::Real, &raw const real_strings, &[]);
    equal("SI", u64::from(si), BUFFER + 8)?;
    equal("CX after OUTSB", out_left, 0_u32)?;
    equal("DI", di, 8_u32)?;
    equal("CX after INSB", in_left, 0_u32)?;
    strings_ran(BUFFER + 0x103)
}

fn real_mode_software_interrupt(_: &mut Context) -> Outcome {
    let [times, within, after, distance, ..] =
        run(Mode::Real, &raw const real_software_interrupt, &[]);
    equal("times", times, 1_u32)?;
    equal("IF within", within & INTERRUPT_FLAG, 0_u32)?;
    equal("IF after", after & INTERRUPT_FLAG, INTERRUPT_FLAG)?;
    equal("saved IP less the next", distance & 0xFFFF, 0_u32)
}

fn real_mode_hardware_interrupt(_: &mut Context) -> Outcome {
    apic::write(LVT_LINT0, EXTINT);
    pic::unmask_only(1 << uart::IRQ);
    raise_line();
    let [times, within, ..] = run(Mode::Real, &raw const real_interrupt, &[]);
    lower_line();
    equal("times", times, 1_u32)?;
    equal("IF within", within & INTERRUPT_FLAG, 0_u32)
}

fn real_mode_halt_wakes(_: &mut Context) -> Outcome {
    apic::write(LVT_LINT0, EXTINT);
    pic::unmask_only(1);
    pit::program(0, 0, 5_000);
    let [times, ..] = run(Mode::Real, &raw const real_halt, &[]);
    equal("times", times, 1_u32)
}

fn real_mode_exceptions(_: &mut Context) -> Outcome {
    let times = run(Mode::Real, &raw const real_exceptions, &[]);
    equal("#DE", times[0], 1_u32)?;
    equal("#BP", times[3], 1_u32)?;
    equal("#OF", times[4], 1_u32)?;
    equal("#UD", times[6], 1_u32)
}

fn real_mode_limit(_: &mut Context) -> Outcome {
    let times = run(Mode::Real, &raw const real_exceptions, &[]);
    equal("#GP", times[13], 1_u32)
}

fn real_mode_step_over_in(_: &mut Context) -> Outcome {
    let [times, distance, ..] = run(Mode::Real, &raw const real_step, &[]);
    equal("times", times, 1_u32)?;
    equal("saved IP less the next", distance & 0xFFFF, 0_u32)
}

fn real_mode_cpuid(_: &mut Context) -> Outcome {
    let [ebx, ..] = run(Mode::Real, &raw const real_cpuid, &[]);
    equal("EBX", ebx, cpuid(0, 0).ebx)
}

fn real_mode_registers_by_a_large_segment(_: &mut Context) -> Outcome {
    let [seen, priority, ..] = run(Mode::Real, &raw const real_unreal, &[]);
    equal("version", seen, version())?;
    equal("TPR", priority, 0x30_u32)
}

fn real_mode_nmi(context: &mut Context) -> Outcome {
    uart::drain();
    ioapic::set_entry(uart::IRQ, ioapic::to(context.me, 0) | u64::from(apic::NMI));
    let [times, ..] = run(Mode::Real, &raw const real_nmi, &[]);
    equal("times", times, 1_u32)
}

fn protected_16_register_by_segment_base(_: &mut Context) -> Outcome {
    let [seen, priority, ..] = run(Mode::Protected16, &raw const protected_16_segment, &[]);
    equal("version", seen, version())?;
    equal("TPR", priority, 0x20_u32)
}

fn protected_16_register_by_32_bit_address(_: &mut Context) -> Outcome {
    let [seen, priority, ..] = run(Mode::Protected16, &raw const protected_16_prefixes, &[]);
    equal("version", seen, version())?;
    equal("TPR", priority, 0x50_u32)
}

const fn mode(number: u8) -> Mode {
    if number == 2 {
        Mode::Protected32
    } else {
        Mode::Compatibility
    }
}

fn forms_32<const MODE: u8>(_: &mut Context) -> Outcome {
    apic::write(apic::LVT_TIMER, apic::MASKED | 0x41);
    apic::write(apic::TIMER_DIVIDE, 0b1010);
    let base = apic::BASE as u32;
    let [_, by_a1, by_8b, by_c7, by_add, by_xchg, by_stos, ..] =
        run(mode(MODE), &raw const flat_32_forms, &[base]);
    equal("version by A1", by_a1, version())?;
    equal("version by 8B", by_8b, version())?;
    equal("TMICT after C7", by_c7, 0x1000_0000_u32)?;
    equal("TMICT after ADD", by_add, 0x1000_1234_u32)?;
    equal("what XCHG got", by_xchg, 0x1000_1234_u32)?;
    equal("TMICT after STOSD", by_stos, 0x3000_0000_u32)
}

fn ports_32<const MODE: u8>(_: &mut Context) -> Outcome {
    fill_buffer();
    let [byte, esi, out_left, edi, in_left, ..] = run(mode(MODE), &raw const flat_32_ports, &[]);
    equal("byte", byte, 0x5A_u32)?;
    equal("ESI", u64::from(esi), BUFFER + 8)?;
    equal("ECX after OUTSB", out_left, 0_u32)?;
    equal("EDI", u64::from(edi), BUFFER + 0x105)?;
    equal("ECX after INSB", in_left, 0_u32)?;
    strings_ran(BUFFER + 0x100)
}

fn clear_tables() {
    for at in (0..0x4000).step_by(8) {
        write64(TABLES + at, 0);
    }
}

/// Two levels: the first 4 MiB one to one, the APIC's page at 40000000h.
fn two_level_tables() -> [u32; 2] {
    clear_tables();
    write32(TABLES, LARGE as u32);
    write32(TABLES + 4 * 0x100, (TABLES_2 | PAGE) as u32);
    write32(TABLES_2, (apic::BASE | PAGE) as u32);
    [TABLES as u32, PSE]
}

/// Three levels: the first 2 MiB one to one, the APIC's page at 40000000h.
fn pae_tables() -> [u32; 2] {
    clear_tables();
    let directory = TABLES_2;
    let second_directory = TABLES_3;
    let pages = GATES;
    write64(TABLES, directory | 1);
    write64(TABLES + 8, second_directory | 1);
    write64(directory, LARGE);
    write64(second_directory, pages | PAGE);
    write64(pages, apic::BASE | PAGE);
    [TABLES as u32, PAE]
}

fn reaches(values: &[u32; 2]) -> Outcome {
    let [_, _, seen, priority, ..] = run(Mode::Protected32, &raw const paged_32, values);
    equal("version", seen, version())?;
    equal("TPR", priority, 0x60_u32)?;
    equal("TPR afterwards", apic::read(TPR), 0x60_u32)
}

fn paging_32_reaches_registers(_: &mut Context) -> Outcome {
    reaches(&two_level_tables())
}

fn paging_32_sets_accessed_and_dirty(_: &mut Context) -> Outcome {
    reaches(&two_level_tables())?;
    let entry = u64::from(read32(TABLES_2));
    equal(
        "accessed and dirty",
        entry & (ACCESSED | DIRTY),
        ACCESSED | DIRTY,
    )
}

fn paging_pae_reaches_registers(_: &mut Context) -> Outcome {
    reaches(&pae_tables())
}

fn paging_pae_sets_accessed_and_dirty(_: &mut Context) -> Outcome {
    reaches(&pae_tables())?;
    equal(
        "accessed and dirty",
        read64(GATES) & (ACCESSED | DIRTY),
        ACCESSED | DIRTY,
    )
}

/// A 32-bit interrupt gate to a routine of the blob (APM vol. 2, 4.8.3).
fn set_gate(vector: u64, routine: *const u8) {
    let entry = address(routine);
    write32(GATES + vector * 8, 0x18 << 16 | entry & 0xFFFF);
    write32(GATES + vector * 8 + 4, entry & 0xFFFF_0000 | 0x8E00);
}

fn paging_32_events(_: &mut Context) -> Result<(), Stop> {
    needs("the APIC is not in xAPIC mode", version() != u32::MAX)?;
    let [tables, flags] = two_level_tables();
    set_gate(14, &raw const flat_on_page_fault);
    set_gate(0x40, &raw const flat_on_40);
    set_gate(0x41, &raw const flat_on_41);
    let values = [tables, flags, 0, 0, GATES as u32, 0x7FF];
    let [_, _, software, hardware, error, cr2, ..] =
        run(Mode::Protected32, &raw const paged_32_events, &values);
    equal("INT 40h", software, 1_u32)?;
    equal("vector 41h", hardware, 1_u32)?;
    holds("a page fault came", error >> 31 == 1)?;
    equal("error code", error & 0x7FFF_FFFF, 0_u32)?;
    equal("CR2", cr2, 0x4000_1030_u32)
}
