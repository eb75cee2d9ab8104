//! What `stockade run` and `stockade build` are told of the guest, and the image made of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use stockade::image::{self, BuildOptions, Identity, Image};
use stockade::setup::{self, Cache, Mode};
use stockade_boot::format::{self, Format};
use stockade_boot::kernel::Module;
use stockade_boot::load;
use stockade_boot::manifest::{GuestFlags, ModuleLimits, Sealing, Start};
use stockade_boot::ram::RamMap;

use crate::failure::Failure;
use crate::firmware_arguments::FirmwareArguments;
use crate::voice::Voice;

/// What every guest of ours is told first; `--append` goes behind it.
const COMMAND_LINE: &str = "console=ttyS0 quiet";

/// The name by which the paravisor knows the TPM's engine among its modules.
const TPM_ENGINE: &str = "tpm";

/// MiB a module has, unless `--module-memory` says otherwise.
const MODULE_MEMORY: u16 = 8;
/// Seconds a module has for a request, unless `--module-seconds` says otherwise.
const MODULE_SECONDS: u16 = 300;
/// MiB the TPM's engine has at least: at its start it takes six.
pub(crate) const TPM_MEMORY: u16 = 7;

/// What the guest is made of.
#[derive(Debug, Default, Args)]
pub(crate) struct Guest {
    /// The guest's kernel: bzImage, multiboot or PVH [default: the distribution's linux-image-cloud-amd64]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    #[command(flatten)]
    firmware: FirmwareArguments,
    /// The guest's initial RAM disk [default for a bzImage: busybox with a self-check or a shell]
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// A module of a multiboot or PVH kernel: a file, a blank, its command line; repeatable
    #[arg(long, value_name = "FILE WORDS")]
    module: Vec<String>,
    /// A program that the paravisor runs beside the guest at CPL-3 (docs/modules.md): a file, a blank, its arguments; repeatable
    #[arg(long, value_name = "FILE WORDS")]
    paravisor_module: Vec<String>,
    /// MiB of memory for each of the paravisor's modules [default: 8]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u16).range(1..=64))]
    module_memory: Option<u16>,
    /// Seconds of processor time a module of the paravisor has for a request [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..))]
    module_seconds: Option<u16>,
    /// More words for the kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "")]
    append: String,
    /// Offer the guest x2APIC mode
    #[arg(long)]
    x2apic: bool,
    /// Give the guest an HPET
    #[arg(long)]
    hpet: bool,
    /// Tell the guest that it runs on Hyper-V, as Windows likes best (docs/windows.md)
    #[arg(long)]
    hyperv: bool,
    /// Give the guest a virtio entropy source: the processor's random numbers, never the host's
    #[arg(long)]
    rng: bool,
    /// Give the guest a TPM 2.0
    #[arg(long)]
    tpm: bool,
    /// What takes the place of the TPM's engine, for tests of what becomes of a guest with a bad one: a file, a blank, its arguments
    #[arg(long, value_name = "FILE WORDS", requires = "tpm", hide = true)]
    tpm_engine: Option<String>,
    /// Give the guest the small devices that test kernels expect of QEMU; its exit status becomes ours
    #[arg(long)]
    test_devices: bool,
    /// Sign the image with this key, P-384 in PEM: the secure processor checks and reports who signed it
    #[arg(long, value_name = "FILE")]
    id_key: Option<PathBuf>,
    /// The family of a signed image, 32 hexadecimal digits [default: that of all images with its key]
    #[arg(long, value_name = "ID", requires = "id_key", value_parser = parse_id)]
    family: Option<[u8; 16]>,
    /// The security version of a signed image
    #[arg(long, value_name = "N", requires = "id_key", default_value_t = 0)]
    svn: u32,
    /// Who can open what is sealed: image (this very one), or family (any signed one of the same family and policy; see docs/threats.md),
    /// with ,svn=N for those of at least this security version
    #[arg(long, value_name = "image|family[,svn=N]", default_value = "image", value_parser = parse_sealing)]
    seal: SealingChoice,
}

/// What is done where the arguments do not say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Otherwise {
    /// What starts the guest.
    pub(crate) start: Start,
    /// What our own first process does.
    pub(crate) mode: Mode,
}

/// What sealed data is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SealingChoice {
    #[default]
    Image,
    Family {
        svn: u32,
    },
}

fn parse_sealing(text: &str) -> Result<SealingChoice, String> {
    match text.split_once(',').unwrap_or((text, "svn=0")) {
        ("image", _) if text == "image" => Ok(SealingChoice::Image),
        ("family", version) => {
            let svn = version
                .strip_prefix("svn=")
                .and_then(|number| number.parse().ok());
            let svn = svn.ok_or("give family,svn= and a number")?;
            Ok(SealingChoice::Family { svn })
        }
        _ => Err("give image, family, or family,svn= and a number".to_owned()),
    }
}

fn parse_id(text: &str) -> Result<[u8; 16], String> {
    let mut id = [0; 16];
    hex::decode_to_slice(text, &mut id).map_err(|_| "give 32 hexadecimal digits")?;
    Ok(id)
}

impl Guest {
    /// Names of the arguments, which make no sense for an image that is there already.
    pub(crate) const ARGUMENTS: [&str; 21] = [
        "kernel",
        "firmware",
        "vars",
        "fw_cfg",
        "initrd",
        "module",
        "paravisor_module",
        "module_memory",
        "module_seconds",
        "append",
        "x2apic",
        "hpet",
        "hyperv",
        "rng",
        "tpm",
        "tpm_engine",
        "test_devices",
        "id_key",
        "family",
        "svn",
        "seal",
    ];

    /// Collects the parts of the image for a guest of up to `cpus` vCPUs.
    pub(crate) fn collect(
        &self,
        cpus: u32,
        otherwise: Otherwise,
        cache: &Cache,
        paravisor: &Path,
        voice: &mut Voice,
    ) -> Result<BuildOptions, Failure> {
        let paravisor = image::read(paravisor)?;
        let mut options = if self.starts_firmware(otherwise) {
            let firmware = self.firmware.open(cache, voice)?;
            BuildOptions::with_firmware(paravisor, firmware)
        } else {
            self.kernel_options(paravisor, otherwise.mode, cache, voice)?
        };
        if let Some(limits) = self.module_limits()? {
            options.paravisor_modules = self.paravisor_modules(cache, voice)?;
            options.module_limits = limits;
        }
        options.max_vcpus = cpus;
        options.identity = self.identity()?;
        options.sealing = self.sealing(options.identity.as_ref())?;
        for (flag, is_wanted) in [
            (GuestFlags::X2APIC, self.x2apic),
            (GuestFlags::HPET, self.hpet),
            (GuestFlags::HYPERV_IDENTITY, self.hyperv),
            (GuestFlags::ENTROPY, self.rng),
            (GuestFlags::TPM, self.tpm),
            (GuestFlags::TEST_DEVICES, self.test_devices),
        ] {
            options.flags.set(flag, is_wanted);
        }
        Ok(options)
    }

    /// Returns whether firmware starts the guest: if it was asked for, or if nothing else was and there is a disk to start from.
    fn starts_firmware(&self, otherwise: Otherwise) -> bool {
        let has_parts_of_kernel = self.kernel.is_some()
            || self.initrd.is_some()
            || !self.module.is_empty()
            || !self.append.is_empty();
        let is_default = otherwise.start == Start::Firmware && !has_parts_of_kernel;
        self.firmware.is_given() || is_default
    }

    /// Collects the parts of a kernel's start; our own first process does as `mode` says.
    fn kernel_options(
        &self,
        paravisor: Vec<u8>,
        mode: Mode,
        cache: &Cache,
        voice: &mut Voice,
    ) -> Result<BuildOptions, Failure> {
        let kernel = self.kernel(cache, voice)?;
        let mut options = BuildOptions::new(paravisor, image::read_kernel(&kernel)?);
        let format = format::check(&options.kernel).map_err(|error| Failure::Kernel {
            path: kernel.clone(),
            error,
        })?;
        // Only of Linux is known what it wants to be told, and what runs on it.
        let is_linux = matches!(format, Format::Linux(_));
        let initrd = match &self.initrd {
            Some(path) => Some(path.clone()),
            None if is_linux => Some(setup::default_initramfs(cache, &kernel, &mut |text| {
                voice.say(text)
            })?),
            None => None,
        };
        options.initrd = initrd.as_deref().map(image::read).transpose()?;
        let modules = self.module.iter().map(|text| image::Module::open(text));
        options.modules = modules.collect::<Result<_, _>>()?;
        options.command_line = if is_linux {
            linux_command_line(mode, &self.append)
        } else {
            self.append.clone()
        };
        Ok(options)
    }

    /// Returns what each of the paravisor's modules may use, if there are any.
    fn module_limits(&self) -> Result<Option<ModuleLimits>, Failure> {
        let (memory, seconds) = (self.module_memory, self.module_seconds);
        if self.paravisor_module.is_empty() && !self.tpm {
            let is_stray = memory.is_some() || seconds.is_some();
            return if is_stray {
                Err(Failure::StrayLimits)
            } else {
                Ok(None)
            };
        }
        let memory = memory.unwrap_or(MODULE_MEMORY);
        if self.tpm && memory < TPM_MEMORY {
            return Err(Failure::TpmMemory(memory));
        }
        let seconds = seconds.unwrap_or(MODULE_SECONDS);
        Ok(Some(ModuleLimits::new(memory, seconds)))
    }

    /// Collects the programs that run beside the guest.
    fn paravisor_modules(
        &self,
        cache: &Cache,
        voice: &mut Voice,
    ) -> Result<Vec<image::Module>, Failure> {
        let own = self.paravisor_module.iter();
        let own = own.map(|text| image::Module::open(text));
        let mut modules = own.collect::<Result<Vec<_>, _>>()?;
        check_names(&modules, self.tpm)?;
        for (text, module) in self.paravisor_module.iter().zip(&modules) {
            let path = text.split(' ').next().unwrap_or_default().into();
            let checked = image::check_program(&module.content);
            checked.map_err(|error| Failure::Module { path, error })?;
        }
        if self.tpm {
            modules.push(match &self.tpm_engine {
                Some(text) => other_tpm_engine(text)?,
                None => tpm_engine(cache, voice)?,
            });
        }
        Ok(modules)
    }

    fn identity(&self) -> Result<Option<Identity>, Failure> {
        let Some(path) = &self.id_key else {
            return Ok(None);
        };
        let mut identity = Identity::open(path)?;
        identity.family_id = self.family.unwrap_or(identity.family_id);
        identity.svn = self.svn;
        Ok(Some(identity))
    }

    fn sealing(&self, identity: Option<&Identity>) -> Result<Sealing, Failure> {
        match (self.seal, identity) {
            (SealingChoice::Image, _) => Ok(Sealing::to_image()),
            (SealingChoice::Family { svn }, Some(identity)) if svn <= identity.svn => {
                Ok(Sealing::to_family(svn))
            }
            (SealingChoice::Family { svn: wanted }, Some(Identity { svn, .. })) => {
                Err(Failure::SealingVersion { wanted, svn: *svn })
            }
            (SealingChoice::Family { .. }, None) => Err(Failure::SealingUnsigned),
        }
    }

    fn kernel(&self, cache: &Cache, voice: &mut Voice) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.kernel {
            return Ok(path.clone());
        }
        let kernel = setup::kernel(cache, &mut |text| voice.say(text))?;
        voice.say(&format!("kernel {} of the distribution", kernel.release));
        Ok(kernel.path)
    }
}

/// Sees that each module has a name of its own: the paravisor finds them by it, and the first would be taken for the second, or for the TPM.
fn check_names(modules: &[image::Module], has_tpm: bool) -> Result<(), Failure> {
    let mut seen = BTreeSet::from_iter(has_tpm.then_some(TPM_ENGINE));
    let mut names = modules.iter().map(image::Module::name);
    match names.find(|name| !seen.insert(*name)) {
        Some(TPM_ENGINE) if has_tpm => Err(Failure::ModuleIsTpm),
        Some(name) => Err(Failure::ModuleTwice(name.to_owned())),
        None => Ok(()),
    }
}

/// Returns the engine as a module of the paravisor: by the name it is looked for, with what it is linked from for its words.
fn tpm_engine(cache: &Cache, voice: &mut Voice) -> Result<image::Module, Failure> {
    let engine = setup::tpm_engine(cache, &mut |text| voice.say(text))?;
    for library in &engine.libraries {
        voice.say(&format!("TPM from {library}"));
    }
    Ok(image::Module {
        content: image::read(&engine.program)?,
        command_line: format!("{TPM_ENGINE} {}", engine.about()),
    })
}

/// Returns another program as the engine.
fn other_tpm_engine(text: &str) -> Result<image::Module, Failure> {
    let module = image::Module::open(text)?;
    let words = text.split_once(' ').map_or("", |(_, words)| words);
    Ok(image::Module {
        command_line: format!("{TPM_ENGINE} {words}"),
        ..module
    })
}

fn linux_command_line(mode: Mode, appended: &str) -> String {
    let mut text = format!("{COMMAND_LINE} {}", mode.command_line_word());
    if !appended.is_empty() {
        text.push(' ');
        text.push_str(appended);
    }
    text
}

/// Sees that an image allows so many vCPUs.
pub(crate) fn check_cpus(image: &Image, asked: u32) -> Result<(), Failure> {
    match image.manifest().map(|manifest| manifest.max_vcpus()) {
        Some(allowed) if asked > allowed => Err(Failure::ImageVcpus { asked, allowed }),
        _ => Ok(()),
    }
}

/// Finds out before the launch what the paravisor would find out during it.
pub(crate) fn check_memory(options: &BuildOptions, memory: u64) -> Result<(), Failure> {
    let said = |error: &dyn std::error::Error| Failure::Memory(error.to_string());
    let ram = RamMap::of_size(memory).map_err(|error| said(&error))?;
    if options.firmware.is_some() {
        return Ok(());
    }
    let initrd = options.initrd.as_ref().map(|content| Module {
        len_bytes: content.len() as u64,
        command_line: Vec::new(),
    });
    let modules: Vec<Module> = options
        .modules
        .iter()
        .map(|module| Module {
            len_bytes: module.content.len() as u64,
            command_line: module.command_line.clone().into_bytes(),
        })
        .chain(initrd)
        .collect();
    let words = options.command_line.as_bytes();
    load::check(&options.kernel, words, &modules, &ram).map_err(|error| match error {
        load::LoadError::LinuxModules => Failure::Modules,
        error => said(&error),
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn limits_are_for_modules_and_enough_for_the_tpm() {
        let guest = |memory, tpm| Guest {
            module_memory: memory,
            tpm,
            ..Guest::default()
        };
        assert!(guest(None, false).module_limits().unwrap().is_none());
        let usual = ModuleLimits::new(MODULE_MEMORY, MODULE_SECONDS);
        assert_eq!(guest(None, true).module_limits().unwrap(), Some(usual));
        let least = ModuleLimits::new(TPM_MEMORY, MODULE_SECONDS);
        assert_eq!(guest(Some(7), true).module_limits().unwrap(), Some(least));
        let small = guest(Some(6), true).module_limits();
        assert!(matches!(small, Err(Failure::TpmMemory(6))));
        let stray = guest(Some(8), false).module_limits();
        assert!(matches!(stray, Err(Failure::StrayLimits)));
    }

    /// The paravisor finds a module by its name: the first of two is taken for both, and one named as the engine for the TPM.
    #[test]
    fn modules_have_names_of_their_own() {
        let modules = |lines: &[&str]| -> Vec<image::Module> {
            let module = |line: &&str| image::Module {
                content: Vec::new(),
                command_line: (*line).to_owned(),
            };
            lines.iter().map(module).collect()
        };
        check_names(&modules(&["a", "b a", "tpm"]), false).unwrap();
        check_names(&modules(&["a", "b tpm"]), true).unwrap();
        let twice = check_names(&modules(&["a", "b", "a c"]), false).unwrap_err();
        assert!(matches!(&twice, Failure::ModuleTwice(name) if name == "a"));
        let engine = check_names(&modules(&["tpm x"]), true).unwrap_err();
        assert!(matches!(engine, Failure::ModuleIsTpm), "{engine}");
    }
}
