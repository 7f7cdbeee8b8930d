//! Whom a server must be: TLS 1.2 and 1.3 by rustls, with no other CA than those of the site config.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, ClientConfig, RootCertStore};

use crate::clock;

/// A client configuration that trusts exactly the CAs in `ca`, PEM text.
///
/// # Errors
/// When `ca` holds no certificate, or one that cannot be read.
pub fn client_config(ca: &str) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.context("reading the CA certificates")?;
        roots.add(certificate).context("reading the CA certificates")?;
    }
    if roots.is_empty() {
        bail!("there is no CA certificate to check a server against");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Why a server's certificate was refused, in words for the person at the machine; `None`: it was another fault.
#[must_use]
pub fn refusal(error: &rustls::Error, host: &str) -> Option<String> {
    let rustls::Error::InvalidCertificate(error) = error else { return None };
    let seconds = |time: &UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let when = |time: &UnixTime| clock::utc(seconds(time));
    let shown = |time: &UnixTime| clock::shown(seconds(time));
    Some(match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("the certificate of {host} is not from a CA that the site config names")
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the certificate of {host} expired on {}; this machine's clock shows {}",
            when(not_after),
            shown(time)
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the certificate of {host} is valid only from {}; this machine's clock shows {}",
            when(not_before),
            shown(time)
        ),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // webpki describes each as `DnsName("other.example")` or `IpAddress(10.0.0.1)`.
            let plain = |name: &String| name.split(['(', ')']).nth(1).unwrap_or(name).trim_matches('"').to_owned();
            let names: Vec<String> = presented.iter().map(plain).collect();
            format!("the certificate of {host} is for {}, not for {host}", names.join(" and "))
        }
        other => format!("the certificate of {host} cannot be used: {other:?}"),
    })
}

/// The rustls error inside an error of a handshake or an exchange.
#[must_use]
pub fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_certificates_is_refused() {
        assert_eq!(
            client_config("no PEM").unwrap_err().to_string(),
            "there is no CA certificate to check a server against"
        );
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = format!("{:#}", client_config(broken).unwrap_err());
        assert_eq!(error, "reading the CA certificates: invalid peer certificate: BadEncoding");
    }
}
