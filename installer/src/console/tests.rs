use std::os::fd::OwnedFd;

use super::*;

/// A console on one end of a pseudo-terminal, and the person's end.
pub(super) fn pair(kind: Kind, person_nonblock: bool) -> (Consoles, File) {
    let pty = nix::pty::openpty(None, None).unwrap();
    let nonblock = |fd: &OwnedFd| {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    };
    nonblock(&pty.slave);
    if person_nonblock {
        nonblock(&pty.master);
    }
    let console = Console::new("pty".into(), kind, Output::Tty(File::from(pty.slave)));
    (Consoles(Mutex::new(vec![console])), File::from(pty.master))
}

fn seen(person: &mut File) -> String {
    let mut bytes = vec![0; 65536];
    let got = person.read(&mut bytes).unwrap();
    String::from_utf8(bytes[..got].to_vec()).unwrap()
}

#[test]
fn a_screen_rewrites_progress_and_a_line_replaces_it() {
    let (consoles, mut person) = pair(Kind::Screen, true);
    consoles.progress("1 of 2");
    consoles.progress("2 of 2");
    consoles.line("done");
    assert_eq!(seen(&mut person), "\r1 of 2\x1b[K\r2 of 2\x1b[K\r\x1b[Kdone\r\n");
}

#[test]
fn a_serial_line_gets_few_lines_of_progress() {
    let (consoles, mut person) = pair(Kind::Serial, true);
    (0..100).for_each(|n| consoles.progress(&format!("{n} of 100")));
    consoles.line("done");
    assert_eq!(seen(&mut person), "0 of 100\r\ndone\r\n");
}

#[test]
fn text_cannot_steer_the_terminal() {
    let (consoles, mut person) = pair(Kind::Serial, true);
    consoles.line("a\x1b[2Jb\rc");
    assert_eq!(seen(&mut person), "a\u{fffd}[2Jb\u{fffd}c\r\n");
}

#[test]
fn a_stuck_line_is_given_up_in_bounded_time() {
    let (consoles, _person) = pair(Kind::Serial, true);
    let start = Instant::now();
    (0..5).for_each(|_| consoles.line(&"x".repeat(100_000)));
    assert!(start.elapsed() < 2 * PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn keys_come_one_by_one_without_a_line_end() {
    let (consoles, mut person) = pair(Kind::Serial, true);
    assert_eq!(consoles.read_key(Duration::ZERO), None);
    person.write_all(b"rb").unwrap();
    assert_eq!(consoles.read_key(Duration::from_secs(1)), Some('r'));
    assert_eq!(consoles.read_key(Duration::from_secs(1)), Some('b'));
    assert_eq!(consoles.read_key(Duration::ZERO), None);
}

#[test]
fn a_terminal_that_hung_up_is_not_polled_in_a_loop() {
    let (consoles, person) = pair(Kind::Serial, true);
    drop(person);
    assert_eq!(consoles.read_key(Duration::ZERO), None);
    let start = Instant::now();
    assert_eq!(consoles.read_key(Duration::from_millis(50)), None);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn screens_are_known_by_name() {
    let kinds = ["tty0", "tty12", "ttyS0", "hvc0", "tty", "ttyAMA0"].map(kind_of);
    use Kind::{Screen, Serial};
    assert_eq!(kinds, [Screen, Screen, Serial, Serial, Serial, Serial]);
}
