use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;

use nix::libc;
use nix::sys::termios::ControlFlags;

use super::patience::Patience;
use super::*;

/// A console on one end of a pseudo-terminal, and the person's end, which blocks.
pub(super) fn pair(kind: Kind) -> (Consoles, File) {
    let (terminal, person) = ends();
    let console = Console::new("pty".into(), kind, Output::Tty(terminal));
    (Consoles(Mutex::new(vec![console])), person)
}

/// Both ends of a pseudo-terminal, the first of which does not block. Children of other tests do not have them.
fn ends() -> (File, File) {
    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
    let pty = nix::pty::openpty(None, None).unwrap();
    fcntl(&pty.slave, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    for end in [&pty.slave, &pty.master] {
        fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    }
    (File::from(pty.slave), File::from(pty.master))
}

/// A serial line and the person's end.
pub(crate) fn serial() -> (Consoles, File) {
    pair(Kind::Serial)
}

/// What the person saw by the time `end` is there. The kernel hands output over in pieces, some time after a write.
pub(crate) fn seen(person: &mut File, end: &str) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        let mut fds = [PollFd::new(person.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 10_000_u16), Ok(1), "no {end:?} after {:?}", String::from_utf8_lossy(&bytes));
        let mut piece = [0; 1024];
        let got = person.read(&mut piece).unwrap();
        bytes.extend_from_slice(&piece[..got]);
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_screen_rewrites_progress_and_a_line_replaces_it() {
    let (consoles, mut person) = pair(Kind::Screen);
    consoles.progress("1 of 2");
    consoles.progress("2 of 2");
    consoles.line("done");
    assert_eq!(seen(&mut person, "done\r\n"), "\r1 of 2\x1b[K\r2 of 2\x1b[K\r\x1b[Kdone\r\n");
}

#[test]
fn a_serial_line_gets_few_lines_of_progress() {
    let (consoles, mut person) = pair(Kind::Serial);
    (0..100).for_each(|n| consoles.progress(&format!("{n} of 100")));
    consoles.line("done");
    assert_eq!(seen(&mut person, "done\r\n"), "0 of 100\r\ndone\r\n");
}

#[test]
fn text_cannot_steer_the_terminal() {
    let (consoles, mut person) = pair(Kind::Serial);
    consoles.line("a\x1b[2Jb\rc");
    assert_eq!(seen(&mut person, "c\r\n"), "a\\u{1b}[2Jb\\rc\r\n");
    // Nor make itself another line.
    consoles.line("done\n*** INSTALLED ***\u{202e}");
    assert_eq!(seen(&mut person, "}\r\n"), "done\\n*** INSTALLED ***\\u{202e}\r\n");
}

#[test]
fn a_stuck_line_is_given_up_in_bounded_time() {
    let (consoles, _person) = pair(Kind::Serial);
    let start = Instant::now();
    (0..5).for_each(|_| consoles.line(&"x".repeat(100_000)));
    // Five if each of them waited.
    assert!(start.elapsed() < 4 * PATIENCE.nothing, "{:?}", start.elapsed());
}

/// Reads all there is in pieces of `piece` bytes, with a pause before each, until nobody writes any more.
fn slow_reader(mut person: File, piece: usize, pause: Duration) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut bytes = vec![0; piece];
        let mut count = 0;
        loop {
            std::thread::sleep(pause);
            match person.read(&mut bytes) {
                Ok(read @ 1..) => count += read,
                _ => return count,
            }
        }
    })
}

#[test]
fn a_long_line_is_written_as_long_as_bytes_of_it_are_taken() {
    let text = "x".repeat(64 << 10);
    for (patience, is_whole) in [
        (Patience { nothing: Duration::from_secs(4), whole: Duration::from_secs(100) }, true),
        (Patience { nothing: Duration::from_secs(100), whole: Duration::from_secs(1) }, false),
    ] {
        let (terminal, person) = ends();
        // More than six seconds for all of it: a terminal hands over 4095 bytes at most.
        let reader = slow_reader(person, 4096, Duration::from_millis(400));
        let start = Instant::now();
        assert_eq!(write_within(&terminal, text.as_bytes(), patience), is_whole);
        assert!(start.elapsed() > if is_whole { patience.nothing } else { patience.whole }, "{:?}", start.elapsed());
        drop(terminal);
        let seen = reader.join().unwrap();
        assert_eq!(seen == text.len(), is_whole, "{seen}");
    }
}

#[test]
fn keys_come_one_by_one_without_a_line_end() {
    let (consoles, mut person) = pair(Kind::Serial);
    assert_eq!(consoles.read_key(Duration::ZERO), None);
    person.write_all(b"rb").unwrap();
    assert_eq!(consoles.read_key(Duration::from_secs(1)), Some('r'));
    assert_eq!(consoles.read_key(Duration::from_secs(1)), Some('b'));
    assert_eq!(consoles.read_key(Duration::ZERO), None);
}

#[test]
fn a_terminal_that_hung_up_is_not_polled_in_a_loop() {
    let (consoles, person) = pair(Kind::Serial);
    drop(person);
    // It hangs up only when no child of another test that is between fork and exec has a copy of the person's end.
    assert_eq!(consoles.read_key(Duration::from_secs(10)), None);
    let start = Instant::now();
    assert_eq!(consoles.read_key(Duration::from_millis(50)), None);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn terminals_are_added_once_and_nothing_else_is() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let pty = nix::pty::openpty(None, None).unwrap();
    let terminal = fs::read_link(format!("/proc/self/fd/{}", pty.slave.as_raw_fd())).unwrap();
    for name in ["class/ttyS7", "class/sda", "dev"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    symlink(terminal, at("dev/ttyS7")).unwrap();
    symlink(at("disk"), at("dev/sda")).unwrap();
    symlink(at("disk"), at("dev/sdb")).unwrap();
    fs::write(at("disk"), "").unwrap();
    let consoles = Consoles(Mutex::default());
    let names = ["console", "ttyS7,57600", "sda", "sdb", "ttyS8,9600", "ttyS7"].map(str::to_owned);
    assert_eq!(consoles.add_from(&at("class"), &at("dev"), &names), ["sda", "sdb", "ttyS8"]);
    assert_eq!(consoles.names(), ["ttyS7,57600"]);
    let now = || (termios::tcgetattr(&pty.slave).unwrap().control_flags & ControlFlags::CBAUD).bits();
    assert_eq!(now(), libc::B57600);
    speed::set(&File::from(pty.slave.try_clone().unwrap()), "ttyS7");
    assert_eq!(now(), libc::B115200);
    consoles.line("to be seen");
    assert_eq!(seen(&mut File::from(pty.master), "seen\r\n"), "to be seen\r\n");
    assert_eq!(fs::read(at("disk")).unwrap(), b"");
}

#[test]
fn screens_are_known_by_name() {
    let kinds = ["tty0", "tty12", "ttyS0", "hvc0", "tty", "ttyAMA0"].map(kind_of);
    use Kind::{Screen, Serial};
    assert_eq!(kinds, [Screen, Screen, Serial, Serial, Serial, Serial]);
}
