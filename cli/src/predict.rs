//! `metalstrap predict`: says what PCR 11 will hold.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::digest::to_hex;
use metalstrap_release::host::ReleaseName;
use metalstrap_release::manifest::Manifest;
use metalstrap_release::pcr::{Bank, Calculated, Pcr, Prediction};
use serde::Serialize;

use crate::host::LookArgs;
use crate::output;
use crate::uki::{extensions, pcrs_after, predictions};

/// Says what PCR 11 holds at each phase of a boot of a UKI, or of a published release, in every bank.
///
/// It is what systemd-stub measures of the UKI, and the words of the phases that systemd measures behind it. After a kexec
/// from a netboot UKI the values are others, since that has been measured before.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap predict debian.efi
  metalstrap predict debian.efi --netboot netboot.efi --json
  metalstrap predict --release debian 13.2 --repository /srv/os --keys keys
It prints a table; with --json one line of JSON: `pcr11` as `systemd-measure calculate --json=short` has it, with an entry without
`phase` for what the stub leaves, and `chains` with the same for each netboot UKI.")]
pub struct Args {
    /// The UKI
    #[arg(value_name = "UKI", required_unless_present = "release", conflicts_with = "release")]
    uki: Option<PathBuf>,
    /// Which of the UKI's profiles, from 0
    #[arg(long, value_name = "NUMBER", default_value_t = 0, conflicts_with = "release")]
    profile: usize,
    /// Netboot UKI from which the UKI is started by kexec: says that too. Several times for several
    #[arg(long, value_name = "FILE", conflicts_with = "release")]
    netboot: Vec<PathBuf>,
    /// A published release, as its manifest says
    #[arg(long, num_args = 2, value_names = ["NAME", "VERSION"], requires_all = ["repository", "trust"])]
    release: Option<Vec<String>>,
    /// Directory of its repository
    #[arg(long, value_name = "DIR", requires = "release")]
    repository: Option<PathBuf>,
    /// Directory of the keys, whose root is trusted
    #[arg(long, value_name = "DIR", requires = "release", group = "trust")]
    keys: Option<PathBuf>,
    /// Root metadata that is trusted
    #[arg(long, value_name = "FILE", requires = "release", group = "trust")]
    root: Option<PathBuf>,
    /// One line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// PCR 11 of one way to start something.
struct Start {
    what: String,
    netboot: Option<PathBuf>,
    predictions: Vec<Prediction>,
}

#[derive(Serialize)]
struct Report {
    pcr11: Calculated,
    chains: Vec<Chain>,
}

#[derive(Serialize)]
struct Chain {
    netboot: PathBuf,
    pcr11: Calculated,
}

impl Args {
    /// Prints the values.
    ///
    /// # Errors
    /// A UKI cannot be read; PCR 11 depends on the machine; or there is no such release, or it says nothing of PCR 11.
    pub fn run(self) -> Result<()> {
        let (alone, chains) = match (&self.uki, self.release.as_deref()) {
            (Some(uki), _) => self.of_uki(uki)?,
            (None, Some([name, version])) => {
                let name = ReleaseName { name: name.clone(), version: version.clone() };
                (self.of_release(&name)?, Vec::new())
            }
            (None, _) => anyhow::bail!("neither a UKI nor a release is named"),
        };
        if self.json {
            let chain = |chain: &Start| {
                Some(Chain { netboot: chain.netboot.clone()?, pcr11: Calculated::new(&chain.predictions) })
            };
            let chains = chains.iter().filter_map(chain).collect();
            println!("{}", output::line(&Report { pcr11: Calculated::new(&alone.predictions), chains })?);
        } else {
            let tables: Vec<_> = [alone].iter().chain(&chains).map(table).collect();
            print!("{}", tables.join("\n"));
        }
        Ok(())
    }

    fn of_uki(&self, uki: &Path) -> Result<(Start, Vec<Start>)> {
        let measured = extensions(uki, self.profile)?;
        let what = uki.display().to_string();
        let chain = |netboot: &PathBuf| -> Result<Start> {
            Ok(Start {
                what: format!("{}, then {what}", netboot.display()),
                predictions: predictions(&pcrs_after(netboot)?, &measured)?,
                netboot: Some(netboot.clone()),
            })
        };
        let chains = self.netboot.iter().map(chain).collect::<Result<Vec<_>>>()?;
        Ok((Start { predictions: predictions(&Pcr::zeroes(), &measured)?, what, netboot: None }, chains))
    }

    fn of_release(&self, name: &ReleaseName) -> Result<Start> {
        let repository = self.repository.clone().unwrap_or_default();
        let look = LookArgs { repository, keys: self.keys.clone(), root: self.root.clone() };
        let metadata = look.load()?;
        let target = metadata.releases.get(&name.target());
        let target = target.with_context(|| format!("the repository has no release {name}"))?;
        let manifest = Manifest::parse(&look.bytes(target)?).with_context(|| format!("checking {}", target.path))?;
        let pcr11 = manifest.boot.pcr11.with_context(|| {
            format!("the manifest of {name} says nothing of PCR 11: it depends on the machine, or an older metalstrap published it")
        })?;
        Ok(Start { what: name.to_string(), netboot: None, predictions: pcr11.phases.read()? })
    }
}

/// For a person: a line for each bank and phase.
fn table(start: &Start) -> String {
    let mut text = format!("PCR 11 after {}\n", start.what);
    for bank in Bank::ALL {
        for prediction in &start.predictions {
            let value = to_hex(prediction.pcr(bank).value());
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{:<6}  {:<39}  {value}", bank.to_string(), prediction.phase.path());
        }
    }
    text
}
