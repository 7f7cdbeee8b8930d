//! Sources and mirrors of scripted servers.

use std::sync::Arc;
use std::time::Duration;

use crate::fetch::{HttpsSource, MirrorId, Mirrors, Piece, Source};
use crate::http::Limits;
use crate::resolve::{Resolver, Servers};
use crate::test_server::{Reply, TestServer, Then, asked_path, asked_range, serve};

use super::*;

pub const PATH: &str = "payloads/a.zst";

/// For a server on this machine.
pub fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(20),
        stall: Duration::from_secs(2),
        attempt_bytes: 65_536,
        attempts: 3,
        backoff: Duration::from_millis(2),
        backoff_most: Duration::from_millis(8),
        asked_most: Duration::from_millis(8),
        ..Limits::default()
    }
}

pub fn content() -> Vec<u8> {
    (0..300_000_u32).map(|i| i.to_le_bytes()[usize::try_from(i % 3).unwrap()]).collect()
}

pub fn source_within(port: u16, ca: &str, limits: Limits) -> HttpsSource {
    let url = format!("https://127.0.0.1:{port}/os");
    HttpsSource::with_limits(
        &url,
        crate::access::Access::of_ca(ca).unwrap(),
        Resolver::learnt(Servers::default()),
        limits,
    )
    .unwrap()
}

pub fn source(server: &TestServer) -> HttpsSource {
    source_within(server.port, &server.ca, limits())
}

pub fn mirrors<const N: usize>(servers: [&TestServer; N]) -> Mirrors {
    Mirrors::new(servers.map(|server| Arc::new(source(server)) as Arc<dyn Source>).to_vec())
}

/// A server that answers so, told the number of the request.
pub async fn server(answer: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> TestServer {
    serve(|_| {}, answer).await
}

/// The parts that a server was asked for.
pub fn asked(server: &TestServer) -> Vec<(usize, usize)> {
    server.requests().iter().filter_map(|request| asked_range(request)).collect()
}

/// The paths that a server was asked for.
pub fn asked_paths(server: &TestServer) -> Vec<String> {
    server.requests().iter().map(|request| asked_path(request).to_owned()).collect()
}

/// The answer's head and `count` bytes of its body.
pub fn cut(mut whole: Reply, count: usize, then: Then) -> Reply {
    let head = whole.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    whole.bytes.truncate(head + count);
    whole.then = then;
    whole
}

/// The same with another header.
pub fn with_header(mut reply: Reply, header: &str) -> Reply {
    let line = reply.bytes.windows(2).position(|window| window == b"\r\n").unwrap();
    reply.bytes.splice(line..line, format!("\r\n{header}").into_bytes());
    reply
}

/// The value of a header of a request.
pub fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// What came from mirrors, and from whom, in the order of their pieces.
pub struct Got {
    pub result: Result<()>,
    pub bytes: Vec<u8>,
    pub from: Vec<MirrorId>,
}

impl Got {
    /// The whole chain of causes, with names for the ports.
    pub fn error(&self, servers: &[&TestServer]) -> String {
        let error = format!("{:#}", self.result.as_ref().unwrap_err());
        ["A", "B"].iter().zip(servers).fold(error, |text, (name, server)| {
            text.replace(&format!("https://127.0.0.1:{}", server.port), name)
                .replace(&format!("127.0.0.1:{}", server.port), name)
        })
    }
}

pub async fn collect_path(mirrors: &Mirrors, path: &str, range: Range<u64>) -> Got {
    let (sink, mut pieces) = mpsc::channel::<Piece>(1);
    let receive = async {
        let (mut bytes, mut from) = (Vec::new(), Vec::new());
        while let Some(piece) = pieces.recv().await {
            bytes.extend_from_slice(&piece.bytes);
            from.push(piece.from);
        }
        from.dedup();
        (bytes, from)
    };
    let (result, (bytes, from)) = tokio::join!(mirrors.fetch(path, range, sink), receive);
    Got { result, bytes, from }
}

pub async fn collect(mirrors: &Mirrors, range: Range<u64>) -> Got {
    collect_path(mirrors, PATH, range).await
}
