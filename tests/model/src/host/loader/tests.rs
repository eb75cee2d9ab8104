use super::*;
use crate::igvm_file::Platform;
use igvm::{IgvmDirectiveHeader, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags,
    IgvmPageDataType, IgvmPlatformType,
};

#[derive(Default)]
struct Memory {
    private: BTreeMap<u64, (PageType, [u8; 4096])>,
    shared: BTreeMap<u64, Vec<u8>>,
    required: Vec<(u64, u64)>,
}

impl Target for Memory {
    type Error = &'static str;

    fn private_page(
        &mut self,
        page_type: PageType,
        gpa: u64,
        contents: &[u8; 4096],
    ) -> Result<(), Self::Error> {
        match self.private.insert(gpa, (page_type, *contents)) {
            Some(_) => Err("launched twice"),
            None => Ok(()),
        }
    }
    fn shared_page(&mut self, gpa: u64, contents: &[u8]) -> Result<(), Self::Error> {
        self.shared.insert(gpa, contents.to_vec());
        Ok(())
    }
    fn required_memory(&mut self, gpa: u64, bytes: u64) -> Result<(), Self::Error> {
        self.required.push((gpa, bytes));
        Ok(())
    }
    fn error_range(&mut self, _: u64, _: u64) -> Result<(), Self::Error> {
        Err("none here")
    }
}

const HOST: HostParameters<'_> = HostParameters {
    vp_count: 3,
    memory: &[(0, 0x800_0000), (0x1_0000_0000, 0x1000)],
    command_line: "quiet",
};

fn normal(gpa: u64, flags: IgvmPageDataFlags, data: &[u8]) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: 1,
        flags,
        data_type: IgvmPageDataType::NORMAL,
        data: data.to_vec(),
    }
}

fn special(gpa: u64, data_type: IgvmPageDataType) -> IgvmDirectiveHeader {
    IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: 1,
        flags: IgvmPageDataFlags::new(),
        data_type,
        data: vec![],
    }
}

fn image() -> Vec<IgvmDirectiveHeader> {
    let at = |byte_offset| IGVM_VHS_PARAMETER {
        parameter_area_index: 7,
        byte_offset,
    };
    let none = IgvmPageDataFlags::new();
    vec![
        normal(0x1000, none, &[0x11; 4096]),
        normal(0x2000, none, &[]),
        normal(0x3000, none.with_unmeasured(true), &[0x33; 4096]),
        normal(0x9000_0000, none.with_shared(true), &[0x44; 4096]),
        special(0x5000, IgvmPageDataType::CPUID_DATA),
        special(0x6000, IgvmPageDataType::SECRETS),
        IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: 0x2000,
            parameter_area_index: 7,
            initial_data: vec![],
        },
        IgvmDirectiveHeader::VpCount(at(0)),
        IgvmDirectiveHeader::MemoryMap(at(0x100)),
        IgvmDirectiveHeader::CommandLine(at(0x1000)),
        IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa: 0x8000,
            compatibility_mask: 1,
            parameter_area_index: 7,
        }),
        IgvmDirectiveHeader::RequiredMemory {
            gpa: 0x80_0000,
            compatibility_mask: 1,
            number_of_bytes: 0x80_0000,
            vtl2_protectable: false,
        },
        IgvmDirectiveHeader::SnpVpContext {
            gpa: 0xFFFF_FFFF_F000,
            compatibility_mask: 1,
            vp_index: 0,
            vmsa: Box::new(zerocopy::FromZeros::new_zeroed()),
        },
    ]
}

fn file() -> igvm::IgvmFile {
    let platform = IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: 1,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    });
    let policy = IgvmInitializationHeader::GuestPolicy {
        policy: 0x3_0000,
        compatibility_mask: 1,
    };
    igvm::IgvmFile::new(IgvmRevision::V1, vec![platform], vec![policy], image()).unwrap()
}

#[test]
fn digest_is_that_of_the_reference_tool() {
    let file = file();
    let expected =
        igvm::measurement::generate_snp_measurement(file.initializations(), file.directives(), 1)
            .unwrap();
    let mut bytes = Vec::new();
    file.serialize(&mut bytes).unwrap();
    let image = IgvmFile::parse(&bytes).unwrap();
    let mut launch = Launch::start(image.policy.unwrap()).unwrap();
    load(&image, &mut launch, &mut Memory::default(), &HOST).unwrap();
    assert_eq!(*launch.digest(), expected);
}

#[test]
fn pages_and_parameters_lie_where_the_image_says() {
    let mut bytes = Vec::new();
    file().serialize(&mut bytes).unwrap();
    let image = IgvmFile::parse(&bytes).unwrap();
    let mut memory = Memory::default();
    let mut launch = Launch::start(0x3_0000).unwrap();
    let loaded = load(&image, &mut launch, &mut memory, &HOST).unwrap();
    assert_eq!(loaded.vmsa_gpa, 0xFFFF_FFFF_F000);
    let types: Vec<(u64, PageType)> = memory
        .private
        .iter()
        .map(|(gpa, (kind, _))| (*gpa, *kind))
        .collect();
    let expected = [
        (0x1000, PageType::Normal),
        (0x2000, PageType::Normal),
        (0x3000, PageType::Unmeasured),
        (0x5000, PageType::Cpuid),
        (0x6000, PageType::Secrets),
        (0x8000, PageType::Unmeasured),
        (0x9000, PageType::Unmeasured),
        (0xFFFF_FFFF_F000, PageType::Vmsa),
    ];
    assert_eq!(types, expected);
    assert_eq!(memory.shared[&0x9000_0000], [0x44; 4096]);
    assert_eq!(memory.required, [(0x80_0000, 0x80_0000)]);
    let parameters = &memory.private[&0x8000].1;
    assert_eq!(parameters[..4], [3, 0, 0, 0]);
    let number = |at: usize| u64::from_le_bytes(parameters[at..at + 8].try_into().unwrap());
    assert_eq!((number(0x100), number(0x108)), (0, 0x8000));
    assert_eq!((number(0x118), number(0x120)), (0x10_0000, 1));
    assert_eq!((number(0x130), number(0x138)), (0, 0));
    assert_eq!(memory.private[&0x9000].1[..6], *b"quiet\0");
}

fn load_directives(directives: Vec<Directive<'_>>) -> Result<Loaded, LoadError<&'static str>> {
    let image = IgvmFile {
        platform: Platform {
            compatibility_mask: 1,
            highest_vtl: 0,
            shared_gpa_boundary: 0,
        },
        policy: Some(0x3_0000),
        directives,
    };
    let mut launch = Launch::start(0x3_0000).unwrap();
    load(&image, &mut launch, &mut Memory::default(), &HOST)
}

const VMSA: Directive<'_> = Directive::VpContext {
    gpa: 0xF000,
    vp_index: 0,
    vmsa: &[0; 4096],
};

fn area(bytes: u64) -> Directive<'static> {
    Directive::ParameterArea {
        index: 1,
        bytes,
        initial: &[],
    }
}

fn count(area: u32, offset: u32) -> Directive<'static> {
    Directive::Parameter {
        parameter: Parameter::VpCount,
        area,
        offset,
    }
}

const INSERT: Directive<'_> = Directive::ParameterInsert {
    area: 1,
    gpa: 0x8000,
};

#[test]
fn images_that_make_no_sense_are_refused() {
    let refused = |directives| load_directives(directives).err();
    assert_eq!(refused(vec![VMSA]), None);
    assert_eq!(refused(vec![]), Some(LoadError::VpContext));
    assert_eq!(refused(vec![VMSA, VMSA]), Some(LoadError::VpContext));
    assert_eq!(
        refused(vec![area(0x1000), area(0x1000)]),
        Some(LoadError::ParameterArea(1))
    );
    assert_eq!(
        refused(vec![count(1, 0)]),
        Some(LoadError::ParameterArea(1))
    );
    assert_eq!(
        refused(vec![area(0x1000), INSERT, count(1, 0)]),
        Some(LoadError::ParameterArea(1))
    );
    assert_eq!(
        refused(vec![area(0x1000), INSERT, INSERT]),
        Some(LoadError::ParameterArea(1))
    );
    assert_eq!(
        refused(vec![area(1 << 40)]),
        Some(LoadError::ParameterAreaSize(1 << 40))
    );
    let size = LoadError::ParameterSize {
        parameter: Parameter::VpCount,
        area: 1,
        offset: 0xFFD,
    };
    assert_eq!(refused(vec![area(0x1000), count(1, 0xFFD)]), Some(size));
    let madt = Directive::Parameter {
        parameter: Parameter::Madt,
        area: 1,
        offset: 0,
    };
    assert_eq!(
        refused(vec![area(0x1000), madt]),
        Some(LoadError::ParameterUnknown(Parameter::Madt))
    );
}

#[test]
fn page_launched_twice_is_the_targets_to_refuse() {
    let page = Directive::PageData(PageData {
        gpa: 0xF000,
        kind: PageKind::Normal,
        large: false,
        data: &[],
    });
    let refused = load_directives(vec![VMSA, page]).err();
    assert_eq!(
        refused,
        Some(LoadError::Page {
            gpa: 0xF000,
            reason: "launched twice"
        })
    );
}

#[test]
fn large_page_is_launched_as_small_ones() {
    let data = vec![5; 0x20_0000];
    let large = PageData {
        gpa: 0x40_0000,
        kind: PageKind::Normal,
        large: true,
        data: &data,
    };
    let digest = |directives| {
        let image = IgvmFile {
            platform: Platform {
                compatibility_mask: 1,
                highest_vtl: 0,
                shared_gpa_boundary: 0,
            },
            policy: None,
            directives,
        };
        let mut launch = Launch::start(0x3_0000).unwrap();
        load(&image, &mut launch, &mut Memory::default(), &HOST).unwrap();
        *launch.digest()
    };
    let small = (0..512).map(|at| {
        let gpa = 0x40_0000 + at * 0x1000;
        Directive::PageData(PageData {
            gpa,
            kind: PageKind::Normal,
            large: false,
            data: &[5; 4096],
        })
    });
    let whole = digest(vec![Directive::PageData(large), VMSA]);
    assert_eq!(whole, digest(small.chain([VMSA]).collect()));
}
