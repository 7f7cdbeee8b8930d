//! A reactor that stops in a step while the installer's other threads live on: the ticker of the step, and the thread that beats.

use std::fs::File;
use std::io::Write as _;

use super::*;
use crate::ending::EndingPipe;
use crate::progress::Progress;
use crate::report::{Reporter, Screen};

/// Short ones: how often it beats, how long nothing may stir, how long it may say nothing, and what is longer than the last two.
const BEAT_EVERY: Duration = Duration::from_millis(100);
const STILL: Duration = Duration::from_secs(4);
const SILENCE: Duration = Duration::from_secs(8);
const WORK: Duration = Duration::from_secs(14);
/// How often the ticker looks.
const TICK: Duration = Duration::from_millis(250);

/// Tell the child that its reactor stops, and the file that its ticker writes to.
const STOPS: &str = "METALSTRAP_TEST_STOPS";
const TICKS: &str = "METALSTRAP_TEST_TICKS";

/// Counts what a ticker says.
#[derive(Debug)]
struct Ticks(File);

impl Screen for Ticks {
    fn line(&self, _: &str) {}
    fn progress(&self, _: &str) {
        (&self.0).write_all(b".").unwrap();
    }
    fn event(&self, _: &str) {}
}

/// What the tests below start.
#[test]
#[ignore = "is the child of other tests"]
fn the_installer() {
    let pipe = EndingPipe::from_env_with(BEAT_EVERY, STILL).unwrap().expect("a supervisor has started it");
    let ticks = File::options().append(true).open(std::env::var_os(TICKS).unwrap()).unwrap();
    let tell = Reporter::new("r".into(), Box::new(Ticks(ticks)), Some(pipe.clone()));
    let reactor = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let body = async |progress: Progress| {
        progress.expect(1 << 20);
        let worker = progress.clone();
        drop(tokio::spawn(async move {
            loop {
                worker.advance(1);
                tokio::time::sleep(BEAT_EVERY).await;
            }
        }));
        if std::env::var_os(STOPS).is_some() {
            // A call that blocks, where none may: whoever else is on this reactor waits with it.
            std::thread::sleep(Duration::from_secs(600));
        }
        tokio::time::sleep(WORK).await;
        anyhow::Ok(())
    };
    reactor.block_on(tell.wait("root", "Writing the root file system", body)).unwrap();
    pipe.end(&Ending::Reboot).unwrap();
}

/// How it ended, how often its ticker ticked, and how long that took.
fn supervised(stops: bool) -> (Run, usize, Duration) {
    let ticks = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "supervisor::tests::reactor::the_installer", "--ignored", "--nocapture"]);
    command.env(TICKS, ticks.path()).env_remove(STOPS);
    if stops {
        command.env(STOPS, "1");
    }
    let limits = Limits { silence: Some(SILENCE), exit: WORK, total: Some(10 * WORK), ..LIMITS };
    let (consoles, _person) = Consoles::pty();
    let start = Instant::now();
    let run =
        run(command, b"", limits, Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut || () });
    (run, std::fs::read(ticks.path()).unwrap().len(), start.elapsed())
}

#[test]
fn a_reactor_that_stops_beside_living_threads_is_a_hang() {
    let (run, ticks, took) = supervised(true);
    let Outcome::Died(death) = &run.outcome else { panic!("{run:?}") };
    assert_eq!((&death.cause, &death.step), (&Cause::Hung(8), &Some(("root".to_owned(), Touched::Nothing))));
    assert!(death.is_hang() && !run.left_behind);
    let failure = death.failure();
    assert!(
        failure.happened.starts_with("the installer process did not respond for 8 s and was killed"),
        "{failure:?}"
    );
    // It went on beating as long as it may be still, and ticking beyond that.
    assert!(took > SILENCE + STILL / 2, "{took:?}");
    assert!(ticks > usize::try_from(STILL.as_millis() / TICK.as_millis()).unwrap(), "{ticks} in {took:?}");
}

/// The same installer, when its reactor goes on.
#[test]
fn a_reactor_that_works_for_longer_than_both_limits_lives() {
    let (run, _, took) = supervised(false);
    assert_eq!(run.outcome, Outcome::Ended(Ending::Reboot));
    assert!(took > SILENCE + STILL, "{took:?}");
}
