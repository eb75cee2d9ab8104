//! Headers and directives, shortly written. Every directive is for our one platform.

use igvm::snp_defs::SevVmsa;
use igvm::{
    IgvmDirectiveHeader, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision,
};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags,
    IgvmPageDataType, IgvmPlatformType,
};
use stockade_boot::layout::{LAUNCH_VMSA, PAGE_SIZE, SHARED_GPA_BOUNDARY};

use super::error::ImageError;

/// The compatibility mask of the one platform we write.
pub(crate) const MASK: u32 = 1;
/// The only parameter area.
const PARAMETER_AREA: u32 = 0;
/// IGVM counts Hyper-V's trust levels: 2 is the highest, which SNP calls VMPL0.
const HIGHEST_VTL: u8 = 2;

/// Where a page's content comes from and who sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageKind {
    /// Private, measured.
    Measured,
    /// Private, content up to the host.
    Unmeasured,
    /// Shared with the host.
    Shared,
}

/// Directives in the order of launch.
#[derive(Clone, Default)]
pub(super) struct Directives(Vec<IgvmDirectiveHeader>);

impl Directives {
    /// Demands memory in a range; `bytes` is below 4 GiB by the layout of whoever asks.
    pub(super) fn required_memory(&mut self, gpa: u64, bytes: u32) {
        self.0.push(IgvmDirectiveHeader::RequiredMemory {
            gpa,
            compatibility_mask: MASK,
            number_of_bytes: bytes,
            vtl2_protectable: true,
        });
    }

    /// Launches a page.
    pub(super) fn page(&mut self, gpa: u64, kind: PageKind, data: Vec<u8>) {
        let flags = IgvmPageDataFlags::new()
            .with_unmeasured(kind != PageKind::Measured)
            .with_shared(kind == PageKind::Shared);
        self.push_page(gpa, flags, IgvmPageDataType::NORMAL, data);
    }

    /// Launches a large page of zeros, private and unmeasured.
    pub(super) fn large_zero_page(&mut self, gpa: u64) {
        let flags = IgvmPageDataFlags::new()
            .with_unmeasured(true)
            .with_is_2mb_page(true);
        self.push_page(gpa, flags, IgvmPageDataType::NORMAL, Vec::new());
    }

    /// Launches the CPUID page with its questions.
    pub(super) fn cpuid_page(&mut self, gpa: u64) {
        let data = super::cpuid::page();
        self.push_page(
            gpa,
            IgvmPageDataFlags::new(),
            IgvmPageDataType::CPUID_DATA,
            data,
        );
    }

    /// Launches the secrets page.
    pub(super) fn secrets_page(&mut self, gpa: u64) {
        self.push_page(
            gpa,
            IgvmPageDataFlags::new(),
            IgvmPageDataType::SECRETS,
            Vec::new(),
        );
    }

    fn push_page(
        &mut self,
        gpa: u64,
        flags: IgvmPageDataFlags,
        data_type: IgvmPageDataType,
        data: Vec<u8>,
    ) {
        self.0.push(IgvmDirectiveHeader::PageData {
            gpa,
            compatibility_mask: MASK,
            flags,
            data_type,
            data,
        });
    }

    /// Launches a page into which the host writes vCPU count and memory map, at these offsets.
    pub(super) fn parameters(&mut self, gpa: u64, vcpu_count: u32, memory_map: u32) {
        let at = |byte_offset| IGVM_VHS_PARAMETER {
            parameter_area_index: PARAMETER_AREA,
            byte_offset,
        };
        self.0.push(IgvmDirectiveHeader::ParameterArea {
            number_of_bytes: PAGE_SIZE,
            parameter_area_index: PARAMETER_AREA,
            initial_data: Vec::new(),
        });
        self.0.push(IgvmDirectiveHeader::VpCount(at(vcpu_count)));
        self.0.push(IgvmDirectiveHeader::MemoryMap(at(memory_map)));
        self.0.push(IgvmDirectiveHeader::ParameterInsert(
            IGVM_VHS_PARAMETER_INSERT {
                gpa,
                compatibility_mask: MASK,
                parameter_area_index: PARAMETER_AREA,
            },
        ));
    }

    /// Launches the first vCPU.
    pub(super) fn vcpu(&mut self, vmsa: Box<SevVmsa>) {
        self.0.push(IgvmDirectiveHeader::SnpVpContext {
            gpa: LAUNCH_VMSA,
            compatibility_mask: MASK,
            vp_index: 0,
            vmsa,
        });
    }

    /// Names who signed the image.
    pub(super) fn identity(&mut self, block: IgvmDirectiveHeader) {
        self.0.push(block);
    }

    /// Returns the file.
    pub(super) fn into_file(self, policy: u64) -> Result<Vec<u8>, ImageError> {
        let platform = IGVM_VHS_SUPPORTED_PLATFORM {
            compatibility_mask: MASK,
            highest_vtl: HIGHEST_VTL,
            platform_type: IgvmPlatformType::SEV_SNP,
            platform_version: igvm_defs::IGVM_SEV_SNP_PLATFORM_VERSION,
            shared_gpa_boundary: SHARED_GPA_BOUNDARY,
        };
        let policy = IgvmInitializationHeader::GuestPolicy {
            policy,
            compatibility_mask: MASK,
        };
        let file = IgvmFile::new(
            IgvmRevision::V1,
            vec![IgvmPlatformHeader::SupportedPlatform(platform)],
            vec![policy],
            self.0,
        )?;
        let mut bytes = Vec::new();
        file.serialize(&mut bytes)?;
        Ok(bytes)
    }
}
