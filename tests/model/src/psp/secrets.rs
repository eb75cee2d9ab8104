//! The secrets page (SNP ABI 8.17.2.5, table 76).

use super::chip::GuestKeys;
use stockade_abi::secrets::SecretsPage;

/// Version of the page written here.
const VERSION: u32 = 3;

/// Returns the page for a guest: its four communication keys, the processor's signature (CPUID 1, EAX), the TSC factor.
#[must_use]
pub fn fill(keys: &GuestKeys, family_model_stepping: u32, tsc_factor: u32) -> SecretsPage {
    let mut page = SecretsPage::zeroed();
    page.version = VERSION;
    page.fms = family_model_stepping;
    page.vmpck = keys.vmpck;
    page.tsc_factor = tsc_factor;
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::psp::chip::Chip;
    use zerocopy::IntoBytes;

    #[test]
    fn keys_lie_where_guests_look_for_them() {
        let keys = Chip::new(1).launch_keys();
        let page = fill(&keys, 0x00A0_0F11, 7);
        let bytes = page.as_bytes();
        assert_eq!(bytes[..4], [3, 0, 0, 0]);
        for (vmpl, key) in keys.vmpck.iter().enumerate() {
            assert_eq!(bytes[0x20 + 32 * vmpl..][..32], *key);
        }
        assert_eq!(bytes[0x160], 7);
        assert!(bytes[0xA0..0x160].iter().all(|byte| *byte == 0));
    }
}
