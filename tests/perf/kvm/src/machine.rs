//! The virtual machine: memory with the guest in it, interrupt controllers, processors.

use std::ptr::NonNull;

use elf::ElfBytes;
use elf::abi::PT_LOAD;
use elf::endian::LittleEndian;
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use crate::Failure;
use crate::devices::{Devices, Next};

const MEMORY: usize = 64 << 20;
/// PVH's start information and the command line.
const START_INFO: usize = 0x6000;
const COMMAND_LINE: usize = 0x7000;
const START_MAGIC: u32 = 0x336E_C578;
/// Where KVM on Intel keeps what real mode needs; unused on AMD, but asked for by both.
const TSS: usize = 0xFFFB_D000;
/// XEN_ELFNOTE_PHYS32_ENTRY.
const PHYS32_ENTRY: u64 = 18;

/// A guest that has not begun.
pub(crate) struct Machine {
    kvm: Kvm,
    vm: VmFd,
    entry: u64,
    cpus: u64,
}

impl Machine {
    /// Puts `image` and its command line into the memory of a new machine.
    pub(crate) fn try_new(image: &[u8], words: &str, cpus: u64) -> Result<Self, Failure> {
        let kvm = Kvm::new()?;
        let vm = kvm.create_vm()?;
        vm.set_tss_address(TSS)?;
        vm.create_irq_chip()?;
        let mut memory = vec![0; MEMORY];
        let entry = load(image, &mut memory)?;
        put_start_info(&mut memory, words)?;
        give_memory(&vm, &memory)?;
        Ok(Self {
            kvm,
            vm,
            entry,
            cpus,
        })
    }

    /// Makes the processors; all but the first wait for a start-up IPI.
    pub(crate) fn processors(&self) -> Result<Vec<VcpuFd>, Failure> {
        let mut made = Vec::new();
        for index in 0..self.cpus {
            let vcpu = self.vm.create_vcpu(index)?;
            vcpu.set_cpuid2(&self.cpuid(index)?)?;
            if index == 0 {
                self.set_start(&vcpu)?;
            }
            made.push(vcpu);
        }
        Ok(made)
    }

    /// What KVM can do, with the processor's own number in it, and the timer its interrupt controllers bring.
    fn cpuid(&self, index: u64) -> Result<CpuId, Failure> {
        const X2APIC: u32 = 1 << 21;
        const TSC_DEADLINE: u32 = 1 << 24;
        let id = u32::try_from(index)?;
        let has_deadline = self.kvm.check_extension(Cap::TscDeadlineTimer);
        let mut cpuid = self.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                1 => {
                    entry.ebx = entry.ebx & 0x00FF_FFFF | id << 24;
                    entry.ecx |= X2APIC | if has_deadline { TSC_DEADLINE } else { 0 };
                }
                0xB => entry.edx = id,
                _ => {}
            }
        }
        Ok(cpuid)
    }

    /// PVH: 32 bits, flat segments, no paging, EBX at the start information.
    fn set_start(&self, vcpu: &VcpuFd) -> Result<(), Failure> {
        let mut registers = vcpu.get_sregs()?;
        let segment = |selector, type_| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            dpl: 0,
            db: 1,
            s: 1,
            l: 0,
            g: 1,
            ..kvm_segment::default()
        };
        let data = segment(0x18, 3);
        registers.cs = segment(0x10, 11);
        (registers.ds, registers.es, registers.ss) = (data, data, data);
        (registers.fs, registers.gs) = (data, data);
        registers.cr0 = 0x11;
        vcpu.set_sregs(&registers)?;
        vcpu.set_regs(&kvm_regs {
            rip: self.entry,
            rbx: START_INFO as u64,
            rflags: 2,
            ..kvm_regs::default()
        })?;
        Ok(())
    }
}

/// Runs a processor until the guest ends.
pub(crate) fn run(mut vcpu: VcpuFd) -> Result<(), Failure> {
    let mut devices = Devices::new();
    loop {
        let exit = match vcpu.run() {
            // So a processor comes back that has waited for its start-up IPI.
            Err(error)
                if [Errno::EAGAIN, Errno::EINTR].contains(&Errno::from_raw(error.errno())) =>
            {
                continue;
            }
            exit => exit?,
        };
        match exit {
            VcpuExit::IoIn(port, data) => devices.read(port, data),
            VcpuExit::IoOut(port, data) => {
                if devices.write(port, data) == Next::End {
                    return Ok(());
                }
            }
            VcpuExit::MmioRead(_, data) => data.fill(0xFF),
            VcpuExit::MmioWrite(..) | VcpuExit::Intr => {}
            other => return Err(format!("the guest ended by {other:?}").into()),
        }
    }
}

/// Copies the image's segments and returns its PVH entry.
fn load(image: &[u8], memory: &mut [u8]) -> Result<u64, Failure> {
    let file = ElfBytes::<LittleEndian>::minimal_parse(image)?;
    let mut entry = None;
    for header in file.segments().ok_or("the guest has no segments")? {
        if header.p_type == PT_LOAD {
            let bytes = file.segment_data(&header)?;
            let start = usize::try_from(header.p_paddr)?;
            memory
                .get_mut(start..start + bytes.len())
                .ok_or("the guest does not fit")?
                .copy_from_slice(bytes);
        }
        if header.p_type == elf::abi::PT_NOTE {
            for note in file.segment_data_as_notes(&header)? {
                if let elf::note::Note::Unknown(note) = note
                    && note.n_type == PHYS32_ENTRY
                    && let Some(bytes) = note.desc.first_chunk()
                {
                    entry = Some(u64::from(u32::from_le_bytes(*bytes)));
                }
            }
        }
    }
    entry.ok_or_else(|| "the guest has no PVH entry".into())
}

fn put_start_info(memory: &mut [u8], words: &str) -> Result<(), Failure> {
    let mut put = |at: usize, bytes: &[u8]| {
        let place = memory.get_mut(at..at + bytes.len());
        place
            .ok_or("no room")
            .map(|place| place.copy_from_slice(bytes))
    };
    put(START_INFO, &START_MAGIC.to_le_bytes())?;
    put(START_INFO + 24, &(COMMAND_LINE as u64).to_le_bytes())?;
    put(COMMAND_LINE, words.as_bytes())?;
    Ok(())
}

/// Makes a copy of `content` the guest's memory, for as long as the process lives.
fn give_memory(vm: &VmFd, content: &[u8]) -> Result<(), Failure> {
    let length = content.len().try_into()?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping of anonymous memory touches nothing that is there.
    let start: NonNull<u8> =
        unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE)? }.cast();
    // SAFETY: the mapping is as long as `content`, writable, and nobody else knows it yet.
    unsafe {
        start
            .as_ptr()
            .copy_from_nonoverlapping(content.as_ptr(), content.len())
    };
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: content.len() as u64,
        userspace_addr: start.as_ptr().expose_provenance() as u64,
    };
    // SAFETY: the mapping is never unmapped, and Rust has no reference into it.
    unsafe { vm.set_user_memory_region(region)? };
    Ok(())
}
