//! The failure page, and what the person at the console then chooses.

use std::time::{Duration, Instant};

use crate::console::Consoles;
use crate::escapes;
use crate::failure::{Code, Failure};

/// How a held machine goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The installer starts again.
    Retry,
    /// Restart through the firmware.
    Reboot,
    /// Switch off.
    Poweroff,
}

/// How often the caller's duties are seen to while waiting for a key.
const TICK: Duration = Duration::from_secs(1);

/// Seconds between two lines of the countdown on a serial line.
const SAY_EVERY: u64 = 30;

/// The failure as a page of text: what happened, what was not touched, what to do.
#[must_use]
pub fn page(failure: &Failure) -> String {
    let [step, happened, untouched, advice] =
        [&failure.step, &failure.happened, &failure.untouched, &failure.advice].map(|text| escapes::line(text));
    let code = name(failure.code);
    format!(
        "\n*** INSTALLATION FAILED: {code} ***\n\
         Step:          {step}\n\
         What happened: {happened}\n\
         Not touched:   {untouched}\n\
         What to do:    {advice}\n\
         More about it: docs/errors.md, {code}\n"
    )
}

/// Shows that page on every console.
pub(crate) fn show(consoles: &Consoles, failure: &Failure) {
    page(failure).split('\n').for_each(|line| consoles.line(line));
}

/// Shows a failure on every console and waits for a key, or for the time to reboot. `duties` is called about every
/// second; true from it is a wish to reboot.
pub fn hold(
    consoles: &Consoles,
    failure: &Failure,
    reboot_after: Option<u32>,
    mut duties: impl FnMut() -> bool,
) -> Choice {
    // What was typed before is no answer.
    let drained = (0..1000).take_while(|_| consoles.read_key(Duration::ZERO).is_some()).count();
    log::info!("failure page shown, {drained} keys before it ignored");
    show(consoles, failure);
    consoles.line("Keys: r = retry, b = reboot, p = power off");
    let start = Instant::now();
    let mut said = None;
    loop {
        if duties() {
            return Choice::Reboot;
        }
        if let Some(after) = reboot_after.map(u64::from) {
            let left = after.saturating_sub(start.elapsed().as_secs());
            if left == 0 {
                consoles.line("The time is up.");
                return Choice::Reboot;
            }
            let text = format!("Rebooting in {left} s unless one of these keys is pressed.");
            if said.is_none_or(|said: u64| said.saturating_sub(left) >= SAY_EVERY) {
                said = Some(left);
                consoles.progress(&text);
            } else {
                consoles.rewrite(&text);
            }
        }
        match consoles.read_key(TICK).map(|key| key.to_ascii_lowercase()) {
            Some('r') => return Choice::Retry,
            Some('b') => return Choice::Reboot,
            Some('p') => return Choice::Poweroff,
            _ => {}
        }
    }
}

/// The code as docs/errors.md lists it.
fn name(code: Code) -> String {
    serde_json::to_value(code).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    use super::*;

    fn failure() -> Failure {
        Failure {
            code: Code::InstallerDied,
            step: "network".into(),
            happened: "it broke".into(),
            untouched: "no disk was written to".into(),
            advice: "retry".into(),
        }
    }

    #[test]
    fn the_page_says_all_of_it() {
        assert_eq!(
            page(&failure()),
            "\n*** INSTALLATION FAILED: installer-died ***\n\
             Step:          network\n\
             What happened: it broke\n\
             Not touched:   no disk was written to\n\
             What to do:    retry\n\
             More about it: docs/errors.md, installer-died\n"
        );
    }

    /// Presses keys as soon as the page is there: what is typed earlier does not count.
    fn press(keys: &'static [u8], reboot_after: Option<u32>) -> (Choice, String) {
        let (consoles, mut person) = Consoles::pty();
        person.write_all(b"ppp").unwrap();
        let typist = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut buffer = [0; 1024];
            while !String::from_utf8_lossy(&seen).contains("Keys:") {
                let got = person.read(&mut buffer).unwrap();
                seen.extend_from_slice(&buffer[..got]);
            }
            person.write_all(keys).unwrap();
            (seen, person)
        });
        let choice = hold(&consoles, &failure(), reboot_after, || false);
        let (seen, person): (Vec<u8>, File) = typist.join().unwrap();
        drop(person);
        (choice, String::from_utf8(seen).unwrap())
    }

    #[test]
    fn keys_choose() {
        assert_eq!(press(b"xr", None).0, Choice::Retry);
        assert_eq!(press(b"B", Some(100)).0, Choice::Reboot);
        let (choice, seen) = press(b"p", None);
        assert_eq!(choice, Choice::Poweroff);
        assert!(seen.contains("What happened: it broke\r\n"), "{seen}");
    }

    #[test]
    fn without_a_key_it_reboots_in_time() {
        let start = Instant::now();
        assert_eq!(press(b"", Some(2)).0, Choice::Reboot);
        assert!((2..30).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    }
}
