//! Local APIC, IOAPIC, 8259, MSI and the injection decision.

#![no_std]
