//! What the TPM keeps for itself: opening what was sealed to its endorsement key elsewhere, and sealing for the OS.

use anyhow::{Context as _, Result};
use metalstrap_release::tpm2::{Ek, KeyKind, NULL, SHA256, attributes, sealed_data, sized, storage_key, take_sized};
use zeroize::Zeroizing;

use super::direct::{Command, Direct, PASSWORD};

/// `TPM_RH_OWNER`, `TPM_RH_NULL` and `TPM_RH_ENDORSEMENT`.
const OWNER: u32 = 0x4000_0001;
const NOTHING: u32 = 0x4000_0007;
const ENDORSEMENT: u32 = 0x4000_000b;
/// Of the primary key under which systemd seals credentials. It is made anew each time: the persistent storage key is for disks
/// only (`tpm2_get_legacy_template` in systemd's src/shared/tpm2-util.c).
const PRIMARY: u32 = attributes::STORAGE_KEY | attributes::USER_WITH_AUTH;
/// Of what it seals: opened by a policy alone.
const SEALED: u32 = attributes::FIXED_TPM | attributes::FIXED_PARENT;
/// The policy that asks for nothing: the digest at the start of a session.
pub const NO_POLICY: [u8; 32] = [0; 32];

/// An object with a private part that only its parent can open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its private part.
    pub private: Vec<u8>,
    /// Its public area.
    pub public: Vec<u8>,
}

/// A key that the TPM has in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded(pub(super) u32);

impl Direct {
    /// Does `work` with the endorsement key of this kind. It is made anew from the TPM's seed, the same each time.
    ///
    /// # Errors
    /// The TPM's, and those of `work`.
    pub fn with_ek<T>(&mut self, kind: KeyKind, work: impl FnOnce(&mut Self, Loaded, &Ek) -> Result<T>) -> Result<T> {
        self.with_primary(ENDORSEMENT, &kind.template(), |tpm, key, public| {
            let ek = Ek::of_public(public).context("the TPM made another key than its endorsement key")?;
            work(tpm, key, &ek)
        })
    }

    /// The endorsement key that a TPM makes fastest.
    ///
    /// # Errors
    /// The TPM's.
    pub fn ek(&mut self) -> Result<Ek> {
        let mut of = |kind| self.with_ek(kind, |_, _, ek| Ok(ek.clone()));
        of(KeyKind::EccP256).or_else(|_| of(KeyKind::Rsa2048))
    }

    /// Does `work` with the key under which systemd seals credentials.
    ///
    /// # Errors
    /// The TPM's, and those of `work`.
    pub fn with_systemd_key<T>(
        &mut self,
        kind: KeyKind,
        work: impl FnOnce(&mut Self, Loaded) -> Result<T>,
    ) -> Result<T> {
        // No key in it: two sizes of nothing, or one.
        let unique: &[u8] = if kind == KeyKind::EccP256 { &[0; 4] } else { &[0; 2] };
        let template = storage_key(kind, PRIMARY, &[], unique);
        self.with_primary(OWNER, &template, |tpm, key, _| work(tpm, key))
    }

    /// Opens what was sealed to the endorsement key `ek`: `sealed` is the parameters `objectPublic`, `duplicate` and `inSymSeed`
    /// of TPM2_Import.
    ///
    /// # Errors
    /// The TPM's: it was sealed to another key, or changed.
    pub fn open_sealed(&mut self, ek: Loaded, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let public = take_sized(&mut &*sealed).context("what is sealed has no public area")?.to_vec();
        let session = self.endorsement_session()?;
        let parameters = [&sized(&[])[..], sealed, &NULL.to_be_bytes()].concat();
        let answer = self.run(&Command {
            what: "TPM2_Import",
            code: 0x156,
            handles: &[ek.0],
            by: &[session],
            parameters: &parameters,
        });
        let private = first(&self.ended(session, answer)?)?.to_vec();
        let session = self.endorsement_session()?;
        let data = self.load(ek, session, &Object { private, public })?;
        let opened = self.unseal(data, PASSWORD);
        self.flushed(data.0, opened)
    }

    /// Seals `data` under `parent`; whoever has the TPM can open it.
    ///
    /// # Errors
    /// The TPM's.
    pub fn seal(&mut self, parent: Loaded, data: &[u8; 32]) -> Result<Object> {
        self.create(parent, PASSWORD, &creation(data, &sealed_data(SEALED, &NO_POLICY, &[])))
    }

    /// Opens what [`Direct::seal`] has sealed.
    ///
    /// # Errors
    /// The TPM's: another one has sealed it, or it was changed.
    pub fn open(&mut self, parent: Loaded, sealed: &Object) -> Result<Zeroizing<Vec<u8>>> {
        let data = self.load(parent, PASSWORD, sealed)?;
        let opened = self.session().and_then(|session| self.unseal(data, session));
        self.flushed(data.0, opened)
    }

    fn with_primary<T>(
        &mut self,
        hierarchy: u32,
        template: &[u8],
        work: impl FnOnce(&mut Self, Loaded, &[u8]) -> Result<T>,
    ) -> Result<T> {
        let (key, answer) = self.primary(hierarchy, template)?;
        let result = first(&answer).and_then(|public| work(self, Loaded(key), public));
        self.flushed(key, result)
    }

    fn primary(&mut self, hierarchy: u32, template: &[u8]) -> Result<(u32, Zeroizing<Vec<u8>>)> {
        self.run_for_handle(&Command {
            what: "TPM2_CreatePrimary",
            code: 0x131,
            handles: &[hierarchy],
            by: &[PASSWORD],
            parameters: &creation(&[], template),
        })
    }

    /// Makes an object under `parent`, whose use `by` authorises; the TPM does not keep it.
    pub(super) fn create(&mut self, parent: Loaded, by: u32, parameters: &[u8]) -> Result<Object> {
        let (what, code) = ("TPM2_Create", 0x153);
        let answer = self.run(&Command { what, code, handles: &[parent.0], by: &[by], parameters });
        let answer = self.ended(by, answer)?;
        let mut rest = answer.as_slice();
        let (private, public) = (take_sized(&mut rest), take_sized(&mut rest));
        let (Some(private), Some(public)) = (private, public) else {
            anyhow::bail!("the TPM's answer to TPM2_Create is too short")
        };
        Ok(Object { private: private.to_vec(), public: public.to_vec() })
    }

    pub(super) fn load(&mut self, parent: Loaded, by: u32, Object { private, public }: &Object) -> Result<Loaded> {
        let loaded = self.run_for_handle(&Command {
            what: "TPM2_Load",
            code: 0x157,
            handles: &[parent.0],
            by: &[by],
            parameters: &[sized(private), sized(public)].concat(),
        });
        Ok(Loaded(self.ended(by, loaded)?.0))
    }

    /// Has the TPM forget an object, and then says what came of the work with it.
    pub(super) fn flushed<T>(&mut self, object: u32, result: Result<T>) -> Result<T> {
        let flushed = self.flush(object);
        let value = result?;
        flushed.map(|()| value)
    }

    fn unseal(&mut self, data: Loaded, by: u32) -> Result<Zeroizing<Vec<u8>>> {
        let (what, code) = ("TPM2_Unseal", 0x15e);
        let answer = self.run(&Command { what, code, handles: &[data.0], by: &[by], parameters: &[] });
        Ok(Zeroizing::new(first(&self.ended(by, answer)?)?.to_vec()))
    }

    /// A policy session; it ends with the command that it authorises.
    fn session(&mut self) -> Result<u32> {
        // Nothing in it is signed or encrypted, so its nonce need be no random number: 16 bytes are the fewest. No salt; a
        // policy session; no cipher; the hash of the policy.
        let start = [&sized(&[0; 16])[..], &sized(&[]), &[0x01], &NULL.to_be_bytes(), &SHA256.to_be_bytes()].concat();
        let (session, _) = self.run_for_handle(&Command {
            what: "TPM2_StartAuthSession",
            code: 0x176,
            handles: &[NOTHING, NOTHING],
            by: &[],
            parameters: &start,
        })?;
        Ok(session)
    }

    /// A session that fulfils the endorsement key's policy: it is used by whoever may use the endorsement hierarchy.
    pub(super) fn endorsement_session(&mut self) -> Result<u32> {
        let session = self.session()?;
        let answer = self.run(&Command {
            what: "TPM2_PolicySecret",
            code: 0x151,
            handles: &[ENDORSEMENT, session],
            by: &[PASSWORD],
            // No nonce, no command, no reference, no end of its time.
            parameters: &[0; 2 + 2 + 2 + 4],
        });
        self.ended(session, answer).map(|_| session)
    }

    /// A session outlives a command that was refused, and a TPM has few places for them.
    pub(super) fn ended<T>(&mut self, session: u32, result: Result<T>) -> Result<T> {
        if result.is_err() && session != PASSWORD {
            let _ = self.flush(session);
        }
        result
    }

    fn flush(&mut self, handle: u32) -> Result<()> {
        let (what, code) = ("TPM2_FlushContext", 0x165);
        self.run(&Command { what, code, handles: &[handle], by: &[], parameters: &[] }).map(drop)
    }
}

/// The first buffer of an answer.
pub(super) fn first(answer: &[u8]) -> Result<&[u8]> {
    take_sized(&mut &*answer).context("the TPM's answer is too short")
}

/// The parameters that objects are made from: an empty authorisation value and the data, the template, nothing from outside,
/// no PCRs.
pub(super) fn creation(data: &[u8], template: &[u8]) -> Zeroizing<Vec<u8>> {
    let data = Zeroizing::new(sized(data));
    let sensitive = Zeroizing::new([&sized(&[])[..], data.as_slice()].concat());
    let sensitive = Zeroizing::new(sized(&sensitive));
    Zeroizing::new([sensitive.as_slice(), &sized(template), &sized(&[]), &[0; 4]].concat())
}

#[cfg(test)]
mod tests {
    use metalstrap_release::tpm2::duplicate;

    use super::super::swtpm::Swtpm;
    use super::*;

    fn ek(tpm: &mut Direct, kind: KeyKind) -> Ek {
        tpm.with_ek(kind, |_, _, ek| Ok(ek.clone())).unwrap()
    }

    #[test]
    fn what_is_sealed_to_its_endorsement_key_elsewhere_a_tpm_opens_and_no_other() {
        let (ours, other) = (Swtpm::start(), Swtpm::start());
        let (mut ours, mut other) = (ours.direct(), other.direct());
        for kind in KeyKind::ALL {
            let key = ek(&mut ours, kind);
            assert_eq!(key, ek(&mut ours, kind), "it is the same each time");
            assert_ne!(key, ek(&mut other, kind));
            let sealed = duplicate(&key, &[7; 32]).unwrap();
            // More often than a TPM has places for objects and sessions.
            let opened = ours.with_ek(kind, |tpm, ek, _| (0..5).map(|_| tpm.open_sealed(ek, &sealed)).collect());
            let opened: Vec<_> = opened.unwrap();
            assert!(opened.len() == 5 && opened.iter().all(|data| **data == [7; 32]));
            let refused = other.with_ek(kind, |tpm, ek, _| tpm.open_sealed(ek, &sealed));
            let refusal = format!("{:#}", refused.unwrap_err());
            assert!(refusal.starts_with("the TPM answered TPM2_Import with error 0x"), "{refusal}");
        }
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let swtpm = Swtpm::start();
        let mut tpm = swtpm.direct();
        let sealed = duplicate(&ek(&mut tpm, KeyKind::EccP256), &[7; 32]).unwrap();
        // In the public area, the digest, the encrypted part and the seed.
        for at in [9, 40, 60, 120, sealed.len() - 70, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            let opened = tpm.with_ek(KeyKind::EccP256, |tpm, ek, _| tpm.open_sealed(ek, &changed));
            let refusal = format!("{:#}", opened.unwrap_err());
            assert!(refusal.starts_with("the TPM answered TPM2_Import with error 0x"), "a bit of byte {at}: {refusal}");
        }
    }

    #[test]
    fn what_is_sealed_for_the_os_only_this_tpm_opens() {
        let (ours, other) = (Swtpm::start(), Swtpm::start());
        let (mut ours, mut other) = (ours.direct(), other.direct());
        for kind in KeyKind::ALL {
            let sealed = ours.with_systemd_key(kind, |tpm, key| tpm.seal(key, &[9; 32])).unwrap();
            let opened = ours.with_systemd_key(kind, |tpm, key| (0..5).map(|_| tpm.open(key, &sealed)).collect());
            let opened: Vec<_> = opened.unwrap();
            assert!(opened.len() == 5 && opened.iter().all(|data| **data == [9; 32]));
            let refused = other.with_systemd_key(kind, |tpm, key| tpm.open(key, &sealed));
            let refusal = format!("{:#}", refused.unwrap_err());
            assert!(refusal.starts_with("the TPM answered TPM2_Load with error 0x"), "{refusal}");
        }
    }

    #[test]
    fn policy_a_is_what_the_endorsement_hierarchy_gives() {
        let swtpm = Swtpm::start();
        let mut tpm = swtpm.direct();
        let session = tpm.endorsement_session().unwrap();
        let (what, code) = ("TPM2_PolicyGetDigest", 0x189);
        let answer = tpm.run(&Command { what, code, handles: &[session], by: &[], parameters: &[] }).unwrap();
        let ek = KeyKind::EccP256.template();
        assert_eq!(first(&answer).unwrap(), &ek[10..42]);
    }
}
