//! Which programs `--netboot` takes, with a firmware's log that fits what tpm2-tools have extended PCR 4 by.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_initrd::authenticode;
use metalstrap_release::digest::{Digest, to_hex};
use metalstrap_release::pcr::Bank;

use crate::support::{signable, signable_kernel};
use crate::tpm::Machine;
use crate::{challenge, finding, verify};

/// TPM_ALG_SHA256.
const SHA256: [u8; 2] = [0x0b, 0];
/// What the firmware measures before its boot options.
const SEPARATOR: [u8; 4] = [0; 4];

/// A crypto-agile log with a separator in PCR 4, and programs with these digests behind it.
fn firmware_log(programs: &[Vec<u8>]) -> Vec<u8> {
    let spec_id = [b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0".as_slice(), &SHA256, &[32, 0, 0]].concat();
    let with_size = |data: &[u8]| [u32::try_from(data.len()).unwrap().to_le_bytes().as_slice(), data].concat();
    // PCR 0, EV_NO_ACTION, no digest of SHA-1.
    let first = [[0_u8, 0, 0, 0, 3, 0, 0, 0].as_slice(), &[0; 20], &with_size(&spec_id)].concat();
    let event = |kind: u32, digest: &[u8], data: &[u8]| {
        let start = [4, kind, 1].map(u32::to_le_bytes).concat();
        [start.as_slice(), &SHA256, digest, &with_size(data)].concat()
    };
    let separator = event(4, &Digest::of(&SEPARATOR).0, &SEPARATOR);
    let programs = programs.iter().flat_map(|digest| event(0x8000_0003, digest, &[]));
    [first, separator].concat().into_iter().chain(programs).collect()
}

#[test]
fn the_kernel_in_a_uki_is_no_program_of_its_own() {
    let kernel = signable_kernel();
    let uki = signable(&[(".linux", kernel.clone())]);
    let judged = |programs: &[&[u8]]| {
        let machine = Machine::new();
        machine.make_ak("ak", "ecc");
        fs::write(machine.path("netboot.efi"), &uki).unwrap();
        let digest = |program: &[u8]| authenticode(program.to_vec(), &[Bank::Sha256]).unwrap()[0].digest.clone();
        let digests: Vec<_> = programs.iter().map(|program| digest(program)).collect();
        let extend = |digest: &[u8]| machine.tool(&format!("tpm2_pcrextend 4:sha256={}", to_hex(digest)));
        extend(&Digest::of(&SEPARATOR).0);
        for digest in &digests {
            extend(digest);
        }
        let log = machine.measure("manifest", b"manifest");
        let asked = challenge(&machine, &machine.introduction("ak"), "start");
        let mut evidence = machine.evidence(&asked, "ak", &log);
        evidence["firmware_log"] = STANDARD.encode(firmware_log(&digests)).into();
        let words = ["--ek", "ek.pub", "--netboot", "netboot.efi"];
        let (verdict, code) = verify(&machine, &evidence, "start", &words);
        assert_eq!(finding(&verdict, "firmware-log").0, "proved", "{verdict}");
        let (outcome, text) = finding(&verdict, "netboot-image");
        (code, format!("{outcome}: {text}"))
    };
    let started = "proved: the firmware has started netboot.efi, the kernel in netboot.efi, and nothing else";
    assert_eq!(judged(&[uki.as_slice(), kernel.as_slice()]), (0, started.to_owned()));
    let alone = "refuted: the firmware has started the kernel in netboot.efi, but not directly behind netboot.efi: \
                 with which initrd is not known";
    assert_eq!(judged(&[kernel.as_slice()]), (1, alone.to_owned()));
}
