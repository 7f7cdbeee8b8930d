//! A certificate authority and a server certificate, to try things out with. The authority's key is not kept: it can
//! sign nothing else.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};

use super::{PUBLIC, SECRET, create_all};
use crate::keys::Keys;

/// Writes `ca.pem`, `server.pem` and `server.key`.
pub fn make(keys: &Keys, name: &str, addresses: &[IpAddr]) -> Result<Value> {
    let mut ca = parameters("metalstrap test authority", Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate().context("making the authority's key")?;
    let ca = CertifiedIssuer::self_signed(ca, ca_key).context("making the authority")?;
    let names = std::iter::once(name.to_owned()).chain(addresses.iter().map(IpAddr::to_string)).collect();
    let mut server = parameters("metalstrap test server", names)?;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate().context("making the server's key")?;
    let certificate = server.signed_by(&key, &ca).context("signing the server's certificate")?;
    let files = [
        ("ca.pem".to_owned(), ca.pem().into_bytes(), PUBLIC),
        ("server.pem".to_owned(), certificate.pem().into_bytes(), PUBLIC),
        ("server.key".to_owned(), key.serialize_pem().into_bytes(), SECRET),
    ];
    create_all(keys, &files)?;
    Ok(json!({"keys": keys.0, "files": files.map(|(name, ..)| name)}))
}

/// What holds whatever the clock of a test machine says.
fn parameters(subject: &str, names: Vec<String>) -> Result<CertificateParams> {
    let mut parameters = CertificateParams::new(names).context("naming the server")?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, subject);
    parameters.not_before = date_time_ymd(2000, 1, 1);
    parameters.not_after = date_time_ymd(2099, 12, 31);
    Ok(parameters)
}
