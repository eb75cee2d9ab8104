//! Runs inside a guest with test devices: sends a module of the paravisor a message and prints what comes back.
//!
//! `module_client NUMBER TEXT [cancel|busy]` prints `guest-check: module NUMBER STATE TEXT`, with the state as the channel has it.
//! With `busy` it keeps its processor busy until then, and prints before how long that was away: `guest-check: away LONGEST ALL OF`, in
//! microseconds.

use std::arch::asm;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The device's first port: data, command and state, which module, what is left of the response.
const PORT: u16 = 0x5A0;
const PORTS: u64 = 4;
const POST: u8 = 1;
const CANCEL: u8 = 2;
const TAKE: u8 = 4;
const BUSY: u8 = 1;
const ANSWERED: u8 = 2;
const PATIENCE: Duration = Duration::from_secs(90);

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let [_, number, text, rest @ ..] = words.as_slice() else {
        println!("guest-check: usage: module_client NUMBER TEXT [cancel]");
        return Ok(());
    };
    let ports = Ports::open()?;
    ports.write(2, number.parse().unwrap_or(0));
    for byte in text.bytes() {
        ports.write(0, byte);
    }
    ports.write(1, POST);
    if rest == ["busy"] {
        let gaps = Gaps::until(|| ports.read(1) != BUSY);
        let [longest, all, of] = [gaps.longest, gaps.all, gaps.of].map(|time| time.as_micros());
        println!("guest-check: away {longest} {all} {of}");
    } else if !rest.is_empty() {
        sleep(Duration::from_millis(50));
        ports.write(1, CANCEL);
    }
    let began = Instant::now();
    let mut state = ports.read(1);
    while state == BUSY && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(1));
        state = ports.read(1);
    }
    let mut answer = Vec::new();
    if state == ANSWERED {
        ports.write(1, TAKE);
        while ports.read(3) != 0 {
            answer.push(ports.read(0));
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    println!("guest-check: module {number} {state} {answer}");
    Ok(())
}

/// When a processor that has something to do was away.
struct Gaps {
    longest: Duration,
    all: Duration,
    of: Duration,
}

impl Gaps {
    /// Longer than anything of the guest's own between two looks at the clock.
    const LEAST: Duration = Duration::from_micros(100);
    /// Between two looks at `is_over`, which leave the guest.
    const STEP: Duration = Duration::from_millis(3);

    fn until(mut is_over: impl FnMut() -> bool) -> Self {
        let (mut longest, mut all) = (Duration::ZERO, Duration::ZERO);
        let began = Instant::now();
        let (mut before, mut looked) = (began, began);
        loop {
            let now = Instant::now();
            let gap = now - before;
            before = now;
            if gap >= Self::LEAST {
                longest = longest.max(gap);
                all += gap;
            }
            if now - looked >= Self::STEP {
                looked = now;
                if is_over() || now - began > PATIENCE {
                    let of = now - began;
                    return Self { longest, all, of };
                }
            }
        }
    }
}

/// The device's ports, which the kernel lets this process use.
struct Ports(());

impl Ports {
    #[expect(unsafe_code, reason = "a system call that leads to instructions")]
    fn open() -> std::io::Result<Self> {
        // SAFETY: the ports are a test device's, which reaches no memory.
        let answer = unsafe { nix::libc::ioperm(u64::from(PORT), PORTS, 1) };
        nix::errno::Errno::result(answer)?;
        Ok(Self(()))
    }

    #[expect(unsafe_code, reason = "an instruction")]
    fn read(&self, port: u16) -> u8 {
        let byte;
        // SAFETY: the kernel allows these ports, and the device behind them reaches no memory.
        unsafe {
            asm!("in al, dx", in("dx") PORT + port, out("al") byte, options(nomem, nostack, preserves_flags));
        }
        byte
    }

    #[expect(unsafe_code, reason = "an instruction")]
    fn write(&self, port: u16, byte: u8) {
        // SAFETY: as above.
        unsafe {
            asm!("out dx, al", in("dx") PORT + port, in("al") byte, options(nomem, nostack, preserves_flags));
        }
    }
}
