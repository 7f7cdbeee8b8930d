//! The process that asks tokens.

use std::io::BufReader;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_token::KeyUri;
use metalstrap_token::protocol::{Answer, PinRefused, Reply, Request, receive, send};

use super::pin::{self, VARIABLE};
use crate::passphrase;

/// Its name.
pub const PROGRAM: &str = "metalstrap-token";

/// The process, and what is said to it and by it.
#[derive(Debug)]
pub struct Helper {
    process: Child,
    /// Closed before the end of the process is waited for: that is what ends it.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts it.
    ///
    /// # Errors
    /// It is not there.
    pub fn start() -> Result<Self> {
        let path = find()?;
        let starting = || format!("starting {}", path.display());
        let mut command = Command::new(&path);
        // What a module does not need to know. A PIN goes through the pipe, where it is asked for.
        command.env_remove(VARIABLE).env_remove(passphrase::VARIABLE);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().with_context(starting)?;
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().with_context(starting)?);
        Ok(Self { process, input, output })
    }

    /// Asks one thing, and gives the PIN where that is needed: once.
    ///
    /// # Errors
    /// What the token refuses; there is no PIN, or it is wrong.
    pub fn ask(&mut self, uri: &KeyUri, request: &Request) -> Result<Answer> {
        self.send(request)?;
        let mut origin = "typed at the token".to_owned();
        loop {
            let answer =
                receive::<Answer>(&mut self.output).with_context(|| format!("reading the answer of {PROGRAM}"))?;
            match answer.with_context(|| format!("{PROGRAM} ended without an answer"))? {
                Answer::Pin(question) => {
                    let (from, pin) = pin::find(uri, &question)?;
                    origin = from;
                    self.send(&Reply::Pin(pin))?;
                }
                Answer::PinRefused(refused) => bail!(refusal(&origin, &refused)),
                Answer::Error(text) => bail!(text),
                other => return Ok(other),
            }
        }
    }

    fn send(&mut self, message: &impl serde::Serialize) -> Result<()> {
        let input = self.input.as_mut().with_context(|| format!("{PROGRAM} is gone"))?;
        send(input, message).with_context(|| format!("asking {PROGRAM}"))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.input = None;
        // It has said what it had to say: how it ends changes nothing.
        let _ = self.process.wait();
    }
}

/// Beside this program, or in PATH. It is told PINs: nobody else may write it.
fn find() -> Result<PathBuf> {
    let beside = env::current_exe().ok().map(|own| own.with_file_name(PROGRAM));
    let paths = env::var_os("PATH").unwrap_or_default();
    let in_path = env::split_paths(&paths).filter(|directory| directory.is_absolute());
    let mut places = beside.into_iter().chain(in_path.map(|directory| directory.join(PROGRAM)));
    let found = places.find(|path| path.is_file()).with_context(|| {
        format!("{PROGRAM} is not beside metalstrap and not in PATH: it asks tokens (`scripts/build-token` makes it)")
    })?;
    let shown = found.display();
    let mode = fs::metadata(&found).with_context(|| format!("looking at {shown}"))?.permissions().mode() & 0o777;
    ensure!(mode & 0o022 == 0, "{shown} can be changed by others (mode {mode:03o}): chmod go-w it");
    Ok(found)
}

/// A wrong PIN, in words. It is never tried again by itself: tokens lock after a few.
fn refusal(origin: &str, refused: &PinRefused) -> String {
    let PinRefused { token, last, locked } = refused;
    let left = match (locked, last) {
        (true, _) => "; its PIN is locked now, and whoever has its SO PIN can unlock it",
        (false, true) => "; if it is wrong once more, the token locks",
        (false, false) => "; it is not tried again, since tokens lock",
    };
    format!("the PIN {origin} is not that of the token {token:?}{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_pin_says_what_is_left() {
        let text = |last, locked| {
            let token = "safe\u{1b}[2J".to_owned();
            refusal("in /etc/pin", &PinRefused { token, last, locked })
        };
        let start = r#"the PIN in /etc/pin is not that of the token "safe\u{1b}[2J"; "#;
        assert_eq!(text(false, false), format!("{start}it is not tried again, since tokens lock"));
        assert_eq!(text(true, false), format!("{start}if it is wrong once more, the token locks"));
        let locked = format!("{start}its PIN is locked now, and whoever has its SO PIN can unlock it");
        assert_eq!((text(false, true), text(true, true)), (locked.clone(), locked));
    }
}
