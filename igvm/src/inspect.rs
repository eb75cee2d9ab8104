//! What is in an image, for people: platform, policy, pages, manifest, registers, digest.
//!
//! The text is stable: two images that differ, differ here, and nothing depends on when or where it was made.

mod devices;
mod regions;
mod registers;

use std::fmt::{self, Write as _};

use igvm::IgvmDirectiveHeader;
use stockade_boot::manifest::{Binding, Payload, PayloadKind};

use crate::image::Image;
use crate::measure::{LaunchDigest, measure};

use regions::regions;

/// Bits of the guest policy and what they mean when set (SNP firmware ABI, table 9).
const POLICY_BITS: [(u32, &str); 8] = [
    (16, "SMT allowed"),
    (18, "migration agent allowed"),
    (19, "debugging allowed"),
    (20, "single socket only"),
    (21, "CXL allowed"),
    (22, "AES-256-XTS required"),
    (23, "RAPL must be off"),
    (24, "ciphertext hiding required"),
];

/// Describes an image.
#[must_use]
pub fn describe(image: &Image) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut text, image);
    text
}

fn write_all(text: &mut String, image: &Image) -> fmt::Result {
    let platform = image.platform();
    let boundary = platform.shared_gpa_boundary;
    writeln!(text, "platform       SEV-SNP, version {}", {
        platform.platform_version
    })?;
    writeln!(text, "shared from    {boundary:#x}")?;
    write_policy(text, image.policy())?;
    for directive in image.directives() {
        if let IgvmDirectiveHeader::RequiredMemory {
            gpa,
            number_of_bytes,
            ..
        } = directive
        {
            let end = gpa.saturating_add(u64::from(*number_of_bytes));
            writeln!(text, "needs memory   {gpa:#x}..{end:#x}")?;
        }
    }
    writeln!(text, "\nin the order of launch:")?;
    for region in regions(image) {
        writeln!(text, "  {region}")?;
    }
    write_manifest(text, image)?;
    for directive in image.directives() {
        if let IgvmDirectiveHeader::SnpVpContext { vp_index, vmsa, .. } = directive {
            writeln!(text, "\nregisters of vCPU {vp_index}:")?;
            registers::write(text, vmsa)?;
        }
        if let IgvmDirectiveHeader::SnpIdBlock {
            family_id,
            image_id,
            guest_svn,
            ..
        } = directive
        {
            let [family, image] = [family_id, image_id].map(|id| u128::from_be_bytes(*id));
            let version = format!("security version {guest_svn}");
            writeln!(
                text,
                "\nsigned: family {family:032x}, image {image:032x}, {version}"
            )?;
        }
    }
    let measurement = measure(image);
    let (measured, launched) = (measurement.measured_pages, measurement.launched_pages);
    writeln!(
        text,
        "\nlaunched       {launched} pages, {measured} of them measured with their content"
    )?;
    writeln!(text, "launch digest  {}", measurement.launch_digest)
}

fn write_policy(text: &mut String, policy: Option<u64>) -> fmt::Result {
    let Some(policy) = policy else {
        return writeln!(text, "policy         none");
    };
    let meanings = POLICY_BITS.iter().filter(|(bit, _)| policy >> bit & 1 != 0);
    let meanings: Vec<&str> = meanings.map(|(_, meaning)| *meaning).collect();
    let (minor, major) = (policy & 0xFF, policy >> 8 & 0xFF);
    writeln!(
        text,
        "policy         {policy:#x}: firmware {major}.{minor} or newer, {}",
        meanings.join(", ")
    )
}

/// The payload by the manifest's word, if the image is one of ours.
fn write_manifest(text: &mut String, image: &Image) -> fmt::Result {
    let Some(manifest) = image.manifest() else {
        return Ok(());
    };
    writeln!(text, "\nmanifest:")?;
    writeln!(
        text,
        "  C-bit {}, up to {} vCPUs",
        manifest.c_bit(),
        manifest.max_vcpus()
    )?;
    let mut flags = String::new();
    let names = manifest
        .flags()
        .iter_names()
        .map(|(name, _)| name.to_lowercase());
    names.for_each(|name| flags = format!("{flags} {name}"));
    writeln!(text, "  options:{flags}")?;
    devices::write(text, manifest.devices())?;
    if manifest.sealing().binding() == Binding::FAMILY {
        let svn = manifest.sealing().svn();
        writeln!(
            text,
            "  sealed for its family, from security version {svn} on"
        )?;
    }
    for payload in manifest.payloads() {
        let (kind, gpa) = (payload.kind.name(), payload.gpa.get());
        let digest = LaunchDigest(payload.sha384);
        writeln!(
            text,
            "  {kind} at {gpa:#x}, {} bytes, SHA-384 {digest}",
            payload.len_bytes
        )?;
        if let PayloadKind::COMMAND_LINE | PayloadKind::MODULE_COMMAND_LINE = payload.kind {
            write_words(text, image, payload)?;
        }
    }
    Ok(())
}

/// Quoted, so that a command line is one line of ours whatever it holds.
fn write_words(text: &mut String, image: &Image, payload: &Payload) -> fmt::Result {
    match image.payload(payload) {
        Some(words) => writeln!(text, "    {:?}", String::from_utf8_lossy(&words)),
        None => writeln!(text, "    is not what its digest says"),
    }
}

#[cfg(test)]
mod tests;
