//! Time servers that lie by years, so that what has expired would be taken again.

use std::sync::{Arc, Mutex};

use rcgen::date_time_ymd;

use super::published::good;
use super::servers::answer;
use super::trial::Trial;
use crate::clock;
use crate::clock::evidence::DAY;
use crate::clock::tests::{Boot, ask};
use crate::failure::Code;
use crate::machine::Seams;
use crate::ntp::tests::{Server as Ntp, serve as serve_ntp};
use crate::test_server::serve;

/// 2020-02-01 12:00:00 UTC, when the certificate was valid.
const LIE: i64 = 1_580_558_400;

#[tokio::test]
async fn time_servers_that_lie_by_years_make_no_expired_certificate_good() {
    let published = good();
    let files = published.files.clone();
    let adjust = |params: &mut rcgen::CertificateParams| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 29);
    };
    let server = serve(adjust, move |_, request| answer(&files, request)).await;
    let now = clock::now();
    let built = now - 30 * DAY;
    // A hardware clock that is right stays; a dead one goes to when the image was built, and no further back.
    for (own, set_to) in [(now, Vec::new()), (10, vec![built])] {
        let boot = Boot::showing(own);
        let mut of_machine = boot.run_of(&built.to_string()).unwrap();
        let asked = ask(&mut of_machine, &[vec![serve_ntp(Ntp::Says(LIE)).await]], &server).await;
        let warning = "the time server 127.0.0.1 says 2020-02-01 12:00:0";
        assert!(matches!(&asked.warnings[..], [only] if only.starts_with(warning)), "{:?}", asked.warnings);
        assert_eq!(boot.wall.was_set_to(), set_to);

        let mut trial = Trial::at(&published, &server);
        let of_machine = Mutex::new(Some(of_machine));
        trial.changes = Arc::new(move |seams: Seams| Seams { clock: of_machine.lock().unwrap().take(), ..seams });
        let before = clock::now();
        let outcome = trial.run().await;
        let text = |now| {
            format!(
                "checking the repository's metadata: fetching REPOSITORY/metadata/2.root.json: the certificate of 127.0.0.1 \
                 expired on 2020-02-29 00:00:00 UTC; this machine's clock shows {}",
                clock::utc(now)
            )
        };
        let happened = outcome.failure().happened;
        let expected = (before..=clock::now()).map(text).find(|text| *text == happened).unwrap_or_else(|| text(before));
        outcome.before_the_plan(Code::Certificate, &expected);
        assert_eq!(boot.wall.was_set_to(), set_to);
        assert!(server.requests().is_empty());
    }
}
