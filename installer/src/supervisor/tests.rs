mod reactor;

use std::io::Read as _;
use std::time::Instant;

use super::*;
use crate::failure::Touched;
use crate::watchdog::tests::Fake;

const LIMITS: Limits = Limits {
    silence: Some(Duration::from_secs(20)),
    exit: Duration::from_secs(1),
    total: None,
    death: Duration::from_secs(30),
};

/// Runs a shell script as the installer; `$METALSTRAP_ENDING_FD` is where it tells.
fn script(text: &str, limits: Limits) -> Run {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("say() {{ echo \"$1\" >/proc/$$/fd/$METALSTRAP_ENDING_FD; }}\n{text}")]);
    let (consoles, _person) = Consoles::pty();
    run(command, b"", limits, Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut || () })
}

fn died(cause: Cause, step: Option<(&str, Touched)>, words: Option<&str>) -> Outcome {
    let step = step.map(|(step, touched)| (step.to_owned(), touched));
    Outcome::Died(Death { cause, step, last_words: words.map(str::to_owned) })
}

#[test]
fn an_ending_is_taken() {
    let told = r#"say '{"policy":{"reboot_on_failure_after":7}}'; say '{"watchdog":{"seconds":60}}'; say '{"ending":"kexec"}'"#;
    let outcome = Outcome::Ended(Ending::Kexec);
    let expected = Run { id: None, outcome, policy: Some(Some(7)), watchdog: Some(60), left_behind: false };
    assert_eq!(script(told, LIMITS), expected);
}

#[test]
fn consoles_that_are_not_there_end_nothing() {
    let run = script(r#"say '{"consoles":{"names":["nosuch7"]}}'; say '{"ending":"reboot"}'"#, LIMITS);
    assert_eq!(run.outcome, Outcome::Ended(Ending::Reboot));
}

#[test]
fn a_dead_child_is_known_by_its_run() {
    let run = script(r#"say '{"run":{"id":"5b9c"}}'; kill -KILL $$"#, LIMITS);
    assert_eq!(run.id.as_deref(), Some("5b9c"));
    assert_eq!(run.outcome, died(Cause::Killed(Signal::SIGKILL), None, None));
}

#[test]
fn a_killed_child_is_told_with_its_step() {
    let told = r#"say '{"step":{"step":"attestation","touched":{"complete":"vda"}}}'; kill -KILL $$"#;
    let step = ("attestation", Touched::Complete("vda".into()));
    assert_eq!(script(told, LIMITS).outcome, died(Cause::Killed(Signal::SIGKILL), Some(step), None));
    let run = script("echo 'malloc(): broken' >&2; kill -SEGV $$", LIMITS);
    assert_eq!(
        run,
        Run {
            id: None,
            outcome: died(Cause::Killed(Signal::SIGSEGV), None, Some("malloc(): broken")),
            policy: None,
            watchdog: None,
            left_behind: false
        }
    );
}

#[test]
fn an_exit_without_ending_is_a_death() {
    assert_eq!(script("printf unfinished; exit 3", LIMITS).outcome, died(Cause::Exited(3), None, Some("unfinished")));
    assert_eq!(script("exit 0", LIMITS).outcome, died(Cause::Exited(0), None, None));
}

#[test]
fn silence_is_bounded_and_beats_count() {
    let limits = Limits { silence: Some(Duration::from_secs(5)), ..LIMITS };
    let start = Instant::now();
    assert_eq!(script("exec sleep 60", limits).outcome, died(Cause::Hung(5), None, None));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    let beating = r#"for i in 1 2 3 4 5 6 7; do say '"beat"'; sleep 1; done; say '{"ending":"reboot"}'"#;
    assert_eq!(script(beating, limits).outcome, Outcome::Ended(Ending::Reboot));
}

/// The watchdog is fed while the child says that it gets further, and until it is gone that was killed because it said
/// nothing: not for longer.
#[test]
fn who_says_nothing_is_not_fed_for() {
    let fake = Fake::new();
    let (mut watchdog, mut last, start) = (fake.watchdog(), Instant::now(), Instant::now());
    let limits = Limits { silence: Some(Duration::from_secs(5)), ..LIMITS };
    let mut command = Command::new("sh");
    let beating =
        r#"for i in 1 2 3; do echo '"beat"' >/proc/$$/fd/$METALSTRAP_ENDING_FD; sleep 1; done; exec sleep 60"#;
    command.args(["-c", beating]);
    let (consoles, _person) = Consoles::pty();
    let mut duties = || {
        watchdog.feed();
        last = Instant::now();
    };
    let guard = Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut duties };
    let run = run(command, b"", limits, guard);
    assert_eq!(run.outcome, died(Cause::Hung(5), None, None));
    assert_eq!(fake.written(), b"\0");
    // The last beat comes after two seconds.
    let fed_for = last.duration_since(start);
    assert!(fed_for > Duration::from_secs(2) && fed_for < Duration::from_secs(30), "{fed_for:?}");
}

#[test]
fn a_child_that_lingers_after_its_ending_is_ended() {
    let start = Instant::now();
    let run = script(r#"say '{"ending":"poweroff"}'; exec sleep 60"#, LIMITS);
    assert_eq!(run.outcome, Outcome::Ended(Ending::Poweroff));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// Without any patience after SIGKILL, every child is one that outlives it.
#[test]
fn a_child_that_outlives_its_kill_is_left_behind() {
    let limits = Limits { silence: Some(Duration::from_secs(5)), death: Duration::ZERO, ..LIMITS };
    let run = script(r#"say '{"step":{"step":"root","touched":{"begun":"vda"}}}'; exec sleep 60"#, limits);
    assert_eq!(
        run,
        Run {
            id: None,
            outcome: died(Cause::Unkillable(5), Some(("root", Touched::Begun("vda".into()))), None),
            policy: None,
            watchdog: None,
            left_behind: true
        }
    );
    let limits = Limits { death: Duration::ZERO, ..LIMITS };
    let run = script(r#"say '{"ending":"kexec"}'; exec sleep 60"#, limits);
    let outcome = Outcome::Ended(Ending::Kexec);
    assert_eq!(run, Run { id: None, outcome, policy: None, watchdog: None, left_behind: true });
}

#[test]
fn the_total_time_is_bounded() {
    let limits = Limits { silence: None, total: Some(Duration::from_secs(1)), ..LIMITS };
    assert_eq!(script("exec sleep 60", limits).outcome, died(Cause::Overdue(1), None, None));
}

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_delay_the_verdict() {
    let start = Instant::now();
    assert_eq!(script("sleep 60 & exit 4", LIMITS).outcome, died(Cause::Exited(4), None, None));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn a_command_that_is_not_there_is_a_death() {
    let (consoles, _person) = Consoles::pty();
    let guard = Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut || () };
    let run = run(Command::new("/no/such/file"), b"", LIMITS, guard);
    let cause = Cause::NotStarted("No such file or directory (os error 2)".into());
    assert_eq!(run.outcome, died(cause, None, None));
}

#[test]
fn the_child_gets_its_input_and_a_clean_signal_mask() {
    let (consoles, mut person) = Consoles::pty();
    let mut command = Command::new("sh");
    command.args(["-c", "cat; grep SigBlk /proc/self/status"]);
    let guard = Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut || () };
    let mut mask = nix::sys::signal::SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().unwrap();
    run(command, b"hello\n", LIMITS, guard);
    let mut seen = String::new();
    while !seen.ends_with("0\r\n") {
        let mut buffer = [0; 1024];
        let got = person.read(&mut buffer).unwrap();
        seen += std::str::from_utf8(&buffer[..got]).unwrap();
    }
    // A tab does not stand for itself.
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["hello", "SigBlk:\\t0000000000000000"]);
}
