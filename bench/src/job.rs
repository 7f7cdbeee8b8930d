//! One run of one tool: the command, what it took, and whether the disk is right.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::disk::Disk;
use crate::image::Image;
use crate::lab::Lab;
use crate::log::Sent;
use crate::peers::{Order, Tool};
use crate::run::{Ended, Running};

/// What one run took.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// From start to end.
    pub seconds: f64,
    /// CPU time.
    pub cpu_seconds: f64,
    /// Peak of the largest process.
    pub peak_rss_bytes: u64,
    /// What the server sent.
    pub sent: Sent,
    /// Further figures, by name.
    pub more: Vec<(&'static str, f64)>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub struct Job<'a> {
    /// By which tool.
    pub tool: Tool,
    /// What to.
    pub disk: &'a Disk,
    /// With which image.
    pub image: &'a Image,
    /// With what at hand, for those that take seeds.
    pub seed: Option<&'a Path>,
    /// From where.
    pub client: &'a Client,
    /// The verb of the installer.
    pub verb: &'static str,
    /// Connections of those that open several.
    pub connections: u64,
    /// Where the image must be afterwards, if that is known; else the installer's plan says it.
    pub at: Option<u64>,
}

impl<'a> Job<'a> {
    /// An installation over the loopback.
    pub fn new(lab: &'a Lab, tool: Tool, disk: &'a Disk, image: &'a Image) -> Self {
        Self { tool, disk, image, seed: None, client: &lab.loopback, verb: "install", connections: 1, at: None }
    }

    /// Runs it, and checks the disk afterwards.
    ///
    /// # Errors
    /// It failed, or the disk is wrong.
    pub fn run(&self, lab: &Lab) -> Result<Sample> {
        let context = || format!("running {} with the image {}", self.tool.name(), self.image.name);
        self.try_run(lab).with_context(context)
    }

    fn try_run(&self, lab: &Lab) -> Result<Sample> {
        let device = self.disk.attach()?;
        let mark = lab.server.borrow().mark()?;
        let ended = self.start(lab, &device.path)?.wait()?;
        self.judge(&ended)?;
        let sent = lab.server.borrow_mut().sent_since(mark)?;
        if self.tool.writes() {
            // With the loop device still there: what only its cache holds does not count.
            self.check(&ended.stdout)?;
        }
        let crate::run::Usage { seconds, cpu_seconds, peak_rss_bytes, .. } = ended.usage;
        Ok(Sample { seconds, cpu_seconds, peak_rss_bytes, sent, more: Vec::new() })
    }

    /// Starts it on a loop device.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, lab: &Lab, device: &Path) -> Result<Running> {
        let dir = lab.run_directory(self.tool)?;
        let order = Order {
            verb: self.verb,
            url: &self.client.url,
            site: &self.client.site,
            image: self.image,
            device,
            seed: self.seed,
            dir: &dir,
            ca: &lab.ca,
            installer: &lab.installer,
            coreos: &lab.coreos,
            connections: self.connections,
        };
        let command = self.tool.command(&order)?;
        // Each in its own way: OpenSSL's variable, curl's, and the system's store (which `inside` has replaced).
        let environment = [("SSL_CERT_FILE", lab.ca.as_os_str()), ("LC_ALL", OsStr::new("C"))];
        Running::start(&command, &self.client.prefix, &environment, &dir)
    }

    fn judge(&self, ended: &Ended) -> Result<()> {
        let said = ended.stderr.trim();
        // coreos-installer needs udev when the copy is complete and flushed; there is none here, and it ends.
        let done = self.tool.is_coreos() && said.contains("udevd socket missing");
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        ensure!(ended.usage.status == 0 || done, "it ended with status {}: {last:?}", ended.usage.status);
        Ok(())
    }

    /// The image lies where the tool puts it.
    fn check(&self, stdout: &str) -> Result<()> {
        if let Some(at) = self.at.or_else(|| (!self.tool.is_metalstrap()).then_some(0)) {
            return self.disk.check(at, &self.image.root());
        }
        let slots = slots(stdout)?;
        let mut wrong = Vec::new();
        for (role, start) in &slots {
            match self.disk.check(*start, &self.image.root()) {
                Ok(()) => return Ok(()),
                Err(error) => wrong.push(format!("{role}: {error:#}")),
            }
        }
        bail!("no slot has the image: {}", wrong.join("; "))
    }
}

/// The slots of root file systems in the plan that the installer told, with their first bytes.
///
/// # Errors
/// No plan was told.
pub fn slots(events: &str) -> Result<Vec<(String, u64)>> {
    let plans = events.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut partitions = plans.filter_map(|event| event.pointer("/fields/plan/partitions").cloned());
    let Some(Value::Array(partitions)) = partitions.next() else { bail!("the installer told no plan") };
    let slot = |partition: &Value| {
        let role = partition.get("role")?.as_str()?;
        let slot = role.strip_prefix("root-").filter(|slot| !slot.starts_with("verity"))?;
        Some((slot.to_owned(), partition.get("start")?.as_u64()?))
    };
    Ok(partitions.iter().filter_map(slot).collect())
}

/// The directory of a run: what it printed stays there until the next one of the same tool.
pub fn directory(out: &Path, tool: Tool) -> Result<PathBuf> {
    let dir = out.join("runs").join(tool.name());
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("emptying {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_in_the_told_plan() {
        let events = concat!(
            r#"{"metalstrap":1,"step":"plan","state":"started","fields":{}}"#,
            "\n",
            r#"{"metalstrap":1,"step":"plan","state":"info","fields":{"plan":{"partitions":["#,
            r#"{"role":"esp","start":1048576},{"role":"root-a","start":2097152},{"role":"root-verity-a","start":3},"#,
            r#"{"role":"root-b","start":4194304}]}}}"#,
        );
        assert_eq!(slots(events).unwrap(), [("a".to_owned(), 2_097_152), ("b".to_owned(), 4_194_304)]);
        assert_eq!(slots("").unwrap_err().to_string(), "the installer told no plan");
    }
}
