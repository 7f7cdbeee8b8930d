use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use anyhow::{Result, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::SecureBootKeys;
use metalstrap_release::manifest::{Certificate, SecureBoot};
use metalstrap_release::secure_boot::Update;

use super::*;
use crate::bootvars::Variables;
use crate::failure::{Code, code_of};
use crate::plan;

/// A firmware as EDK2 is: in setup mode it takes signed updates from anyone, until it has a platform key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Store(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    variables: BTreeMap<String, Vec<u8>>,
    /// Names of what was written.
    writes: Vec<String>,
    /// A variable that it does not take.
    refuses: Option<&'static str>,
}

impl Store {
    pub(crate) fn in_setup_mode() -> Self {
        Self::default().with("SetupMode", &[1])
    }

    pub(crate) fn with(self, name: &str, data: &[u8]) -> Self {
        self.0.lock().unwrap().variables.insert(name.to_owned(), data.to_vec());
        self
    }

    pub(crate) fn refusing(self, name: &'static str) -> Self {
        self.0.lock().unwrap().refuses = Some(name);
        self
    }

    pub(crate) fn written(&self) -> Vec<String> {
        self.0.lock().unwrap().writes.clone()
    }

    fn keys(&self) -> Keys<'_> {
        Keys { global: self, database: self }
    }
}

impl Variables for Store {
    fn names(&self) -> Result<BTreeSet<String>> {
        Ok(self.0.lock().unwrap().variables.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().variables.get(name).cloned())
    }

    fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        let mut state = self.0.lock().unwrap();
        let Ok(update) = Update::parse(data.to_vec()) else {
            bail!("writing the EFI variable {name}: the firmware does not take it");
        };
        if state.refuses == Some(name) || state.variables["SetupMode"] != [1] {
            bail!("writing the EFI variable {name}: the firmware or the kernel does not permit it");
        }
        state.variables.insert(name.to_owned(), update.content().to_vec());
        if name == "PK" {
            state.variables.insert("SetupMode".to_owned(), vec![0]);
        }
        state.writes.push(name.to_owned());
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        bail!("nobody removes {name}")
    }
}

/// EFI_SIGNATURE_LIST of one certificate (UEFI 2.10, 32.4.1).
pub(crate) fn list(certificate: &[u8]) -> Vec<u8> {
    let kind = [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
    let entry = u32::try_from(16 + certificate.len()).unwrap();
    let sizes = [28 + entry, 0, entry].map(u32::to_le_bytes).concat();
    [kind.as_slice(), &sizes, &[7; 16], certificate].concat()
}

/// EFI_VARIABLE_AUTHENTICATION_2 (8.2.2) with a signature that no firmware in user mode takes, and a list of one certificate.
fn update(certificate: &[u8]) -> Vec<u8> {
    let kind = [0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7];
    let list = list(certificate);
    [[0; 16].as_slice(), &33_u32.to_le_bytes(), &[0, 2, 0xf1, 0x0e], &kind, b"signature", &list].concat()
}

/// Keys whose `db` has the certificate `db`.
pub(crate) fn keys() -> SecureBootKeys {
    SecureBootKeys::new(&update(b"pk"), &update(b"kek"), &update(b"db"))
}

/// That all is signed by these "certificates".
pub(crate) fn signed_by(loader: &[u8], uki: &[u8]) -> SecureBoot {
    let by = |certificate| vec![Certificate { sha256: Digest::of(certificate), key_id: "6ccece7e4c6c".to_owned() }];
    SecureBoot { uki: by(uki), kernel: by(uki), loader: by(loader) }
}

fn boot(secure_boot: Option<SecureBoot>) -> Boot {
    Boot { secure_boot, ..plan::tests::manifest().boot }
}

/// What is refused with [`Code::SecureBoot`].
fn refusal<T: std::fmt::Debug>(result: Result<T>) -> String {
    let error = result.unwrap_err();
    assert_eq!(code_of(&error), Code::SecureBoot);
    format!("{error:#}")
}

#[test]
fn a_firmware_in_setup_mode_gets_the_platform_key_last_and_once() {
    let (store, boot) = (Store::in_setup_mode(), boot(Some(signed_by(b"db", b"db"))));
    let lacking = missing(&store.keys(), &keys(), &boot).unwrap();
    assert_eq!(store.written(), Vec::<String>::new());
    enroll(&store.keys(), &lacking).unwrap();
    assert_eq!(store.written(), ["db", "KEK", "PK"]);
    assert_eq!(store.read("db").unwrap(), Some(list(b"db")));
    // Out of setup mode, with the keys.
    assert!(missing(&store.keys(), &keys(), &boot).unwrap().is_empty());
    // A run that was cut: what is there is not written again.
    let store = Store::in_setup_mode().with("db", &list(b"db"));
    enroll(&store.keys(), &missing(&store.keys(), &keys(), &boot).unwrap()).unwrap();
    assert_eq!(store.written(), ["KEK", "PK"]);
}

#[test]
fn a_firmware_that_would_not_take_the_keys_is_refused() {
    let boot = boot(Some(signed_by(b"db", b"db")));
    let refused = |store: &Store| refusal(missing(&store.keys(), &keys(), &boot));
    let none = Store::default();
    assert_eq!(refused(&none), "the host config has keys for Secure Boot, which this firmware does not know");
    let other = Store::default().with("SetupMode", &[0]).with("db", &list(b"db")).with("PK", &list(b"theirs"));
    let text = "the firmware is not in setup mode, and does not have the keys of the host config: its KEK, PK differs";
    assert_eq!(refused(&other), text);
    let store = Store::in_setup_mode().refusing("KEK");
    let lacking = missing(&store.keys(), &keys(), &boot).unwrap();
    let text = "giving the firmware KEK: writing the EFI variable KEK: the firmware or the kernel does not permit it";
    assert_eq!(refusal(enroll(&store.keys(), &lacking)), text);
    assert_eq!((store.written(), store.read("PK").unwrap()), (vec!["db".to_owned()], None));
}

#[test]
fn keys_with_which_the_release_would_not_start_are_refused() {
    let store = Store::in_setup_mode();
    let refused = |secure_boot| refusal(missing(&store.keys(), &keys(), &boot(secure_boot)));
    let unknown = "the host config has keys for Secure Boot, but the release does not say by whom it is signed (`metalstrap \
                   publish --secure-boot-certificate`): with these keys the firmware might not start it";
    assert_eq!(refused(None), unknown);
    let text = |part: &str| {
        format!(
            "the release's {part} is signed by none of the certificates in db of the host config's secure_boot_keys: with these \
             keys the firmware would not start it"
        )
    };
    assert_eq!(refused(Some(signed_by(b"pk", b"db"))), text("boot loader"));
    assert_eq!(refused(Some(signed_by(b"db", b"kek"))), text("UKI"));
}

#[test]
fn a_release_that_the_firmware_may_not_start_is_doubted_where_secure_boot_is_on() {
    let doubt = |store: &Store, signed| doubt(&store.keys(), &boot(signed));
    let by_db = || Some(signed_by(b"db", b"db"));
    for off in [Store::default(), Store::default().with("SecureBoot", &[0])] {
        assert_eq!(doubt(&off, None), None);
    }
    let on = Store::default().with("SecureBoot", &[1]);
    let text = "Secure Boot is on, and the release does not say by whom it is signed: the firmware may not start it";
    assert_eq!(doubt(&on, None).unwrap(), text);
    let text = "Secure Boot is on, and the release's boot loader is signed by none of the certificates in the firmware's db: it may \
                not start it";
    assert_eq!(doubt(&on, by_db()).unwrap(), text);
    let on = on.with("db", &[list(b"other"), list(b"db")].concat());
    assert_eq!(doubt(&on, by_db()), None);
    // What cannot be read says nothing.
    assert_eq!(doubt(&on.with("db", b"no list"), by_db()), None);
}

/// As Debian's kernel shows it.
const PROC_KEYS: &str = "\
    01a2b3c4 I------     2 perm 1f0b0000     0     0 keyring   .builtin_trusted_keys: 2\n\
    0e24bd2b I------     1 perm 1f030000     0     0 asymmetri Debian Secure Boot CA: 6ccece7e4c6c: X509.rsa 4c6c []\n\
    1f8c37aa I------     1 perm 3f030000     0     0 user      invocation_id: 16\n\
    20d9c1f0 I------     1 perm 1f030000     0     0 blacklist bin: 01a2b3\n";

#[test]
fn a_kernel_that_is_locked_down_takes_what_a_key_of_its_own_has_signed() {
    let place = tempfile::tempdir().unwrap();
    let (sys, keys) = (place.path().join("sys"), place.path().join("keys"));
    let write = |path: &str, bytes: &[u8]| {
        fs::create_dir_all(sys.join(path).parent().unwrap()).unwrap();
        fs::write(sys.join(path), bytes).unwrap();
    };
    let found = |signed: Option<&str>| {
        let signed = signed.map(|key_id| {
            let mut signed = signed_by(b"db", b"db");
            signed.kernel[0].key_id = key_id.to_owned();
            signed
        });
        obstacle_of(&boot(signed), &sys, &keys)
    };
    assert_eq!(found(None), None, "a kernel that knows no lockdown");
    write(SECURE_BOOT, &[6, 0, 0, 0, 1]);
    let text = "whether the kernel is locked down cannot be read: No such file or directory (os error 2)";
    assert_eq!(found(Some("6ccece7e4c6c")).unwrap(), text);
    write(LOCKDOWN, b"[none] integrity confidentiality\n");
    assert_eq!(found(None), None);
    write(LOCKDOWN, b"none [integrity] confidentiality\n");
    let text = "the kernel is locked down (integrity), and the release does not say by whom its kernel is signed (`metalstrap \
                publish --secure-boot-certificate`)";
    assert_eq!(found(None).unwrap(), text);
    let text =
        "the kernel is locked down (integrity), and its keys cannot be read: No such file or directory (os error 2)";
    assert_eq!(found(Some("6ccece7e4c6c")).unwrap(), text);
    fs::write(&keys, PROC_KEYS).unwrap();
    assert_eq!(found(Some("6ccece7e4c6c")), None);
    let text = "the kernel is locked down (integrity), and trusts none of the certificates that the installed one is signed by";
    // Another certificate, a part of one, and a digest that is barred.
    for other in ["64386221", "7e4c6c", "01a2b3"] {
        assert_eq!(found(Some(other)).unwrap(), text, "{other}");
    }
}
