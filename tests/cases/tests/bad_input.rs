//! Bad input: one line that names the file or the value and what to do, an exit code that is not 0, nothing left behind.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use igvm::{IgvmFile, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{IGVM_VHS_SUPPORTED_PLATFORM, IgvmPlatformType};
use stockade_cases::image;
use stockade_rig::firmware::firmware;
use stockade_rig::{Finished, Stockade, tamper, workshop};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("it is writable");
    path
}

/// `stockade run` with one more argument and its value.
fn run_with(argument: &str, value: impl AsRef<std::ffi::OsStr>) -> Finished {
    Stockade::new("run").arg(argument).arg(value).finish()
}

#[test]
fn a_kernel_that_is_no_bzimage_is_named() {
    let folder = folder();
    let kernel = file(folder.path(), "not-a-kernel", &[0x5A; 0x4000]);
    run_with("--kernel", &kernel).assert_refused(&["bzImage"]);
}

#[test]
fn a_kernel_that_is_missing_is_named() {
    run_with("--kernel", "/nonexistent/vmlinuz").assert_refused(&["/nonexistent/vmlinuz"]);
}

/// An ELF file's header (ELF 1.2, figure 1-3) of a program for `machine`, and nothing behind it.
fn elf_header(machine: u16) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    header[16..18].copy_from_slice(&2_u16.to_le_bytes());
    header[18..20].copy_from_slice(&machine.to_le_bytes());
    header
}

#[test]
fn a_kernel_for_another_processor_is_named_with_its_machine() {
    const AARCH64: u16 = 183;
    let folder = folder();
    let kernel = file(folder.path(), "arm-kernel", &elf_header(AARCH64));
    run_with("--kernel", &kernel).assert_refused(&["arm-kernel", "183"]);
}

#[test]
fn an_elf_program_that_is_no_kernel_is_named() {
    run_with("--kernel", "/bin/true").assert_refused(&["/bin/true"]);
}

#[test]
fn garbage_and_nothing_for_a_kernel_are_named() {
    let folder = folder();
    let noise: Vec<u8> = (0..0x8000_u32)
        .map(|i| ((i * i) >> 7).to_le_bytes()[0])
        .collect();
    for (name, content) in [("noise", &noise[..]), ("empty", &[])] {
        let kernel = file(folder.path(), name, content);
        run_with("--kernel", &kernel).assert_refused(&[name]);
    }
}

#[test]
fn a_module_for_a_bzimage_is_refused_with_what_to_do() {
    let finished = run_with("--module", workshop().initramfs.as_os_str());
    finished.assert_refused(&["--module", "--initrd"]);
}

#[test]
fn a_module_that_is_missing_is_named() {
    run_with("--module", "/nonexistent/module and words").assert_refused(&["/nonexistent/module"]);
}

/// The paravisor finds them by their names.
#[test]
fn a_module_that_is_no_program_or_in_the_place_of_another_is_refused() {
    let folder = folder();
    let module = file(folder.path(), "tpm", &elf_header(62));
    let with = |argument: &str| Stockade::new("run").arg("--paravisor-module").arg(argument);
    let script = file(folder.path(), "script", b"#!/bin/sh\n");
    let script = with(&script.display().to_string()).finish();
    script.assert_refused(&["script", "no ELF", "+crt-static"]);
    let dynamic = with("/bin/sleep 9").finish();
    dynamic.assert_refused(&["/bin/sleep", "dynamically", "+crt-static"]);
    let module = module.display().to_string();
    let twice = with(&module).arg("--paravisor-module").arg(&module);
    twice.finish().assert_refused(&["two", "named tpm"]);
    let engine = with(&format!("{module} words")).arg("--tpm");
    engine.finish().assert_refused(&["named tpm", "--tpm"]);
}

#[test]
fn a_kernel_cut_short_is_named() {
    let folder = folder();
    let kernel = fs::read(&workshop().kernel).expect("it is readable");
    let kernel = file(folder.path(), "cut", &kernel[..0x300]);
    run_with("--kernel", &kernel).assert_refused(&["cut"]);
}

/// They would be read for ever.
#[test]
fn what_is_no_file_is_not_read() {
    for argument in ["--kernel", "--initrd", "--firmware", "--image"] {
        run_with(argument, "/dev/zero").assert_refused(&["/dev/zero", "nor a pipe"]);
    }
    let item = run_with("--fw-cfg", "name=opt/a,file=/dev/zero");
    item.assert_refused(&["/dev/zero", "nor a pipe"]);
    let folder = folder();
    let sealed = folder.path().join("sealed.img");
    let made = Stockade::new("disk").args(["create", "--size", "1M"]);
    made.arg(&sealed).finish().assert_code(0);
    let disk = format!("{},mode=sealed", sealed.display());
    let key = Stockade::new("run").args(["--disk", &disk, "--disk-key", "/dev/zero"]);
    key.finish().assert_refused(&["/dev/zero", "nor a pipe"]);
}

#[test]
fn an_initrd_that_is_missing_is_named() {
    run_with("--initrd", "/nonexistent/initrd").assert_refused(&["/nonexistent/initrd"]);
}

#[test]
fn memory_too_small_for_a_guest_is_refused_with_the_least_that_will_do() {
    run_with("--memory", "1M").assert_refused(&["memory", "32M"]);
}

#[test]
fn memory_too_small_for_this_kernel_and_initrd_is_refused_before_the_start() {
    let folder = folder();
    let large = file(folder.path(), "large", &vec![0; 64 << 20]);
    let run = Stockade::new("run")
        .args(["--memory", "64M"])
        .arg("--initrd");
    run.arg(&large)
        .finish()
        .assert_refused(&["--memory", "give the guest more"]);
}

/// Stock firmware would reset again and again and never write a word, in an image as well.
#[test]
fn memory_too_small_for_firmware_is_a_usage_error_with_the_least_that_will_do() {
    let folder = folder();
    let code = firmware("OVMF_CODE_4M.fd");
    let words = ["--memory 32M", "64M at least"];
    let run = |memory: &str| Stockade::new("run").args(["--memory", memory]);
    let firmware = run("32M").arg("--firmware").arg(&code).finish();
    firmware.assert_code(2).assert_refused(&words);
    let image = folder.path().join("firmware.igvm");
    let build = Stockade::new("build").arg("-o").arg(&image);
    let built = build.arg("--firmware").arg(&code).finish();
    built.assert_code(0);
    let image = run("62M").arg("--image").arg(&image).finish();
    image.assert_code(2).assert_refused(&["--memory 62M"]);
}

#[test]
fn nonsense_for_memory_is_named() {
    for value in ["lots", "-1", "12Q", "0", "99999999999999999999G"] {
        run_with("--memory", value).assert_refused(&[value]);
    }
}

#[test]
fn a_number_of_processors_out_of_range_is_named() {
    for value in ["0", "17", "1000", "two"] {
        run_with("--cpus", value).assert_refused(&[value]);
    }
}

#[test]
fn nonsense_for_the_time_out_is_named() {
    run_with("--timeout", "soon").assert_refused(&["soon"]);
}

#[test]
fn an_image_that_is_missing_is_named() {
    run_with("--image", "/nonexistent/guest.igvm").assert_refused(&["/nonexistent/guest.igvm"]);
}

#[test]
fn an_image_that_is_no_igvm_file_is_named() {
    let folder = folder();
    let path = file(folder.path(), "text.igvm", b"not an image");
    for subcommand in ["measure", "inspect"] {
        let finished = Stockade::new(subcommand).arg(&path).finish();
        finished.assert_refused(&["text.igvm", "not an IGVM file"]);
    }
    run_with("--image", &path).assert_refused(&["text.igvm"]);
}

#[test]
fn a_truncated_image_is_refused_wherever_it_is_cut() {
    let folder = folder();
    let path = image(folder.path(), "stockade.mode=check");
    let whole = fs::read(&path).expect("it is readable");
    for keep in [0.00001, 0.01, 0.5, 0.99] {
        fs::write(&path, &whole).expect("it is writable");
        tamper::truncate(&path, keep);
        for subcommand in ["measure", "inspect"] {
            let finished = Stockade::new(subcommand).arg(&path).finish();
            finished.assert_refused(&["guest.igvm"]);
        }
        run_with("--image", &path).assert_refused(&["guest.igvm"]);
    }
}

#[test]
fn an_image_for_another_platform_is_refused_by_its_name() {
    let folder = folder();
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: 1,
        highest_vtl: 2,
        platform_type: IgvmPlatformType::TDX,
        platform_version: 1,
        shared_gpa_boundary: 1 << 47,
    });
    let page = igvm::IgvmDirectiveHeader::PageData {
        gpa: 0x10_0000,
        compatibility_mask: 1,
        flags: igvm_defs::IgvmPageDataFlags::new(),
        data_type: igvm_defs::IgvmPageDataType::NORMAL,
        data: vec![1; 4096],
    };
    let mut bytes = Vec::new();
    IgvmFile::new(IgvmRevision::V1, vec![platform], Vec::new(), vec![page])
        .expect("a minimal file")
        .serialize(&mut bytes)
        .expect("a minimal file");
    let path = file(folder.path(), "tdx.igvm", &bytes);
    Stockade::new("measure")
        .arg(&path)
        .finish()
        .assert_refused(&["tdx.igvm", "not for SEV-SNP"]);
    run_with("--image", &path).assert_refused(&["tdx.igvm", "SEV-SNP"]);
}

/// A program that answers like a QEMU that will not do.
fn false_qemu(folder: &Path, script: &str) -> PathBuf {
    program(folder, "qemu", script)
}

fn program(folder: &Path, name: &str, script: &str) -> PathBuf {
    let path = file(folder, name, format!("#!/bin/sh\n{script}\n").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
    path
}

#[test]
fn a_missing_qemu_is_exit_code_14_with_the_command_to_type() {
    let finished = run_with("--qemu", "/nonexistent/qemu");
    finished
        .assert_code(14)
        .assert_refused(&["/nonexistent/qemu", "apt-get install"]);
}

#[test]
fn a_missing_package_is_exit_code_15_with_the_command_to_type() {
    let folder = folder();
    let tools = folder.path().join("tools");
    fs::create_dir(&tools).expect("it is ours");
    for tool in ["apt-get", "apt-cache"] {
        program(&tools, tool, "echo E: no network here >&2; exit 100");
    }
    let finished = Stockade::new("build")
        .arg("-o")
        .arg(folder.path().join("guest.igvm"))
        .arg("--paravisor")
        .arg(&workshop().paravisor)
        .arg("--kernel")
        .arg(&workshop().kernel)
        .environment("PATH", &tools)
        .environment("CARGO_TARGET_DIR", folder.path().join("empty"))
        .finish();
    finished.assert_code(15).assert_refused(&[
        "busybox-static",
        "no network here",
        "apt-get install busybox-static",
    ]);
}

#[test]
fn an_old_qemu_is_exit_code_14_with_both_versions() {
    let folder = folder();
    let qemu = false_qemu(folder.path(), "echo QEMU emulator version 5.2.0");
    let finished = run_with("--qemu", &qemu);
    finished.assert_code(14).assert_refused(&["5.2", "7.2"]);
}

#[test]
fn a_qemu_without_svm_is_exit_code_14() {
    let folder = folder();
    let qemu = false_qemu(
        folder.path(),
        "echo QEMU emulator version 8.0.0; [ \"$1\" = --version ] || echo EPYC-Milan",
    );
    let finished = run_with("--qemu", &qemu);
    finished.assert_code(14).assert_refused(&["SVM"]);
}

#[test]
fn a_build_that_fails_leaves_nothing_behind() {
    let folder = folder();
    let kernel = file(folder.path(), "not-a-kernel", &[0x5A; 0x4000]);
    let output = folder.path().join("out");
    fs::create_dir(&output).expect("it is ours");
    Stockade::new("build")
        .arg("-o")
        .arg(output.join("guest.igvm"))
        .arg("--paravisor")
        .arg(&workshop().paravisor)
        .arg("--kernel")
        .arg(&kernel)
        .finish()
        .assert_refused(&["bzImage"]);
    assert_eq!(fs::read_dir(&output).expect("it is ours").count(), 0);
}

#[test]
fn an_output_folder_that_is_missing_is_named() {
    let finished = stockade_cases::build(Path::new("/nonexistent/folder/guest.igvm"), "");
    finished.assert_refused(&["/nonexistent/folder"]);
}

#[test]
fn figures_that_cannot_be_written_are_refused_before_the_guest_runs() {
    let finished = Stockade::guest("stockade.mode=check")
        .arg("--stats")
        .arg("/nonexistent/stats.json")
        .finish();
    finished.assert_refused(&["/nonexistent"]);
}

#[test]
fn certificates_that_cannot_be_written_are_refused_before_the_guest_runs() {
    let guest = Stockade::guest("stockade.mode=check");
    let finished = guest
        .args(["--certificates", "/proc/certificates"])
        .finish();
    finished.assert_refused(&["/proc/certificates"]);
    assert!(!finished.stderr.contains("starting"), "{}", finished.stderr);
}

/// A key from elsewhere, or in the form openssl has it.
#[test]
fn a_key_that_is_none_of_a_tpms_is_named_with_how_to_get_it() {
    let folder = folder();
    let key = file(folder.path(), "key.pem", b"-----BEGIN PUBLIC KEY-----\n");
    let certificates = folder.path().join("certificates");
    let guest = Stockade::guest("stockade.mode=check").arg("--certificates");
    guest.arg(&certificates).finish().assert_code(0);
    let verify = || {
        let verify = Stockade::new("attest").args(["verify", "--nonce", &"00".repeat(16)]);
        let verify = verify.args(["--expect-measurement", &"00".repeat(48), "--report"]);
        let verify = verify.arg(&key).arg("--ak").arg(&key).arg("--ek").arg(&key);
        let verify = verify.arg("--certificates").arg(&certificates).finish();
        verify.assert_code(1);
        verify
    };
    verify().assert_refused(&["key.pem", "tpm2_readpublic -o"]);
    fs::write(certificates.join("vcek.der"), b"torn").expect("it is ours");
    verify().assert_refused(&["vcek.der"]);
}

#[test]
fn a_word_nobody_knows_is_a_usage_error() {
    let finished = Stockade::new("run").arg("--frobnicate").finish();
    finished.assert_code(2).assert_refused(&["--frobnicate"]);
}

/// Bad words and files for `--disk`: each is named, nothing is started, and the file is as it was.
#[test]
fn a_disk_that_is_none_is_named() {
    let folder = folder();
    let empty = file(folder.path(), "empty.img", b"");
    let odd = file(folder.path(), "odd.img", &[7; 1000]);
    let raw = file(folder.path(), "raw.img", &[7; 1024]);
    run_with("--disk", "/nonexistent/disk.img").assert_refused(&["/nonexistent/disk.img"]);
    run_with("--disk", folder.path()).assert_refused(&["Is a directory"]);
    run_with("--disk", &empty).assert_refused(&["empty.img", "0 bytes", "disk create"]);
    run_with("--disk", &odd).assert_refused(&["odd.img", "1000 bytes", "512"]);
    run_with("--disk", "/dev/zero").assert_refused(&["/dev/zero", "character device"]);
    let words = |path: &Path, words: &str| format!("{},{words}", path.display());
    run_with("--disk", words(&raw, "format=qcow2")).assert_refused(&["raw.img", "not a qcow2"]);
    for (bad, remedy) in [
        ("mode=open", "sealed"),
        ("format=vmdk", "qcow2"),
        ("readonly=1", "readonly"),
    ] {
        run_with("--disk", words(&raw, bad)).assert_refused(&[remedy]);
    }
    let foreign = file(
        folder.path(),
        "other.vmdk",
        &[b"KDMV", [7; 508].as_slice()].concat(),
    );
    run_with("--disk", &foreign).assert_refused(&["other.vmdk", "a vmdk disk", "-O raw"]);
    let odd_name = file(folder.path(), "a,b.img", b"");
    run_with("--disk", &odd_name).assert_refused(&["b.img", "written twice"]);
    let doubled = odd_name.display().to_string().replace(',', ",,");
    run_with("--disk", doubled).assert_refused(&["a,b.img", "0 bytes"]);
    assert_eq!(fs::read(&raw).expect("it is ours"), [7; 1024]);
    assert_eq!(fs::read(&odd).expect("it is ours"), [7; 1000]);
}

/// The paravisor would leave such a disk out, and the guest miss it.
#[test]
fn a_sealed_disk_that_is_none_or_not_whole_is_named() {
    let folder = folder();
    let plain = file(folder.path(), "plain.img", &[7; 1 << 20]);
    let sealed = folder.path().join("sealed.img");
    let made = Stockade::new("disk").args(["create", "--size", "1M"]);
    made.arg(&sealed).finish().assert_code(0);
    let whole = fs::read(&sealed).expect("it was made");
    let cut = file(folder.path(), "cut.img", &whole[..whole.len() - 4096]);
    let words = |path: &Path| format!("{},mode=sealed", path.display());
    run_with("--disk", words(&plain)).assert_refused(&["plain.img", "D02", "no sealed disk"]);
    run_with("--disk", words(&cut)).assert_refused(&["cut.img", "D05"]);
    // A guest would find nothing on it, and format it.
    run_with("--disk", &sealed).assert_refused(&["sealed.img", "mode=sealed", "mode=plain"]);
}

/// What only QEMU finds out it says in its own words; the line names the file.
#[test]
fn a_damaged_qcow2_file_and_a_disk_another_qemu_has_are_named() {
    let folder = folder();
    let damaged = file(folder.path(), "damaged.qcow2", b"QFI\xFB\0\0\0\x03");
    run_with("--disk", &damaged).assert_refused(&["damaged.qcow2", "format=qcow2", "format=raw"]);
    run_with("--disk", format!("{},format=qcow2", damaged.display()))
        .assert_code(1)
        .assert_refused(&["damaged.qcow2", "QEMU cannot use"]);
    let used = file(folder.path(), "used.img", &[7; 1 << 20]);
    let other = Command::new("qemu-system-x86_64")
        .args(["-nodefaults", "-display", "none", "-S", "-monitor", "stdio"])
        .arg("-drive")
        .arg(format!("if=virtio,format=raw,file={}", used.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("there is a QEMU");
    let mut other = Other(other);
    // Its first words come when it has its disk.
    let mut word = [0];
    let said = other
        .0
        .stdout
        .as_mut()
        .expect("a pipe")
        .read_exact(&mut word);
    said.expect("it talks");
    run_with("--disk", &used).assert_code(1).assert_refused(&[
        "used.img",
        "lock",
        "another process",
    ]);
}

/// A process that does not outlive the test.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An image says how many vCPUs it is for.
#[test]
fn more_vcpus_than_an_image_allows_are_refused_before_the_start() {
    let folder = folder();
    let image = folder.path().join("two.igvm");
    let built = Stockade::new("build")
        .args(["--cpus", "2", "-o"])
        .arg(&image);
    built.finish().assert_code(0);
    let run = Stockade::new("run").args(["--cpus", "3", "--image"]);
    let refused = run.arg(&image).finish();
    refused
        .assert_code(1)
        .assert_refused(&["--cpus 3", "the 2 the image allows"]);
}

/// Figures nobody could find afterwards, of a run that was for them.
#[test]
fn outputs_that_cannot_be_written_are_named_before_the_start() {
    let folder = folder();
    let missing = folder.path().join("none/file");
    for argument in ["--stats", "--host-view", "--framebuffer"] {
        run_with(argument, folder.path()).assert_refused(&["directory"]);
        run_with(argument, &missing).assert_refused(&["there is no directory", "make it first"]);
    }
    let console = format!("file={}", missing.display());
    let refused = run_with("--virtio-console", console);
    refused.assert_refused(&["--virtio-console", "there is no directory"]);
}

/// A boot order is what firmware asks for.
#[test]
fn a_boot_order_for_a_kernel_is_refused() {
    let folder = folder();
    let disk = file(folder.path(), "disk.img", &[7; 512]);
    let words = format!("{},bootindex=1", disk.display());
    let run = Stockade::new("run")
        .args(["--disk", &words])
        .arg("--kernel");
    let run = run.arg(&workshop().kernel).finish();
    run.assert_refused(&["bootindex=", "firmware"]);
}

/// They would go unnoticed.
#[test]
fn limits_of_what_is_not_there_or_does_not_fit_are_refused() {
    run_with("--bounce", "4M").assert_refused(&["--bounce", "leave it out"]);
    run_with("--module-memory", "8").assert_refused(&["--module-memory", "--paravisor-module"]);
    run_with("--module-seconds", "9").assert_refused(&["--module-seconds", "--tpm"]);
    let small = Stockade::new("run").args(["--tpm", "--module-memory", "6"]);
    small
        .finish()
        .assert_refused(&["--module-memory 6", "7 at least"]);
}

#[test]
fn a_network_there_is_not_is_refused_with_those_there_are() {
    for value in ["bridge", "tap", "tap=", ""] {
        run_with("--net", value).assert_refused(&["user", "tap="]);
    }
    // QEMU would make one where it may, connected to nothing.
    run_with("--net", "tap=no-such-tap").assert_refused(&["no-such-tap", "ip tuntap"]);
}
