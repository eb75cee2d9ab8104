//! Changing an image, or a file of the host's, behind its owner's back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use igvm::IgvmDirectiveHeader;
use stockade::image::Image;

/// Flips a bit of the byte at `offset` behind the only place in the file where `anchor` stands.
pub fn flip_at(image: &Path, anchor: &[u8], offset: usize) {
    let mut bytes = fs::read(image).expect("the image is readable");
    let mut places = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(anchor));
    let place = places.next().expect("the anchor is in the image");
    assert_eq!(places.next(), None, "the anchor is in the image twice");
    bytes[place + offset] ^= 1;
    fs::write(image, bytes).expect("the image is writable");
}

/// Flips a bit of the byte at `offset` of the page launched at `gpa`.
pub fn flip_page(image: &Path, gpa: u64, offset: usize) {
    let file = Image::open(image).expect("the image is sound");
    let data = page(&file, gpa).expect("the page is launched");
    assert!(offset < data.len(), "the page's data is shorter");
    flip_at(image, data, offset);
}

/// Returns the content of the page launched at `gpa`.
#[must_use]
pub fn page(image: &Image, gpa: u64) -> Option<&[u8]> {
    image.directives().find_map(|directive| match directive {
        IgvmDirectiveHeader::PageData { gpa: at, data, .. } if *at == gpa => Some(data.as_slice()),
        _ => None,
    })
}

/// Cuts the file to this part of its length.
pub fn truncate(image: &Path, keep: f64) {
    let bytes = fs::read(image).expect("the image is readable");
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "somewhere in the file is good enough"
    )]
    let length = (bytes.len() as f64 * keep) as usize;
    fs::write(image, &bytes[..length]).expect("the image is writable");
}

/// Returns a program in `folder`, for `--qemu`, that cuts `file` to this length after everybody has looked at it and then is QEMU.
#[must_use]
pub fn truncating_qemu(folder: &Path, file: &Path, bytes: u64) -> PathBuf {
    let program = folder.join("qemu");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *-kernel*) truncate -s {bytes} {};; esac\nexec qemu-system-x86_64 \"$@\"\n",
        file.display()
    );
    fs::write(&program, script).expect("the folder is writable");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    program
}
