//! A question at a terminal whose answer is not shown.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};

use anyhow::{Context as _, Result, bail};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};

/// The terminal of a person, wherever standard input and output go.
pub const TERMINAL: &str = "/dev/tty";
/// What Ctrl-C sends.
const INTERRUPT: u8 = 3;
/// No answer has more bytes: Linux gives no more of a line.
const MAX_BYTES: usize = 4095;

/// A terminal that shows nothing, until this is dropped.
struct Silent<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Silent<'a> {
    fn new(terminal: &'a File) -> nix::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut settings = before.clone();
        // Ctrl-C ends the line instead of this process, which has the terminal's settings to put back.
        settings.local_flags.remove(LocalFlags::ECHO | LocalFlags::ISIG);
        settings.local_flags.insert(LocalFlags::ICANON | LocalFlags::ECHONL);
        if let Some(end) = settings.control_chars.get_mut(SpecialCharacterIndices::VEOL as usize) {
            *end = INTERRUPT;
        }
        tcsetattr(terminal, SetArg::TCSAFLUSH, &settings)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent<'_> {
    fn drop(&mut self) {
        // A terminal that is gone shows nothing either.
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

/// Asks a question, and returns the line that a person types.
///
/// # Errors
/// It is no terminal, or the person gives up (Ctrl-C, Ctrl-D).
pub fn ask(terminal: &File, question: &str) -> Result<String> {
    let silent = Silent::new(terminal).context("switching the terminal's echo off")?;
    let mut terminal = silent.terminal;
    terminal.write_all(question.as_bytes()).context("asking at the terminal")?;
    let mut line = Vec::new();
    let mut byte = [0];
    while terminal.read(&mut byte).context("reading from the terminal")? > 0 {
        match byte {
            [b'\n'] => return String::from_utf8(line).context("reading from the terminal"),
            [INTERRUPT] => break,
            _ if line.len() == MAX_BYTES => bail!("this is too long"),
            [other] => line.push(other),
        }
    }
    bail!("nobody answered at the terminal")
}

/// Asks the person at the terminal a question that only `y` or `yes` agrees to.
///
/// # Errors
/// There is no terminal.
pub fn confirm(question: &str) -> Result<bool> {
    let mut terminal = File::options().read(true).write(true).open(TERMINAL).context("opening the terminal")?;
    write!(terminal, "{question} [y/N] ").context("asking at the terminal")?;
    let mut line = String::new();
    BufReader::new(terminal).read_line(&mut line).context("reading from the terminal")?;
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::pty::openpty;

    use super::*;

    /// What becomes of a question that is answered so, and what the terminal has shown.
    fn asked(answer: &[u8]) -> (Result<String>, String) {
        let pair = openpty(None, None).unwrap();
        let (mut person, terminal) = (File::from(pair.master), File::from(pair.slave));
        let before = tcgetattr(&terminal).unwrap();
        assert!(before.local_flags.contains(LocalFlags::ECHO));
        let (result, shown) = thread::scope(|scope| {
            let asking = scope.spawn(|| ask(&terminal, "Passphrase: "));
            let mut shown = Vec::new();
            let mut see = |until: &str| {
                let mut bytes = [0; 100];
                while !String::from_utf8_lossy(&shown).contains(until) {
                    let length = person.read(&mut bytes).unwrap();
                    shown.extend_from_slice(&bytes[..length]);
                }
            };
            see("Passphrase: ");
            person.write_all(answer).unwrap();
            (asking.join().unwrap(), shown)
        });
        assert_eq!(tcgetattr(&terminal).unwrap(), before, "the settings are as they were");
        // What is shown from now on comes behind all that was shown before.
        (&terminal).write_all(b"END").unwrap();
        let mut shown = shown;
        let mut bytes = [0; 100];
        while !shown.ends_with(b"END") {
            let length = person.read(&mut bytes).unwrap();
            shown.extend_from_slice(&bytes[..length]);
        }
        (result, String::from_utf8(shown).unwrap())
    }

    #[test]
    fn an_answer_is_not_shown() {
        let (answer, shown) = asked("sécret word\n".as_bytes());
        assert_eq!(answer.unwrap(), "sécret word");
        assert_eq!(shown, "Passphrase: \r\nEND");
    }

    #[test]
    fn a_person_gives_up() {
        for answer in [b"sec\x03".as_slice(), b"\x04"] {
            let (answer, shown) = asked(answer);
            assert_eq!(answer.unwrap_err().to_string(), "nobody answered at the terminal");
            assert_eq!(shown, "Passphrase: END");
        }
    }
}
