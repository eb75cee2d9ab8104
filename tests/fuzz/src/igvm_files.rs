//! IGVM files as the model reads them.

use igvm::{
    IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision,
};
use igvm_defs::{
    IGVM_FIXED_HEADER, IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM,
    IgvmPageDataFlags, IgvmPageDataType, IgvmPlatformType,
};

use crate::model::igvm_file::{Directive, IgvmFile as Walked};

/// Where the fixed header has its checksum.
const CHECKSUM: usize = 20;

/// Walks a file as it is, then with its checksum made right: otherwise nothing would get past that.
pub fn run(data: &[u8]) {
    walk(data);
    if let Some(sealed) = reseal(data) {
        walk(&sealed);
    }
}

fn walk(data: &[u8]) {
    let Ok(file) = Walked::parse(data) else {
        return;
    };
    let range = data.as_ptr_range();
    for directive in &file.directives {
        if let Directive::PageData(page) = directive {
            let content = page.data.as_ptr_range();
            let is_inside = range.start <= content.start && content.end <= range.end;
            assert!(page.data.is_empty() || is_inside);
        }
    }
}

/// Returns the file with the checksum of its headers, if these are in it.
fn reseal(data: &[u8]) -> Option<Vec<u8>> {
    let fixed = size_of::<IGVM_FIXED_HEADER>();
    let word = |at: usize| {
        let bytes = data.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let (start, len) = (word(8)?, word(12)?);
    let mut sealed = data.to_vec();
    sealed.get_mut(CHECKSUM..fixed)?[..4].fill(0);
    let mut hash = crc32fast::Hasher::new();
    hash.update(sealed.get(..fixed)?);
    hash.update(sealed.get(start..start.checked_add(len)?)?);
    let sum = hash.finalize().to_le_bytes();
    sealed[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum);
    Some(sealed)
}

/// A file with a directive of most kinds.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let at = |byte_offset| IGVM_VHS_PARAMETER {
        parameter_area_index: 0,
        byte_offset,
    };
    let page = |gpa, data_type, data: &[u8]| IgvmDirectiveHeader::PageData {
        gpa,
        compatibility_mask: 1,
        flags: IgvmPageDataFlags::new(),
        data_type,
        data: data.to_vec(),
    };
    let directives = vec![
        IgvmDirectiveHeader::RequiredMemory {
            gpa: 0x10_0000,
            compatibility_mask: 1,
            number_of_bytes: 0x20_0000,
            vtl2_protectable: true,
        },
        page(0x10_0000, IgvmPageDataType::NORMAL, &[7; 4096]),
        page(0x10_1000, IgvmPageDataType::SECRETS, &[]),
        IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: 4096,
            parameter_area_index: 0,
            initial_data: Vec::new(),
        },
        IgvmDirectiveHeader::VpCount(at(0)),
        IgvmDirectiveHeader::MemoryMap(at(0x100)),
        IgvmDirectiveHeader::ParameterInsert(IGVM_VHS_PARAMETER_INSERT {
            gpa: 0x10_2000,
            compatibility_mask: 1,
            parameter_area_index: 0,
        }),
    ];
    let platform = IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: 1,
        highest_vtl: 2,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: igvm_defs::IGVM_SEV_SNP_PLATFORM_VERSION,
        shared_gpa_boundary: 1 << 51,
    };
    let policy = IgvmInitializationHeader::GuestPolicy {
        policy: 0x3_0000,
        compatibility_mask: 1,
    };
    let file = IgvmFile::new(
        IgvmRevision::V1,
        vec![IgvmPlatformHeader::SupportedPlatform(platform)],
        vec![policy],
        directives,
    );
    let mut bytes = Vec::new();
    match file.and_then(|file| file.serialize(&mut bytes)) {
        Ok(()) => vec![bytes],
        Err(_) => Vec::new(),
    }
}
