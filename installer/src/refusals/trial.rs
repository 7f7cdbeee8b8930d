//! One installation onto a recording disk, and what a refusal of it must look like.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use metalstrap_release::host::{HostKey, Mode};
use metalstrap_release::metadata::Versions;
use serde_json::{Value, json};

use super::published::{Published, good};
use super::record::{self, Stage};
use super::written::{assert_only_verified, assert_whole, unverified};
use crate::cli;
use crate::config::Place;
use crate::disk::{Disk, Recorded, Recording};
use crate::ending::Ending;
use crate::failure::{Code, Failure, code_of};
use crate::http::Limits;
use crate::install::{install_with, verify};
use crate::inventory::DiskFacts;
use crate::look::Findings;
use crate::machine::Seams;
use crate::remembered::{Memory, image_uuid};
use crate::report::{Reporter, Screen};
use crate::summary;
use crate::test_server::TestServer;

/// Room for the layout and not much more.
pub const DISK_BYTES: u64 = 640 << 20;

/// An installation about to be tried.
pub struct Trial {
    place: Arc<tempfile::TempDir>,
    /// The site config.
    pub site: Value,
    /// The repository as errors name it.
    source: String,
    directory: Option<PathBuf>,
    /// For the server.
    pub limits: Limits,
    /// What happens right before the disk is locked.
    pub before_lock: Arc<dyn Fn(&Path) + Send + Sync>,
    /// What else of the machine is another thing.
    pub changes: Arc<dyn Fn(Seams) -> Seams + Send + Sync>,
    mode: Mode,
    read_back: bool,
    sector_size: u32,
    /// Written to instead of the file, which then only shows what is on the disk when it is looked at.
    instead: Option<Arc<dyn Disk>>,
}

/// What became of it.
pub struct Outcome {
    pub result: Result<Ending>,
    pub log: Vec<Recorded>,
    tell: Reporter,
    told: Told,
    place: Arc<tempfile::TempDir>,
    source: String,
}

/// What a run told: lines for people, and events.
#[derive(Debug, Clone, Default)]
struct Told {
    lines: Arc<Mutex<Vec<String>>>,
    events: Arc<Mutex<Vec<Value>>>,
}

impl Screen for Told {
    fn line(&self, text: &str) {
        self.lines.lock().unwrap().push(text.to_owned());
    }
    fn progress(&self, _: &str) {}
    fn event(&self, json: &str) {
        self.events.lock().unwrap().push(serde_json::from_str(json).unwrap());
    }
}

/// Limits for a server that is on this machine.
pub fn short() -> Limits {
    Limits {
        connect: Duration::from_secs(20),
        stall: Duration::from_secs(2),
        attempt_bytes: 4096,
        attempts: 3,
        backoff: Duration::from_millis(2),
        backoff_most: Duration::from_millis(8),
        asked_most: Duration::from_millis(8),
        ..Limits::default()
    }
}

impl Trial {
    fn new(published: &Published, source: String, ca: &str) -> Self {
        let place = Arc::new(tempfile::tempdir().unwrap());
        let site = json!({"format": 1, "repository": source, "root": published.trusted_root(), "ca": ca});
        let disk = fs::File::create(place.path().join("disk")).unwrap();
        disk.set_len(DISK_BYTES).unwrap();
        Self {
            place,
            site,
            source,
            directory: None,
            limits: short(),
            before_lock: Arc::new(|_| {}),
            changes: Arc::new(|seams| seams),
            mode: Mode::Install,
            read_back: true,
            sector_size: 512,
            instead: None,
        }
    }

    /// From a directory.
    pub fn of(published: &Published) -> Self {
        let trial = Self::offline(published);
        let directory = trial.place.path().join("repository");
        published.write_to(&directory);
        trial.reading(directory)
    }

    /// From a directory that `published` was written to before.
    pub fn from_directory(published: &Published, directory: &Path) -> Self {
        Self::offline(published).reading(directory.to_owned())
    }

    /// With a URL that is not asked.
    fn offline(published: &Published) -> Self {
        Self::new(published, "https://mirror.example/os".to_owned(), "-----BEGIN CERTIFICATE-----\n")
    }

    fn reading(self, directory: PathBuf) -> Self {
        Self { source: directory.display().to_string(), directory: Some(directory), ..self }
    }

    /// From a server.
    pub fn at(published: &Published, server: &TestServer) -> Self {
        Self::new(published, format!("https://127.0.0.1:{}/os", server.port), &server.ca)
    }

    /// The file that is the disk.
    pub fn disk(&self) -> PathBuf {
        self.place.path().join("disk")
    }

    /// From here on by another state of the repository.
    pub fn from(self, published: &Published) -> Self {
        let directory = self.place.path().join("next");
        published.write_to(&directory);
        self.reading(directory)
    }

    /// Gives the disk another size.
    pub fn resize(self, size: u64) -> Self {
        fs::File::options().write(true).open(self.disk()).unwrap().set_len(size).unwrap();
        self
    }

    /// The machine has accepted these before.
    pub fn remembering(self, versions: &Versions) -> Self {
        fs::write(self.place.path().join("versions.json"), versions.to_bytes()).unwrap();
        self
    }

    /// The machine knows that these have happened to the disk.
    pub fn remembering_intents(self, intents: &[String]) -> Self {
        let memory = Memory::at(Some(&self.place.path().join("versions.json")));
        memory.remember_intents(image_uuid(&self.disk()).unwrap(), intents).unwrap();
        self
    }

    /// In this mode.
    pub fn in_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Without reading back what is written.
    pub fn without_reading_back(self) -> Self {
        Self { read_back: false, ..self }
    }

    /// Onto this disk instead of the file.
    pub fn onto(self, disk: &Arc<dyn Disk>) -> Self {
        Self { sector_size: disk.sector_size(), instead: Some(Arc::clone(disk)), ..self }
    }

    fn ordinary(&self, mode: Mode) -> Place {
        let at = self.place.path();
        fs::write(at.join("site.json"), serde_json::to_vec(&self.site).unwrap()).unwrap();
        Place::Ordinary {
            site: at.join("site.json"),
            disk: self.disk(),
            sector_size: self.sector_size,
            directory: self.directory.clone(),
            host: Some(HostKey::Default),
            remembered: Some(at.join("versions.json")),
            read_back: self.read_back,
            mode,
        }
    }

    /// Looks at what is installed.
    ///
    /// # Errors
    /// Those of `verify`.
    pub async fn verify(&self) -> Result<Findings> {
        verify(&self.ordinary(Mode::Repair), &Reporter::new("run".to_owned(), Box::new(Told::default()), None)).await
    }

    /// The exit code of `verify` or `repair` as a command.
    pub fn by_command(&self, verb: &str) -> Result<u8, i32> {
        let Place::Ordinary { site, disk, directory, remembered, .. } = self.ordinary(Mode::Repair) else {
            panic!("a trial is an ordinary command");
        };
        let paths = [site, disk, directory.unwrap(), remembered.unwrap()].map(|path| path.to_str().unwrap().to_owned());
        let [site, disk, repository, remembered] = &paths;
        let mut words = vec!["metalstrap-installer", verb, "--host", "default", "--site", site, "--disk", disk];
        words.extend(["--repository", repository, "--remembered", remembered]);
        // A command has a runtime of its own.
        std::thread::scope(|scope| scope.spawn(|| cli::exit_code_of(&words)).join().unwrap())
    }

    /// Installs.
    pub async fn run(self) -> Outcome {
        self.run_and_keep().await.0
    }

    /// The same, and gives back what it was done with.
    pub async fn run_and_keep(self) -> (Outcome, Self) {
        let place = self.ordinary(self.mode);
        let at = self.place.path();
        let opened = Arc::<Mutex<Option<Arc<Recording>>>>::default();
        let (kept, before_lock, path) = (Arc::clone(&opened), Arc::clone(&self.before_lock), at.join("disk"));
        let instead = self.instead.clone();
        let open = move |facts: &DiskFacts| {
            before_lock(&path);
            let locked = instead.clone().map_or_else(|| facts.lock(Path::new("/sys")), Ok)?;
            let disk = Arc::new(Recording::new(locked));
            *kept.lock().unwrap() = Some(Arc::clone(&disk));
            Ok(disk as Arc<_>)
        };
        let told = Told::default();
        let tell = Reporter::new("run".to_owned(), Box::new(told.clone()), None);
        let seams = (self.changes)(Seams { open: Box::new(open), limits: self.limits, ..Seams::default() });
        let result = install_with(&place, &tell, seams).await;
        let log = opened.lock().unwrap().as_ref().map(|disk| disk.log()).unwrap_or_default();
        let (place, source) = (Arc::clone(&self.place), self.source.clone());
        let outcome = Outcome { result, log, tell, told, place, source };
        (outcome, self)
    }
}

impl Outcome {
    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        self.told.events.lock().unwrap().clone()
    }

    /// All that was told so far, lines and events.
    pub fn told(&self) -> String {
        format!("{:?}", self.told)
    }

    /// What a machine remembers of it.
    pub fn remembered(&self) -> Option<Versions> {
        let bytes = fs::read(self.place.path().join("versions.json")).ok()?;
        Some(Versions::parse(&bytes).unwrap())
    }

    /// A text with names of its own for what differs from run to run.
    fn plain(&self, text: &str) -> String {
        let text = text.replace(&self.source, "REPOSITORY");
        text.replace(&self.place.path().display().to_string(), "PLACE")
    }

    /// The failure that a person reads: code, whole chain of causes, and what was not touched.
    pub fn failure(&self) -> Failure {
        let error = self.result.as_ref().unwrap_err();
        let failure = Failure::new(&self.tell.current_step(), error, &self.tell.touched());
        assert_eq!(failure.code, code_of(error));
        Failure { happened: self.plain(&failure.happened), untouched: self.plain(&failure.untouched), ..failure }
    }

    /// The lines that a person reads and the events, up to the run's last one, which is about the failure.
    pub async fn reported(&self) -> (Vec<String>, Vec<Value>) {
        summary::report_failure(&self.failure(), &self.tell).await;
        (self.told.lines.lock().unwrap().clone(), self.told.events.lock().unwrap().clone())
    }

    /// Refused before the plan, with no byte written.
    #[track_caller]
    pub fn before_the_plan(&self, code: Code, happened: &str) {
        let failure = self.failure();
        assert_eq!((failure.happened.as_str(), failure.code), (happened, code));
        assert_eq!(failure.untouched, "No disk was written to.");
        assert_eq!(self.log, []);
        let disk = self.place.path().join("disk").metadata().unwrap();
        assert_eq!(disk.blocks(), 0, "the disk is one hole");
        record::refusal(&failure, Stage::BeforePlan, &self.log, 0);
    }

    /// Refused after the plan, with no byte written that a good run does not write there.
    #[track_caller]
    pub fn after_the_plan(&self, code: Code, happened: &str) {
        let failure = self.failure();
        assert_eq!((failure.happened.as_str(), failure.code), (happened, code));
        let sentence =
            "No disk but PLACE/disk was written to. What is on PLACE/disk is not complete and does not boot.";
        assert_eq!(failure.untouched, sentence);
        assert_eq!(self.remembered(), None);
        assert_only_verified(&self.log);
        record::refusal(&failure, Stage::Writing, &self.log, unverified(&self.log));
    }

    /// Installed, byte for byte as in any good run.
    #[track_caller]
    pub fn installed(&self) {
        assert_eq!(*self.result.as_ref().unwrap(), Ending::Poweroff);
        assert_whole(&self.log);
        assert!(self.remembered().is_some());
    }
}

/// The refusal of a repository that is [`good`] but for one change, from a directory.
pub async fn refused(change: impl FnOnce(Published) -> Published) -> Outcome {
    Trial::of(&change(good())).run().await
}
