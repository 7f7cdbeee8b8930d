//! Real servers and proxies on loopback: keys, certificates of ours, tunnels, plain mirrors.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use metalstrap_release::digest::Digest;
use metalstrap_release::site::{ClientCertificate, ProxyUrl, Retry, Site};
use rcgen::{CertificateParams, SanType, date_time_ymd};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::failure::{Code, code_of};
use crate::fetch::{HttpsSource, Source as _};
use crate::resolve::Servers;
use crate::test_server::{Identity, Reply, TestServer, reply, serve, serve_known, serve_plain};

/// What of a site config is about servers.
fn site(ca: &str) -> Site {
    let site = json!({"format": 1, "repository": "https://127.0.0.1", "root": {}});
    Site { ca: ca.to_owned(), ..serde_json::from_value(site).unwrap() }
}

fn limits() -> Limits {
    let pause = Duration::from_millis(2);
    Limits { attempts: 2, backoff: pause, backoff_most: pause, ..Limits::default() }
}

fn ok(_: usize, _: &str) -> Reply {
    reply("200 OK", b"content")
}

/// What comes of fetching a file from `url`.
async fn get(url: &str, site: &Site) -> Result<Vec<u8>> {
    let access = Access::of_site(site)?;
    HttpsSource::mirror(url, access, Resolver::learnt(Servers::default()), limits())?.get("m", 99).await
}

fn url(server: &TestServer) -> String {
    format!("https://127.0.0.1:{}", server.port)
}

#[tokio::test]
async fn a_certificate_for_another_key_than_those_pinned_is_refused() {
    let server = serve(|_| {}, ok).await;
    let other = Identity::new(|_| {}).key;
    let pinned = |pins: &[Digest]| Site { pins: pins.to_vec(), ..site(&server.ca) };
    assert_eq!(get(&url(&server), &pinned(&[other, server.key])).await.unwrap(), b"content");
    let error = get(&url(&server), &pinned(&[other])).await.unwrap_err();
    let text = "the certificate of 127.0.0.1 is for a key that the site config does not pin";
    assert_eq!(format!("{error:#}"), format!("fetching {}/m: {text}", url(&server)));
    assert_eq!((code_of(&error), server.requests().len(), server.connections()), (Code::Certificate, 1, 2));
    // The right key does not make up for a CA that nobody named.
    let stranger = Site { ca: Identity::new(|_| {}).ca, ..pinned(&[server.key]) };
    let error = get(&url(&server), &stranger).await.unwrap_err();
    let text = "the certificate of 127.0.0.1 is not from a CA that the site config names";
    assert_eq!(format!("{error:#}"), format!("fetching {}/m: {text}", url(&server)));
}

#[tokio::test]
async fn a_pinned_key_is_enough_where_there_is_no_ca_and_all_else_is_checked() {
    let pinned = |key: Digest| Site { pins: vec![key], ..site("") };
    let server = serve(|_| {}, ok).await;
    assert_eq!(get(&url(&server), &pinned(server.key)).await.unwrap(), b"content");
    let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 2, 29);
    let future = |params: &mut CertificateParams| params.not_before = date_time_ymd(2300, 1, 1);
    let other_name = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::DnsName("mirror.example".try_into().unwrap())];
    };
    for (server, key, problem) in [
        (&server, Identity::new(|_| {}).key, "is for a key that the site config does not pin"),
        (&serve(expired, ok).await, Digest([0; 32]), "expired on 2020-02-29 00:00:00 UTC"),
        (&serve(future, ok).await, Digest([0; 32]), "is valid only from 2300-01-01 00:00:00 UTC"),
        (&serve(other_name, ok).await, Digest([0; 32]), "is for mirror.example, not for 127.0.0.1"),
    ] {
        // But for the first, the key is the pinned one, and something else is wrong.
        let key = if key == Digest([0; 32]) { server.key } else { key };
        let error = get(&url(server), &pinned(key)).await.unwrap_err();
        let text = format!("fetching {}/m: the certificate of 127.0.0.1 {problem}", url(server));
        assert!(format!("{error:#}").starts_with(&text), "{error:#}");
        assert_eq!(code_of(&error), Code::Certificate);
    }
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_it() {
    let own = Identity::new(|_| {});
    let server = serve_known(&own.ca, ok).await;
    let client =
        |identity: &Identity| ClientCertificate { certificate: identity.pem.clone(), key: identity.private_pem() };
    let known = Site { client: Some(client(&own)), ..site(&server.ca) };
    assert_eq!(get(&url(&server), &known).await.unwrap(), b"content");
    let stranger = Site { client: Some(client(&Identity::new(|_| {}))), ..site(&server.ca) };
    for refused in [stranger, site(&server.ca)] {
        get(&url(&server), &refused).await.unwrap_err();
    }
    assert_eq!(server.requests().len(), 1);
    let mut wrong = client(&own);
    wrong.key = client(&Identity::new(|_| {})).key;
    let error = get(&url(&server), &Site { client: Some(wrong), ..site(&server.ca) }).await.unwrap_err();
    let text = "using client of the site config: keys may not be consistent: KeyMismatch";
    assert_eq!(format!("{error:#}"), text);
}

/// A proxy, and what it was asked for.
struct TestProxy {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TestProxy {
    /// `answer` goes back at once; a tunnel is opened if it begins as a good one does.
    async fn start(answer: &'static str, tls: Option<&Identity>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), asked: Arc::default() };
        let (asked, acceptor) = (proxy.asked.clone(), tls.map(|tls| TlsAcceptor::from(Arc::new(tls.config(None)))));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (asked, acceptor) = (asked.clone(), acceptor.clone());
                tokio::spawn(async move {
                    match acceptor {
                        None => pass(stream, &asked, answer).await,
                        Some(acceptor) => pass(acceptor.accept(stream).await.unwrap(), &asked, answer).await,
                    }
                });
            }
        });
        proxy
    }

    /// `scheme`, and whatever stands before the host.
    fn url(&self, scheme: &str) -> Option<ProxyUrl> {
        Some(ProxyUrl(format!("{scheme}127.0.0.1:{}", self.port)))
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn pass(mut stream: impl Wire, asked: &Mutex<Vec<String>>, answer: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let place = head.split(' ').nth(1).unwrap().to_owned();
    asked.lock().unwrap().push(head);
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    if answer == GOOD {
        let mut server = TcpStream::connect(place).await.unwrap();
        drop(copy_bidirectional(&mut stream, &mut server).await);
    }
}

const GOOD: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

#[tokio::test]
async fn servers_are_reached_through_the_proxy_but_for_those_that_are_exempt() {
    let server = serve(|_| {}, ok).await;
    let proxy = TestProxy::start(GOOD, None).await;
    let mut site = Site { proxy: proxy.url("http://"), ..site(&server.ca) };
    assert_eq!(get(&url(&server), &site).await.unwrap(), b"content");
    let place = format!("127.0.0.1:{}", server.port);
    assert_eq!(proxy.asked(), [format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n")]);
    assert!(server.requests()[0].starts_with(&format!("GET /m HTTP/1.1\r\nhost: {place}\r\n")));
    assert_eq!(Access::of_site(&site).unwrap().next_host("os.example"), "127.0.0.1");
    site.no_proxy = vec!["127.0.0.0/8".to_owned()];
    assert_eq!(get(&url(&server), &site).await.unwrap(), b"content");
    assert_eq!((proxy.asked().len(), server.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_proxy_may_itself_have_a_certificate_which_no_pin_is_for() {
    let server = serve(|_| {}, ok).await;
    let own = Identity::new(|_| {});
    let proxy = TestProxy::start(GOOD, Some(&own)).await;
    let ca = format!("{}{}", server.ca, own.ca);
    let known = Site { proxy: proxy.url("https://"), pins: vec![server.key], ..site(&ca) };
    assert_eq!(get(&url(&server), &known).await.unwrap(), b"content");
    let error = get(&url(&server), &Site { ca: server.ca.clone(), ..known }).await.unwrap_err();
    let through = format!("reaching 127.0.0.1:{} through the proxy 127.0.0.1:{}", server.port, proxy.port);
    let text = "the certificate of 127.0.0.1 is not from a CA that the site config names";
    assert_eq!(format!("{error:#}"), format!("fetching {}/m: {through}: {text}", url(&server)));
    assert_eq!((code_of(&error), proxy.asked().len()), (Code::Certificate, 1));
}

#[tokio::test]
async fn an_https_proxy_gets_name_and_password_and_nobody_else_does() {
    let server = serve(|_| {}, ok).await;
    let own = Identity::new(|_| {});
    let ca = format!("{}{}", server.ca, own.ca);
    let of = |proxy: &TestProxy| Site { proxy: proxy.url("https://Aladdin:open%20sesame@"), ..site(&ca) };
    let proxy = TestProxy::start(GOOD, Some(&own)).await;
    let access = Access::of_site(&of(&proxy)).unwrap();
    let shown = format!("{access:?}");
    assert!(!shown.contains("Aladdin") && !shown.contains("sesame") && !shown.contains("QWxh"), "{shown}");
    assert_eq!(get(&url(&server), &of(&proxy)).await.unwrap(), b"content");
    let place = format!("127.0.0.1:{}", server.port);
    let header = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
    assert_eq!(proxy.asked(), [format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{header}\r\n\r\n")]);
    assert!(!server.requests()[0].to_lowercase().contains("authorization"));

    let proxy = TestProxy::start("HTTP/1.1 407 Who are you\r\n\r\n", Some(&own)).await;
    let error = format!("{:#}", get(&url(&server), &of(&proxy)).await.unwrap_err());
    assert!(error.ends_with(": it answered 407: it does not take name and password of the site config"), "{error}");
    assert!(!error.contains("Aladdin") && !error.contains("sesame"), "{error}");
}

#[tokio::test]
async fn what_a_proxy_answers_instead_is_said() {
    let server = serve(|_| {}, ok).await;
    for (answer, text) in [
        ("HTTP/1.1 403 \x1b[2J\r\n\r\n", "it answered 403"),
        (
            "HTTP/1.1 407 Who are you\r\n\r\n",
            "it answered 407: it wants a name and a password, and the site config has none",
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n", "it answered something that is not HTTP"),
        ("HTTP/1.1 200 OK\r\n\r\nand more", "it answered more than the head of an answer"),
        ("HTTP/1.1 200", "it closed the connection"),
    ] {
        let proxy = TestProxy::start(answer, None).await;
        let site = Site { proxy: proxy.url("http://"), ..site(&server.ca) };
        let error = format!("{:#}", get(&url(&server), &site).await.unwrap_err());
        let through = format!("reaching 127.0.0.1:{} through the proxy 127.0.0.1:{}: ", server.port, proxy.port);
        let (_, said) = error.split_once(&through).unwrap_or_else(|| panic!("{error}"));
        assert_eq!((said, proxy.asked().len()), (text, 2));
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_mirror_is_plain_only_where_the_site_config_says_so() {
    let server = serve_plain(ok).await;
    let url = format!("http://127.0.0.1:{}", server.port);
    let ca = Identity::new(|_| {}).ca;
    let error = get(&url, &site(&ca)).await.unwrap_err();
    assert_eq!(error.to_string(), format!("{url:?} is no https:// URL"));
    let plain = Site { plain_mirrors: true, ..site(&ca) };
    assert_eq!(get(&url, &plain).await.unwrap(), b"content");
    assert!(server.requests()[0].starts_with(&format!("GET /m HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n", server.port)));
    // Metadata, and all else that is not a mirror's, never.
    let access = Access::of_site(&plain).unwrap();
    let error = HttpsSource::new(&url, access, Resolver::learnt(Servers::default())).unwrap_err();
    assert_eq!(error.to_string(), format!("\"{url}/\" is no https:// URL"));
    // Nor does a server lead there.
    let to = url.clone();
    let leading = serve(|_| {}, move |_, _| reply(&format!("302 Found\r\nLocation: {to}/m"), b"")).await;
    let from = format!("https://127.0.0.1:{}", leading.port);
    let error = get(&from, &Site { ca: leading.ca.clone(), ..plain }).await.unwrap_err();
    let text = format!("the server redirected to {url}/m, which is not https");
    assert_eq!(format!("{error:#}"), format!("fetching {from}/m: {text}"));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn the_site_config_changes_what_it_names_and_no_more() {
    let retry = Retry { attempts: 3, connect_timeout: 4, stall_timeout: 5, longest_pause: 6 };
    let changed = Limits::default().of_site(&Site { retry: Some(retry), ..site("") });
    let seconds = [changed.connect, changed.stall, changed.backoff_most].map(|limit| limit.as_secs());
    assert_eq!((changed.attempts, seconds, changed.asked_most), (3, [4, 5, 6], Limits::default().asked_most));
    // What the schema says by default is what holds by default.
    let (by_default, without) =
        (Limits::default().of_site(&Site { retry: Some(Retry::default()), ..site("") }), Limits::default());
    assert_eq!(format!("{by_default:?}"), format!("{without:?}"));
}
