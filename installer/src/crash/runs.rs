//! Runs of the installer onto disks in memory, from a repository in a directory.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use metalstrap_release::host::Mode;
use tokio::runtime::{Builder, Runtime};

use crate::disk::{Disk, Recorded};
use crate::refusals::published::Published;
use crate::refusals::trial::{Outcome, Trial};

const PAGE: u64 = 4096;

/// The installer with its repository.
#[derive(Debug)]
pub struct Runs {
    published: Published,
    repository: tempfile::TempDir,
    runtime: Runtime,
    mode: Mode,
    /// The intents that the machine knows to have happened.
    remembered: Vec<String>,
}

impl Runs {
    pub fn new(published: Published, mode: Mode) -> Self {
        let repository = tempfile::tempdir().unwrap();
        published.write_to(repository.path());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        Self { published, repository, runtime, mode, remembered: Vec::new() }
    }

    /// On a machine that knows that these have happened.
    pub fn remembering(self, intents: &[&str]) -> Self {
        Self { remembered: intents.iter().map(|intent| (*intent).to_owned()).collect(), ..self }
    }

    /// Runs it on `disk`, which is zero but for `pages`.
    pub fn run(&self, disk: &Arc<dyn Disk>, pages: &BTreeSet<u64>) -> Outcome {
        let trial = Trial::from_directory(&self.published, self.repository.path()).in_mode(self.mode).onto(disk);
        let trial = trial.remembering_intents(&self.remembered);
        show(disk.as_ref(), pages, &trial.disk());
        self.runtime.block_on(trial.run())
    }
}

/// Has the file at `path`, which is one hole, show what is on the disk: that is what the installer looks at first.
pub fn show(disk: &dyn Disk, pages: &BTreeSet<u64>, path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    let (mut page, hole) = ([0; 4096], [0; 4096]);
    for number in pages {
        disk.read_at(number * PAGE, &mut page).unwrap();
        if page != hole {
            file.write_all_at(&page, number * PAGE).unwrap();
        }
    }
}

/// The pages that a log writes to, by number.
pub fn pages(log: &[Recorded]) -> BTreeSet<u64> {
    let pages = |what: &Recorded| match what {
        Recorded::Write { offset, bytes } => offset / PAGE..(offset + bytes.len() as u64).div_ceil(PAGE),
        Recorded::Flush => 0..0,
    };
    log.iter().flat_map(pages).collect()
}
