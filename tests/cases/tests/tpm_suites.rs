//! The TPM before judges nobody here wrote: the test suites of `tpm2-pytss` and `tss-esapi` over its engine, Linux's own in a guest.
//!
//! They are fetched from PyPI, crates.io and the distribution and take minutes, so they run only when asked for (`-- --ignored`), as `.ci/run` does. Every
//! test that does not pass is in a list here with its reason; one more or one less is a failure.

use std::time::Duration;

use stockade_rig::suites::{Esapi, Judged, Kselftest, Pytss, Verdict, Verdicts};
use stockade_rig::{Initrd, Stockade, appended};

/// A test that does not pass, and why.
type Exception = (&'static str, Verdict, &'static str);

const FAILED: Verdict = Verdict::Failed;
const SKIPPED: Verdict = Verdict::Skipped;

const OLD_TSS: &str = "needs version 4 of the TSS, Debian 12 has 3.2";
const NO_ALGORITHM: &str = "libtpms does not have the algorithm";
const NO_SHA1: &str = "wants PCRs of SHA-1, of which a new TPM of ours has none";
const NO_SIMULATOR: &str = "is not tried over swtpm's protocol, which has no such word";
const NOT_BY_DEFAULT: &str = "marked so by its authors";

/// Tests of tpm2-pytss 3.0.0 that are skipped whatever the TPM.
const PYTSS_ANYWHERE: [Exception; 12] = [
    (
        "test_crypto.py::CryptoTest::test_ecc_bad_curves",
        SKIPPED,
        "the library for cryptography does not have the curve",
    ),
    (
        "test_esapi.py::TestEsys::test_ac_get_capability",
        SKIPPED,
        OLD_TSS,
    ),
    ("test_esapi.py::TestEsys::test_ac_send", SKIPPED, OLD_TSS),
    (
        "test_esapi.py::TestEsys::test_act_set_timeout",
        SKIPPED,
        "libtpms has no authenticated countdown timers",
    ),
    ("test_esapi.py::TestEsys::test_mac", SKIPPED, OLD_TSS),
    (
        "test_esapi.py::TestEsys::test_policy_ac_send_select",
        SKIPPED,
        OLD_TSS,
    ),
    (
        "test_tcti.py::TestTCTI::test_make_sticky",
        SKIPPED,
        "no simulator's protocol has a word for it",
    ),
    (
        "test_types.py::TypesTest::test_TSS2_OBJECT",
        SKIPPED,
        OLD_TSS,
    ),
    (
        "test_types.py::TypesTest::test_TSS2_POLICY_PCR_SELECTION",
        SKIPPED,
        OLD_TSS,
    ),
    (
        "test_types.py::TypesTest::test_TSS2_POLICY_PCR_SELECTIONS",
        SKIPPED,
        OLD_TSS,
    ),
    (
        "test_utils.py::TestUtils::test_make_credential_ecc_camellia",
        SKIPPED,
        NO_ALGORITHM,
    ),
    (
        "test_utils.py::TestUtils::test_make_credential_ecc_sm4",
        SKIPPED,
        NO_ALGORITHM,
    ),
];

/// Those that are tried on ours, and on swtpm are not.
const PYTSS_SWTPM: [Exception; 6] = [
    (
        "test_esapi.py::TestEsys::test_pcr_set_auth_policy",
        SKIPPED,
        NO_SIMULATOR,
    ),
    (
        "test_esapi.py::TestEsys::test_pcr_set_auth_value",
        SKIPPED,
        NO_SIMULATOR,
    ),
    ("test_tcti.py::TestTCTI::test_cancel", SKIPPED, NO_SIMULATOR),
    (
        "test_tcti.py::TestTCTI::test_custom_pytcti_cancel",
        SKIPPED,
        NO_SIMULATOR,
    ),
    (
        "test_tcti.py::TestTCTI::test_custom_pytcti_get_poll_handles",
        SKIPPED,
        NO_SIMULATOR,
    ),
    (
        "test_tcti.py::TestTCTI::test_get_poll_handles",
        SKIPPED,
        NO_SIMULATOR,
    ),
];

const PYTSS_SHA1: [Exception; 1] = [("test_esapi.py::TestEsys::test_pcr_read", FAILED, NO_SHA1)];

/// Tests of tss-esapi 7.7.0 that are ignored whatever the TPM.
const ESAPI_ANYWHERE: [Exception; 3] = [
    (
        "attributes_tests::session_attributes_tests::test_invalid_session_attributes_conversions",
        SKIPPED,
        NOT_BY_DEFAULT,
    ),
    (
        "attributes_tests::session_attributes_tests::test_invalid_session_attributes_mask_conversions",
        SKIPPED,
        NOT_BY_DEFAULT,
    ),
    (
        "context_tests::general_esys_tr_tests::test_tr_from_tpm_public::test_tr_from_tpm_public_owner_auth",
        SKIPPED,
        NOT_BY_DEFAULT,
    ),
];

const ESAPI_SHA1: [Exception; 1] = [(
    "context_tests::tpm_commands::integrity_collection_pcr_tests::test_pcr_extend_reset::test_pcr_extend_reset_commands",
    FAILED,
    NO_SHA1,
)];

/// Fails unless so many tests passed, and all others are in these lists.
#[track_caller]
fn assert_verdicts(verdicts: &Verdicts, passed: usize, exceptions: &[&[Exception]]) {
    let mut expected: Vec<(&str, Verdict)> = exceptions
        .iter()
        .flat_map(|list| list.iter().map(|(name, verdict, _)| (*name, *verdict)))
        .collect();
    expected.sort_unstable();
    let found: Vec<(&str, Verdict)> = verdicts
        .iter()
        .filter(|(_, verdict)| **verdict != Verdict::Passed)
        .map(|(name, verdict)| (name.as_str(), *verdict))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(verdicts.len() - found.len(), passed);
}

#[test]
#[ignore = "fetches tpm2-pytss from PyPI, takes minutes"]
fn pytss_passes_but_for_the_bank_there_is_not() {
    let verdicts = Pytss::fetch().run(Judged::Ours);
    assert_verdicts(&verdicts, 575, &[&PYTSS_ANYWHERE, &PYTSS_SHA1]);
}

#[test]
#[ignore = "fetches tpm2-pytss from PyPI, takes minutes"]
fn pytss_passes_whole_once_the_sha1_bank_is_allocated() {
    let verdicts = Pytss::fetch().run(Judged::OursWithSha1);
    assert_verdicts(&verdicts, 576, &[&PYTSS_ANYWHERE]);
}

#[test]
#[ignore = "fetches tpm2-pytss from PyPI, takes minutes"]
fn pytss_passes_on_swtpm_where_less_is_tried() {
    let verdicts = Pytss::fetch().run(Judged::Swtpm);
    assert_verdicts(&verdicts, 570, &[&PYTSS_ANYWHERE, &PYTSS_SWTPM]);
}

#[test]
#[ignore = "fetches tss-esapi from crates.io, takes minutes"]
fn esapi_passes_but_for_the_bank_there_is_not() {
    let verdicts = Esapi::fetch().run(Judged::Ours);
    assert_verdicts(&verdicts, 400, &[&ESAPI_ANYWHERE, &ESAPI_SHA1]);
}

#[test]
#[ignore = "fetches tss-esapi from crates.io, takes minutes"]
fn esapi_passes_whole_once_the_sha1_bank_is_allocated() {
    let verdicts = Esapi::fetch().run(Judged::OursWithSha1);
    assert_verdicts(&verdicts, 401, &[&ESAPI_ANYWHERE]);
}

#[test]
#[ignore = "fetches tss-esapi from crates.io, takes minutes"]
fn esapi_passes_on_swtpm() {
    let verdicts = Esapi::fetch().run(Judged::Swtpm);
    assert_verdicts(&verdicts, 401, &[&ESAPI_ANYWHERE]);
}

/// Linux's tests of its own driver, over the device it finds.
#[test]
#[ignore = "fetches the kernel's source, 139 MB"]
fn kselftest_passes_in_the_guest() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut script = "cd /tpm2; ls -l /dev/tpm*\n".to_owned();
    for class in Kselftest::CLASSES {
        script += &format!("python3.11 -m unittest -v tpm2_tests.{class}; say \"{class} $?\"\n");
    }
    let initrd = Kselftest::add_to(Initrd::new(&script)).write(folder.path());
    let finished = Stockade::new("run")
        .args(["--tpm", "--memory", "768M", "--append", &appended("")])
        .arg("--initrd")
        .arg(initrd)
        .limit(Duration::from_secs(400))
        .finish();
    finished.assert_code(0);
    let verdicts = Kselftest::verdicts(&finished.stdout);
    assert_verdicts(&verdicts, 15, &[]);
}
