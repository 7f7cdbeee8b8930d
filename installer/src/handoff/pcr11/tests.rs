//! Signed for the start alone, for that behind a netboot UKI, for another, and not at all.

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Pcr11, Predictions, SectionDigest};
use metalstrap_release::pcr::{Signature, policy};

use super::*;
use crate::plan::tests::manifest;

fn boot() -> Boot {
    let mut boot = manifest().boot;
    let sections = vec![SectionDigest { name: ".linux".to_owned(), sha256: Digest::of(b"KERNEL-BYTES") }];
    boot.pcr11 = Some(Pcr11 { phases: Predictions::new(&[]).unwrap(), sections, signatures: None });
    boot
}

fn values(sha256: &[u8]) -> Vec<BankDigest> {
    vec![
        BankDigest { bank: Bank::Sha1, digest: vec![0; 20] },
        BankDigest { bank: Bank::Sha256, digest: sha256.to_vec() },
    ]
}

/// By hand: signed that the UKI has reached `words` where PCR 11 was `start`.
fn signed(start: [u8; 32], words: &[&str]) -> Signatures {
    let steps = [b".linux\0".as_slice(), b"KERNEL-BYTES"].into_iter().chain(words.iter().map(|word| word.as_bytes()));
    let value = steps.fold(start, |value, step| Digest::of(&[value, Digest::of(step).0].concat()).0);
    let pol = policy(&Pcr::with_value(Bank::Sha256, &value).unwrap());
    let signature = Signature { pcrs: vec![11], pkfp: Digest::of(b"key"), pol, sig: String::new() };
    Signatures { sha256: vec![signature], ..Signatures::default() }
}

#[test]
fn a_signature_fits_the_start_that_it_was_made_for() {
    let (zero, netboot) = ([0; 32], Digest::of(b"netboot").0);
    let (alone, behind) = (signed(zero, &["enter-initrd"]), signed(netboot, &["enter-initrd"]));
    assert_eq!(misfit(&values(&zero), &boot(), &alone), None);
    assert_eq!(misfit(&values(&netboot), &boot(), &behind), None);
    let mut both = alone.clone();
    both.add(behind.clone());
    assert_eq!(misfit(&values(&netboot), &boot(), &both), None);
    let text = "`pcr11` is `signed`, and the release has no signed policy for its start";
    assert_eq!(misfit(&values(&zero), &boot(), &behind).unwrap(), format!("{text} alone"));
    let chained = format!("{text} behind the UKI that the installer was started from");
    assert_eq!(misfit(&values(&netboot), &boot(), &alone).unwrap(), chained);
    assert_eq!(misfit(&values(&netboot), &boot(), &Signatures::default()).unwrap(), chained);
}

#[test]
fn it_is_the_initrd_that_opens() {
    let later = signed([0; 32], &["enter-initrd", "leave-initrd"]);
    assert!(misfit(&values(&[0; 32]), &boot(), &later).is_some());
    assert!(misfit(&values(&[0; 32]), &boot(), &signed([0; 32], &[])).is_some());
}

#[test]
fn what_cannot_be_foretold_does_not_fit() {
    let (start, all) = ([0; 32], signed([0; 32], &["enter-initrd"]));
    let refusal = |now: &[BankDigest], boot: &Boot| misfit(now, boot, &all).unwrap();
    // Another bank alone, or half an answer.
    let no_value = "`pcr11` is `signed`, and the TPM gave no value of PCR 11 with SHA-256";
    assert_eq!(refusal(&values(&start)[..1], &boot()), no_value);
    assert_eq!(refusal(&values(&start[1..]), &boot()), no_value);
    let unknown = "`pcr11` is `signed`, and the manifest does not say what the UKI makes of PCR 11";
    let mut older = boot();
    older.pcr11.as_mut().unwrap().sections.clear();
    assert_eq!(refusal(&values(&start), &older), unknown);
    assert_eq!(refusal(&values(&start), &manifest().boot), unknown);
}
