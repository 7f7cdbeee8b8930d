//! Metadata that says what its owner never meant it to, and is signed all the same.

use std::num::NonZeroU64;

use metalstrap_release::digest::{Digest, to_hex};
use metalstrap_release::metadata::{PrivateKey, RoleSigners, delegation};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use super::published::Published;

/// The role whose metadata says which bytes another one's has.
fn above(role: &str) -> Option<&'static str> {
    match role {
        "targets" | "hosts" => Some("snapshot"),
        "snapshot" => Some("timestamp"),
        _ => None,
    }
}

/// `signed` with the signature of `key`. Its canonical form is JSON with sorted keys and without white space, as long
/// as no text in it needs an escape.
fn signature(key: &PrivateKey, signed: &Value) -> Value {
    let der = PrivatePkcs8KeyDer::from_pem_slice(key.to_pem().unwrap().as_bytes()).unwrap();
    let signer = any_eddsa_type(&der).unwrap().choose_scheme(&[SignatureScheme::ED25519]).unwrap();
    let sig = signer.sign(&serde_json::to_vec(signed).unwrap()).unwrap();
    json!({"keyid": key.id(), "sig": to_hex(&sig)})
}

/// The document of `signed` with the signatures of these keys.
pub fn document(signed: &Value, keys: &[PrivateKey]) -> Vec<u8> {
    let signatures: Vec<Value> = keys.iter().map(|key| signature(key, signed)).collect();
    serde_json::to_vec(&json!({"signatures": signatures, "signed": signed})).unwrap()
}

/// A key as a root names it: its id and what is public of it.
pub fn by(key: &PrivateKey) -> (String, Value) {
    let signers = RoleSigners { keys: vec![key.clone()], threshold: NonZeroU64::MIN };
    let delegation = delegation(&signers).unwrap();
    (key.id(), delegation["keys"][key.id()].clone())
}

impl Published {
    /// What `role` says.
    pub fn signed(&self, role: &str) -> Value {
        serde_json::from_slice::<Value>(&self.files[&self.role_path(role)]).unwrap()["signed"].take()
    }

    /// Where the metadata of `role` lies.
    pub fn role_path(&self, role: &str) -> String {
        let file = format!("{role}.json");
        self.files.keys().find(|path| path.starts_with("metadata/") && path.ends_with(&file)).unwrap().clone()
    }

    fn key(&self, role: &str) -> PrivateKey {
        let keys = &self.keys;
        let signers = match role {
            "root" => &keys.root,
            "targets" => &keys.targets,
            "snapshot" => &keys.snapshot,
            "timestamp" => &keys.timestamp,
            _ => &keys.hosts,
        };
        signers.keys[0].clone()
    }

    /// Changes what `role` says, and signs it and what is above it anew.
    pub fn edit(&mut self, role: &str, change: impl FnOnce(&mut Value)) {
        let key = self.key(role);
        self.edit_signed_by(role, &key, change);
    }

    /// The same with a signature of `key` on it.
    pub fn edit_signed_by(&mut self, role: &str, key: &PrivateKey, change: impl FnOnce(&mut Value)) {
        let mut signed = self.signed(role);
        change(&mut signed);
        self.replace_metadata(role, document(&signed, std::slice::from_ref(key)));
    }

    /// Replaces the file of `role`; what is above it vouches for the new bytes.
    pub fn replace_metadata(&mut self, role: &str, bytes: Vec<u8>) {
        let (length, sha256) = (bytes.len(), Digest::of(&bytes).to_string());
        self.files.insert(self.role_path(role), bytes);
        if let Some(above) = above(role) {
            self.edit(above, |signed| {
                let meta = &mut signed["meta"][format!("{role}.json")];
                meta["length"] = length.into();
                meta["hashes"]["sha256"] = sha256.into();
            });
        }
    }

    /// Has `role` vouch for `bytes` as the target `name`.
    pub fn set_target(&mut self, role: &str, name: &str, bytes: &[u8]) {
        let entry = json!({"length": bytes.len(), "hashes": {"sha256": Digest::of(bytes).to_string()}});
        self.edit(role, |signed| signed["targets"][name] = entry);
    }
}
