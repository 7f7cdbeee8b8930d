//! Whom a server must be: TLS 1.2 and 1.3 by rustls, with no other CA than those of the site config, or its pinned keys alone.

mod key_alone;
mod pinned;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::site::ClientCertificate;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use crate::clock;
use crate::failure::{Code, coded};
use key_alone::KeyAlone;
use pinned::Pinned;

/// A client configuration that trusts exactly the CAs in `ca`, PEM text, and of their certificates, if there are `pins`, those
/// for these keys; where `ca` is empty, any certificate for one of these keys. `client` is shown to servers that ask for a
/// certificate.
///
/// # Errors
/// When `ca` holds no certificate, or one that cannot be read, or is empty like `pins`, or `client` cannot be used.
pub fn client_config(ca: &str, pins: &[Digest], client: Option<&ClientCertificate>) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if ca.is_empty() && !pins.is_empty() {
        Arc::new(KeyAlone::new(pins, provider.signature_verification_algorithms))
    } else {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(ca)?), Arc::clone(&provider));
        Arc::new(Pinned::new(verifier.build().context("setting up TLS")?, pins))
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("setting up TLS")?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match client {
        None => config.with_no_client_auth(),
        Some(client) => {
            let chain: Result<_, _> = CertificateDer::pem_slice_iter(client.certificate.as_bytes()).collect();
            let chain = chain.context("reading client.certificate of the site config")?;
            let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes());
            let key = key.context("reading client.key of the site config")?;
            config.with_client_auth_cert(chain, key).context("using client of the site config")?
        }
    };
    Ok(Arc::new(config))
}

/// The CAs of a PEM text.
fn roots(ca: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.context("reading the CA certificates")?;
        roots.add(certificate).context("reading the CA certificates")?;
    }
    if roots.is_empty() {
        bail!("there is no CA certificate to check a server against");
    }
    Ok(roots)
}

/// TLS with the server of `url` on `stream`.
///
/// # Errors
/// [`Code::Certificate`] if the server's certificate is refused; no answer within `patience`, or not one of TLS.
pub async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    connector: &TlsConnector,
    url: &Url,
    stream: S,
    patience: Duration,
) -> Result<TlsStream<S>> {
    let (host, port) = host_and_port(url)?;
    let (plain, name) = server_name(host)?;
    tokio::time::timeout(patience, connector.connect(name, stream))
        .await
        .map_err(|_elapsed| anyhow!("no TLS answer from {host}:{port} in {} s", patience.as_secs_f32()))?
        .map_err(|error| handshake_error(error, plain, &format!("{host}:{port}")))
}

/// The server that a URL names.
///
/// # Errors
/// It names no host, or no port that is known.
pub fn host_and_port(url: &Url) -> Result<(&str, u16)> {
    let host = url.host_str().context("the URL names no host")?;
    Ok((host, url.port_or_known_default().context("the URL names no port")?))
}

/// The host of a URL as a certificate names it, without the brackets of an IPv6 address: as text, and for a handshake.
///
/// # Errors
/// It is no host name.
pub fn server_name(host: &str) -> Result<(&str, ServerName<'static>)> {
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let name = ServerName::try_from(plain.to_owned()).with_context(|| format!("{host} is no host name"))?;
    Ok((plain, name))
}

fn handshake_error(error: io::Error, host: &str, authority: &str) -> anyhow::Error {
    match rustls_error(&error).and_then(|error| refusal(error, host)) {
        Some(words) => coded(Code::Certificate, words),
        None => anyhow!(error).context(format!("agreeing on TLS with {authority}")),
    }
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
        // Ours alone: see `Pinned` and `KeyAlone`.
        CertificateError::ApplicationVerificationFailure => {
            format!("the certificate of {host} is for a key that the site config does not pin")
        }
        other => format!("the certificate of {host} cannot be used: {other:?}"),
    })
}

/// The rustls error inside an error of a handshake or an exchange.
#[must_use]
pub fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_certificates_is_refused() {
        assert_eq!(
            client_config("no PEM", &[], None).unwrap_err().to_string(),
            "there is no CA certificate to check a server against"
        );
        // Pins make up for a CA that is not named, and not for one that cannot be read.
        let pins = [Digest([0; 32])];
        assert!(client_config("", &pins, None).is_ok());
        assert_eq!(
            client_config("no PEM", &pins, None).unwrap_err().to_string(),
            "there is no CA certificate to check a server against"
        );
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let error = format!("{:#}", client_config(broken, &[], None).unwrap_err());
        assert_eq!(error, "reading the CA certificates: invalid peer certificate: BadEncoding");
    }
}
