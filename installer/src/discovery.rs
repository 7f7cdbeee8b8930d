//! Settings from outside of the site config: reads each source that this machine has, measures it, and offers what it says to
//! the [`Discovery`], which decides. A source that says nothing to us is not measured, so that PCR 13 of machines that have none
//! stays what the site config makes it.

pub mod heard;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::discovery::{
    self as settings, Chosen, Discovery, DiscoveryError, Source, Word, boot_url, command_line, medium, mentioned,
    smbios,
};

use crate::bootvars::{Efivarfs, Variables, token};
use crate::failure::{Code, WithCode as _, coded};
use crate::https::https_url;
use crate::media;

/// Bytes of a source at most. The kernel's command line has 2048 on x86, a table of SMBIOS 2 at most 65535.
const MAX_BYTES: u64 = 1 << 20;
/// Where the boot loader says what URL the firmware has fetched it from, the one that was started first before the other
/// (Boot Loader Interface).
const VARIABLES: [&str; 2] = ["LoaderDeviceURL", "StubDeviceURL"];

/// Words of a source that an error names at most.
const MOST_REFUSED: usize = 8;

/// Measures a source, under a name, before anything is parsed.
pub type Measure<'a> = dyn FnMut(&str, &[u8]) -> Result<()> + 'a;

/// What of the machine is read.
#[derive(Debug)]
pub struct Sources {
    /// `/proc/cmdline`
    pub command_line: PathBuf,
    /// The structure table.
    pub smbios: PathBuf,
    /// EFI variables of the Boot Loader Interface.
    pub variables: Box<dyn Variables + Send + Sync>,
    /// `/sys`
    pub sys: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
}

impl Default for Sources {
    fn default() -> Self {
        Self {
            command_line: "/proc/cmdline".into(),
            smbios: "/sys/firmware/dmi/tables/DMI".into(),
            variables: Box::new(Efivarfs::default().of_vendor(token::VENDOR)),
            sys: "/sys".into(),
            dev: "/dev".into(),
        }
    }
}

impl Sources {
    /// Looks at the sources that need no network, in their order. `say` gets what a person should know of what was passed
    /// over.
    ///
    /// # Errors
    /// [`Code::Discovery`]: kernel command line or SMBIOS say something of ours that cannot be taken. A boot URL that names no
    /// repository is no error, since most do not.
    pub fn look(&self, discovery: &mut Discovery, measure: &mut Measure<'_>, say: &dyn Fn(&str)) -> Result<()> {
        if let Some(line) = read(&self.command_line)?.filter(|line| mentioned(line)) {
            measure("boot-cmdline", &line)?;
            refuse(discovery.offer(Source::KernelCommandLine, &command_line::words(&line)))?;
        }
        if let Some(table) = read(&self.smbios)?.filter(|table| mentioned(table)) {
            self.smbios(&table, discovery, measure)?;
        }
        if discovery.wants_repository(Source::BootUrl) {
            self.boot_url(discovery, measure, say)?;
        }
        Ok(())
    }

    /// Looks for a medium with settings. What DHCP may set and says later goes before it. `warn` gets what is not believed
    /// and what cannot be read. The site config may have media ignored.
    ///
    /// # Errors
    /// [`Code::Discovery`]: there are several media, or one that says something that cannot be taken.
    pub fn medium(&self, discovery: &mut Discovery, measure: &mut Measure<'_>, warn: &dyn Fn(&str)) -> Result<()> {
        if discovery.site().ignore_media {
            return Ok(());
        }
        let Some(found) = media::look(&self.sys, &self.dev, warn)? else { return Ok(()) };
        measure("medium", &found.text)?;
        let reading = || format!("reading {} on {}", medium::FILE, found.name);
        let words = medium::words(&found.text).code(Code::Discovery, reading)?;
        refuse(discovery.offer_medium(&found.name, &words)).code(Code::Discovery, reading)
    }

    /// The strings are measured and not the table, which has serial numbers: whoever set the strings can tell the digest. So the
    /// table's structures are walked before that, to find them; what they say is parsed behind it.
    fn smbios(&self, table: &[u8], discovery: &mut Discovery, measure: &mut Measure<'_>) -> Result<()> {
        let reading = || format!("reading {}", self.smbios.display());
        let strings = smbios::strings(table).code(Code::Discovery, reading)?;
        if strings.is_empty() {
            return Ok(());
        }
        measure("smbios", &strings.join(&b'\n'))?;
        refuse(discovery.offer(Source::Smbios, &smbios::words(&strings).code(Code::Discovery, reading)?))
    }

    fn boot_url(&self, discovery: &mut Discovery, measure: &mut Measure<'_>, say: &dyn Fn(&str)) -> Result<()> {
        for name in VARIABLES {
            match self.variables.read(name) {
                Ok(Some(data)) => {
                    measure("boot-url", &data)?;
                    let word = boot_url::from_variable(&data).and_then(|url| boot_url::repository(&url));
                    offer_boot_url(discovery, word, &format!("the EFI variable {name}"), say);
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) => say(&format!("{error:#}")),
            }
        }
        Ok(())
    }
}

/// Takes the repository beside the netboot image, where its URL names one; `what` said so.
fn offer_boot_url(
    discovery: &mut Discovery,
    word: Result<Word, boot_url::BootUrlError>,
    what: &str,
    say: &dyn Fn(&str),
) {
    match word {
        Ok(word) => {
            for refused in discovery.offer(Source::BootUrl, &[word]) {
                say(&format!("{what}: {refused}"));
            }
        }
        Err(error) => say(&format!("{what} names no repository: {error}")),
    }
}

/// What a source at this machine says must hold as a whole: who set it is here, or should know.
fn refuse(refused: Vec<DiscoveryError>) -> Result<()> {
    if refused.is_empty() {
        return Ok(());
    }
    let mut texts: Vec<String> = refused.iter().take(MOST_REFUSED).map(ToString::to_string).collect();
    let more = refused.len().saturating_sub(MOST_REFUSED);
    texts.extend((more > 0).then(|| format!("and {more} more")));
    Err(coded(Code::Discovery, texts.join("; ")))
}

/// A file, where there is one.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let read = || -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    read().code(Code::Discovery, || format!("reading {}", path.display()))
}

/// The settings that do not come from the site config, as lines for a person.
#[must_use]
pub fn lines(discovery: &Discovery) -> Vec<String> {
    let chosen = discovery.chosen();
    let other = chosen.iter().filter(|chosen| chosen.source != Source::SiteConfig);
    let line = |chosen: &Chosen| {
        let medium = chosen.medium.iter().map(|medium| format!(" {medium}")).collect::<String>();
        format!("{} from the {}{medium}: {}", chosen.setting, chosen.source, chosen.value)
    };
    other.map(line).collect()
}

/// The server of the repository; `None` as long as nothing names it.
///
/// # Errors
/// Its URL cannot be used.
pub fn host(discovery: &Discovery) -> Result<Option<String>> {
    let Ok(repository) = settings::repository(discovery.site()) else { return Ok(None) };
    let url = https_url(repository).context("reading the repository's URL")?;
    Ok(url.host_str().map(str::to_owned))
}

#[cfg(test)]
mod tests;
