//! Why a command came to nothing, and the exit code for it.

use std::path::PathBuf;

use stockade::attest::Refusal;
use stockade::disk::DiskError;
use stockade::image::{ImageError, ProgramError};
use stockade::keys::{Address, LedgerError};
use stockade::run::RunError;
use stockade::setup::SetupError;
use stockade_boot::firmware::FirmwareError;
use stockade_boot::format::FormatError;
use stockade_boot::manifest::{MAX_DISKS, MAX_ITEM_BYTES, MAX_NETS, ManifestError};
use stockade_storage::KeyId;

use crate::firmware_arguments::LEAST_MEMORY;
use crate::guest_arguments::TPM_MEMORY;

/// Why a command came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Something needed is not there.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A disk's file.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The run itself.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The file is no kernel.
    #[error("{}: {error}; take a bzImage, as distributions install it in /boot, or a multiboot or PVH kernel", path.display())]
    Kernel {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: FormatError,
    },
    /// The file is no firmware, or its variables are none.
    #[error("{}: {error}; take OVMF_CODE_4M.fd and OVMF_VARS_4M.fd, as distributions package them (ovmf)", path.display())]
    Firmware {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: FirmwareError,
    },
    /// Firmware in QEMU's own format.
    #[error("{}: a qcow2 file; firmware is taken as it is, so convert it (qemu-img convert -O raw)", .0.display())]
    FirmwareQcow2(PathBuf),
    /// Code and variables in one.
    #[error("{}: this file holds code and variables; take OVMF_CODE_4M.fd and OVMF_VARS_4M.fd, one for each", .0.display())]
    FirmwareCombined(PathBuf),
    /// A BIOS.
    #[error("{}: no UEFI firmware, for there is no firmware volume in it; take OVMF_CODE_4M.fd, as distributions package it (ovmf)", .0.display())]
    FirmwareNotUefi(PathBuf),
    /// Firmware that would end without a word.
    #[error(
        "{}: this firmware keeps its variables behind system management mode (SMM), and a confidential VM has none; take OVMF_CODE_4M.fd, \
         which does without, and --vars OVMF_VARS_4M.ms.fd, which turns Secure Boot on (docs/decisions/0018)", .0.display()
    )]
    FirmwareNeedsSmm(PathBuf),
    /// Modules for a kernel that takes none.
    #[error("a bzImage takes no modules; leave --module out, or take --initrd")]
    Modules,
    /// A module the paravisor could not start.
    #[error("{}: {error}; a module is a static program (rustc -C target-feature=+crt-static, cc -static)", path.display())]
    Module {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        error: ProgramError,
    },
    /// A key in another form.
    #[error("{}: no public key of a TPM; give the file that `tpm2_readpublic -o` writes", .0.display())]
    NoPublicArea(PathBuf),
    /// Two modules the paravisor could not tell apart.
    #[error("two of the paravisor's modules are named {0}; copy one to a file of another name")]
    ModuleTwice(String),
    /// A module in the place of the TPM's engine.
    #[error(
        "a module named tpm would be the guest's TPM; copy it to a file of another name, or leave --tpm out"
    )]
    ModuleIsTpm,
    /// Memory, kernel and initrd do not fit together.
    #[error("{0}; give the guest more with --memory")]
    Memory(String),
    /// Firmware would end without a word.
    #[error("--memory {}M is too little for firmware; give it {}M at least", _0 >> 20, LEAST_MEMORY >> 20)]
    FirmwareMemory(u64),
    /// A file could not be opened.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is no disk.
    #[error("{}: a file of {bytes} bytes is no disk; give one of whole sectors of 512 bytes, as `stockade disk create` makes", path.display())]
    DiskSize {
        /// Which file.
        path: PathBuf,
        /// How long it is.
        bytes: u64,
    },
    /// A file that could be what nobody said it is.
    #[error(
        "{}: begins as a qcow2 file does, which a guest can write into a raw disk; say format=qcow2 if it is one, format=raw if not", .0.display()
    )]
    UnsaidQcow2(PathBuf),
    /// A disk of another program.
    #[error("{}: a {name} disk; convert it (qemu-img convert -O raw), or say format=raw if it is none", path.display())]
    ForeignDisk {
        /// Which file.
        path: PathBuf,
        /// Its format.
        name: &'static str,
    },
    /// A disk that is plain only because nobody said what it is.
    #[error("{}: a sealed disk; say mode=sealed, or mode=plain to have a guest see, and overwrite, what is in the file", .0.display())]
    UnsaidSealed(PathBuf),
    /// A store that nobody said is a disk.
    #[error("{}: a sealed store; give its directory with --state, or say mode=plain to have a guest overwrite it", .0.display())]
    UnsaidStore(PathBuf),
    /// A file of another format than was said.
    #[error("{}: not a qcow2 file; leave format=qcow2 out, or give another file", .0.display())]
    NotQcow2(PathBuf),
    /// No such network interface.
    #[error(
        "there is no network interface {0}; make it first (ip tuntap add dev {0} mode tap), or take --net user"
    )]
    NoInterface(String),
    /// QEMU cannot make a device.
    #[error("{0}")]
    NoDevice(String),
    /// The folder of the state is a file.
    #[error("{}: not a directory; give --state one, or the name of a new one", .0.display())]
    NoFolder(PathBuf),
    /// The folder of the state cannot be used.
    #[error("the state in {} cannot be used: {source}; give --state a directory you may write to", folder.display())]
    State {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another machine runs with this state.
    #[error("the state in {} is in use by another VM; wait for its end, or give --state another directory", .0.display())]
    StateInUse(PathBuf),
    /// Limits for nobody.
    #[error(
        "--module-memory and --module-seconds are for the paravisor's modules, and there is none; leave them out, or give --paravisor-module or --tpm"
    )]
    StrayLimits,
    /// The TPM's engine would end at its start, or at work.
    #[error(
        "--module-memory {0} is too little for the TPM's engine, which takes 6 MiB and more at work; give {least} at least, or leave it out",
        least = TPM_MEMORY
    )]
    TpmMemory(u16),
    /// Shared memory for nobody.
    #[error("--bounce is for disks, network cards and consoles, and there is none; leave it out")]
    StrayBounce,
    /// Less shared memory than the devices need.
    #[error("--bounce {}M is too small for these devices; give them {}M at least", given >> 20, least >> 20)]
    Bounce {
        /// How much was given.
        given: u32,
        /// What they need.
        least: u32,
    },
    /// A family without a name.
    #[error("only a signed image has a family to seal for; give --id-key, or leave --seal out")]
    SealingUnsigned,
    /// Its own data would be beyond the image.
    #[error(
        "--seal family,svn={wanted} is newer than the image, --svn {svn}; raise --svn, or ask for less"
    )]
    SealingVersion {
        /// What what it seals is for.
        wanted: u32,
        /// The image's own.
        svn: u32,
    },
    /// Variables nobody has.
    #[error(
        "--state keeps the firmware's variables, and this firmware has none; give --vars a file of them, or leave --state out"
    )]
    StateWithoutVariables,
    /// Nobody would draw.
    #[error(
        "--framebuffer shows what firmware and its guests draw; give --firmware or --disk, and no kernel"
    )]
    ScreenWithoutFirmware,
    /// A boot order nobody asks for.
    #[error(
        "bootindex= is for firmware, which tries disks in that order; leave it out, or the kernel"
    )]
    BootIndexWithoutFirmware,
    /// A picture that cannot be written.
    #[error("--framebuffer {}: {source}; name a file in a directory you may write to", path.display())]
    Framebuffer {
        /// Where it would go.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A console without a place.
    #[error("--virtio-console {}: {source}", path.display())]
    VirtioConsole {
        /// What it would be connected to.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Two disks in one place of the boot order.
    #[error("two disks have bootindex={0}; give each another")]
    BootIndex(u8),
    /// A name twice.
    #[error("--fw-cfg has two files named {0}; leave one out")]
    ItemTwice(String),
    /// An item nobody could read.
    #[error("--fw-cfg {name}: {origin} has {bytes} bytes; there can be 1 byte to {most} KiB", most = MAX_ITEM_BYTES >> 10)]
    ItemLength {
        /// Its name.
        name: String,
        /// Where its content is from.
        origin: String,
        /// How long that is.
        bytes: u64,
    },
    /// More disks or cards than there are places.
    #[error(
        "{disks} disks and {nets} network cards are too many; there can be {MAX_DISKS} and {MAX_NETS}"
    )]
    TooManyDevices {
        /// How many disks were given.
        disks: usize,
        /// How many cards.
        nets: usize,
    },
    /// Devices the manifest cannot say.
    #[error("these devices do not go together: {0}")]
    Devices(ManifestError),
    /// Two disks, one key.
    #[error("two disks have one key; give each a key of its own")]
    SharedKey,
    /// A key for nothing.
    #[error(
        "--disk-key is for a sealed disk, and there is none; write mode=sealed behind the disk it is for"
    )]
    StrayKey,
    /// A key of somebody else, and nobody to ask.
    #[error(
        "the key {0} is not here; say with --key-server who has it, or give its file with key="
    )]
    KeyElsewhere(KeyId),
    /// A server nobody asks.
    #[error(
        "--key-server is for disks whose keys are released, and there is none; leave it out, or give such a disk key= or key-id="
    )]
    NoKeys,
    /// A key server's memory.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// Nobody can be heard there.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: Address,
        /// Why.
        source: std::io::Error,
    },
    /// The image is for other devices than those given.
    #[error("{0}")]
    OtherDevices(String),
    /// The image is for fewer vCPUs.
    #[error(
        "--cpus {asked} is more than the {allowed} the image allows; give fewer, or build it with --cpus {asked}"
    )]
    ImageVcpus {
        /// How many were asked for.
        asked: u32,
        /// How many there can be.
        allowed: u32,
    },
    /// What was asked for cannot be said.
    #[error("standard output: {0}")]
    Stdout(std::io::Error),
    /// Evidence of a guest that does not stand.
    #[error(transparent)]
    Refusal(#[from] Refusal),
    /// The machine launched something else than was measured.
    #[error(
        "the launch digest is {launched}, but the image measures {measured}: the image was tampered with"
    )]
    Digest {
        /// What the model's PSP says.
        launched: String,
        /// What we measured.
        measured: String,
    },
}

impl Failure {
    /// Returns the process exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Setup(
                SetupError::QemuMissing { .. }
                | SetupError::QemuTooOld { .. }
                | SetupError::QemuUnfit { .. },
            ) => 14,
            Self::Setup(SetupError::Missing { .. }) => 15,
            Self::FirmwareMemory(_) => 2,
            Self::Digest { .. } => 17,
            Self::Refusal(refusal) => refusal.exit_code(),
            Self::Run(RunError::KeyServer { .. }) => 25,
            _ => 1,
        }
    }
}
