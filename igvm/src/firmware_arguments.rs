//! What `stockade run` and `stockade build` are told of firmware.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use stockade::image::{self, Firmware, FirmwareItem, Image};
use stockade::setup::{self, Cache};
use stockade_boot::manifest::{MAX_ITEM_BYTES, PayloadKind};

use crate::failure::Failure;
use crate::voice::Voice;

/// What a qcow2 file begins with; some distributions package their firmware so.
const QCOW2: &[u8] = b"QFI\xFB";

/// With less, the distribution's OVMF comes no further than its boot manager (40 MiB), dumps registers, or resets again and again without a
/// word (34 MiB).
pub(crate) const LEAST_MEMORY: u64 = 64 << 20;

/// Firmware that starts the guest.
#[derive(Debug, Default, Args)]
pub(crate) struct FirmwareArguments {
    /// Start from this UEFI firmware instead of a kernel; without FILE, and whenever there is a --disk and none of --kernel, --initrd, --module
    /// and --append, from the distribution's OVMF
    #[arg(long, value_name = "FILE", num_args = 0..=1, conflicts_with_all = ["kernel", "initrd", "module", "append"])]
    firmware: Option<Option<PathBuf>>,
    /// The firmware's variables on a new machine [default: those of the distribution's OVMF, if the firmware is of that build]
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "initrd", "module", "append"])]
    vars: Option<PathBuf>,
    /// A file for the firmware's configuration device, as part of the image: name=opt/NAME,file=FILE or name=opt/NAME,string=TEXT;
    /// repeatable
    #[arg(long, value_name = "ITEM", value_parser = parse_item, conflicts_with_all = ["kernel", "initrd", "module", "append"])]
    fw_cfg: Vec<ItemArgument>,
}

/// A file for the configuration device, before it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ItemArgument {
    name: String,
    source: ItemSource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ItemSource {
    File(PathBuf),
    Text(String),
}

/// As QEMU's `-fw_cfg` has it. Names below `opt/` are users' own; all others are for us to make.
fn parse_item(text: &str) -> Result<ItemArgument, String> {
    /// Bytes of the longest name.
    const LONGEST: usize = 55;
    let text = text.strip_prefix("name=").unwrap_or(text);
    let (name, source) = text
        .split_once(',')
        .ok_or("give name=opt/NAME and file=FILE or string=TEXT")?;
    let is_name = name
        .strip_prefix("opt/")
        .is_some_and(|rest| !rest.is_empty())
        && name.len() <= LONGEST
        && name.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_name {
        return Err(format!(
            "{name:?} is no name: opt/ and at most 51 printable characters"
        ));
    }
    let source = match source.split_once('=') {
        Some(("file", path)) if !path.is_empty() => ItemSource::File(path.into()),
        Some(("string", text)) if !text.is_empty() => ItemSource::Text(text.to_owned()),
        _ => return Err("behind the name comes file=FILE or string=TEXT".to_owned()),
    };
    let name = name.to_owned();
    Ok(ItemArgument { name, source })
}

impl ItemArgument {
    fn read(&self) -> Result<FirmwareItem, Failure> {
        let content = match &self.source {
            ItemSource::File(path) => image::read(path)?,
            ItemSource::Text(text) => text.clone().into_bytes(),
        };
        let (name, bytes) = (self.name.clone(), content.len() as u64);
        if !(1..=MAX_ITEM_BYTES).contains(&bytes) {
            let origin = match &self.source {
                ItemSource::File(path) => path.display().to_string(),
                ItemSource::Text(_) => "its text".to_owned(),
            };
            return Err(Failure::ItemLength {
                name,
                origin,
                bytes,
            });
        }
        Ok(FirmwareItem { name, content })
    }
}

impl FirmwareArguments {
    /// Returns whether firmware was asked for.
    pub(crate) fn is_given(&self) -> bool {
        self.firmware.is_some() || self.vars.is_some() || !self.fw_cfg.is_empty()
    }

    /// Reads the files, or the distribution's, and sees that they can start a guest.
    pub(crate) fn open(&self, cache: &Cache, voice: &mut Voice) -> Result<Firmware, Failure> {
        self.check_items()?;
        let (code, variables) = match &self.firmware {
            Some(Some(code)) => (code.clone(), self.vars.clone()),
            _ => {
                let files = setup::firmware(cache, &mut |text| voice.say(text))?;
                voice.say(&format!("firmware {}", files.code.display()));
                let variables = self.vars.clone().unwrap_or(files.variables);
                (files.code, Some(variables))
            }
        };
        let mut firmware = Firmware {
            code: image::read(&code)?,
            variables: variables.as_deref().map(image::read).transpose()?,
            items: self
                .fw_cfg
                .iter()
                .map(ItemArgument::read)
                .collect::<Result<_, _>>()?,
        };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| Failure::Firmware { path, error }
        };
        check_raw(&firmware.code, &code)?;
        if let (Some(content), Some(path)) = (&firmware.variables, &variables) {
            check_raw(content, path)?;
        }
        firmware.check_code().map_err(failed(&code))?;
        check_build(&firmware, &code)?;
        match &variables {
            Some(variables) => firmware.check_variables().map_err(failed(variables))?,
            None => add_template(&mut firmware, cache, voice)?,
        }
        Ok(firmware)
    }
}

/// Sees that the firmware of an image, if it has one, has the memory to start.
pub(crate) fn check_memory(image: &Image, memory: u64) -> Result<(), Failure> {
    let manifest = image.manifest();
    let has_firmware = manifest.is_some_and(|it| it.payload(PayloadKind::FIRMWARE).is_some());
    match has_firmware && memory < LEAST_MEMORY {
        true => Err(Failure::FirmwareMemory(memory)),
        false => Ok(()),
    }
}

fn check_raw(content: &[u8], path: &Path) -> Result<(), Failure> {
    match content.starts_with(QCOW2) {
        true => Err(Failure::FirmwareQcow2(path.to_owned())),
        false => Ok(()),
    }
}

/// Sees that a guest of ours can start with the code.
fn check_build(firmware: &Firmware, path: &Path) -> Result<(), Failure> {
    let path = path.to_owned();
    if firmware.is_combined() {
        return Err(Failure::FirmwareCombined(path));
    }
    if !firmware.is_uefi() {
        return Err(Failure::FirmwareNotUefi(path));
    }
    if firmware.needs_smm() {
        return Err(Failure::FirmwareNeedsSmm(path));
    }
    Ok(())
}

/// Gives firmware of its user's own the distribution's variables, if they are for such code.
fn add_template(firmware: &mut Firmware, cache: &Cache, voice: &mut Voice) -> Result<(), Failure> {
    let files = setup::firmware(cache, &mut |text| voice.say(text)).ok();
    let template = files.map(|files| files.variables);
    firmware.variables = template.as_deref().map(image::read).transpose()?;
    match template {
        Some(path) if firmware.check_variables().is_ok() => {
            voice.say(&format!("variables {}", path.display()));
        }
        _ => {
            firmware.variables = None;
            voice.say("warning: this firmware has no variables, and what it sets is gone at its end; give --vars a file of them");
        }
    }
    Ok(())
}

impl FirmwareArguments {
    /// Sees that no name is there twice, before anything is read.
    fn check_items(&self) -> Result<(), Failure> {
        let mut seen = BTreeSet::new();
        let mut names = self.fw_cfg.iter().map(|item| &item.name);
        match names.find(|name| !seen.insert(*name)) {
            Some(name) => Err(Failure::ItemTwice(name.clone())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_named_below_opt_and_have_a_file_or_a_text() {
        let item = parse_item("name=opt/org.example/a,string=x=y,z").expect("it is one");
        assert_eq!(item.name, "opt/org.example/a");
        assert_eq!(item.source, ItemSource::Text("x=y,z".to_owned()));
        let item = parse_item("opt/a,file=/b").expect("it is one");
        assert_eq!(item.source, ItemSource::File("/b".into()));
        for text in [
            "opt/a",
            "name=etc/e820,string=x",
            "opt/,string=x",
            "opt/a b,string=x",
            "opt/a,string=",
            "opt/a,path=x",
        ] {
            assert!(parse_item(text).is_err(), "{text}");
        }
        assert!(parse_item(&format!("opt/{},string=x", "a".repeat(52))).is_err());
    }

    #[test]
    fn items_are_neither_empty_nor_too_long() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let text = format!("opt/a,file={}", file.path().display());
        let item = parse_item(&text).expect("it is one");
        let empty = item.read().expect_err("it is empty").to_string();
        assert!(
            empty.contains("opt/a") && empty.contains("0 bytes"),
            "{empty}"
        );
        let name = file.path().display().to_string();
        assert!(empty.contains(&name) && empty.contains("64 KiB"), "{empty}");
        file.as_file()
            .set_len(MAX_ITEM_BYTES + 1)
            .expect("it is ours");
        assert!(item.read().is_err());
        file.as_file().set_len(MAX_ITEM_BYTES).expect("it is ours");
        assert!(item.read().is_ok());
    }
}
