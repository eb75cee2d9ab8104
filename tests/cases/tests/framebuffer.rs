//! `--framebuffer`: what a guest of firmware shows, in a file of the host's; and a program that does not start without a screen.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use stockade_rig::firmware::{fat_disk, grub_disk};
use stockade_rig::{Stockade, package_file, shell};

/// A start of firmware on a busy machine.
const LIMIT: Duration = Duration::from_secs(400);
/// From what a guest shows to the file.
const PATIENCE: Duration = Duration::from_secs(60);

/// A picture as PPM has it.
struct Picture {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    fn open(path: &Path) -> Option<Self> {
        let file = fs::read(path).ok()?;
        let mut parts = file.splitn(4, |byte| *byte == b'\n');
        assert_eq!(parts.next()?, b"P6");
        let sides = String::from_utf8(parts.next()?.to_vec()).unwrap();
        let (width, height) = sides.split_once(' ')?;
        assert_eq!(parts.next()?, b"255");
        let picture = Self {
            width: width.parse().unwrap(),
            height: height.parse().unwrap(),
            pixels: parts.next()?.to_vec(),
        };
        assert_eq!(picture.pixels.len(), picture.width * picture.height * 3);
        Some(picture)
    }

    /// How many of a hundred pixels are more blue than anything else.
    fn blue_percent(&self) -> usize {
        let pixels = self.pixels.chunks_exact(3);
        let is_blue = |pixel: &&[u8]| pixel[2] > 64 && pixel[0] < 32 && pixel[1] < 32;
        pixels.filter(is_blue).count() * 100 / (self.width * self.height)
    }
}

/// Waits until the picture is mostly blue, or mostly not.
fn wait_for(path: &Path, is_blue: bool) -> Picture {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(picture) = Picture::open(path)
            && (picture.blue_percent() > 50) == is_blue
        {
            return picture;
        }
        assert!(Instant::now() < until, "the picture never came");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn run(picture: &Path) -> Stockade {
    Stockade::new("run")
        .args(["--memory", "256M", "--framebuffer"])
        .arg(picture)
        .limit(LIMIT)
}

/// The shell's screen is the same in the file: black, blue when it is told to be, black again.
#[test]
fn what_the_shell_shows_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screen.ppm");
    let mut guest = run(&path).arg("--firmware").start();
    shell::enter(&mut guest);
    let picture = wait_for(&path, false);
    assert!(picture.width >= 640 && picture.height >= 480);
    let lit = picture.pixels.iter().filter(|byte| **byte > 128).count();
    assert!(lit > 1000, "{lit} lit");
    shell::ask(&mut guest, "cls 1");
    wait_for(&path, true);
    shell::ask(&mut guest, "cls 0");
    wait_for(&path, false);
    guest.send(b"reset -s\r");
    let finished = guest.finish();
    finished.assert_code(0);
    finished.assert_says(&[
        "the host sees the guest's screen",
        "the host sees what the guest shows",
    ]);
}

/// memtest86+ draws on a screen or does not start. It says the same on its serial line.
#[test]
fn memtest_runs_from_firmware_with_a_screen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screen.ppm");
    let program = fs::read(package_file("memtest86+", "boot/memtest86+x64.efi")).unwrap();
    let script = "chainloader /memtest.efi console=ttyS0,115200 nopause\nboot\n";
    let disk = grub_disk(folder.path(), script, &[("memtest.efi", &program)]);
    let mut guest = run(&path).arg("--disk").arg(disk).start();
    guest.expect("Memtest86+ v6.10");
    guest.expect("#3 ");
    let screen = guest.expect("Errors: 0");
    assert!(!screen.contains("Unexpected interrupt"), "{screen}");
    wait_for(&path, true);
}

/// Where the script below puts a command of the configuration device's, and the file it writes: memory below 640 KiB that nobody uses.
const COMMAND: u32 = 0x4_0000;
const FILE: u32 = 0x4_0100;
/// Of the file `etc/ramfb`: three names come before it.
const KEY: u32 = 0x23;
/// XRGB, as the guest writes it.
const FORMAT: u32 = u32::from_be_bytes(*b"42RX");

/// Lines of the shell's that write `etc/ramfb` by DMA: an address, the format, two sides and a stride.
fn tell(gpa: u64, format: u32, sides: [u32; 2], stride: u32) -> String {
    let write = |at: u32, value: u32| format!("mm {at:X} {:X} -w 4 -n\n", value.swap_bytes());
    let [high, low] = [gpa >> 32, gpa & 0xFFFF_FFFF].map(|half| u32::try_from(half).unwrap());
    let words = [high, low, format, 0, sides[0], sides[1], stride];
    let file = (FILE..).step_by(4).zip(words);
    // Select it and write 28 bytes (QEMU `docs/specs/fw_cfg.rst`).
    let command = (COMMAND..).step_by(4).zip([KEY << 16 | 0x18, 28, 0, FILE]);
    let memory: String = file.chain(command).map(|(at, it)| write(at, it)).collect();
    format!("{memory}mm 518 {:X} -w 4 -io -n\n", COMMAND.swap_bytes())
}

/// What a guest says of its picture is an allegation: at a device, beyond memory, at the end of all addresses, of no side and of sides
/// that are too large. It is not shown, the guest goes on, and the next picture that is one is shown.
#[test]
fn a_guest_that_lies_of_its_picture_shows_nothing_until_it_tells_the_truth() {
    let lies = [
        (0xFED4_0000, FORMAT, [640, 480], 0),
        (0xFEE0_0000, FORMAT, [32, 32], 0),
        (0xB000_0000, FORMAT, [640, 480], 0),
        (0x0FFF_F000, FORMAT, [640, 480], 0),
        (u64::MAX - 0xFFF, FORMAT, [640, 480], 0),
        (0x80_0000_0000, FORMAT, [640, 480], 0),
        (0x10_0000, FORMAT, [0, 480], 0),
        (0x10_0000, FORMAT, [u32::MAX, u32::MAX], u32::MAX),
        (0x10_0000, 0x3231_564E, [640, 480], 0),
    ];
    let mut script = "@echo -off\necho TELLING\n".to_owned();
    for (number, (gpa, format, sides, stride)) in lies.into_iter().enumerate() {
        script += &tell(gpa, format, sides, stride);
        // Twice as long as a screen rests.
        script += &format!("stall 1000000\necho LIE-{number}\n");
    }
    script += "echo LIES-TOLD\npause\n";
    script += &tell(0x10_0000, FORMAT, [320, 200], 0);
    script += "echo TRUTH-TOLD\npause\nreset -s\n";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("screen.ppm");
    let script = script.replace('\n', "\r\n");
    let disk = fat_disk(folder.path(), &[("startup.nsh", script.as_bytes())]);
    let mut guest = run(&path).arg("--disk").arg(disk).start();
    guest.expect("TELLING");
    let before = wait_for(&path, false);
    for number in 0..lies.len() {
        guest.expect(&format!("LIE-{number}"));
    }
    guest.expect("LIES-TOLD");
    let after = Picture::open(&path).unwrap();
    assert_eq!(
        (after.width, after.height),
        (before.width, before.height),
        "a lie is shown"
    );
    guest.send(b" ");
    guest.expect("TRUTH-TOLD");
    let until = Instant::now() + PATIENCE;
    let is_true = |it: Picture| (it.width, it.height) == (320, 200);
    while !Picture::open(&path).is_some_and(is_true) {
        assert!(Instant::now() < until, "the truth is never shown");
        std::thread::sleep(Duration::from_millis(200));
    }
    guest.send(b" ");
    guest.finish().assert_code(0);
}

#[test]
fn a_framebuffer_without_firmware_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let finished = run(&folder.path().join("screen.ppm")).finish();
    finished.assert_refused(&["--framebuffer", "--firmware"]);
    let nowhere = run(Path::new("/nonexistent/screen.ppm")).arg("--firmware");
    nowhere
        .finish()
        .assert_refused(&["/nonexistent/screen.ppm"]);
}

/// The screen is measured: nobody adds one to an image that has none.
#[test]
fn an_image_says_whether_it_has_a_screen() {
    let folder = tempfile::tempdir().unwrap();
    let disk = fat_disk(folder.path(), &[]);
    let image = folder.path().join("image.igvm");
    let built = Stockade::new("build").arg("-o").arg(&image).arg("--disk");
    built.arg(&disk).finish().assert_code(0);
    let with = Stockade::image(&image).arg("--disk").arg(&disk);
    let with = with.arg("--framebuffer").arg(folder.path().join("a.ppm"));
    with.finish()
        .assert_refused(&["built without --framebuffer"]);
}
