//! The kernel's log: where log lines go in the initrd, and where the OOM killer says whom it killed.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::escapes;

const PATH: &str = "/dev/kmsg";

/// A record is one read; the kernel's longest (Linux `CONSOLE_EXT_LOG_MAX`, 8 KiB) fits.
const RECORD: usize = 8192;

/// Bytes of one line we write; the kernel refuses more than `LOG_LINE_MAX` (about 1 KiB).
const LINE: usize = 900;

#[derive(Debug)]
struct KernelLog(File);

impl Log for KernelLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries tell the story of every packet below this.
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // A log that cannot be written is no reason to stop.
            let _ = (&self.0).write_all(&entry(record.level(), &record.args().to_string()));
        }
    }

    fn flush(&self) {}
}

/// Sends the log of this process to the kernel's log. Without `/dev/kmsg` it goes nowhere.
pub fn log_to_kernel() {
    let Ok(file) = OpenOptions::new().write(true).open(PATH) else { return };
    if log::set_logger(Box::leak(Box::new(KernelLog(file)))).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Makes the kernel take all our lines, and keep what is below an error off the consoles, where they would tear the
/// progress line apart, unless its command line asks for them.
pub fn quiet_consoles() {
    let asked = |word: &str| word == "debug" || word == "ignore_loglevel" || word.starts_with("loglevel=");
    // The line end belongs to it: without one the kernel refuses a value of printk_devkmsg.
    let settings: [(&str, &str); 2] = [("printk_devkmsg", "on\n"), ("printk", "4\n")];
    let keep = fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.split_whitespace().any(asked));
    for (name, value) in settings.into_iter().take(if keep { 1 } else { 2 }) {
        if let Err(error) = fs::write(format!("/proc/sys/kernel/{name}"), value) {
            log::warn!("setting kernel.{name} to {}: {error}", value.trim_end());
        }
    }
}

/// One record as `/dev/kmsg` takes it: `<priority>text`, priorities as in syslog, facility `daemon`.
fn entry(level: Level, text: &str) -> Vec<u8> {
    const DAEMON: u8 = 3 << 3;
    let severity = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let mut line = format!("<{}>metalstrap: {}", DAEMON | severity, escapes::line(&text.replace('\n', " ")));
    line.truncate(line.floor_char_boundary(LINE));
    // Without a line end the record may be continued, and nobody can read it before the next one (Linux
    // kernel/printk/printk.c, LOG_NEWLINE and prb_final_commit).
    line.push('\n');
    line.into_bytes()
}

/// What the kernel says from now on.
#[derive(Debug)]
pub struct KernelMessages(Option<File>);

impl KernelMessages {
    /// Starts behind the last record.
    #[must_use]
    pub fn from_now() -> Self {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(PATH).ok();
        Self(file.and_then(|mut file| file.seek(SeekFrom::End(0)).is_ok().then_some(file)))
    }

    /// Whether the OOM killer said since then that it killed this process.
    pub fn oom_killed(&mut self, pid: i32) -> bool {
        let Some(file) = &mut self.0 else { return false };
        let mut record = vec![0; RECORD];
        loop {
            match file.read(&mut record) {
                Ok(0) => return false,
                Ok(got) => {
                    let text = String::from_utf8_lossy(record.get(..got).unwrap_or_default());
                    if is_oom_kill(&text, pid) {
                        return true;
                    }
                }
                // Records were overwritten before they were read: what follows is still there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Linux mm/oom_kill.c `__oom_kill_process`: `Out of memory: Killed process 123 (comm) total-vm:…`.
fn is_oom_kill(record: &str, pid: i32) -> bool {
    let Some((_, text)) = record.split_once(';') else { return false };
    text.split_once(": Killed process ").is_some_and(|(_, rest)| rest.starts_with(&format!("{pid} (")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_carry_a_priority_and_fit() {
        assert_eq!(entry(Level::Info, "loaded a\nb"), b"<30>metalstrap: loaded a b\n");
        assert_eq!(entry(Level::Info, "\u{1b}[2J\u{9b}\r"), b"<30>metalstrap: \\u{1b}[2J\\u{9b}\\r\n");
        assert_eq!(entry(Level::Error, "x"), b"<27>metalstrap: x\n");
        assert_eq!(entry(Level::Warn, &"ä".repeat(2000)).len(), LINE + 1);
    }

    #[test]
    fn an_oom_kill_is_of_that_process_only() {
        let record = "3,612,9000,-;Out of memory: Killed process 71 (init) total-vm:1kB, anon-rss:1kB\n";
        assert!(is_oom_kill(record, 71));
        assert!(!is_oom_kill(record, 7));
        assert!(!is_oom_kill("6,1,1,-;Killed process by hand 71 (", 71));
    }
}
