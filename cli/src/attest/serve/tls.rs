//! The endpoint's certificate.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A server's set-up: TLS 1.2 or 1.3, HTTP/1.1.
///
/// # Errors
/// A file cannot be read, or they do not belong together.
pub fn config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let reading = || format!("reading the certificate {}", certificate.display());
    let chain = CertificateDer::pem_file_iter(certificate).with_context(reading)?;
    let chain = chain.collect::<Result<Vec<_>, _>>().with_context(reading)?;
    ensure!(!chain.is_empty(), "{}: it has none", reading());
    let key =
        PrivateKeyDer::from_pem_file(key).with_context(|| format!("reading the private key {}", key.display()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.context("setting TLS up")?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key).context("setting the server's certificate up")?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
