//! Programs and drivers of the distribution that several tests put into their initramfs, with the packages each needs.

use stockade::setup::Modules;

use crate::workshop;
use crate::{Initrd, package_file};

/// The packages of every library `fio` is linked with, most of them for storage that no guest here has.
const FIO_LIBRARIES: [&str; 52] = [
    "libaio1",
    "libacl1",
    "libblkid1",
    "libboost-iostreams1.74.0",
    "libboost-thread1.74.0",
    "libbz2-1.0",
    "libcom-err2",
    "libcryptsetup12",
    "libargon2-1",
    "libdaxctl1",
    "libdevmapper1.02.1",
    "libffi8",
    "libfmt9",
    "libgcc-s1",
    "libgfapi0",
    "libgfrpc0",
    "libgfxdr0",
    "libglusterfs0",
    "libgmp10",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libibverbs1",
    "libicu72",
    "libidn2-0",
    "libjson-c5",
    "libk5crypto3",
    "libkeyutils1",
    "libkmod2",
    "libkrb5-3",
    "libkrb5support0",
    "liblzma5",
    "libnbd0",
    "libndctl6",
    "libnettle8",
    "libnl-3-200",
    "libnl-route-3-200",
    "libnuma1",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpmem1",
    "libpmemblk1",
    "librados2",
    "librbd1",
    "librdmacm1",
    "libselinux1",
    "libssl3",
    "libstdc++6",
    "libtasn1-6",
    "libtirpc3",
    "libudev1",
    "zlib1g",
];
const MORE_FIO_LIBRARIES: [&str; 4] = ["libunistring2", "libuuid1", "libxml2", "libzstd1"];
const EXT4_LIBRARIES: [&str; 5] = [
    "libblkid1",
    "libcom-err2",
    "libext2fs2",
    "libss2",
    "libuuid1",
];

/// The packages of every library `tpm2` is linked with, most of them for fetching certificates.
const TPM2_LIBRARIES: [&str; 31] = [
    "libbrotli1",
    "libcom-err2",
    "libcurl3-gnutls",
    "libffi8",
    "libgmp10",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libidn2-0",
    "libk5crypto3",
    "libkeyutils1",
    "libkrb5-3",
    "libkrb5support0",
    "libldap-2.5-0",
    "libnettle8",
    "libnghttp2-14",
    "libp11-kit0",
    "libpsl5",
    "librtmp1",
    "libsasl2-2",
    "libssh2-1",
    "libssl3",
    "libtasn1-6",
    "libtss2-esys-3.0.2-0",
    "libtss2-mu0",
    "libtss2-rc0",
    "libtss2-sys1",
    "libtss2-tctildr0",
    "libunistring2",
    "libzstd1",
    "zlib1g",
];
/// What `tpm2` loads to speak with a device.
const TPM2_DEVICE: &str = "usr/lib/x86_64-linux-gnu/libtss2-tcti-device.so.0";

/// The packages of the libraries of `cryptsetup`.
const CRYPTSETUP_LIBRARIES: [&str; 13] = [
    "libcryptsetup12",
    "libpopt0",
    "libblkid1",
    "libuuid1",
    "libargon2-1",
    "libdevmapper1.02.1",
    "libssl3",
    "libjson-c5",
    "libudev1",
    "libselinux1",
    "libpcre2-8-0",
    "libcap2",
    "libgcc-s1",
];
/// The tools of tpm2-tools that clevis calls by names of their own.
const CLEVIS_TOOLS: [&str; 7] = [
    "create",
    "createpolicy",
    "createprimary",
    "flushcontext",
    "load",
    "pcrread",
    "unseal",
];

impl Initrd {
    /// Adds kernel modules of the distribution's kernel and what they depend on, for `modprobe`.
    #[must_use]
    pub fn modules(mut self, names: &[&str]) -> Self {
        let modules = Modules::of_kernel(&workshop().kernel);
        let modules = modules.expect("the kernel's package has them beside it");
        let added = modules.add_to(self.archive(), names);
        added.expect("the package is whole");
        self
    }

    /// Adds `fio`.
    #[must_use]
    pub fn fio(self) -> Self {
        let libraries = [&FIO_LIBRARIES[..], &MORE_FIO_LIBRARIES].concat();
        self.program("fio", "usr/bin/fio", &libraries)
    }

    /// Adds `tpm2`, which is all of tpm2-tools, to be asked by its sub-commands.
    #[must_use]
    pub fn tpm2_tools(self) -> Self {
        let device = package_file("libtss2-tcti-device0", &format!("{TPM2_DEVICE}.0.0"));
        let device = std::fs::read(device).expect("the package is whole");
        self.program("tpm2-tools", "usr/bin/tpm2", &TPM2_LIBRARIES)
            .file(TPM2_DEVICE, &device)
    }

    /// Adds `cryptsetup`.
    #[must_use]
    pub fn cryptsetup(self) -> Self {
        self.program("cryptsetup-bin", "sbin/cryptsetup", &CRYPTSETUP_LIBRARIES)
    }

    /// Adds clevis for volumes of LUKS and TPMs, and all its scripts are made of; `tpm2` and `cryptsetup` are not among it.
    #[must_use]
    pub fn clevis(self) -> Self {
        let programs = self
            .program("bash", "bin/bash", &["libtinfo6"])
            .program(
                "jose",
                "usr/bin/jose",
                &["libjose0", "libjansson4", "libssl3", "zlib1g"],
            )
            .program(
                "libpwquality-tools",
                "usr/bin/pwmake",
                &["libpwquality1", "libcrack2", "zlib1g"],
            )
            // The one dictionary it looks into is for words people think of.
            .file("etc/security/pwquality.conf", b"dictcheck = 0\n")
            .folder("clevis", "usr/bin")
            .folder("clevis-luks", "usr/bin")
            .folder("clevis-tpm2", "usr/bin");
        CLEVIS_TOOLS.iter().fold(programs, |initrd, name| {
            let script = format!("#!/bin/sh\nexec tpm2 {name} \"$@\"\n");
            initrd.file(&format!("usr/bin/tpm2_{name}"), script.as_bytes())
        })
    }

    /// Adds `python3.11` with its library, what needs libraries of C left out.
    #[must_use]
    pub fn python(self) -> Self {
        let libraries = ["libexpat1", "zlib1g"];
        self.program("python3.11-minimal", "usr/bin/python3.11", &libraries)
            .folder("libpython3.11-minimal", "usr/lib/python3.11")
            .folder("libpython3.11-stdlib", "usr/lib/python3.11")
    }

    /// Adds `mkfs.ext4` (as `mke2fs`) and `e2fsck`.
    #[must_use]
    pub fn ext4(self) -> Self {
        self.program("e2fsprogs", "sbin/mke2fs", &EXT4_LIBRARIES)
            .program("e2fsprogs", "sbin/e2fsck", &EXT4_LIBRARIES)
    }
}
