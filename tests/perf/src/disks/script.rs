//! What the guest does: `fio`, work after work, between marks.

use std::fmt::Write;

use stockade_rig::Initrd;

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
}

impl Work {
    const fn new(title: &'static str, kind: &'static str, block_kib: u64, depth: u32) -> Self {
        Self {
            title,
            kind,
            block_kib,
            depth,
        }
    }

    /// Returns how many sectors a request has.
    pub(super) fn sectors(&self) -> u64 {
        self.block_kib * 2
    }
}

/// The kinds of work.
pub(super) const WORK: [Work; 5] = [
    Work::new("read 128 KiB in order, 4 in flight", "read", 128, 4),
    Work::new("write 128 KiB in order, 4 in flight", "write", 128, 4),
    Work::new("read 4 KiB anywhere, 4 in flight", "randread", 4, 4),
    Work::new("write 4 KiB anywhere, 4 in flight", "randwrite", 4, 4),
    Work::new("read 4 KiB anywhere, 1 in flight", "randread", 4, 1),
];

/// Seconds between the marks: processor time is told in hundredths.
const WINDOW_S: u32 = 4;
/// Seconds `fio` works: some before the first mark and some after the last.
const RUNTIME_S: u32 = WINDOW_S + 2;

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

/// Returns the initramfs that does these kinds of work.
pub(super) fn initrd(mapping: Mapping, works: &[Work]) -> Initrd {
    let initrd = Initrd::new(&script(mapping, works)).modules(&MODULES).fio();
    match mapping {
        Mapping::None => initrd,
        Mapping::Sealing => initrd.cryptsetup(),
    }
}

/// Functions: `mark` tells the model, `carried` counts the sectors the disk has carried.
const FUNCTIONS: &str = "\
carried() { read -r _ _ read _ _ _ written _ <$stat; sectors=$((read + written)); }
settle() { carried; local least=$((sectors + $1)); while carried; [ $sectors -lt $least ]; do sleep 0.1; done; }
";

fn script(mapping: Mapping, works: &[Work]) -> String {
    let mut text = format!(
        "for module in {}; do modprobe $module; done\ndisk=/dev/vda\n\
         mark() {{ dd if=/dev/cpu/0/cpuid of=/dev/null bs=16 count=1 iflag=skip_bytes skip=$(({MARK} + $1)) 2>/dev/null; }}\n\
         {FUNCTIONS}",
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
    text.push_str(
        "stat=/sys/dev/block/$((0x$(stat -L -c %t $disk))):$((0x$(stat -L -c %T $disk)))/stat\n",
    );
    for (index, work) in works.iter().enumerate() {
        text.push_str(&steps(index, work));
    }
    text.push_str("say done\n");
    text
}

/// Work between marks in the middle of it, so that neither the start of `fio` nor its end counts.
///
/// `fio`'s terse line has mean latency (µs) of reads in field 40, of writes in 81 (version 3).
fn steps(index: usize, work: &Work) -> String {
    let latency = if work.kind.ends_with("read") { 40 } else { 81 };
    let Work {
        kind,
        block_kib,
        depth,
        ..
    } = work;
    let (phase, few) = (index + 1, 32 * work.sectors());
    format!(
        "fio --name=work --filename=$disk --rw={kind} --bs={block_kib}k --size={AREA_KIB}k --time_based --runtime={RUNTIME_S} --direct=1 \
         --ioengine=libaio --iodepth={depth} --norandommap --minimal --output-format=terse --terse-version=3 >/line &\n\
         settle {few}; mark {phase}; say \"begin {index}\"; carried; before=$sectors\n\
         sleep {WINDOW_S}\n\
         carried; say \"end {index}\"; mark 0\n\
         kill -0 $! || say \"too late {index}\"\n\
         say \"sectors {index} $((sectors - before))\"\n\
         wait; say \"latency-us {index} $(tail -n 1 /line | cut -d';' -f{latency})\"\n"
    )
}
