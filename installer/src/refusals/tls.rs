//! Servers that would have a machine speak less safely than the site config wants, or that are not whom it names.

use rustls::version::{TLS12, TLS13};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::published::good;
use super::servers::{answer, server};
use super::trial::Trial;
use crate::failure::Code;
use crate::test_server::{
    Identity, TestServer, reply, serve, serve_known, serve_plain, serve_self_signed, serve_version,
};

/// What comes of it when the first file is fetched.
const FETCHING: &str = "checking the repository's metadata: fetching REPOSITORY/metadata/2.root.json: ";

/// A server that says these bytes to whatever it hears first.
async fn saying(bytes: &'static [u8]) -> TestServer {
    // Only for its CA.
    let mut server = serve(|_| {}, |_, _| reply("200 OK", b"")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    server.port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut hello = [0; 4096];
            drop(stream.read(&mut hello).await);
            drop(stream.write_all(bytes).await);
            drop(stream.flush().await);
            // Until the other side has had enough of it.
            drop(stream.read(&mut hello).await);
        }
    });
    server
}

/// A ServerHello of TLS 1.1 (RFC 4346 section 7.4.1.3): version 3.2, 32 bytes, no session, TLS_RSA_WITH_AES_128_CBC_SHA.
const HELLO_OF_1_1: &[u8] = &{
    let mut hello = [0x5a; 5 + 4 + 38];
    let head = [0x16, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
    let tail = [0, 0, 0x2f, 0];
    let mut at = 0;
    while at < head.len() {
        hello[at] = head[at];
        at += 1;
    }
    at = 0;
    while at < tail.len() {
        hello[hello.len() - tail.len() + at] = tail[at];
        at += 1;
    }
    hello
};

#[tokio::test]
async fn a_server_that_wants_an_older_tls_is_refused() {
    let published = good();
    // What a server sends that has no version in common: the alert protocol_version.
    for (bytes, problem) in [
        (HELLO_OF_1_1, "peer is incompatible: ServerDoesNotSupportTls12Or13"),
        (&[0x15, 3, 1, 0, 2, 2, 70], "received fatal alert: ProtocolVersion"),
    ] {
        let server = saying(bytes).await;
        let port = server.port;
        let text = format!("{FETCHING}giving up after 3 attempts: agreeing on TLS with 127.0.0.1:{port}: {problem}");
        Trial::at(&published, &server).run().await.before_the_plan(Code::Repository, &text);
    }
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_refused() {
    let published = good();
    let server = saying(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
    let text = format!(
        "{FETCHING}giving up after 3 attempts: agreeing on TLS with 127.0.0.1:{}: received corrupt message of type \
         InvalidContentType",
        server.port
    );
    Trial::at(&published, &server).run().await.before_the_plan(Code::Repository, &text);
}

#[tokio::test]
async fn a_server_that_leads_to_plain_http_is_refused() {
    let published = good();
    let files = published.files.clone();
    let plain = serve_plain(move |_, request| answer(&files, request)).await;
    let to = format!("http://127.0.0.1:{}", plain.port);
    let target = to.clone();
    let leading = serve(
        |_| {},
        move |_, request| {
            let path = crate::test_server::asked_path(request).to_owned();
            reply(&format!("302 Found\r\nLocation: {target}/{path}"), b"")
        },
    )
    .await;
    let text = format!("{FETCHING}the server redirected to {to}/os/metadata/2.root.json, which is not https");
    for plain_mirrors in [false, true] {
        let mut trial = Trial::at(&published, &leading);
        trial.site["plain_mirrors"] = plain_mirrors.into();
        trial.run().await.before_the_plan(Code::Repository, &text);
    }
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn a_repository_without_tls_is_no_repository() {
    let published = good();
    let files = published.files.clone();
    let plain = serve_plain(move |_, request| answer(&files, request)).await;
    for plain_mirrors in [false, true] {
        let mut trial = Trial::at(&published, &plain);
        let url = format!("http://127.0.0.1:{}/os", plain.port);
        trial.site["repository"] = url.clone().into();
        trial.site["plain_mirrors"] = plain_mirrors.into();
        let text = format!(
            "checking the site config: parsing PLACE/site.json: the site config's repository is {url:?}, not an https:// URL"
        );
        trial.run().await.before_the_plan(Code::SiteConfig, &text);
    }
    assert_eq!(plain.connections(), 0);
}

#[tokio::test]
async fn a_server_that_signs_its_own_certificate_is_refused() {
    let published = good();
    let files = published.files.clone();
    // Its certificate and the CA have one name, so that it is the signature that is wrong.
    let server = serve_self_signed(move |_, request| answer(&files, request)).await;
    let text = format!("{FETCHING}the certificate of 127.0.0.1 is not from a CA that the site config names");
    Trial::at(&published, &server).run().await.before_the_plan(Code::Certificate, &text);
    assert_eq!(server.requests(), [""; 0]);
    // Nothing else is wrong with it: by its key alone it is believed.
    let mut trial = Trial::at(&published, &server);
    trial.site.as_object_mut().unwrap().remove("ca").unwrap();
    trial.site["pins"] = json!([server.key.to_string()]);
    trial.run().await.installed();
}

#[tokio::test]
async fn a_server_that_has_one_version_of_the_two_is_believed() {
    for version in [&TLS12, &TLS13] {
        let published = good();
        let files = published.files.clone();
        let server = serve_version(version, move |_, request| answer(&files, request)).await;
        Trial::at(&published, &server).run().await.installed();
    }
}

#[tokio::test]
async fn a_server_with_another_key_than_the_pinned_one_is_refused() {
    let published = good();
    let server = server(&published, |_, _, right| right).await;
    let mut trial = Trial::at(&published, &server);
    trial.site["pins"] = json!([Identity::new(|_| {}).key.to_string()]);
    let text = format!("{FETCHING}the certificate of 127.0.0.1 is for a key that the site config does not pin");
    trial.run().await.before_the_plan(Code::Certificate, &text);
    assert_eq!(server.requests(), [""; 0]);
    let mut trial = Trial::at(&published, &server);
    trial.site["pins"] = json!([server.key.to_string()]);
    trial.run().await.installed();
}

#[tokio::test]
async fn a_server_with_another_key_than_the_one_that_stands_for_a_ca_is_refused() {
    let published = good();
    let server = server(&published, |_, _, right| right).await;
    let believing = |key: &str| {
        let mut trial = Trial::at(&published, &server);
        trial.site.as_object_mut().unwrap().remove("ca").unwrap();
        trial.site["pins"] = json!([key]);
        trial
    };
    let text = format!("{FETCHING}the certificate of 127.0.0.1 is for a key that the site config does not pin");
    let outcome = believing(&Identity::new(|_| {}).key.to_string()).run().await;
    outcome.before_the_plan(Code::Certificate, &text);
    assert_eq!(server.requests(), [""; 0]);
    believing(&server.key.to_string()).run().await.installed();
}

#[tokio::test]
async fn a_machine_whose_certificate_a_server_does_not_know_gets_nothing() {
    let (published, own) = (good(), Identity::new(|_| {}));
    let files = published.files.clone();
    let server = serve_known(&own.ca, move |_, request| answer(&files, request)).await;
    let client = |identity: &Identity| json!({"certificate": identity.pem, "key": identity.private_pem()});
    let mut trial = Trial::at(&published, &server);
    trial.site["client"] = client(&own);
    trial.run().await.installed();
    let before = server.requests().len();
    let mut trial = Trial::at(&published, &server);
    trial.site["client"] = client(&Identity::new(|_| {}));
    // Both CAs have one name, so that it is the signature that is wrong.
    const ALERT: &str = "connection error: received fatal alert: DecryptError";
    let text = format!("{FETCHING}giving up after 3 attempts: asking 127.0.0.1:{}: {ALERT}", server.port);
    trial.run().await.before_the_plan(Code::Repository, &text);
    assert_eq!(server.requests().len(), before);
}
