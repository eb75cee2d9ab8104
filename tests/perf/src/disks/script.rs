//! What the guest does: `fio`, work after work, between marks.

use std::fmt::Write;

use stockade_rig::Initrd;

/// How much of it is done: what is slow does less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// As many requests as it takes to be sure.
    Full,
    /// A quarter of them.
    Quarter,
}

/// A kind of work.
pub(super) struct Work {
    /// Its name in the table.
    pub(super) title: &'static str,
    /// `fio`'s name for it.
    kind: &'static str,
    /// Block size in KiB.
    block_kib: u64,
    /// Requests in flight.
    depth: u32,
    requests: u64,
}

impl Work {
    const fn new(
        title: &'static str,
        kind: &'static str,
        block_kib: u64,
        depth: u32,
        requests: u64,
    ) -> Self {
        Self {
            title,
            kind,
            block_kib,
            depth,
            requests,
        }
    }

    /// Returns how many requests there are.
    pub(super) fn requests(&self, effort: Effort) -> u64 {
        match effort {
            Effort::Full => self.requests,
            Effort::Quarter => self.requests / 4,
        }
    }
}

/// The kinds of work; the first is what it costs to start `fio`.
pub(super) const WORK: [Work; 6] = [
    Work::new("start of fio", "read", 4, 1, 4),
    Work::new("read 128 KiB in order, 4 in flight", "read", 128, 4, 4096),
    Work::new("write 128 KiB in order, 4 in flight", "write", 128, 4, 2048),
    Work::new("read 4 KiB anywhere, 4 in flight", "randread", 4, 4, 8192),
    Work::new("write 4 KiB anywhere, 4 in flight", "randwrite", 4, 4, 4096),
    Work::new("read 4 KiB anywhere, 1 in flight", "randread", 4, 1, 4096),
];

/// Where the model counts exits by phase: leaf of CPUID (`stockade-model`, `snp::work`).
const MARK: u32 = 0x5354_4B00;
/// KiB of the disk that are worked on.
const AREA_KIB: u64 = 16 << 10;

/// Mapping in the guest that makes the same promises as a sealed disk, but for freshness of the whole.
const MAPPING: &str = "\
mkdir -p /run/cryptsetup; echo secret >/key
cryptsetup luksFormat -q --type luks2 --cipher aes-gcm-random --integrity aead --integrity-no-wipe \
--pbkdf pbkdf2 --pbkdf-force-iterations 1000 $disk /key 2>&1 || say \"no mapping\"
cryptsetup open --key-file /key $disk mapped; disk=/dev/mapper/mapped
dd if=/dev/zero of=$disk bs=1M count=72 oflag=direct 2>/dev/null
";

/// Drivers of the disk, and what the mapping in the guest is made of.
const MODULES: [&str; 13] = [
    "cpuid",
    "virtio_pci",
    "virtio_blk",
    "dm-crypt",
    "dm-integrity",
    "algif_skcipher",
    "algif_aead",
    "gcm",
    "ctr",
    "ghash-generic",
    "ghash-clmulni-intel",
    "aesni-intel",
    "authenc",
];

/// Whether the guest maps the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mapping {
    /// It takes it as it is.
    None,
    /// `dm-crypt` over `dm-integrity`.
    Sealing,
}

/// Returns the initramfs that does all the work.
pub(super) fn initrd(mapping: Mapping, effort: Effort) -> Initrd {
    let initrd = Initrd::new(&script(mapping, effort))
        .modules(&MODULES)
        .fio();
    match mapping {
        Mapping::None => initrd,
        Mapping::Sealing => initrd.cryptsetup(),
    }
}

fn script(mapping: Mapping, effort: Effort) -> String {
    let mut text = format!(
        "for module in {}; do modprobe $module; done\ndisk=/dev/vda\n\
         mark() {{ dd if=/dev/cpu/0/cpuid of=/dev/null bs=16 count=1 iflag=skip_bytes skip=$(({MARK} + $1)) 2>/dev/null; }}\n",
        MODULES.join(" ")
    );
    if mapping == Mapping::Sealing {
        text.push_str(MAPPING);
    }
    // A sealed disk has to hold something to be read.
    let _ = writeln!(
        text,
        "dd if=/dev/zero of=$disk bs=1M count={} oflag=direct 2>/dev/null; sync",
        AREA_KIB >> 10
    );
    for (index, work) in WORK.iter().enumerate() {
        text.push_str(&steps(index, work, effort));
    }
    text.push_str("say done\n");
    text
}

/// `fio`'s terse line has bandwidth (KiB/s) and mean latency (µs) of reads in fields 7 and 40, of writes in 48 and 81 (version 3).
fn steps(index: usize, work: &Work, effort: Effort) -> String {
    let (bandwidth, latency) = if work.kind.ends_with("read") {
        (7, 40)
    } else {
        (48, 81)
    };
    let Work {
        kind,
        block_kib,
        depth,
        ..
    } = work;
    let io_kib = block_kib * work.requests(effort).max(4);
    let phase = index + 1;
    format!(
        "say \"begin {index}\"; sleep 0.1; mark {phase}\n\
         line=$(fio --name=work --filename=$disk --rw={kind} --bs={block_kib}k --size={AREA_KIB}k --io_size={io_kib}k --direct=1 \
         --ioengine=libaio --iodepth={depth} --norandommap --minimal --output-format=terse --terse-version=3 | tail -n 1)\n\
         mark 0; say \"end {index}\"\n\
         say \"bandwidth-kib {index} $(echo \"$line\" | cut -d';' -f{bandwidth})\"\n\
         say \"latency-us {index} $(echo \"$line\" | cut -d';' -f{latency})\"\n"
    )
}
