//! No phase of a request waits for ever: each has a server that goes silent in it.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::testing::{PATH, content, cut, limits, server, source, source_within};
use super::*;
use crate::test_server::{Reply, TestServer, Then, asked_range, partial};

/// The error of a fetch of bytes 10 to 200000, without its beginning, and what came before it.
async fn silent(port: u16, ca: &str) -> (String, usize) {
    let limits = Limits { connect: Duration::from_millis(300), attempts: 2, ..limits() };
    let (sent, got) = collect(&source_within(port, ca, limits), PATH, 10..200_000).await;
    let error = format!("{:#}", sent.unwrap_err());
    let start = format!("fetching https://127.0.0.1:{port}/os/{PATH}: giving up after 2 attempts: ");
    (error.strip_prefix(&start).expect(&error).replace(&port.to_string(), "PORT"), got.len())
}

async fn silent_server(server: &TestServer) -> (String, usize) {
    // For the handshake, which is not what is tested there.
    let limits = Limits { connect: Duration::from_secs(20), attempts: 2, ..limits() };
    let (sent, got) = collect(&source_within(server.port, &server.ca, limits), PATH, 10..200_000).await;
    let error = format!("{:#}", sent.unwrap_err());
    let start = format!("fetching https://127.0.0.1:{}/os/{PATH}: giving up after 2 attempts: ", server.port);
    (error.strip_prefix(&start).expect(&error).replace(&server.port.to_string(), "PORT"), got.len())
}

/// Some CA: no handshake comes so far as to look at it.
async fn some_ca() -> String {
    server(|_, request| partial(&[], request)).await.ca
}

#[tokio::test]
async fn a_connection_that_nobody_takes() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    // Fills the queue of those that wait to be accepted: from then on the kernel drops what comes.
    let mut waiting = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
        assert!(waiting.len() < 100, "the queue has no end");
    }
    let text = "connecting to 127.0.0.1:PORT: no answer in 0.3 s".to_owned();
    assert_eq!(silent(address.port(), &some_ca().await).await, (text, 0));
}

#[tokio::test]
async fn a_handshake_that_is_not_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _hello = stream.read(&mut [0; 4096]).await;
            open.push(stream);
        }
    });
    let text = "no TLS answer from 127.0.0.1:PORT in 0.3 s".to_owned();
    assert_eq!(silent(port, &some_ca().await).await, (text, 0));
}

#[tokio::test]
async fn a_head_that_does_not_end() {
    let text = "asking 127.0.0.1:PORT: no answer in 2 s".to_owned();
    let none = server(|_, _| Reply { bytes: Vec::new(), then: Then::Stall }).await;
    assert_eq!(silent_server(&none).await, (text.clone(), 0));
    let bytes = b"HTTP/1.1 206 Partial Content\r\nX: ";
    let dripping = server(|_, _| Reply { bytes: bytes.to_vec(), then: Then::Drip }).await;
    assert_eq!(silent_server(&dripping).await, (text, 0));
}

#[tokio::test]
async fn a_body_that_stops() {
    let bytes = content();
    let server = server(move |number, request| {
        let count = if number == 1 { 70_000 } else { 0 };
        cut(partial(&bytes, request), count, Then::Stall)
    })
    .await;
    let error = silent_server(&server).await;
    assert_eq!(error, ("nothing more came for 2 s".to_owned(), 70_000));
    assert_eq!(server.requests().len(), 2);
}

/// The whole part in one chunk, without the mark of the body's end.
fn unended(content: &[u8], request: &str, then: Then) -> Reply {
    let (first, end) = asked_range(request).unwrap();
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {first}-{}/{}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
        end - 1,
        content.len(),
        end - first
    );
    Reply { bytes: [head.as_bytes(), &content[first..end], b"\r\n"].concat(), then }
}

#[tokio::test]
async fn an_end_mark_that_does_not_come() {
    let bytes = content();
    let server = server({
        let bytes = bytes.clone();
        move |number, request| unended(&bytes, request, if number == 1 { Then::Stall } else { Then::Drip })
    })
    .await;
    let source = source_within(server.port, &server.ca, Limits { stall: Duration::from_secs(30), ..limits() });
    for range in [10..200_000, 20..100_000] {
        let started = Instant::now();
        let (sent, got) = collect(&source, PATH, range.clone()).await;
        sent.unwrap();
        assert!(got == bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
        assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    }
    // Neither connection was kept.
    assert_eq!((server.requests().len(), server.connections()), (2, 2));
}

#[tokio::test]
async fn of_kept_connections_that_went_silent_only_one_is_waited_for() {
    let bytes = content();
    let server = server({
        let bytes = bytes.clone();
        move |number, request| match number {
            // As if a NAT on the way had forgotten the connection.
            4 => Reply { bytes: Vec::new(), then: Then::Stall },
            // The first ones take long enough to be three at once.
            _ => partial(&bytes, request),
        }
    })
    .await;
    let source = source(&server);
    let fetch = || collect(&source, PATH, 0..300_000);
    let three = tokio::join!(fetch(), fetch(), fetch());
    for (sent, _) in [three.0, three.1, three.2] {
        sent.unwrap();
    }
    let before = server.connections();
    let (sent, got) = fetch().await;
    sent.unwrap();
    assert!(got == bytes);
    assert_eq!((server.requests().len(), server.connections()), (5, before + 1));
}
