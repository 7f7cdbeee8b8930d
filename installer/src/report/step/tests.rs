use std::sync::{Arc, Mutex};

use super::super::Screen;
use super::*;
use crate::ending::EndingPipe;
use crate::progress::LooksAt;

#[derive(Debug, Clone, Default)]
struct Shown {
    progress: Arc<Mutex<String>>,
    event: Arc<Mutex<Value>>,
}

impl Screen for Shown {
    fn line(&self, _: &str) {}
    fn progress(&self, text: &str) {
        *self.progress.lock().unwrap() = text.to_owned();
    }
    fn event(&self, json: &str) {
        *self.event.lock().unwrap() = serde_json::from_str(json).unwrap();
    }
}

/// A running step, what is shown of it, and what its supervisor hears.
fn running() -> (Ticker, Shown, EndingPipe) {
    let (pipe, shown) = (EndingPipe::nowhere(), Shown::default());
    let tell = Reporter::new("r".into(), Box::new(shown.clone()), Some(pipe.clone()));
    (Ticker::new(tell, "root", "Writing the root file system".into()), shown, pipe)
}

#[test]
fn looking_is_life_and_has_a_rate_and_an_end_of_its_own() {
    let (mut ticker, shown, pipe) = running();
    let progress = Progress::default();
    progress.expect(4 << 20);
    progress.looks_at(LooksAt::Seeds, 8 << 20);
    let tick = |ticker: &mut Ticker| {
        ticker.tick(&progress);
        shown.progress.lock().unwrap().clone()
    };
    assert_eq!(tick(&mut ticker), "Looking at other slots: 0 B of 8.0 MiB (0%)");
    let before = pipe.stirred();
    tick(&mut ticker);
    assert_eq!(pipe.stirred(), before);
    progress.looked(2 << 20);
    ticker.last_event = Instant::now().checked_sub(PROGRESS_EVENT).unwrap();
    let line = tick(&mut ticker);
    assert!(line.starts_with("Looking at other slots: 2.0 MiB of 8.0 MiB (25%), "), "{line}");
    assert!(line.ends_with(" s left"), "{line}");
    assert_ne!(pipe.stirred(), before);
    let event = shown.event.lock().unwrap().clone();
    let look = &event["fields"]["look"];
    assert!(look["at"] == "seeds" && look["done"] == 2 << 20 && look["total"] == 8 << 20, "{event}");
    assert!(look["bytes_per_second"].as_u64() > Some(0) && look["seconds_left"].is_u64(), "{event}");
    progress.looks_at(LooksAt::InPlace, 100);
    assert_eq!(tick(&mut ticker), "Looking at what is there: 0 B of 100 B (0%)");
    progress.has_looked();
    let line = tick(&mut ticker);
    assert!(line.starts_with("Writing the root file system: 0 B of 4.0 MiB (0%)"), "{line}");
}

/// As a second run finds it: most is kept within seconds, zeroes are made at once, and then a slow link brings the rest.
#[test]
fn what_is_fetched_has_a_rate_without_what_was_kept() {
    let (mut ticker, shown, _) = running();
    let (progress, start) = (Progress::default(), Instant::now());
    let mut tick = |millis| {
        ticker.tick_at(&progress, start + Duration::from_millis(millis));
        shown.progress.lock().unwrap().clone()
    };
    progress.expect(4 << 30);
    progress.looks_at(LooksAt::InPlace, 4 << 30);
    tick(0);
    progress.keeps(2 << 30);
    progress.looked(2 << 30);
    let line = tick(250);
    assert_eq!(line, "Looking at what is there: 2.0 GiB of 4.0 GiB (50%), 8.0 GiB/s, 0 s left; 2.0 GiB kept");
    progress.has_looked();
    assert_eq!(tick(500), "Writing the root file system: 2.0 GiB of 4.0 GiB (50%); 2.0 GiB kept");
    progress.zeroes(1 << 30);
    tick(750);
    // A wait for the server shows at once, and what was fast before does not hide it.
    ticker.tell.waits().until(start + Duration::from_secs(600), "https://repo.test is left alone");
    progress.brings(1 << 18);
    ticker.tick_at(&progress, start + Duration::from_secs(1));
    let line = shown.progress.lock().unwrap().clone();
    let text = "Writing the root file system: 3.0 GiB of 4.0 GiB (75%); https://repo.test is left alone, for ";
    assert!(line.starts_with(text), "{line}");
    ticker.tell.waits().over();
    let mut tick = |millis| ticker.tick_at(&progress, start + Duration::from_millis(millis));
    for quarter in 1..=20 {
        progress.brings(1 << 18);
        tick(1000 + 250 * quarter);
    }
    let line = shown.progress.lock().unwrap().clone();
    assert!(line.contains(" GiB (75%), 1.0 MiB/s, 1018 s left; 2.0 GiB kept, 1.0 GiB zero, "), "{line}");
    let event = shown.event.lock().unwrap().clone();
    assert_eq!(event["fields"]["bytes_per_second"], 1 << 20, "{event}");
    assert!(event["fields"]["seconds_left"].as_u64().is_some_and(|left| (1018..1024).contains(&left)), "{event}");
}

#[test]
fn a_wait_is_life_until_its_end_and_no_longer() {
    let (mut ticker, _, pipe) = running();
    let progress = Progress::default();
    let waits = ticker.tell.waits();
    let mut alive_at = |now| {
        let before = pipe.stirred();
        ticker.tick_at(&progress, now);
        pipe.stirred() != before
    };
    let end = Instant::now() + Duration::from_secs(600);
    waits.until(end, "https://repo.test is left alone");
    assert!(alive_at(end - Duration::from_millis(1)));
    assert!(!alive_at(end));
    waits.until(end + Duration::from_secs(600), "https://repo.test is left alone");
    assert!(alive_at(end));
    waits.over();
    assert!(!alive_at(end));
}

#[test]
fn a_wait_with_a_known_end_is_life() {
    let (mut ticker, shown, pipe) = running();
    let alive = |ticker: &mut Ticker, progress: &Progress| {
        let before = pipe.stirred();
        ticker.tick(progress);
        pipe.stirred() != before
    };
    let progress = Progress::default();
    assert!(!alive(&mut ticker, &progress));
    // As a reactor that stopped leaves it: what is waited for is said once, and then no more.
    progress.waits_for("eth0: no carrier yet");
    assert!(alive(&mut ticker, &progress) && !alive(&mut ticker, &progress));
    let progress = Progress::default();
    let end = Instant::now() + Duration::from_secs(600);
    ticker.tell.waits().until(end, "https://repo.test is left alone");
    assert!(alive(&mut ticker, &progress) && alive(&mut ticker, &progress));
    let text = "Writing the root file system: https://repo.test is left alone, for ";
    let line = shown.progress.lock().unwrap().clone();
    assert!(line.starts_with(text), "{line}");
    // Where there is something to be done it stands behind how far that is.
    progress.expect(100);
    assert!(alive(&mut ticker, &progress));
    let line = shown.progress.lock().unwrap().clone();
    assert!(line.contains("stalled; https://repo.test is left alone, for "), "{line}");
}
