//! The paravisor's only unsafe crate besides `stockade-entry`: GHCB, VMSA, RMP, paging, memory.
//!
//! Read it in the order of a start: [`boot`] checks the processor and the host, builds [`Platform`] and calls the program.
//! [`ghcb`] is every call to the host with its answer checked; [`doorbell`] what the host may tell us unasked; [`vmsa`] the
//! guest's registers and the entry into VMPL2; [`memory`] guest RAM; [`psp`] the way to the secure processor; [`time`],
//! [`random`] and [`log`] what the rest stands on.
//!
//! ```text
//! API of stockade-platform (planned signatures; bodies are coming). All no_std, single-threaded per CPU, IF=0 throughout.
//!
//! main.rs exports:   #[unsafe(no_mangle)] pub fn paravisor_main(platform: Platform) -> !      (called by boot on a 256 KiB stack)
//!
//! boot:   struct Platform { pub cpu: Cpu, pub ram: GuestRam, pub clock: TscClock, pub psp: Psp, pub launch: Launch }
//!         struct Cpu { pub ghcb: Ghcb, pub doorbell: Doorbell, pub vmsa: GuestVmsa /* VMPL2, of this CPU */, pub apic_id: u32 }
//!         struct Launch { pub cpuid: CpuidPage (abi), pub manifest: [u8; 4096], pub vcpu_count: u32, pub sev_features: u64 (of VMPL0) }
//! ghcb:   Ghcb: Clone handle, all methods &self:
//!         io_in(port: u16, width: IoWidth) -> Result<u32, HostError>; io_out(port, width, value: u32) -> Result<(), HostError>
//!         io_out_string(port, &[u8]) -> Result<(), HostError>            (any length; cut to 2032-byte calls)
//!         rdmsr(u32) -> Result<u64,_>; wrmsr(u32, u64) -> Result<(),_>
//!         mmio_read(gpa: u64, &mut [u8]) ; mmio_write(gpa: u64, &[u8])   (1..=8 bytes)
//!         page_state_change(&[PageStateEntry]) ; ap_create(apic_id: u32, vmpl: u8, sev_features: u64, vmsa_gpa: u64, Subcommand)
//!         set_doorbell(gpa) ; run_vmpl is reached by GuestVmsa::enter ; hv_features() -> Result<HypervisorFeatures,_>
//!         arm_timer(tsc_deadline: u64) ; disarm_timer() ; end_of_interrupt() ; route_console_interrupt(vector: u8)
//!         power_off() -> ! ; fn stop(reason: StopReason) -> ! (free function, no GHCB needed)
//! doorbell: Doorbell::drain(&mut self) -> Pending  { vectors: iterator of u8 (0xE0, 0xE1 …), nmi, mc: bool } ; eoi_required(&self) -> bool ; is_signalled()
//! vmsa:   GuestVmsa: vmsa(&self) -> &Vmsa; vmsa_mut(&mut self) -> &mut Vmsa (busy is set whenever you hold it)
//!         enter(&mut self, &Ghcb, &Doorbell) -> Result<HostReturn, HostError>; enum HostReturn { Ran, EventPending }
//!         gpa() -> u64 ; flush_tlb(&mut self) ; reset(&mut self)  (INIT/RESET state with our SEV features, vTOM)
//! idle:   doorbell.wait(&Ghcb)  — HLT unless an event is signalled
//! memory: GuestRam: impl stockade_bus::GuestMemory ; ranges() -> &[RamRange{start,size}] ; total_bytes()
//!         zero(start: Gpa, len: u64) ; read_staging(offset: u64, &mut [u8]) -> Result<(), MemoryError> ; copy_staging_to_guest(staging_gpa: u64, gpa: Gpa, len: u64)
//! time:   TscClock: Clone + Copy + stockade_bus::Clock ; read_tsc() ; frequency_hz() ; tsc_at(ns) -> u64 (deadline for arm_timer)
//! psp:    Psp: report(&mut self, &Ghcb, &[u8;64]) -> Result<Report, PspError>; derived_key(&mut self, &Ghcb, &KeyRequest) -> Result<Zeroizing<[u8;32]>, PspError>; tsc_info(&mut self,&Ghcb)
//! random: fill(&mut [u8]) -> Result<(), NoEntropy> ; next_u64()
//! log:    error!/warn!/info!/debug! macros -> COM2, a line a time ; set_level(Level)
//! ```

#![no_std]
extern crate alloc;

mod error;

pub use error::HostError;
