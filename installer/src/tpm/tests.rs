//! With a software TPM: which banks and PCRs are extended, and which TPM is refused.

use metalstrap_release::digest::to_hex;
use tss_esapi::structures::PcrSlot;

use super::swtpm::{GONE, Swtpm};
use super::*;

#[test]
fn digests_are_those_of_fips_180_4() {
    let hex = |bank: Bank| to_hex(&bank.digest(b"abc").digest);
    assert_eq!(hex(Bank::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(hex(Bank::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(
        hex(Bank::Sha384),
        "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
    );
    assert_eq!(
        hex(Bank::Sha512),
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
         2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
    );
}

#[test]
fn every_active_bank_is_extended() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    assert_eq!(tpm.banks(), Bank::ALL);
    let fresh = tpm.read(PcrIndex::Installer).unwrap();
    assert_eq!(fresh.iter().map(|value| value.digest.len()).collect::<Vec<_>>(), [20, 32, 48, 64]);
    assert!(fresh.iter().all(|value| value.digest.iter().all(|&byte| byte == 0)), "{fresh:?}");

    let digests: Vec<_> = Bank::ALL.iter().map(|bank| bank.digest(b"abc")).collect();
    tpm.extend(PcrIndex::Installer, &digests).unwrap();

    let after = tpm.read(PcrIndex::Installer).unwrap();
    // python3: hashlib.sha256(bytes(32) + hashlib.sha256(b"abc").digest()), and so on.
    let hex: Vec<_> = after.iter().map(|value| to_hex(&value.digest)).collect();
    assert_eq!(hex[0], "ccd5bd41458de644ac34a2478b58ff819bef5acf");
    assert_eq!(hex[1], "589f9ffed4c477966bfb8d41f37895b08c69047df8f911d6f3b57fbe08faee8d");
    assert_eq!(after, fresh.iter().zip(&digests).map(|(old, new)| extended(old, new)).collect::<Vec<_>>());
}

#[test]
fn each_pcr_is_its_own() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let zero = tpm.read(PcrIndex::Installer).unwrap();
    for (pcr, bytes) in PcrIndex::ALL.into_iter().zip([b"a", b"b", b"c"]) {
        let digests: Vec<_> = Bank::ALL.iter().map(|bank| bank.digest(bytes)).collect();
        assert_eq!(tpm.read(pcr).unwrap(), zero, "{pcr} before");
        tpm.extend(pcr, &digests).unwrap();
        let expected: Vec<_> = zero.iter().zip(&digests).map(|(old, new)| extended(old, new)).collect();
        assert_eq!(tpm.read(pcr).unwrap(), expected, "{pcr}");
    }
    assert_eq!(PcrIndex::ALL.map(PcrIndex::number), [11, 12, 13]);
}

#[test]
fn a_bank_without_one_of_the_pcrs_is_refused() {
    let selections = |slots: &[PcrSlot]| {
        let list = PcrSelectionList::builder()
            .with_selection(HashingAlgorithm::Sha1, &[PcrSlot::Slot10])
            .with_selection(HashingAlgorithm::Sha256, slots);
        banks_of(list.build().unwrap().get_selections())
    };
    let all = [PcrSlot::Slot11, PcrSlot::Slot12, PcrSlot::Slot13];
    assert_eq!(selections(&all).unwrap(), [Bank::Sha256]);
    assert_eq!(selections(&[all[0], all[2]]).unwrap_err().to_string(), "the TPM's PCR bank of Sha256 has no PCR 12");
    assert_eq!(selections(&[PcrSlot::Slot10]).unwrap_err().to_string(), "the TPM has no active PCR bank");
}

#[test]
fn a_tpm_without_sha_256_is_refused() {
    for (active, only) in [("sha1", "sha1"), ("sha384,sha1", "sha1, sha384")] {
        let error = Swtpm::start_with_banks(active).try_connect().unwrap_err();
        let text = format!("reading its active PCR banks: the TPM has no active PCR bank of SHA-256, only of {only}");
        assert_eq!(format!("{error:#}"), text);
    }
}

#[test]
fn what_is_waited_for_is_counted() {
    let swtpm = Swtpm::start_with_banks("sha256");
    let before = spent::so_far();
    let mut tpm = swtpm.connect();
    let connected = spent::so_far();
    assert!(connected > before);
    tpm.extend(PcrIndex::Installer, &[Bank::Sha256.digest(b"abc")]).unwrap();
    assert!(spent::so_far() > connected);
}

#[test]
fn only_the_active_banks_are_extended() {
    let swtpm = Swtpm::start_with_banks("sha256");
    let mut tpm = swtpm.connect();
    assert_eq!(tpm.banks(), [Bank::Sha256]);
    tpm.extend(PcrIndex::Installer, &[Bank::Sha256.digest(b"abc")]).unwrap();
    let hex: Vec<_> = tpm.read(PcrIndex::Installer).unwrap().iter().map(|value| to_hex(&value.digest)).collect();
    assert_eq!(hex, ["589f9ffed4c477966bfb8d41f37895b08c69047df8f911d6f3b57fbe08faee8d"]);
}

#[test]
fn a_bank_that_cannot_be_computed_is_refused() {
    assert_eq!(
        bank(HashingAlgorithm::Sm3_256).unwrap_err().to_string(),
        "the TPM has an active PCR bank of Sm3_256, which this installer cannot extend"
    );
}

#[test]
fn a_tpm_that_is_gone_is_an_error() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    drop(swtpm);
    let error = tpm.read(PcrIndex::Installer).unwrap_err();
    assert_eq!(format!("{error:#}"), format!("reading PCR 13 of bank sha1: {GONE}"));
    for (pcr, text) in PcrIndex::ALL.into_iter().zip(["extending PCR 11", "extending PCR 12", "extending PCR 13"]) {
        let error = tpm.extend(pcr, &[Bank::Sha256.digest(b"abc")]).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}
