//! What a person and a program read while the installer runs: lines on consoles, events as JSON beside them.

use std::io::Write as _;

use crate::console::Consoles;
use crate::report::Screen;

/// Where events go besides the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Events {
    /// To the serial consoles, between the lines for people: that is what a test or a BMC's log can read.
    SerialConsoles,
    /// To standard output.
    Stdout,
    /// Nowhere.
    Nowhere,
}

/// Consoles as a [`Screen`].
#[derive(Debug)]
pub struct ConsoleScreen {
    consoles: Consoles,
    events: Events,
}

impl ConsoleScreen {
    /// Lines to `consoles`, events to `events`.
    #[must_use]
    pub fn new(consoles: Consoles, events: Events) -> Self {
        Self { consoles, events }
    }
}

impl Screen for ConsoleScreen {
    fn line(&self, text: &str) {
        self.consoles.line(text);
    }

    fn progress(&self, text: &str) {
        self.consoles.progress(text);
    }

    fn show_on(&self, consoles: &[String]) -> Vec<String> {
        self.consoles.add(consoles)
    }

    fn event(&self, json: &str) {
        match self.events {
            Events::SerialConsoles => self.consoles.serial_line(json),
            // A reader of standard output that went away does not stop an installation.
            Events::Stdout => drop(writeln!(std::io::stdout(), "{json}")),
            Events::Nowhere => {}
        }
    }
}
