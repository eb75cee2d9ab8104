//! A module of the paravisor that does what its name says, and says what came of it: most of its names it does not survive.
//!
//! Built by the tests with `rustc` alone, as a static program.

use std::arch::asm;
use std::hint::black_box;

/// The paravisor's first code, and guest memory as the paravisor has it.
const PARAVISOR: usize = 0x80_0001_0000;
const GUEST: usize = 0xFFFF_8000_0000_1000;

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    println!("begins");
    // SAFETY: none of this is sound; the machine around it is what is being tested.
    unsafe { misbehave(&name) };
    println!("survives");
}

unsafe fn misbehave(name: &str) {
    unsafe {
        match name {
            "reads-paravisor" => read(PARAVISOR),
            // What entering and leaving needs is mapped, though not for the likes of it.
            "reads-gate" => read(PARAVISOR + 0x1000),
            "writes-paravisor" => (PARAVISOR as *mut u64).write_volatile(1),
            "reads-guest" => read(GUEST),
            "jumps-to-paravisor" => asm!("call {}", in(reg) PARAVISOR),
            "loops" => loop {
                asm!("pause");
            },
            "halts" => asm!("cli", "hlt"),
            "writes-port" => asm!("out dx, al", in("dx") 0x604_u16, in("al") 0_u8),
            "writes-msr" => {
                asm!("wrmsr", in("ecx") 0xC001_0130_u32, in("eax") 0x100_u32, in("edx") 0)
            }
            "loads-cr3" => asm!("mov cr3, {}", in(reg) 0_u64),
            "validates" => asm!(
                ".byte 0xf2, 0x0f, 0x01, 0xff", in("rax") 0x40_0000_u64, in("rcx") 0, in("rdx") 0),
            "calls-host" => asm!("vmmcall", in("rax") 0_u64),
            "exits-to-host" => exits_to_host(),
            "interrupts" => asm!("int 0x80"),
            "steps" => asm!("pushf", "or qword ptr [rsp], 0x100", "popf", "nop"),
            "overflows" => println!("{}", overflow(1)),
            "writes-code" => (misbehave as *mut u8).write_volatile(0xC3),
            "runs-data" => {
                static DATA: [u8; 4] = [0xC3; 4];
                asm!("call {}", in(reg) DATA.as_ptr());
            }
            "loses-stack" => asm!("mov rsp, {}", "push rax", in(reg) 1_u64 << 62),
            "aborts" => std::process::abort(),
            "exits-3" => std::process::exit(3),
            "asks" => asks(),
            "eats-memory" => eats_memory(),
            "changes-rights" => changes_rights(),
            _ => println!("knows no misdeed {name:?}"),
        }
    }
}

unsafe fn read(address: usize) {
    let value = unsafe { (address as *const u64).read_volatile() };
    println!("has read {value:#x}");
}

/// VMGEXIT is allowed at CPL-3; the host must find no request.
unsafe fn exits_to_host() {
    for _ in 0..3 {
        unsafe { asm!(".byte 0xf3, 0x0f, 0x01, 0xd9") };
    }
    println!("has left three times");
}

#[expect(unconditional_recursion, reason = "that is the misdeed")]
fn overflow(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    overflow(depth + 1) + room[7]
}

unsafe fn call(number: u64, arguments: [u64; 3]) -> i64 {
    let result: i64;
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") arguments[0],
            in("rsi") arguments[1], in("rdx") arguments[2], out("rcx") _, out("r11") _);
    }
    result
}

/// System calls nobody offers, and some with addresses that are not its own.
unsafe fn asks() {
    for number in [41, 56, 57, 59, 101, 165, 175, 321, 500, 1 << 40] {
        let result = unsafe { call(number, [0; 3]) };
        assert_eq!(result, -38, "call {number}");
    }
    for address in [0, PARAVISOR as u64, GUEST as u64, u64::MAX] {
        assert_eq!(unsafe { call(1, [1, address, 8]) }, -14);
        assert_eq!(unsafe { call(318, [address, 8, 0]) }, -14);
    }
    println!("was refused all");
}

unsafe fn map(address: u64, bytes: u64, flags: u64) -> i64 {
    const ANONYMOUS: u64 = 0x22;
    let result: i64;
    unsafe {
        asm!("syscall", inlateout("rax") 9_u64 => result, in("rdi") address, in("rsi") bytes,
            in("rdx") 3_u64, in("r10") ANONYMOUS | flags, in("r8") -1_i64, in("r9") 0_u64,
            out("rcx") _, out("r11") _);
    }
    result
}

/// Whole stretches until there are no more, then pages far apart: each wants a table, too.
unsafe fn eats_memory() {
    const FIXED: u64 = 0x10;
    let mut mib = 0;
    let refused = loop {
        let result = unsafe { map(0, 1 << 20, 0) };
        if result < 0 {
            break result;
        }
        unsafe { (result as *mut u64).write_volatile(7) };
        mib += 1;
    };
    println!("was given {mib} MiB and then {refused}");
    let places = (0..8192).map(|index| (64 << 30) + index * (2 << 20));
    let given = places.filter(|place| unsafe { map(*place, 4096, FIXED) } > 0);
    println!("was given {} pages far apart", given.count());
}

/// Pages that are writable and executable, one after the other or at once.
unsafe fn changes_rights() {
    let page = misbehave as *const () as u64 & !0xFFF;
    for rights in [7, 6, 4] {
        assert_eq!(unsafe { call(10, [page, 0x1000, rights]) }, -13);
    }
    println!("has no code of its own making");
}
