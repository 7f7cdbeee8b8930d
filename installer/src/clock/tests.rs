use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::access::Access;
use crate::ntp::tests::{PATIENCE, Server as Ntp, serve as serve_ntp};
use crate::resolve::{Resolver, Servers};
use crate::test_server::{TestServer, reply, serve};

/// When the image was built: 2026-11-21 08:00:00 UTC.
const BUILT: i64 = 1_795_248_000;
const DAY: i64 = evidence::DAY;
const YEAR: i64 = 365 * DAY;

/// A machine that was started 100 s ago, whose time passes only when a test says so.
#[derive(Debug, Clone)]
pub(crate) struct FakeWall(Arc<Fake>);

#[derive(Debug, Default)]
struct Fake {
    now: AtomicI64,
    since_boot: AtomicI64,
    set: Mutex<Vec<i64>>,
    hardware: Mutex<Vec<i64>>,
    by: Mutex<Option<Evidence>>,
}

impl FakeWall {
    fn showing(now: i64) -> Self {
        let fake = Fake { now: now.into(), since_boot: 100.into(), ..Fake::default() };
        Self(Arc::new(fake))
    }

    fn passes(&self, seconds: i64) {
        self.0.now.fetch_add(seconds, Ordering::Relaxed);
        self.0.since_boot.fetch_add(seconds, Ordering::Relaxed);
    }

    /// What the system's clock shows.
    pub(crate) fn shows(&self) -> i64 {
        self.0.now.load(Ordering::Relaxed)
    }

    /// What the system's clock was set to.
    pub(crate) fn was_set_to(&self) -> Vec<i64> {
        self.0.set.lock().unwrap().clone()
    }

    fn by(&self) -> Evidence {
        self.0.by.lock().unwrap().clone().expect("something that the clock rests on")
    }
}

impl Wall for FakeWall {
    fn now(&self) -> i64 {
        self.shows()
    }

    fn since_boot(&self) -> i64 {
        self.0.since_boot.load(Ordering::Relaxed)
    }

    fn set(&self, seconds: i64) -> Result<()> {
        self.0.set.lock().unwrap().push(seconds);
        self.0.now.store(seconds, Ordering::Relaxed);
        Ok(())
    }

    fn rests_on(&self, evidence: &Evidence) {
        *self.0.by.lock().unwrap() = Some(evidence.clone());
    }

    fn set_hardware_clock(&self, seconds: i64) -> Result<()> {
        self.0.hardware.lock().unwrap().push(seconds);
        Ok(())
    }
}

/// One boot of a machine: its clock, and its /run.
pub(crate) struct Boot {
    pub(crate) wall: FakeWall,
    place: tempfile::TempDir,
}

impl Boot {
    /// The hardware clock shows `now`; the image was built at [`BUILT`].
    pub(crate) fn showing(now: i64) -> Self {
        Self { wall: FakeWall::showing(now), place: tempfile::tempdir().unwrap() }
    }

    /// A run of the installer.
    pub(crate) fn run_of(&self, build_time: &str) -> Result<Clock> {
        let file = self.place.path().join("build-time");
        std::fs::write(&file, build_time).unwrap();
        Clock::start_with(Box::new(self.wall.clone()), &file, &self.place.path().join("run/clock"))
    }

    /// The same with the build time [`BUILT`].
    pub(crate) fn run(&self) -> Clock {
        self.run_of(&format!("{BUILT}\n")).unwrap()
    }
}

/// A web server whose certificate is valid from 2026-11-10 to 2027-02-10 and that says the date of `head`.
async fn web(head: &'static str) -> TestServer {
    let adjust = |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2026, 11, 10);
        params.not_after = rcgen::date_time_ymd(2027, 2, 10);
    };
    serve(adjust, move |_, _| reply(&format!("404 Not Found\r\n{head}"), b"")).await
}

const NO_DATE: &str = "X: y";

/// Asks these servers, the web server being last.
pub(crate) async fn ask(clock: &mut Clock, groups: &[Vec<SocketAddr>], web: &TestServer) -> Asked {
    let resolver = Resolver::learnt(Servers::default());
    let url = format!("https://127.0.0.1:{}/os", web.port);
    let server = Server::new(&url, Access::of_ca(&web.ca).unwrap(), &resolver).unwrap();
    let patience = Patience { first: Duration::from_secs(2), ..PATIENCE };
    clock.ask(groups, &server, patience).await.unwrap()
}

/// The same with a group of time servers of one machine, whose hardware clock shows `own`, and what the clock shows then.
async fn asked(own: i64, servers: &[Ntp]) -> (Boot, Clock, Asked) {
    let boot = Boot::showing(own);
    let mut clock = boot.run();
    let mut group = Vec::new();
    for server in servers {
        group.push(serve_ntp(*server).await);
    }
    let asked = ask(&mut clock, &[group], &web(NO_DATE).await).await;
    (boot, clock, asked)
}

fn about(time: i64, expected: i64) -> bool {
    (expected..expected + 5).contains(&time)
}

#[test]
fn lesson_15_a_dead_clock_is_set_to_the_build_time() {
    for own in [10, BUILT - 1, 4_070_908_800] {
        let boot = Boot::showing(own);
        let clock = boot.run();
        assert_eq!((boot.wall.was_set_to(), boot.wall.by()), (vec![BUILT], Evidence::BuildTime));
        assert!(
            clock
                .local()
                .complaint()
                .is_some_and(|text| text.ends_with("; the clock is set to 2026-11-21 08:00:00 UTC"))
        );
        // The floor rises with the time that passes.
        boot.wall.passes(3600);
        assert_eq!(clock.local(), Local { floor: BUILT + 3600, own: own + 3600 });
    }
}

#[test]
fn a_clock_that_can_be_right_is_left_alone() {
    let boot = Boot::showing(BUILT + YEAR);
    let clock = boot.run();
    assert_eq!((boot.wall.was_set_to(), boot.wall.by()), (vec![], Evidence::HardwareClock));
    assert_eq!(clock.local().complaint(), None);
    assert_eq!(clock.set_hardware_clock().unwrap(), None);
}

#[test]
fn no_build_time_means_no_floor_and_nonsense_is_named() {
    let boot = Boot::showing(5);
    let wall = Box::new(boot.wall.clone());
    let mut clock =
        Clock::start_with(wall, Path::new("/nonexistent/build-time"), &boot.place.path().join("clock")).unwrap();
    assert_eq!((boot.wall.was_set_to(), boot.wall.by()), (vec![], Evidence::HardwareClock));
    clock.raise_floor(BUILT);
    assert_eq!(clock.local(), Local { floor: BUILT, own: 5 });
    clock.raise_floor(BUILT - 1);
    assert_eq!(clock.local().floor, BUILT);
    let error = format!("{:#}", boot.run_of("soon").unwrap_err());
    assert!(error.ends_with("build-time as seconds: invalid digit found in string"), "{error}");
}

#[tokio::test]
async fn lesson_15_a_dead_clock_gets_its_time_from_ntp() {
    let now = BUILT + 200 * DAY;
    for own in [10, 4_070_908_800] {
        let (boot, clock, asked) = asked(own, &[Ntp::Says(now), Ntp::Silent, Ntp::Kisses]).await;
        assert!(about(boot.wall.shows(), now));
        assert_eq!(boot.wall.by(), Evidence::Ntp(vec!["127.0.0.1".into()]));
        assert_eq!((asked.warnings, asked.date), (vec![], None));
        let why = |number: usize| asked.heard[number].said.clone().unwrap_err();
        assert_eq!((why(1).as_str(), why(2).as_str()), ("no answer", "it does not want to be asked (DENY)"));
        let (was, set_to) = clock.set_hardware_clock().unwrap().unwrap();
        assert!(was == own && about(set_to, now), "{was} {set_to}");
        assert_eq!(*boot.wall.0.hardware.lock().unwrap(), [set_to]);
    }
}

#[tokio::test]
async fn servers_that_lie_by_years_move_nothing_back_and_nothing_out_of_the_window() {
    let now = BUILT + 2 * YEAR;
    // Before the image was built; and back to when a certificate was valid that is not any more.
    for (lie, words) in [
        (86_400, "the time server 127.0.0.1 says 1970-01-02 00:00:0"),
        (
            BUILT + YEAR,
            "the hardware clock shows 2028-11-20 08:00:00 UTC, and NTP of 127.0.0.1 says 2027-11-21 08:00:0",
        ),
    ] {
        let (boot, clock, asked) = asked(now, &[Ntp::Says(lie)]).await;
        assert_eq!((boot.wall.was_set_to(), boot.wall.by()), (vec![], Evidence::HardwareClock));
        assert!(matches!(&asked.warnings[..], [only] if only.starts_with(words)), "{:?}", asked.warnings);
        assert_eq!(clock.set_hardware_clock().unwrap(), None, "a lie by more than a day is not kept");
    }
    // The future, which the 32 bits of a packet can say only within 68 years.
    let (boot, _, asked) = asked(10, &[Ntp::Says(BUILT + 40 * YEAR)]).await;
    assert_eq!((boot.wall.was_set_to(), boot.wall.by()), (vec![BUILT], Evidence::BuildTime));
    let words = "the time server 127.0.0.1 says 2066-11-11 08:00:0";
    assert!(matches!(&asked.warnings[..], [only] if only.starts_with(words)), "{:?}", asked.warnings);
}

#[tokio::test]
async fn a_lie_about_the_near_future_lasts_for_one_run() {
    let now = BUILT + YEAR;
    let (boot, _, asked) = asked(now, &[Ntp::Says(now + YEAR)]).await;
    assert!(about(boot.wall.shows(), now + YEAR));
    assert_eq!(asked.warnings.len(), 1);
    // The installation is tried again, without that server: the machine's own clock is remembered.
    boot.wall.passes(60);
    let clock = boot.run();
    assert_eq!((boot.wall.shows(), boot.wall.by()), (now + 60, Evidence::HardwareClock));
    assert_eq!(clock.local().own, now + 60);
}

#[tokio::test]
async fn servers_that_disagree_are_told_and_not_believed() {
    let now = BUILT + YEAR;
    let (boot, _, asked) = asked(now, &[Ntp::Says(now + 3600), Ntp::Says(now + 7200)]).await;
    assert_eq!((boot.wall.was_set_to(), boot.wall.by()), (vec![], Evidence::HardwareClock));
    let words = "the time servers do not agree, and none is believed: 127.0.0.1 says 2027-11-21 09:00:0";
    assert!(matches!(&asked.warnings[..], [only] if only.starts_with(words)), "{:?}", asked.warnings);
    let most = [Ntp::Says(now + 3600), Ntp::Says(now + YEAR), Ntp::Says(now + 3600)];
    let boot = self::asked(now, &most).await.0;
    assert!(about(boot.wall.shows(), now + 3600));
}

#[tokio::test]
async fn servers_of_the_site_config_come_before_those_of_the_network() {
    let now = BUILT + YEAR;
    let web = web(NO_DATE).await;
    let [site, network] = [serve_ntp(Ntp::Says(now)).await, serve_ntp(Ntp::Says(now + 3600)).await];
    let boot = Boot::showing(10);
    ask(&mut boot.run(), &[vec![site], vec![network, site]], &web).await;
    assert!(about(boot.wall.shows(), now));
    // Where they are silent, the network's count.
    let silent = serve_ntp(Ntp::Silent).await;
    let boot = Boot::showing(10);
    ask(&mut boot.run(), &[vec![silent], vec![network]], &web).await;
    assert!(about(boot.wall.shows(), now + 3600));
}

#[tokio::test]
async fn lesson_15_a_hardware_clock_in_local_time_is_put_right_at_the_end() {
    let now = BUILT + YEAR;
    for hours in [8, -5] {
        let own = now + hours * 3600;
        let (boot, clock, asked) = asked(own, &[Ntp::Says(now)]).await;
        assert_eq!(asked.warnings, Vec::<String>::new());
        assert!(about(boot.wall.shows(), now.max(own)), "the later of the two judges");
        let (was, set_to) = clock.set_hardware_clock().unwrap().unwrap();
        assert!(was == own && about(set_to, now), "{was} {set_to}");
    }
}

#[tokio::test]
async fn lesson_15_without_time_servers_a_dead_clock_takes_the_servers_date() {
    let silent = serve_ntp(Ntp::Silent).await;
    let date = web("Date: Thu, 26 Nov 2026 12:00:00 GMT").await;
    let boot = Boot::showing(10);
    let asked = ask(&mut boot.run(), &[vec![silent]], &date).await;
    let noon = 1_795_694_400;
    assert_eq!((boot.wall.shows(), boot.wall.by()), (noon, Evidence::ServerDate("127.0.0.1".into())));
    assert_eq!((asked.date, asked.warnings), (Some(("127.0.0.1".into(), Ok(noon))), vec![]));
    // A clock that can be right asks for none.
    let boot = Boot::showing(BUILT + DAY);
    let asked = ask(&mut boot.run(), &[], &date).await;
    assert_eq!((asked, boot.wall.shows()), (Asked::default(), BUILT + DAY));
    // And takes one only to move on.
    let resolver = Resolver::learnt(Servers::default());
    let url = format!("https://127.0.0.1:{}/os", date.port);
    let server = Server::new(&url, Access::of_ca(&date.ca).unwrap(), &resolver).unwrap();
    let boot = Boot::showing(noon + DAY);
    let (mut clock, mut asked) = (boot.run(), Asked::default());
    assert!(!clock.ask_server(&server, &mut asked).await.unwrap());
    assert_eq!((boot.wall.was_set_to(), boot.wall.by()), (vec![], Evidence::HardwareClock));
    let boot = Boot::showing(BUILT);
    assert!(boot.run().ask_server(&server, &mut asked).await.unwrap());
    assert_eq!(boot.wall.shows(), noon);
}

#[test]
fn a_time_is_shown_with_nothing_where_the_clock_is_not_ours() {
    assert_eq!(shown(BUILT), "2026-11-21 08:00:00 UTC");
}

proptest::proptest! {
    #[test]
    fn utc_agrees_with_date(seconds in -60_000_000_000_i64..250_000_000_000) {
        let date = std::process::Command::new("date")
            .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M:%S UTC"])
            .output()
            .unwrap();
        let date = String::from_utf8(date.stdout).unwrap();
        proptest::prop_assert_eq!(date.trim(), utc(seconds));
    }
}
