//! A scripted HTTPS server for tests: real TLS, and bytes on the wire as the test says.

use std::sync::{Arc, Mutex};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
pub async fn serve(
    adjust: impl FnOnce(&mut CertificateParams),
    script: impl Fn(usize, &str) -> Reply + Send + Sync + 'static,
) -> TestServer {
    let (ca, config) = identity(adjust);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (requests, connections) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<usize>>::default());
    let server = TestServer { port, ca, requests: requests.clone(), connections: connections.clone() };
    let (script, acceptor) = (Arc::new(script), TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (script, acceptor, requests) = (script.clone(), acceptor.clone(), requests.clone());
            *connections.lock().unwrap() += 1;
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                while let Some(request) = read_request(&mut stream).await {
                    let number = {
                        let mut all = requests.lock().unwrap();
                        all.push(request.clone());
                        all.len()
                    };
                    let reply = script(number, &request);
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
            });
        }
    });
    server
}

fn identity(adjust: impl FnOnce(&mut CertificateParams)) -> (String, ServerConfig) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    adjust(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    (ca.pem(), config)
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
