use rcgen::{CertificateParams, date_time_ymd};

use super::*;
use crate::resolve::Servers;
use crate::test_server::{Reply, TestServer, Then, reply, serve};

/// 2026-11-21 08:00:00 UTC, when the image was built.
const BUILT: i64 = 1_795_248_000;
/// 2027-06-01 12:00:00 UTC, and a header that says so.
const JUNE: i64 = 1_811_851_200;
const SAYS_JUNE: &str = "Date: Tue, 01 Jun 2027 12:00:00 GMT";

/// A server with a certificate that is valid from the first of one month to the first of another, as (year, month).
async fn valid(from: (i32, u8), to: (i32, u8), head: &'static str) -> TestServer {
    let adjust = move |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(from.0, from.1, 1);
        params.not_after = date_time_ymd(to.0, to.1, 1);
    };
    serve(adjust, move |_, _| reply(&format!("200 OK\r\n{head}"), b"")).await
}

/// What it says to a machine whose clock shows `from`.
async fn date(server: &TestServer, from: i64) -> Result<i64, String> {
    let resolver = Resolver::learnt(Servers::default());
    let url = format!("https://127.0.0.1:{}/os", server.port);
    let date = Server::new(&url, Access::of_ca(&server.ca).unwrap(), &resolver).unwrap().date(from).await;
    date.map_err(|error| format!("{error:#}"))
}

#[tokio::test]
async fn the_date_of_a_server_with_a_good_certificate_is_read() {
    let server = valid((2026, 1), (2028, 1), SAYS_JUNE).await;
    assert_eq!(date(&server, BUILT).await, Ok(JUNE));
    let head = format!("HEAD /os HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nuser-agent: metalstrap/", server.port);
    assert!(matches!(&server.requests()[..], [only] if only.starts_with(&head)), "{:?}", server.requests());
    assert_eq!(server.connections(), 2, "one for the date, one for the certificate at the date");
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_must_be_so_at_the_date() {
    let server = valid((2027, 5), (2027, 8), SAYS_JUNE).await;
    assert_eq!(date(&server, BUILT).await, Ok(JUNE));
    let early = valid((2027, 7), (2027, 10), SAYS_JUNE).await;
    let words = "it says 2027-06-01 12:00:00 UTC, before its certificate is valid or 2026-11-21 08:00:00 UTC";
    assert_eq!(date(&early, BUILT).await, Err(words.to_owned()));
    let over = valid((2027, 1), (2027, 4), SAYS_JUNE).await;
    let words = "the certificate of 127.0.0.1 expired on 2027-04-01 00:00:00 UTC; this machine's clock shows \
                 2027-06-01 12:00:00 UTC";
    assert_eq!(date(&over, BUILT).await, Err(words.to_owned()));
}

/// The attack: an old certificate with its key, and a date at which it was valid.
#[tokio::test]
async fn a_certificate_that_is_over_by_the_time_at_hand_stays_refused_whatever_the_date() {
    let server = valid((2027, 5), (2027, 8), SAYS_JUNE).await;
    // 2028-01-01 00:00:00 UTC
    let refused = date(&server, 1_830_297_600).await;
    let words = "the certificate of 127.0.0.1 expired on 2027-08-01 00:00:00 UTC; this machine's clock shows \
                 2028-01-01 00:00:00 UTC";
    assert_eq!(refused, Err(words.to_owned()));
    assert_eq!(server.requests(), Vec::<String>::new(), "it is not even asked");
}

#[tokio::test]
async fn a_server_that_is_not_who_it_should_be_is_not_asked() {
    let mut server = valid((2027, 5), (2027, 8), SAYS_JUNE).await;
    server.ca = valid((2027, 5), (2027, 8), SAYS_JUNE).await.ca;
    let words = "the certificate of 127.0.0.1 is not from a CA that the site config names";
    assert_eq!(date(&server, BUILT).await, Err(words.to_owned()));
    let named = |params: &mut CertificateParams| {
        params.not_before = date_time_ymd(2027, 5, 1);
        params.subject_alt_names = vec![rcgen::SanType::DnsName("other.example".try_into().unwrap())];
    };
    let server = serve(named, |_, _| reply(&format!("200 OK\r\n{SAYS_JUNE}"), b"")).await;
    let words = "the certificate of 127.0.0.1 is for other.example, not for 127.0.0.1";
    assert_eq!(date(&server, BUILT).await, Err(words.to_owned()));
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[tokio::test]
async fn a_server_that_says_no_date_is_told() {
    for head in ["X: y", "Date: soon", "Date: 1811851200"] {
        let server = valid((2026, 1), (2028, 1), head).await;
        assert_eq!(date(&server, BUILT).await, Err("its answer has no date".to_owned()), "{head}");
    }
    let closes = serve(|_| {}, |_, _| Reply { bytes: b"HTTP/1.1 200 OK\r\n".to_vec(), then: Then::Close }).await;
    assert_eq!(date(&closes, BUILT).await, Err("its answer is none of HTTP".to_owned()));
    let endless = serve(|_| {}, |_, _| Reply { bytes: vec![b'x'; 64 << 10], then: Then::Stall }).await;
    assert_eq!(date(&endless, BUILT).await, Err("its answer is none of HTTP".to_owned()));
}

proptest::proptest! {
    #[test]
    fn no_head_breaks_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        date_of(&bytes);
        let head = [b"HTTP/1.1 200 OK\r\ndate:".as_slice(), &bytes, b"\r\n\r\n"].concat();
        date_of(&head);
    }
}
