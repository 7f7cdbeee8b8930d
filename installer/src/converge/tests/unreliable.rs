//! A mirror with which anything goes wrong that can.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::fetch::{Attempting, Fetching, Finding, Getting, NoRanges, Trouble, Unranged};
use crate::http::Limits;

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Nothing.
    None,
    /// A byte is another one.
    Corrupt(prop::sample::Index, u8),
    /// The connection breaks after a part.
    Reset(prop::sample::Index),
    /// The answer ends after a part, as if that were all.
    Short(prop::sample::Index),
    /// After a part nothing comes any more, while everything else goes on; then a time-out ends it.
    Stall(prop::sample::Index),
    /// The server has no time now.
    Busy,
    /// Other bytes of the file come.
    WrongRange(prop::sample::Index),
    /// The server takes no ranges.
    NoRanges,
}

impl Fault {
    /// Whether it sends something else than what is there.
    pub fn lies(&self) -> bool {
        matches!(self, Self::Corrupt(..) | Self::WrongRange(_))
    }
}

/// More than a mirror has faults: it is not given up for those that pass.
const ATTEMPTS: u32 = 8;
/// How long the next bytes are waited for.
const STALL: Duration = Duration::from_millis(5);

pub fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        2 => (any::<prop::sample::Index>(), 1..=255_u8).prop_map(|(at, flip)| Fault::Corrupt(at, flip)),
        2 => any::<prop::sample::Index>().prop_map(Fault::Reset),
        1 => any::<prop::sample::Index>().prop_map(Fault::Short),
        1 => any::<prop::sample::Index>().prop_map(Fault::Stall),
        1 => Just(Fault::Busy),
        1 => any::<prop::sample::Index>().prop_map(Fault::WrongRange),
        1 => Just(Fault::NoRanges),
    ]
}

/// A mirror that goes through a list of faults, and is good from then on.
#[derive(Debug)]
pub struct Unreliable {
    repository: Arc<Repository>,
    /// As messages call it.
    pub name: String,
    faults: Mutex<Vec<Fault>>,
    lied: AtomicBool,
}

impl Unreliable {
    pub fn new(repository: &Arc<Repository>, number: usize, faults: &[Fault]) -> Self {
        let (repository, faults) = (Arc::clone(repository), Mutex::new(faults.to_vec()));
        Self { repository, name: format!("https://{number}"), faults, lied: AtomicBool::new(false) }
    }

    /// Whether it has sent other bytes than it should.
    pub fn has_lied(&self) -> bool {
        self.lied.load(Ordering::SeqCst)
    }

    async fn send(&self, path: &str, range: Range<u64>, sink: &mpsc::Sender<Bytes>) -> Result<(), Trouble> {
        let fault = self.faults.lock().unwrap().pop().unwrap_or(Fault::None);
        let file = fs::read(self.repository.directory.path().join(path)).map_err(anyhow::Error::from)?;
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        let right = &file[start..end];
        let mut bytes = right.to_vec();
        let (mut error, mut stalls) = (None, false);
        match fault {
            Fault::None => {}
            Fault::Corrupt(at, flip) => {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            Fault::Reset(at) => {
                bytes.truncate(at.index(bytes.len()));
                error = Some("connection reset");
            }
            Fault::Short(at) => bytes.truncate(at.index(bytes.len())),
            Fault::Stall(at) => {
                bytes.truncate(at.index(bytes.len()));
                stalls = true;
            }
            Fault::Busy => return Err(anyhow::anyhow!("the server answered 503 Service Unavailable").into()),
            Fault::WrongRange(at) => {
                let from = at.index(file.len() - bytes.len() + 1);
                bytes = file[from..from + bytes.len()].to_vec();
            }
            Fault::NoRanges if range.start > 0 => return Err(Trouble::lasting(NoRanges)),
            Fault::NoRanges => {}
        }
        if !right.starts_with(&bytes) {
            self.lied.store(true, Ordering::SeqCst);
        }
        for piece in bytes.chunks(10_000) {
            if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                return Ok(());
            }
        }
        if stalls && tokio::time::timeout(STALL, std::future::pending::<()>()).await.is_err() {
            error = Some("nothing more came");
        }
        error.map_or(Ok(()), |error| Err(anyhow::anyhow!(error).into()))
    }
}

impl Source for Unreliable {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move { self.send(path, range, &sink).await.map_err(|trouble| trouble.error) })
    }

    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        _: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        Box::pin(async move { self.send(path, range, &sink).await })
    }

    fn limits(&self) -> Limits {
        let [backoff, backoff_most] = [1, 2].map(Duration::from_millis);
        Limits { attempts: ATTEMPTS, attempt_bytes: 16 << 10, backoff, backoff_most, ..Limits::default() }
    }

    fn get<'a>(&'a self, path: &'a str, limit: usize) -> Getting<'a> {
        self.repository.source.get(path, limit)
    }

    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        self.repository.source.find(path, limit)
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}
