//! A drive that answers what a test says, in the order that the test says.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::erase::{AtaCommand, Drive, DriveOpener, NvmeCommand, Transfer};

/// What the drive does with a command: it fills the data, and returns its status.
type Answer = Box<dyn FnOnce(&mut [u8]) -> io::Result<u16> + Send>;

/// The drive. Whoever holds a clone can add to what it answers.
#[derive(Clone, Default)]
pub(super) struct Replay(Arc<Mutex<VecDeque<(String, Answer)>>>);

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

/// Finds this drive behind every disk.
pub(super) fn opener(drive: Replay) -> DriveOpener {
    Box::new(move |_| Ok(Some(Box::new(drive.clone()))))
}

/// The drive answers with these bytes.
pub(super) fn data(bytes: Vec<u8>) -> Answer {
    Box::new(move |to| {
        assert_eq!(to.len(), bytes.len());
        to.copy_from_slice(&bytes);
        Ok(0)
    })
}

/// The drive ends the command with this status.
pub(super) fn status(status: u16) -> Answer {
    Box::new(move |_| Ok(status))
}

/// The drive does something, and says that it succeeded.
pub(super) fn done(does: impl FnOnce() + Send + 'static) -> Answer {
    Box::new(move |_| {
        does();
        Ok(0)
    })
}

/// The drive ends the command with this error.
pub(super) fn error(text: &'static str) -> Answer {
    Box::new(move |_| Err(io::Error::other(text)))
}

impl Replay {
    /// A drive that takes no command.
    pub(super) fn nothing() -> Self {
        Self::default()
    }

    /// The next command has to be `command`, and this is what the drive answers.
    pub(super) fn answers(&self, command: &str, answer: Answer) {
        self.0.lock().unwrap().push_back((command.to_owned(), answer));
    }

    /// All that was said was asked for.
    #[track_caller]
    pub(super) fn is_over(&self) {
        let left: Vec<String> = self.0.lock().unwrap().iter().map(|(command, _)| command.clone()).collect();
        assert_eq!(left, Vec::<String>::new());
    }

    fn answer(&self, command: &str, data: &mut [u8]) -> io::Result<u16> {
        let next = self.0.lock().unwrap().pop_front();
        let (expected, answer) = next.unwrap_or_else(|| panic!("nobody expects {command}"));
        assert_eq!(command, expected);
        answer(data)
    }
}

impl Drive for Replay {
    fn nvme(&self, command: &NvmeCommand, data: &mut [u8]) -> io::Result<u16> {
        let NvmeCommand { opcode, namespace, words, .. } = command;
        assert_eq!(words[1..], [0; 5]);
        self.answer(&format!("{opcode:02x} namespace {namespace:x} word {:x}", words[0]), data)
    }

    fn ata(&self, command: &AtaCommand, data: &mut [u8]) -> io::Result<()> {
        let minutes = command.timeout.as_secs() / 60;
        let sent = if command.transfer == Transfer::Out {
            assert!(data.len() == 512 && data[12..].iter().all(|byte| *byte == 0));
            format!(" {:02x}{:02x}{}", data[0], data[1], String::from_utf8_lossy(&data[2..12]))
        } else {
            String::new()
        };
        self.answer(&format!("{:02x} within {minutes} min{sent}", command.code), data).map(drop)
    }

    fn wait(&self, _: Duration) {}
}
