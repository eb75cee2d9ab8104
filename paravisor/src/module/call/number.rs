//! Numbers of Linux's system calls on x86-64 (`arch/x86/entry/syscalls/syscall_64.tbl`).

/// A call's number. The module chooses it, so any number is a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub u64);

#[expect(missing_docs, reason = "each is Linux's call of its name")]
impl Number {
    pub const READ: Self = Self(0);
    pub const WRITE: Self = Self(1);
    pub const OPEN: Self = Self(2);
    pub const CLOSE: Self = Self(3);
    pub const FSTAT: Self = Self(5);
    pub const POLL: Self = Self(7);
    pub const LSEEK: Self = Self(8);
    pub const MMAP: Self = Self(9);
    pub const MPROTECT: Self = Self(10);
    pub const MUNMAP: Self = Self(11);
    pub const BRK: Self = Self(12);
    pub const RT_SIGACTION: Self = Self(13);
    pub const RT_SIGPROCMASK: Self = Self(14);
    pub const IOCTL: Self = Self(16);
    pub const WRITEV: Self = Self(20);
    pub const ACCESS: Self = Self(21);
    pub const SCHED_YIELD: Self = Self(24);
    pub const MREMAP: Self = Self(25);
    pub const MADVISE: Self = Self(28);
    pub const NANOSLEEP: Self = Self(35);
    pub const GETPID: Self = Self(39);
    pub const SENDTO: Self = Self(44);
    pub const RECVFROM: Self = Self(45);
    pub const EXIT: Self = Self(60);
    pub const KILL: Self = Self(62);
    pub const UNAME: Self = Self(63);
    pub const FCNTL: Self = Self(72);
    pub const READLINK: Self = Self(89);
    pub const GETTIMEOFDAY: Self = Self(96);
    pub const GETUID: Self = Self(102);
    pub const GETGID: Self = Self(104);
    pub const GETEUID: Self = Self(107);
    pub const GETEGID: Self = Self(108);
    pub const GETPPID: Self = Self(110);
    pub const SIGALTSTACK: Self = Self(131);
    pub const ARCH_PRCTL: Self = Self(158);
    pub const GETTID: Self = Self(186);
    pub const TKILL: Self = Self(200);
    pub const TIME: Self = Self(201);
    pub const FUTEX: Self = Self(202);
    pub const SCHED_GETAFFINITY: Self = Self(204);
    pub const SET_TID_ADDRESS: Self = Self(218);
    pub const CLOCK_GETTIME: Self = Self(228);
    pub const CLOCK_GETRES: Self = Self(229);
    pub const CLOCK_NANOSLEEP: Self = Self(230);
    pub const EXIT_GROUP: Self = Self(231);
    pub const TGKILL: Self = Self(234);
    pub const OPENAT: Self = Self(257);
    pub const NEWFSTATAT: Self = Self(262);
    pub const READLINKAT: Self = Self(267);
    pub const PPOLL: Self = Self(271);
    pub const SET_ROBUST_LIST: Self = Self(273);
    pub const PRLIMIT64: Self = Self(302);
    pub const GETRANDOM: Self = Self(318);
    pub const RSEQ: Self = Self(334);
}
