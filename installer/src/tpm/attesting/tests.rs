//! Another software TPM is the judge: it makes the credentials, and checks what the AK has signed.

use metalstrap_release::eventlog;
use metalstrap_release::tpm2::{Ek, name};

use super::super::swtpm::Swtpm;
use super::*;

/// The EK of this kind, and an AK that was made under it.
fn keys(tpm: &mut Direct, kind: KeyKind) -> (Ek, Object) {
    tpm.with_ek(kind, |tpm, key, ek| Ok((ek.clone(), tpm.attestation_key(key)?))).unwrap()
}

/// What a TPM that knows of a key only what is public of it answers to a command with it.
fn with_public(tpm: &mut Direct, public: &[u8], code: u32, parameters: &[u8]) -> Result<Vec<u8>> {
    // No private part, no hierarchy (TPM_RH_NULL).
    let load = [&[0_u8, 0][..], &sized(public), &0x4000_0007_u32.to_be_bytes()].concat();
    let loading = Command { what: "TPM2_LoadExternal", code: 0x167, handles: &[], by: &[], parameters: &load };
    let (key, _) = tpm.run_for_handle(&loading).unwrap();
    let answer = tpm.run(&Command { what: "it", code, handles: &[key], by: &[], parameters });
    tpm.flushed(key, answer.map(|answer| answer.to_vec()))
}

/// TPM2_MakeCredential.
pub(crate) fn credential(tpm: &mut Direct, ek: &Ek, name: &[u8], secret: &[u8]) -> [Vec<u8>; 2] {
    let made = with_public(tpm, &ek.public(), 0x168, &[sized(secret), sized(name)].concat()).unwrap();
    let mut rest = made.as_slice();
    [(); 2].map(|()| sized(take_sized(&mut rest).unwrap()))
}

fn activated(tpm: &mut Direct, kind: KeyKind, ak: &Object, [blob, secret]: &[Vec<u8>; 2]) -> Result<Vec<u8>> {
    let secret = tpm.with_attestation_key(kind, ak, |tpm, ek, ak| tpm.activate(ek, ak, [blob, secret]));
    secret.map(|secret| secret.to_vec())
}

/// How many objects and sessions a TPM has in memory.
fn in_memory(tpm: &mut Direct) -> usize {
    let kinds = [0x8000_0000, 0x0200_0000, 0x0300_0000];
    // TPM_CAP_HANDLES.
    let count = |first| usize::from(tpm.capability(1, first, 8).unwrap()[3]);
    kinds.map(count).iter().sum()
}

#[test]
fn the_attestation_key_only_signs_what_its_tpm_says_and_never_leaves_it() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.direct();
    for kind in KeyKind::ALL {
        let (_, ak) = keys(&mut tpm, kind);
        // TPM_ALG_ECC, TPM_ALG_SHA256; fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign.
        assert_eq!(to_hex(&ak.public[..8]), "0023000b00050472");
        // No policy, no cipher, TPM_ALG_ECDSA with SHA-256, P-256.
        assert_eq!(to_hex(&ak.public[8..20]), "000000100018000b00030010");
        assert_eq!(ak.public.len(), 20 + 2 * (2 + 32));
        assert_ne!(keys(&mut tpm, kind).1, ak, "it is another one each time");
    }
    assert_eq!(in_memory(&mut tpm), 0);
    // Where a TPM has no ECC.
    let made = tpm.with_ek(KeyKind::Rsa2048, |tpm, ek, _| {
        let session = tpm.endorsement_session()?;
        tpm.create(ek, session, &creation(&[], &template(KeyKind::Rsa2048)))
    });
    let ak = made.unwrap();
    assert_eq!(to_hex(&ak.public[..24]), "0001000b00050472000000100014000b0800000000000100");
}

#[test]
fn a_credential_is_given_out_by_the_tpm_and_for_the_key_that_it_is_for_and_no_other() {
    let (ours, other) = (Swtpm::start(), Swtpm::start());
    let (mut ours, mut other) = (ours.direct(), other.direct());
    for kind in KeyKind::ALL {
        let (ek, ak) = keys(&mut ours, kind);
        let made = credential(&mut other, &ek, &name(&ak.public), &[7; 32]);
        // More often than a TPM has places for objects and sessions.
        for _ in 0..4 {
            assert_eq!(activated(&mut ours, kind, &ak, &made).unwrap(), [7; 32]);
        }
        let (_, another) = keys(&mut ours, kind);
        let (foreign, _) = keys(&mut other, kind);
        let for_another_key = credential(&mut other, &ek, &name(&another.public), &[7; 32]);
        let for_another_tpm = credential(&mut other, &foreign, &name(&ak.public), &[7; 32]);
        for wrong in [for_another_key, for_another_tpm, [vec![0, 0], vec![0, 0]]] {
            let refusal = format!("{:#}", activated(&mut ours, kind, &ak, &wrong).unwrap_err());
            let start = "the TPM answered TPM2_ActivateCredential with error 0x";
            assert!(refusal.starts_with(start), "{refusal}");
        }
        // Nor does another TPM take the key.
        let refusal = format!("{:#}", activated(&mut other, kind, &ak, &made).unwrap_err());
        assert!(refusal.starts_with("the TPM answered TPM2_Load with error 0x"), "{refusal}");
        assert_eq!((in_memory(&mut ours), in_memory(&mut other)), (0, 0));
    }
}

#[test]
fn quotes_are_signed_and_hold_the_nonce_and_the_values_of_every_bank() {
    let (ours, other) = (Swtpm::start(), Swtpm::start());
    let (mut ours, mut other) = (ours.direct(), other.direct());
    let digest = |bank: &Bank| [&bank.id().to_be_bytes()[..], &bank.digest(b"abc").digest].concat();
    let digests: Vec<u8> = 4_u32.to_be_bytes().into_iter().chain(Bank::ALL.iter().flat_map(digest)).collect();
    let (what, code) = ("TPM2_PCR_Extend", 0x182);
    ours.run(&Command { what, code, handles: &[13], by: &[PASSWORD], parameters: &digests }).unwrap();
    let (kind, nonce) = (KeyKind::EccP256, [5; 32]);
    let (_, ak) = keys(&mut ours, kind);
    let banks = ours.banks_to_quote().unwrap();
    assert_eq!(banks, [Bank::Sha256, Bank::Sha384, Bank::Sha512]);
    // All, which takes three answers; and one.
    for pcrs in [(0..eventlog::PCRS).collect(), BTreeSet::from([13])] {
        for &bank in &banks {
            let quote = ours.with_attestation_key(kind, &ak, |tpm, _, ak| tpm.quote(ak, &nonce, bank, &pcrs)).unwrap();
            assert_eq!((quote.bank, quote.pcrs.len()), (bank.to_string(), pcrs.len()));
            let measured = bank.digest(&[vec![0; bank.size()], bank.digest(b"abc").digest].concat()).digest;
            assert_eq!(quote.pcrs[&13], to_hex(&measured));
            let (Base64(quoted), Base64(signature)) = (quote.quoted, quote.signature);
            // TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE.
            assert_eq!(to_hex(&quoted[..6]), "ff5443478018");
            assert!(quoted.windows(2 + 32).any(|part| part == sized(&nonce)));
            // TPM2_VerifySignature.
            let verify = |digest: &Digest| [&sized(&digest.0)[..], &signature].concat();
            let checked = with_public(&mut other, &ak.public, 0x177, &verify(&Digest::of(&quoted)));
            assert!(checked.is_ok(), "{checked:?}");
            assert!(with_public(&mut other, &ak.public, 0x177, &verify(&Digest::of(b"another"))).is_err());
        }
    }
    assert_eq!(in_memory(&mut ours), 0);
}

#[test]
fn a_tpm_in_lockout_attests_all_the_same() {
    let (swtpm, other) = (Swtpm::start(), Swtpm::start());
    let (mut tpm, mut other) = (swtpm.direct(), other.direct());
    let kind = KeyKind::EccP256;
    let seal = |tpm: &mut Direct| tpm.with_systemd_key(kind, |tpm, key| tpm.seal(key, &[9; 32]));
    seal(&mut tpm).unwrap();
    Swtpm::lock_out(&mut tpm);
    let refusal = format!("{:#}", seal(&mut tpm).unwrap_err());
    let text = "the TPM answered TPM2_Create with error 0x921: it is in lockout, after too many wrong authorisations";
    assert_eq!(refusal, text);

    let (ek, ak) = keys(&mut tpm, kind);
    let made = credential(&mut other, &ek, &name(&ak.public), &[7; 32]);
    assert_eq!(activated(&mut tpm, kind, &ak, &made).unwrap(), [7; 32]);
    let pcrs = BTreeSet::from([13]);
    let quote = tpm.with_attestation_key(kind, &ak, |tpm, _, ak| tpm.quote(ak, &[5; 32], Bank::Sha256, &pcrs));
    assert_eq!(quote.unwrap().pcrs.len(), 1);
    assert_eq!(in_memory(&mut tpm), 0);
}

#[test]
fn sha_1_is_quoted_where_there_is_no_other_bank() {
    for (active, expected) in [("sha1", Bank::Sha1), ("sha1,sha384", Bank::Sha384)] {
        let swtpm = Swtpm::start_with_banks(active);
        let mut tpm = swtpm.direct();
        assert_eq!(tpm.banks_to_quote().unwrap(), [expected]);
        let (_, ak) = keys(&mut tpm, KeyKind::EccP256);
        let quote = |tpm: &mut Direct, bank| {
            let pcrs = BTreeSet::from([0]);
            tpm.with_attestation_key(KeyKind::EccP256, &ak, |tpm, _, ak| tpm.quote(ak, &[5; 32], bank, &pcrs))
        };
        assert_eq!(quote(&mut tpm, expected).unwrap().pcrs[&0].len(), 2 * expected.size());
        let refusal = format!("{:#}", quote(&mut tpm, Bank::Sha256).unwrap_err());
        assert_eq!(refusal, "the TPM has no PCR 0 in bank sha256");
        assert_eq!(in_memory(&mut tpm), 0);
    }
}

#[test]
fn an_answer_that_is_too_short_has_no_values() {
    let one = [&[0_u8, 0, 0, 1][..], &selection(Bank::Sha256, &BTreeSet::from([13])), &[0, 0, 0, 1], &sized(&[7; 32])]
        .concat();
    assert_eq!(values_in(&one, Bank::Sha256), Some(BTreeMap::from([(13, vec![7; 32])])));
    assert_eq!(values_in(&one, Bank::Sha384), Some(BTreeMap::new()));
    for length in 0..one.len() {
        assert_eq!(values_in(&one[..length], Bank::Sha256), None, "{length}");
    }
    // Endless, as it says.
    assert_eq!(values_in(&[0xff; 64], Bank::Sha256), None);
}
