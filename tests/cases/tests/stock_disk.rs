//! A stock Debian 12 disk, which nothing of ours is in, boots by the distribution's OVMF, shim, GRUB and kernel to its login; what it
//! finds in the firmware, a reboot from inside, and power-off.
//!
//! The default run has the one most telling case. With `-- --ignored` another goes through processors, memory and Secure Boot, and one
//! moves the disk into a sealed one first.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use stockade_rig::firmware::{FirmwarePc, SecureBoot};
use stockade_rig::guest::finding;
use stockade_rig::stock_disk::{KernelFlavour, Session, StockDisk};
use stockade_rig::{ID_KEYS, Initrd, Stockade};

/// What the kernel says where firmware is at fault, and what it says of itself.
const COMPLAINTS: &str = "dmesg | grep -iE '\\[firmware (bug|warn|info)\\]|firmware bug|fw bug|acpi.*(warning|error)|unchecked MSR|BUG:|WARNING:' || true";
/// Of those, what no firmware and no paravisor can help.
const KNOWN: [&str; 1] = [
    // The processor QEMU is told to be has no microcode against it.
    "Speculative Return Stack Overflow",
];
/// Every table, taken apart by ACPICA's compiler and put together again: the names of the tables, behind what went wrong.
const TABLES: &str = "cd /tmp && acpidump -b && iasl -d *.dat >taken 2>&1; grep -iE '^error|could not|not found' taken; \
    for table in *.dsl; do iasl -ve $table >made 2>&1; grep -q ' 0 Errors' made || cat made; done; echo *.dat";
/// Ours, and the firmware adds none.
const TABLE_NAMES: &str = "apic.dat dsdt.dat facp.dat facs.dat mcfg.dat spcr.dat waet.dat wsmt.dat";
/// The types of SMBIOS structures, each once.
const STRUCTURES: &str = "dmidecode -q >/dev/null && dmidecode | sed -n 's/^Handle .* DMI type \\([0-9]*\\),.*/\\1/p' | sort -nu | tr '\\n' ' '";
/// BIOS, system, chassis, processor, memory array, device and range, boot, and the end.
const TYPES: &str = "0 1 3 4 16 17 19 32 127";
/// Variables the platform's specification names, and those of the database of keys.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
const KEYS: &str = "d719b2cb-3d3a-4596-a3bc-dad00e67656f";

/// A variable of the guest's own, which lasts and which an operating system sees, as Linux' tools write one.
const WRITE_VARIABLE: &str = "printf teal > /tmp/color && \
    efivar -w -t 7 -n 11112222-3333-4444-5555-666677778888-Color -f /tmp/color";
const READ_VARIABLE: &str = "efivar -p -n 11112222-3333-4444-5555-666677778888-Color";
/// The flags of the tables for Windows, which the firmware hands on.
const WINDOWS_TABLES: &str = "cd /sys/firmware/acpi/tables && \
    for name in WAET WSMT; do od -An -tx1 -j36 $name; done";

struct Configuration {
    flavour: KernelFlavour,
    cpus: u32,
    memory_mib: u64,
    secure_boot: SecureBoot,
}

/// The matrix, the cases with most behind them first.
const MATRIX: [Configuration; 4] = [
    Configuration {
        flavour: KernelFlavour::Cloud,
        cpus: 1,
        memory_mib: 512,
        secure_boot: SecureBoot::Off,
    },
    Configuration {
        flavour: KernelFlavour::Cloud,
        cpus: 4,
        memory_mib: 4096,
        secure_boot: SecureBoot::Off,
    },
    Configuration {
        flavour: KernelFlavour::Cloud,
        cpus: 1,
        memory_mib: 3072,
        secure_boot: SecureBoot::On,
    },
    Configuration {
        flavour: KernelFlavour::Cloud,
        cpus: 4,
        memory_mib: 512,
        secure_boot: SecureBoot::On,
    },
];

fn pc(folder: &Path, configuration: &Configuration) -> FirmwarePc {
    let disk = StockDisk::of(configuration.flavour).copy_to(folder);
    FirmwarePc::new(folder, configuration.secure_boot)
        .disk(&disk)
        .cpus(configuration.cpus)
        .memory_mib(configuration.memory_mib)
        .limit(Duration::from_secs(900))
}

/// Looks at what tells which machine this is.
fn look_around(session: &mut Session<'_>, configuration: &Configuration) {
    let release = session.run("uname -r");
    let is_cloud = release.ends_with("-cloud-amd64");
    assert_eq!(is_cloud, configuration.flavour == KernelFlavour::Cloud);
    assert!(release.ends_with("-amd64"), "{release}");
    let cpus = session.run("nproc");
    assert_eq!(cpus, configuration.cpus.to_string());
    let state = session.run("mokutil --sb-state || true");
    let is_on = state.contains("SecureBoot enabled");
    assert_eq!(
        is_on,
        configuration.secure_boot == SecureBoot::On,
        "{state}"
    );
    let kib = session.run("sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo");
    let mib = kib.parse::<u64>().unwrap_or(0) >> 10;
    let expected = configuration.memory_mib * 4 / 5..=configuration.memory_mib;
    assert!(expected.contains(&mib), "{mib} MiB");
    let complaints = session.run(COMPLAINTS);
    let is_known = |line: &&str| KNOWN.iter().any(|known| line.contains(known));
    let others: Vec<&str> = complaints.lines().filter(|line| !is_known(line)).collect();
    assert!(others.is_empty(), "{others:#?}");
}

/// Asks the firmware all that the distribution's tools ask it.
fn ask_the_firmware(session: &mut Session<'_>) {
    assert_eq!(session.run(TABLES), TABLE_NAMES);
    let flags = session.run(WINDOWS_TABLES);
    let flags: Vec<&str> = flags.split_whitespace().collect();
    assert_eq!(flags, ["03", "00", "00", "00", "07", "00", "00", "00"]);
    assert_eq!(session.run(STRUCTURES), TYPES);
    let smbios = session.run("dmidecode");
    // What dmidecode writes where a value makes no sense to it.
    for words in ["OUT OF SPEC", "BAD INDEX", "TRUNCATED"] {
        assert!(!smbios.contains(words), "{smbios}");
    }
    let functions = session.run("lspci -vv");
    for words in ["Host bridge", "ISA bridge", "Virtio", "MSI-X: Enable+"] {
        assert!(functions.contains(words), "{functions}");
    }
    // What lspci writes where a capability makes no sense to it.
    assert!(!functions.contains("!!!"), "{functions}");
}

/// The firmware's variables as Linux' tools list them, and one as it was written.
fn ask_for_variables(session: &mut Session<'_>) {
    let names = session.run("efivar -l");
    for (space, name) in [
        (GLOBAL, "BootOrder"),
        (GLOBAL, "SecureBoot"),
        (GLOBAL, "PK"),
        (GLOBAL, "KEK"),
        (KEYS, "db"),
        (KEYS, "dbx"),
        ("11112222-3333-4444-5555-666677778888", "Color"),
    ] {
        let whole = format!("{space}-{name}");
        assert!(names.lines().any(|line| line == whole), "{whole}: {names}");
    }
    let color = session.run(READ_VARIABLE);
    for words in ["Name: \"Color\"", "74 65 61 6c", "Non-Volatile"] {
        assert!(color.contains(words), "{words}: {color}");
    }
    let state = session.run("efivar -p -n 8be4df61-93ca-11d2-aa0d-00e098032b8c-SecureBoot");
    assert!(state.contains("00000000  01"), "{state}");
}

#[test]
fn a_debian_disk_boots_signed_to_its_login_reboots_and_powers_off() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let configuration = Configuration {
        flavour: KernelFlavour::Cloud,
        cpus: 2,
        memory_mib: 1024,
        secure_boot: SecureBoot::On,
    };
    let pc = pc(folder.path(), &configuration);
    let mut machine = pc.confidentially().start();
    let mut session = Session::log_in(&mut machine);
    look_around(&mut session, &configuration);
    ask_the_firmware(&mut session);
    let _ = session.run(WRITE_VARIABLE);
    ask_for_variables(&mut session);
    let _ = session.run(
        "efibootmgr -q -c -d /dev/vda -p 1 -L kept -l '\\EFI\\debian\\shimx64.efi' && echo kept > /root/kept",
    );
    session.leave("systemctl reboot");
    let mut session = Session::log_in(&mut machine);
    look_around(&mut session, &configuration);
    ask_for_variables(&mut session);
    ask_what_is_kept(&mut session);
    // The power button, by way of the firmware's tables and systemd.
    machine.signal(Signal::SIGTERM);
    machine.finish().assert_code(0);

    let mut machine = pc.confidentially().start();
    let mut session = Session::log_in(&mut machine);
    ask_for_variables(&mut session);
    ask_what_is_kept(&mut session);
    session.leave("systemctl poweroff");
    let finished = machine.finish();
    finished.assert_code(0);
    finished.assert_says(&["firmware variables: from the sealed store"]);
}

/// The system was started by the entry of its own, from the disk it wrote to.
fn ask_what_is_kept(session: &mut Session<'_>) {
    let entries = session.run("efibootmgr; cat /root/kept");
    let current = entries
        .lines()
        .find_map(|line| line.strip_prefix("BootCurrent: "));
    let own = format!("Boot{}* kept", current.unwrap_or_default());
    assert!(entries.contains(&own), "{entries}");
    assert_eq!(entries.lines().last(), Some("kept"), "{entries}");
}

#[test]
#[ignore = "four boots, minutes each; .ci/long has it"]
fn processors_memory_and_secure_boot_make_no_difference() {
    for configuration in &MATRIX {
        eprintln!(
            "{} processors, {} MiB",
            configuration.cpus, configuration.memory_mib
        );
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut machine = pc(folder.path(), configuration).confidentially().start();
        let mut session = Session::log_in(&mut machine);
        look_around(&mut session, configuration);
        session.leave("systemctl poweroff");
        machine.finish().assert_code(0);
    }
}

/// The kernel an installer leaves on any PC looks for all that a PC may have, where the other has drivers of virtual machines only. Its
/// initramfs is three times as large.
#[test]
#[ignore = "a boot of minutes on a disk of its own; .ci/run has it as a step, and .ci/long"]
fn the_kernel_for_any_pc_boots_to_its_login() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let configuration = Configuration {
        flavour: KernelFlavour::Generic,
        cpus: 2,
        memory_mib: 1024,
        secure_boot: SecureBoot::On,
    };
    let mut machine = pc(folder.path(), &configuration).confidentially().start();
    let mut session = Session::log_in(&mut machine);
    look_around(&mut session, &configuration);
    ask_the_firmware(&mut session);
    session.leave("systemctl poweroff");
    machine.finish().assert_code(0);
}

/// Copies a disk to a sealed one. What is zero stays a hole.
const MOVE_IN: &str = "modprobe -a virtio_pci virtio_blk
    sleep 1
    /bin/dd if=/dev/vdb of=/dev/vda bs=256k conv=sparse,fsync 2>/dev/null
    say \"copied $?\"";

/// The way `docs/sealed-disk.md` gives for an installation that is already there: an image of the same family moves it in.
#[test]
#[ignore = "copies a disk, minutes; .ci/long has it"]
fn a_debian_disk_moves_into_a_sealed_one_and_boots_from_there() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let raw = StockDisk::of(KernelFlavour::Cloud).copy_to(folder.path());
    let bytes = raw.metadata().expect("it was just copied").len();
    let sealed = at("sealed.img");
    Stockade::new("disk")
        .args(["create", "--size", &bytes.to_string()])
        .arg(&sealed)
        .finish()
        .assert_code(0);
    std::fs::write(at("key.pem"), ID_KEYS[0]).expect("the folder is writable");
    let family = |call: Stockade| {
        call.args(["--seal", "family", "--id-key"])
            .arg(at("key.pem"))
    };
    let disk = format!("{},mode=sealed", sealed.display());
    let mover = Initrd::new(MOVE_IN)
        .modules(&["virtio_pci", "virtio_blk"])
        .program("coreutils", "bin/dd", &[]);
    let moved = family(Stockade::guest(""))
        .arg("--initrd")
        .arg(mover.write(folder.path()))
        .args(["--disk", &disk])
        .args(["--disk", &format!("{},readonly", raw.display())])
        .arg("--state")
        .arg(at("state"))
        .limit(Duration::from_secs(400))
        .finish();
    moved.assert_code(0);
    assert_eq!(finding(&moved.stdout, "copied"), Some("0"));
    std::fs::remove_file(&raw).expect("nobody needs it any more");

    let configuration = Configuration {
        flavour: KernelFlavour::Cloud,
        cpus: 2,
        memory_mib: 1024,
        secure_boot: SecureBoot::On,
    };
    let pc = FirmwarePc::new(folder.path(), configuration.secure_boot)
        .disk(Path::new(&disk))
        .cpus(configuration.cpus)
        .memory_mib(configuration.memory_mib)
        .limit(Duration::from_secs(900));
    for expected in ["new", "kept"] {
        let mut machine = family(pc.confidentially()).start();
        let mut session = Session::log_in(&mut machine);
        look_around(&mut session, &configuration);
        let found = session.run("cat /root/kept 2>/dev/null || echo new");
        assert_eq!(found, expected);
        let _ = session.run("echo kept > /root/kept && sync");
        session.leave("systemctl poweroff");
        machine.finish().assert_code(0);
    }
}
