//! The tables as Intel's ACPICA sees them, the interpreter inside Linux: `iasl` disassembles and compiles each table again,
//! `acpiexec` loads them and runs their methods. Where the tools are not installed only checksums and places are tested.

extern crate std;

use alloc::format;
use std::path::Path;
use std::process::Command;
use std::string::String;

use super::*;

const RAM: u64 = 256 << 20;

fn machine(vcpu_count: u32, devices: Devices) -> Machine {
    Machine {
        vcpu_count,
        last_bus: 0,
        devices,
    }
}

fn writes(machine: &Machine) -> Vec<Write> {
    build(machine, &RamMap::of_size(RAM).unwrap()).unwrap()
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Returns each table by signature, found from the RSDP on as a guest finds it.
fn walk(writes: &[Write]) -> Vec<(String, Vec<u8>)> {
    let at = |address: u64| {
        let (start, bytes) = writes
            .iter()
            .find(|(s, b)| *s <= address && address < s + b.len() as u64)
            .unwrap();
        let bytes = &bytes[usize::try_from(address - start).unwrap()..];
        let len = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
        bytes[..usize::try_from(len).unwrap()].to_vec()
    };
    let named = |table: Vec<u8>| (String::from_utf8(table[..4].to_vec()).unwrap(), table);
    let (address, rsdp) = &writes[0];
    assert_eq!(
        (*address, &rsdp[..8]),
        (guest::RSDP, b"RSD PTR ".as_slice())
    );
    let xsdt = at(u64_at(rsdp, 24));
    let mut tables: Vec<_> = xsdt[36..]
        .chunks_exact(8)
        .map(|entry| named(at(u64_at(entry, 0))))
        .collect();
    let fadt = tables[0].1.clone();
    tables.push(named(at(u64_at(&fadt, 140))));
    let facs = u32::from_le_bytes(fadt[36..40].try_into().unwrap());
    tables.push(named(at(facs.into())));
    tables.push(named(xsdt));
    tables
}

fn tool(name: &str, directory: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(name)
        .args(arguments)
        .current_dir(directory)
        .output()
        .ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{name} {arguments:?}: {text}");
    Some(text)
}

/// Writes the tables to files, disassembles them, and returns the directory, or `None` without tools.
fn disassemble(machine: &Machine) -> Option<tempfile::TempDir> {
    let directory = tempfile::tempdir().unwrap();
    for (name, table) in walk(&writes(machine)) {
        let file = format!("{name}.aml");
        std::fs::write(directory.path().join(&file), table).unwrap();
        let text = tool("iasl", directory.path(), &["-d", &file])?;
        assert!(
            !text.contains("Error") && !text.contains("Invalid"),
            "{name}: {text}"
        );
    }
    Some(directory)
}

fn source(directory: &tempfile::TempDir, name: &str) -> String {
    std::fs::read_to_string(directory.path().join(format!("{name}.dsl"))).unwrap()
}

const ALL: Machine = Machine {
    vcpu_count: 4,
    last_bus: 255,
    devices: Devices::all(),
};
const LEAST: Machine = Machine {
    vcpu_count: 1,
    last_bus: 0,
    devices: Devices::empty(),
};

#[test]
fn every_table_sums_to_zero_and_lies_where_the_memory_map_says() {
    for machine in [ALL, LEAST, machine(MAX_PROCESSORS, Devices::all())] {
        let ram = RamMap::of_size(RAM).unwrap();
        let writes = writes(&machine);
        let within = |(start, bytes): &Write, range: core::ops::Range<u64>| {
            range.start <= *start && start + bytes.len() as u64 <= range.end
        };
        assert!(within(&writes[1], ram.acpi_tables()) && within(&writes[2], ram.acpi_nvs()));
        let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!((sum(&writes[0].1[..20]), sum(&writes[0].1)), (0, 0));
        for (name, table) in walk(&writes) {
            assert!(name == "FACS" || sum(&table) == 0, "{name}");
        }
    }
}

#[test]
fn optional_tables_follow_the_devices() {
    let names =
        |machine| -> Vec<String> { walk(&writes(&machine)).into_iter().map(|t| t.0).collect() };
    assert_eq!(
        names(LEAST),
        [
            "FACP", "APIC", "MCFG", "WAET", "WSMT", "SPCR", "DSDT", "FACS", "XSDT"
        ]
    );
    let all = names(ALL);
    assert!(all.contains(&"HPET".into()) && all.contains(&"TPM2".into()));
}

/// What Windows looks for: clocks that need no second look, and no system management mode that could be misled.
#[test]
fn windows_tables_promise_good_clocks_and_nothing_to_mitigate() {
    for tables in [walk(&writes(&LEAST)), walk(&load(&ALL, 0x10_0000))] {
        for (name, flags) in [("WAET", 0b11_u32), ("WSMT", 0b111)] {
            let (_, table) = tables.iter().find(|it| it.0 == name).unwrap();
            assert_eq!((table.len(), table[8]), (40, 1), "{name}");
            assert_eq!(table[36..], flags.to_le_bytes(), "{name}");
        }
    }
}

#[test]
fn more_processors_than_names_are_refused() {
    let ram = RamMap::of_size(RAM).unwrap();
    let error = build(&machine(0x1001, Devices::empty()), &ram).unwrap_err();
    assert_eq!(error, AcpiError::TooManyProcessors(0x1001));
}

#[test]
fn disassembled_tables_compile_without_errors_and_warnings() {
    for machine in [ALL, LEAST, machine(255, Devices::all())] {
        let Some(directory) = disassemble(&machine) else {
            return;
        };
        for (name, _) in walk(&writes(&machine)) {
            let file = format!("{name}.dsl");
            let text = tool("iasl", directory.path(), &["-tc", &file]).unwrap();
            assert!(
                !text.contains("Error ") && !text.contains("Warning "),
                "{name}: {text}"
            );
            assert!(
                text.contains("Compilation successful. 0 Errors"),
                "{name}: {text}"
            );
        }
    }
}

#[test]
fn madt_names_the_processors_and_the_legacy_wiring() {
    let Some(directory) = disassemble(&ALL) else {
        return;
    };
    let madt = source(&directory, "APIC");
    let count = |text: &str| madt.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("[Processor Local APIC]"), 4);
    assert_eq!(count("[I/O APIC]"), 1);
    assert_eq!(count("[Interrupt Source Override]"), 2);
    assert_eq!(count("Address : FEC00000"), 1);
    assert_eq!(count("Local Apic Address : FEE00000"), 1);
    assert_eq!(count("Interrupt : 00000002"), 1);
    assert_eq!(count("Flags (decoded below) : 000D"), 1);
    assert_eq!(count("Interrupt Input LINT : 01"), 1);
}

#[test]
fn processors_beyond_255_have_x2apic_entries() {
    let Some(directory) = disassemble(&machine(258, Devices::empty())) else {
        return;
    };
    let madt = source(&directory, "APIC");
    let count = |text: &str| madt.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("[Processor Local APIC]"), 255);
    assert_eq!(count("[Processor Local x2APIC]"), 3);
    assert_eq!(count("[Local x2APIC NMI]"), 1);
    assert_eq!(count("Processor x2Apic ID : 00000101"), 1);
}

#[test]
fn fadt_describes_the_fixed_hardware() {
    let Some(directory) = disassemble(&ALL) else {
        return;
    };
    let fadt = source(&directory, "FACP");
    for line in [
        "SCI Interrupt : 0009",
        "SMI Command Port : 00000000",
        "PM1A Event Block Address : 00000600",
        "PM1A Control Block Address : 00000604",
        "PM Timer Block Address : 00000608",
        "GPE0 Block Address : 00000620",
        "RTC Century Index : 32",
        "Boot Flags (decoded below) : 0017",
        "Value to cause reset : 06",
        "Address : 0000000000000CF9",
        "Hardware Reduced (V5) : 0",
        "Control Method Power Button (V1) : 0",
    ] {
        assert!(fadt.contains(line), "{line} is not in:\n{fadt}");
    }
}

#[test]
fn hpet_table_describes_the_block() {
    let Some(directory) = disassemble(&ALL) else {
        return;
    };
    let hpet = source(&directory, "HPET");
    for line in [
        "Hardware Block ID : 8086A201",
        "Address : 00000000FED00000",
        "Sequence Number : 00",
    ] {
        assert!(hpet.contains(line), "{line} is not in:\n{hpet}");
    }
}

/// Runs one command of the interpreter on the DSDT and its companions.
fn execute(command: &str) -> Option<String> {
    let directory = disassemble(&ALL)?;
    tool(
        "acpiexec",
        directory.path(),
        &["-b", command, "FACP.aml", "DSDT.aml"],
    )
}

#[test]
fn interpreter_finds_the_devices() {
    let Some(text) = execute("namespace \\_SB_") else {
        return;
    };
    for name in [
        "PCI0", "MBRD", "ISA_", "COM1", "RTC_", "PIC_", "TIMR", "HPET", "TPM0", "C003", "FWCF",
    ] {
        assert!(text.contains(name), "{name} is not in:\n{text}");
    }
}

#[test]
fn interpreter_grants_pci_express_control() {
    let uuid = "(5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66)";
    let request = |control: &str| {
        format!("evaluate \\_SB.PCI0._OSC {uuid} 1 3 (00 00 00 00 1F 00 00 00 {control} 00 00 00)")
    };
    let Some(text) = execute(&request("1F")) else {
        return;
    };
    assert!(
        text.contains("00 00 00 00 1F 00 00 00 1F 00 00 00"),
        "{text}"
    );
    let text = execute(&request("FF")).unwrap();
    assert!(
        text.contains("10 00 00 00 1F 00 00 00 1F 00 00 00"),
        "{text}"
    );
    let other = request("1F").replace("(5B", "(5C");
    let text = execute(&other).unwrap();
    assert!(
        text.contains("04 00 00 00 1F 00 00 00 1F 00 00 00"),
        "{text}"
    );
}

#[test]
fn interpreter_answers_for_the_tpm() {
    let presence = "(A6 FA DD 3D 1B 36 B4 4E A4 24 8D 10 08 9D 16 53)";
    let clear = "(ED 54 60 37 13 CC 75 46 90 1C 47 56 D7 F2 D4 5D)";
    for (uuid, function, answer) in [
        (presence, "1 0 (00)", "FF 01"),
        (presence, "1 1 (00)", "\"1.3\""),
        (presence, "1 2 [5]", "0000000000000001"),
        (presence, "1 5 (00)", "Contains 3 Elements"),
        (presence, "1 9 (00)", "00"),
        (clear, "1 0 (00)", "03"),
        (clear, "1 1 [1]", "0000000000000000"),
        (
            "(00 11 22 33 44 55 66 77 88 99 AA BB CC DD EE FF)",
            "1 0 (00)",
            "00",
        ),
    ] {
        let Some(text) = execute(&format!("evaluate \\_SB.TPM0._DSM {uuid} {function}")) else {
            return;
        };
        assert!(text.contains("returned object"), "{function}: {text}");
        let value = text.split_once("returned object").unwrap().1;
        assert!(value.contains(answer), "{function}: {text}");
    }
}

/// Tables of a machine whose firmware places them, as if it had placed them at zero.
fn execute_for_firmware(command: &str) -> Option<String> {
    let mut region = Region::new(0);
    let places = Places {
        facs: 0,
        presence: Presence::Firmware,
        log: 0..1,
    };
    region.assemble(&ALL, &places).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let len = u32::from_le_bytes(region.bytes[4..8].try_into().unwrap());
    let dsdt = &region.bytes[..usize::try_from(len).unwrap()];
    assert_eq!(&dsdt[..4], b"DSDT");
    std::fs::write(directory.path().join("DSDT.aml"), dsdt).unwrap();
    let text = tool("iasl", directory.path(), &["-d", "DSDT.aml"])?;
    assert!(!text.contains("Error"), "{text}");
    let text = tool("iasl", directory.path(), &["-we", "DSDT.dsl"]).unwrap();
    assert!(text.contains("0 Errors, 0 Warnings"), "{text}");
    tool("acpiexec", directory.path(), &["-b", command, "DSDT.aml"])
}

/// The interpreter's memory is zero where a machine has the requests: firmware that has said of no operation that there is it.
#[test]
fn interpreter_takes_requests_to_firmware_that_firmware_knows() {
    let presence = "(A6 FA DD 3D 1B 36 B4 4E A4 24 8D 10 08 9D 16 53)";
    let clear = "(ED 54 60 37 13 CC 75 46 90 1C 47 56 D7 F2 D4 5D)";
    for (uuid, function, answers) in [
        (presence, "1 0 (00)", &["FF 01"][..]),
        (presence, "1 1 (00)", &["\"1.3\""]),
        (presence, "1 2 [5]", &["0000000000000001"]),
        (presence, "2 7 [5 0]", &["0000000000000001"]),
        (presence, "1 7 [300]", &["0000000000000001"]),
        (presence, "1 3 (00)", &["Contains 2 Elements"]),
        (presence, "2 3 (00)", &["Contains 3 Elements"]),
        (presence, "1 4 (00)", &["0000000000000002"]),
        (presence, "1 5 (00)", &["Contains 3 Elements"]),
        (presence, "1 8 [5]", &["0000000000000000"]),
        (presence, "1 9 (00)", &["00"]),
        (clear, "1 0 (00)", &["03"]),
        (clear, "1 1 [1]", &["0000000000000000"]),
    ] {
        let evaluate = format!("evaluate \\_SB.TPM0._DSM {uuid} {function}");
        let Some(text) = execute_for_firmware(&evaluate) else {
            return;
        };
        assert!(text.contains("returned object"), "{function}: {text}");
        let value = text.split_once("returned object").unwrap().1;
        for answer in answers {
            assert!(value.contains(answer), "{function}: {text}");
        }
    }
}

#[test]
fn tpm_table_says_where_control_area_and_log_are() {
    let (_, table) = walk(&writes(&ALL))
        .into_iter()
        .find(|(name, _)| name == "TPM2")
        .unwrap();
    let log = RamMap::of_size(RAM).unwrap().tpm_log();
    assert_eq!(u64_at(&table, 40), 0xFED4_0040);
    assert_eq!(table[48..52], [7, 0, 0, 0]);
    assert_eq!(table[64..68], 0x8000_u32.to_le_bytes());
    assert_eq!(u64_at(&table, 68), log.start);
    assert!(log.end <= RamMap::of_size(RAM).unwrap().acpi_nvs().end);
}

#[test]
fn interpreter_reads_every_resource_template() {
    for (path, line) in [
        ("PCI0", "Address Minimum : C0000000"),
        ("MBRD", "Address Length : 10000000"),
        ("HPET", "Address : FED00000"),
        ("FWCF", "Address Minimum : 0510"),
        ("TPM0", "Address : FED40000"),
        ("PCI0.ISA_.COM1", "Address Minimum : 03F8"),
        ("PCI0.ISA_.RTC_", "Address Minimum : 0070"),
    ] {
        let Some(text) = execute(&format!("resources \\_SB.{path}")) else {
            return;
        };
        assert!(
            text.contains("EndTag Resource") && text.contains(line),
            "{path}: {text}"
        );
    }
}

/// `_PRT` follows what the guest said by `_PIC`. (The interpreter has no room to print the longer table, that of links.)
#[test]
fn pci_interrupts_are_routed_by_the_guests_model() {
    let Some(directory) = disassemble(&ALL) else {
        return;
    };
    let dsdt = source(&directory, "DSDT");
    for link in [
        "LNKA", "LNKB", "LNKC", "LNKD", "LNKE", "LNKF", "LNKG", "LNKH",
    ] {
        let uses = dsdt.matches(&format!("\\_SB.PCI0.ISA.{link},")).count();
        assert_eq!(uses, 16, "{link}: {dsdt}");
    }
    let by_apic = execute("evaluate \\_PIC 1; evaluate \\_SB.PCI0._PRT").unwrap();
    for pin in 16..24 {
        assert!(by_apic.contains(&format!("{pin:016X}")), "{pin}: {by_apic}");
    }
    assert!(!by_apic.contains(&format!("{:016X}", 24)), "{by_apic}");
}

#[test]
fn interpreter_sets_and_reads_a_link() {
    let status = "evaluate \\_SB.PCI0.ISA_.LNKC._STA";
    let disable = "evaluate \\_SB.PCI0.ISA_.LNKC._DIS";
    let Some(text) = execute(&format!("{disable}; {status}")) else {
        return;
    };
    assert!(text.contains("0000000000000009"), "{text}");
    let choose = "evaluate \\_SB.PCI0.ISA_.LNKC._SRS (89 06 00 0D 01 0B 00 00 00 79 00)";
    let text = execute(&format!("{disable}; {choose}; {status}")).unwrap();
    assert!(text.contains("000000000000000B"), "{text}");
    let current = "evaluate \\_SB.PCI0.ISA_.LNKC._CRS";
    let text = execute(&format!("{choose}; {current}")).unwrap();
    assert!(text.contains("89 06 00 0D 01 0B 00 00 00"), "{text}");
}

#[test]
fn console_table_describes_com1() {
    let Some(directory) = disassemble(&ALL) else {
        return;
    };
    let spcr = source(&directory, "SPCR");
    for line in [
        "Address : 00000000000003F8",
        "PCAT-compatible IRQ : 04",
        "Interrupt : 00000004",
        "Baud Rate : 07",
    ] {
        assert!(spcr.contains(line), "{line} is not in:\n{spcr}");
    }
}

/// Carries a loader script out as firmware does, files `apart` bytes from each other, and returns memory as [`build`] does.
fn load(machine: &Machine, apart: u64) -> Vec<Write> {
    let files = for_firmware(machine).unwrap();
    let (_, script) = files.iter().find(|file| file.0 == linked::SCRIPT).unwrap();
    let name = |bytes: &[u8]| {
        let end = bytes.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8(bytes[..end].to_vec()).unwrap()
    };
    let word = |entry: &[u8], at: usize| {
        usize::try_from(u32::from_le_bytes(entry[at..at + 4].try_into().unwrap())).unwrap()
    };
    let mut memory: Vec<(String, Write)> = Vec::new();
    for entry in script.chunks_exact(crate::loader_script::ENTRY_BYTES) {
        let file = name(&entry[4..60]);
        let place = memory.iter().position(|it| it.0 == file);
        match entry[0] {
            1 => {
                assert_eq!(place, None);
                let next = apart * (1 + memory.len() as u64);
                let next = if entry[64] == 2 { guest::RSDP } else { next };
                let content = files.iter().find(|it| it.0 == file).unwrap().1.clone();
                memory.push((file, (next, content)));
            }
            2 => {
                let target = name(&entry[60..116]);
                let (_, (base, content)) = memory.iter().find(|it| it.0 == target).unwrap();
                let (base, len) = (*base, content.len() as u64);
                let (at, size) = (word(entry, 116), usize::from(entry[120]));
                let field = &mut memory[place.unwrap()].1.1[at..at + size];
                let mut value = [0; 8];
                value[..size].copy_from_slice(field);
                let offset = u64::from_le_bytes(value);
                assert!(offset < len);
                field.copy_from_slice(&(base + offset).to_le_bytes()[..size]);
            }
            3 => {
                let (at, start, len) = (word(entry, 60), word(entry, 64), word(entry, 68));
                let content = &mut memory[place.unwrap()].1.1;
                assert_eq!(content[at], 0);
                let range = &content[start..start + len];
                let sum = range.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
                content[at] = sum.wrapping_neg();
            }
            other => assert_eq!(other, 0, "command"),
        }
    }
    let rsdp = memory.iter().position(|it| it.0 == linked::RSDP).unwrap();
    memory.swap(0, rsdp);
    memory.into_iter().map(|(_, write)| write).collect()
}

#[test]
fn firmware_links_the_same_tables_wherever_it_puts_them() {
    for machine in [ALL, LEAST] {
        let names =
            |writes: &[Write]| -> Vec<String> { walk(writes).into_iter().map(|it| it.0).collect() };
        for apart in [0x10_0000, 0x7654_0000] {
            let loaded = load(&machine, apart);
            assert_eq!(names(&loaded), names(&writes(&machine)));
            let sum = |bytes: &[u8]| bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!((sum(&loaded[0].1[..20]), sum(&loaded[0].1)), (0, 0));
            for (name, table) in walk(&loaded) {
                assert!(name == "FACS" || sum(&table) == 0, "{name}");
            }
        }
    }
}

/// The log is a file of its own, and the firmware is told of the requests that are put to it.
#[test]
fn firmware_has_a_place_for_the_log_and_is_told_where_requests_are() {
    let loaded = load(&ALL, 0x10_0000);
    let tables = walk(&loaded);
    let (_, tpm2) = tables.iter().find(|it| it.0 == "TPM2").unwrap();
    let log = loaded.iter().find(|(start, _)| *start == u64_at(tpm2, 68));
    assert_eq!(log.unwrap().1.len(), 0x8000);
    let (_, dsdt) = tables.iter().find(|it| it.0 == "DSDT").unwrap();
    let files = for_firmware(&ALL).unwrap();
    let (_, told) = files.iter().find(|it| it.0 == "etc/tpm/config").unwrap();
    assert_eq!(told[..], [0, 0x50, 0xD4, 0xFE, 2, 1]);
    assert!(dsdt.windows(4).any(|name| name == b"PPRQ"));
}
