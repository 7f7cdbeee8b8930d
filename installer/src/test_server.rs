//! A scripted HTTPS server for tests: real TLS, and bytes on the wire as the test says.

use std::sync::{Arc, Mutex};

use metalstrap_release::digest::Digest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData as _};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{DEFAULT_VERSIONS, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What the server does with one request.
pub struct Reply {
    /// Bytes sent: head and body.
    pub bytes: Vec<u8>,
    /// And then.
    pub then: Then,
}

/// After a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Waits for the next request.
    Keep,
    /// Closes the connection.
    Close,
    /// Says nothing more.
    Stall,
    /// Sends one byte after the other, with a pause before each.
    Drip,
}

/// A reply with a length, after which the connection is kept.
pub fn reply(head: &str, body: &[u8]) -> Reply {
    let mut bytes = format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    Reply { bytes, then: Then::Keep }
}

/// The range a request asks for: first byte and end (exclusive).
pub fn asked_range(request: &str) -> Option<(usize, usize)> {
    let line = request.lines().find_map(|line| line.strip_prefix("range: bytes="))?;
    let (first, last) = line.split_once('-')?;
    Some((first.parse().ok()?, last.parse::<usize>().ok()? + 1))
}

/// A 206 for what the request asks of `content`, as far as that goes.
pub fn partial(content: &[u8], request: &str) -> Reply {
    let (first, end) = asked_range(request).expect("a range");
    let end = end.min(content.len());
    if first >= end {
        return reply(&format!("416 Range Not Satisfiable\r\nContent-Range: bytes */{}", content.len()), b"");
    }
    let head = format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/{}", end - 1, content.len());
    reply(&head, &content[first..end])
}

/// What the request names, without the slash at its start.
pub fn asked_path(request: &str) -> &str {
    request.split(' ').nth(1).and_then(|path| path.strip_prefix('/')).expect("a path")
}

/// A running server; it stops with the test's runtime.
pub struct TestServer {
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Its CA, PEM text.
    pub ca: String,
    /// SHA-256 of its public key.
    pub key: Digest,
    requests: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<usize>>,
}

impl TestServer {
    /// Heads (with body where it came along) of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// TLS connections so far.
    pub fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

/// A certificate for 127.0.0.1 unless `adjust` says otherwise.
pub async fn serve(adjust: impl FnOnce(&mut CertificateParams), script: impl Script) -> TestServer {
    let identity = Identity::new(adjust);
    let config = identity.config(None);
    TestServer::start(identity, Some(config), script).await
}

/// With a certificate for 127.0.0.1 that it has signed itself; its CA has nothing to do with it.
pub async fn serve_self_signed(script: impl Script) -> TestServer {
    let identity = Identity::new(|_| {}).self_signed();
    let config = identity.config(None);
    TestServer::start(identity, Some(config), script).await
}

/// With this version of TLS only.
pub async fn serve_version(version: &'static SupportedProtocolVersion, script: impl Script) -> TestServer {
    let identity = Identity::new(|_| {});
    let config = identity.config_of(&[version], None);
    TestServer::start(identity, Some(config), script).await
}

/// For those only who show a certificate of the CA `clients` (PEM text).
pub async fn serve_known(clients: &str, script: impl Script) -> TestServer {
    let identity = Identity::new(|_| {});
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.as_bytes()).unwrap()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let config = identity.config(Some(verifier));
    TestServer::start(identity, Some(config), script).await
}

/// Without TLS.
pub async fn serve_plain(script: impl Script) -> TestServer {
    TestServer::start(Identity::new(|_| {}), None, script).await
}

/// What is answered to which request (its number, from 1, and its text).
pub trait Script: Fn(usize, &str) -> Reply + Send + Sync + 'static {}

impl<T: Fn(usize, &str) -> Reply + Send + Sync + 'static> Script for T {}

/// What was asked, and the answers.
#[derive(Clone)]
struct Talk {
    requests: Arc<Mutex<Vec<String>>>,
    script: Arc<dyn Script>,
}

impl TestServer {
    async fn start(identity: Identity, config: Option<ServerConfig>, script: impl Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<usize>>::default());
        let talk = Talk { requests: requests.clone(), script: Arc::new(script) };
        let acceptor = config.map(|config| TlsAcceptor::from(Arc::new(config)));
        let counted = connections.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (talk, acceptor) = (talk.clone(), acceptor.clone());
                *counted.lock().unwrap() += 1;
                tokio::spawn(async move {
                    match acceptor {
                        None => talk.hold(stream).await,
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            talk.hold(stream).await;
                        }
                    }
                });
            }
        });
        Self { port, ca: identity.ca, key: identity.key, requests, connections }
    }
}

impl Talk {
    async fn hold(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        while let Some(request) = read_request(&mut stream).await {
            let number = {
                let mut all = self.requests.lock().unwrap();
                all.push(request.clone());
                all.len()
            };
            let reply = (self.script)(number, &request);
            if stream.write_all(&reply.bytes).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            match reply.then {
                Then::Keep => {}
                Then::Close => return drop(stream.shutdown().await),
                Then::Stall => std::future::pending().await,
                Then::Drip => {
                    while stream.write_all(b"x").await.is_ok() && stream.flush().await.is_ok() {
                        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                    }
                    return;
                }
            }
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate with its key, of a CA of its own.
pub struct Identity {
    /// The CA, PEM text.
    pub ca: String,
    /// The certificate.
    certificate: CertificateDer<'static>,
    /// The same, PEM text.
    pub pem: String,
    /// SHA-256 of its public key.
    pub key: Digest,
    private: KeyPair,
}

impl Identity {
    /// For 127.0.0.1 unless `adjust` says otherwise.
    pub fn new(adjust: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        adjust(&mut params);
        let private = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&private, &ca).unwrap();
        let key = Digest::of(&private.subject_public_key_info());
        Self { ca: ca.pem(), pem: certificate.pem(), certificate: certificate.der().clone(), key, private }
    }

    /// The same key, with a certificate that it has signed itself.
    fn self_signed(self) -> Self {
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&self.private).unwrap();
        Self { pem: certificate.pem(), certificate: certificate.der().clone(), ..self }
    }

    /// Its private key, PEM text.
    pub fn private_pem(&self) -> String {
        self.private.serialize_pem()
    }

    /// What a server is set up by.
    pub fn config(&self, clients: Option<Arc<dyn ClientCertVerifier>>) -> ServerConfig {
        self.config_of(DEFAULT_VERSIONS, clients)
    }

    /// The same, with these versions of TLS only.
    fn config_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> ServerConfig {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.private.serialize_der()));
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).unwrap();
        let builder = match clients {
            Some(clients) => builder.with_client_cert_verifier(clients),
            None => builder.with_no_client_auth(),
        };
        builder.with_single_cert(vec![self.certificate.clone()], key).unwrap()
    }
}

/// A request with its body, by its `content-length`; `None` at the connection's end.
async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
            if bytes.len() >= head + 4 + length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text);
            }
        }
        match stream.read(&mut chunk).await {
            Ok(count) if count > 0 => bytes.extend_from_slice(&chunk[..count]),
            _ => return None,
        }
    }
}
