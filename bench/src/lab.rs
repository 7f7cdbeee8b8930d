//! What all cases share: the server, the repository, the images, and the loop that measures.

use std::cell::RefCell;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::absent::{self, Absent};
use crate::cli::Options;
use crate::client::Client;
use crate::image::{Image, Recipe};
use crate::job::{self, Sample};
use crate::peers::Tool;
use crate::programs::{ours, run};
use crate::release::{self, Layout, Repository};
use crate::result::{self, Record};
use crate::server::{PORT, Server};

/// Addresses that the server's certificate is good for: the loopback, and the server's end of a [`crate::link::Link`].
const ADDRESSES: [&str; 2] = [LOOPBACK, crate::link::SERVER];
/// Where the server is for tools on its side of a link.
pub const LOOPBACK: &str = "127.0.0.1";

/// The place where everything is measured.
#[derive(Debug)]
pub struct Lab {
    /// What was asked for.
    pub options: Options,
    /// The web server.
    pub server: RefCell<Server>,
    /// The repository.
    pub repository: Repository,
    /// Tools on this side of the loopback.
    pub loopback: Client,
    /// Certificates of the server's CA and those of this host.
    pub ca: PathBuf,
    /// Keys and certificate of the server.
    pub tls: PathBuf,
    /// The installer.
    pub installer: PathBuf,
    /// coreos-installer.
    pub coreos: PathBuf,
    records: RefCell<Vec<Record>>,
    absent: RefCell<Vec<Absent>>,
}

impl Lab {
    /// Starts the server.
    ///
    /// # Errors
    /// Something is not there.
    pub fn open(options: Options) -> Result<Self> {
        let out = options.out.clone();
        let (served, keys) = (out.join("served"), out.join("keys"));
        std::fs::create_dir_all(served.join("images")).context("making the directory of images")?;
        let tls = release::keys(&keys, &ADDRESSES)?;
        let server = Server::start(&served, &tls, &out.join("nginx"))?;
        let repository = Repository::open(&served, &keys, &options.built)?;
        let installer = options.installer.clone().map_or_else(|| ours("metalstrap-installer"), Ok)?;
        // A full run starts from nothing, so that all figures are of one run.
        let (records, absent) =
            if options.is_all() { (Vec::new(), Vec::new()) } else { (result::read(&out)?, absent::read(&out)?) };
        let ca = out.join("ca.pem");
        let lab = Self {
            server: RefCell::new(server),
            repository,
            loopback: Client {
                url: format!("https://{LOOPBACK}:{PORT}"),
                site: out.join("site.json"),
                prefix: Vec::new(),
            },
            ca,
            tls,
            installer,
            coreos: out.join("peers/bin/coreos-installer"),
            records: RefCell::new(records),
            absent: RefCell::new(absent),
            options,
        };
        lab.believe()?;
        Ok(lab)
    }

    /// Lets every tool take the server's certificate: some look at the system's store only, so that is another one in
    /// this mount namespace.
    fn believe(&self) -> Result<()> {
        let system = PathBuf::from("/etc/ssl/certs/ca-certificates.crt");
        let mut all = std::fs::read(self.tls.join("ca.pem")).context("reading the server's CA")?;
        all.extend(std::fs::read(&system).context("reading the system's certificates")?);
        std::fs::write(&self.ca, all).context("writing the certificates")?;
        run("mount", ["--bind".as_ref(), self.ca.as_os_str(), system.as_os_str()])
    }

    /// An image; its release is in the repository afterwards.
    ///
    /// # Errors
    /// It cannot be made or published.
    pub fn image(&self, name: &str, recipe: &Recipe, layout: impl FnOnce(&Image) -> Layout) -> Result<Image> {
        let image = Image::make(&self.options.out.join("served/images"), name, recipe)?;
        self.repository.publish(&image, layout(&image))?;
        // The first one makes the repository, whose root a site config holds.
        self.repository.site(&format!("{LOOPBACK}:{PORT}"), &self.tls, &self.loopback.site)?;
        Ok(image)
    }

    /// An empty directory for a run of `tool`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn run_directory(&self, tool: Tool) -> Result<PathBuf> {
        job::directory(&self.options.out, tool)
    }

    /// Whether the tools that were asked for have this one.
    pub fn wants(&self, tool: Tool) -> bool {
        self.options.tools.is_empty() || self.options.tools.contains(&tool)
    }

    /// Measures `tools` by `once`, in turn, and adds the medians to the result. What a tool fetches is made before.
    ///
    /// # Errors
    /// The first run that fails; or the result cannot be written.
    pub fn measure(
        &self,
        case: &str,
        tools: &[Tool],
        image: &Image,
        mut once: impl FnMut(Tool) -> Result<Sample>,
    ) -> Result<()> {
        let mut present = Vec::new();
        let mut absent = Vec::new();
        for tool in tools.iter().copied().filter(|tool| self.wants(*tool)) {
            match tool.absent(&self.installer, &self.coreos) {
                Some(reason) => absent.push(Absent { case: case.to_owned(), tool: tool.name(), reason }),
                None => present.push((tool, Vec::new())),
            }
        }
        self.absent(case, absent)?;
        present.iter().try_for_each(|(tool, _)| tool.provide(image))?;
        for _ in 0..self.options.runs {
            for (tool, samples) in &mut present {
                samples.push(once(*tool).with_context(|| format!("measuring {case} with {}", tool.name()))?);
            }
        }
        for (tool, samples) in present {
            let record = Record::new(case, &tool.name(), image.size, &samples);
            let record = Record { day: Some(result::today()), ..record };
            say(&record);
            result::add(&self.options.out, &mut self.records.borrow_mut(), record)?;
        }
        Ok(())
    }

    /// Tells what a case goes without.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn absent(&self, case: &str, absent: Vec<Absent>) -> Result<()> {
        absent::set(&self.options.out, &mut self.absent.borrow_mut(), case, absent)
    }
}

fn say(record: &Record) {
    println!(
        "{:24} {:24} {:8.2} s ({:.2} to {:.2}) {:6.0} MB/s {:8.1} MB fetched {:6.1} MB RSS {:7.2} s CPU",
        record.case,
        record.tool,
        record.seconds,
        record.min,
        record.max,
        record.rate(),
        record.bytes_fetched as f64 / 1e6,
        record.peak_rss_bytes as f64 / 1e6,
        record.cpu_seconds
    );
}
