//! Keys that the site config names itself, where it names no CA: nobody has to vouch for a server that has one of them.

use metalstrap_release::digest::Digest;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Form, validity, purpose and name of a certificate as always, and its key in the place of a CA's signature.
#[derive(Debug)]
pub struct KeyAlone {
    pins: Vec<Digest>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl KeyAlone {
    pub fn new(pins: &[Digest], algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { pins: pins.to_vec(), algorithms }
    }
}

impl ServerCertVerifier for KeyAlone {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let nobody = RootCertStore::empty();
        // All else is checked before anybody is looked for who has signed it, and nobody is found here.
        match verify_server_cert_signed_by_trust_anchor(&certificate, &nobody, &[], now, self.algorithms.all) {
            Ok(()) | Err(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {}
            Err(error) => return Err(error),
        }
        verify_server_name(&certificate, server_name)?;
        if self.pins.contains(&Digest::of(&certificate.subject_public_key_info())) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
