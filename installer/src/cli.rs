//! The command line of the installer as an ordinary command, and the two verbs that PID 1 starts itself with.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::builder::{PathBufValueParser, TypedValueParser as _};
use clap::{Args, Parser, Subcommand, ValueEnum};
use metalstrap_release::host::{HostKey, Mode};

use crate::attestation;
use crate::config::{self, Place};
use crate::console::Consoles;
use crate::ending::EndingPipe;
use crate::escapes;
use crate::failure::{self, Failure};
use crate::install;
use crate::inventory;
use crate::kmsg;
use crate::remembered;
use crate::report::Reporter;
use crate::screen::{ConsoleScreen, Events};
use crate::summary;
use crate::tpm::direct;

/// Exit code of `verify` when something is damaged. 2 is what clap ends with when an argument cannot be used.
const DAMAGED: u8 = 3;
/// Exit codes of every verb.
const DONE: u8 = 0;
const FAILED: u8 = 1;

/// Installs a signed OS release: fetches it over HTTPS, checks every block, writes it to one disk.
#[derive(Debug, Parser)]
#[command(name = "metalstrap-installer", version)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Installs the release that the host config names onto a block device or a file.
    ///
    /// Example: metalstrap-installer install --site site.json --disk /dev/sdb
    Install(Target),
    /// Mends the release that the host config names where it is installed: fetches damaged blocks again and writes nothing
    /// else.
    ///
    /// Exit code: 0 the release is on the disk as it was signed, 1 it failed, 2 wrong usage.
    /// Example: metalstrap-installer repair --site site.json --disk /dev/sdb
    Repair(Target),
    /// Looks whether the release that the host config names is on the disk as it was signed, and writes nothing.
    ///
    /// It prints what it found as JSON. Exit code: 0 all is well, 3 something is damaged, 1 it could not look, 2 wrong usage.
    /// Example: metalstrap-installer verify --site site.json --disk /dev/sda
    Verify(Target),
    /// Prints what `install` would do, and writes nothing.
    ///
    /// Example: metalstrap-installer plan --site site.json --disk /dev/sdb
    Plan {
        #[command(flatten)]
        target: Target,
        /// For a person, or the whole plan as JSON
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Prints as JSON every disk of this machine: what the rules of a host config look at, what is on it and who uses it.
    ///
    /// Example: metalstrap-installer inventory
    Inventory,
    /// Prints the endorsement key of this machine's TPM in PEM: what `metalstrap host add --ek` encrypts secrets to.
    ///
    /// Example: metalstrap-installer ek >ek.pem
    Ek,
    /// Attests this machine to a verifier that it does not reach, by files.
    #[command(subcommand)]
    Attest(attestation::command::Verb),
    /// The installation in the netboot initrd; started by PID 1.
    #[command(hide = true)]
    Run,
    /// Reports the failure on standard input; started by PID 1 when `run` died.
    #[command(hide = true)]
    ReportFailure,
}

/// How the plan is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Args)]
struct Target {
    /// Site config: names the repository, holds its trusted root and the CA
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// Block device or existing file to install to
    #[arg(long, value_name = "PATH")]
    disk: PathBuf,
    /// Logical sector size when --disk is a file
    #[arg(long, value_name = "BYTES", default_value_t = 512, value_parser = sector_size)]
    sector_size: u32,
    /// A repository in a directory, instead of the site config's URL
    #[arg(long, value_name = "DIRECTORY")]
    repository: Option<PathBuf>,
    /// Take the host config of this key instead of this machine's: default, uuid-…, serial-… or mac-…
    #[arg(long, value_name = "KEY")]
    host: Option<HostKey>,
    /// Where the versions of the repository's metadata are remembered, against older ones (/var/lib/metalstrap/versions.json); what
    /// has happened to disks is in intents.json beside it, where --disk is a file and this is not given in DISK.intents
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(memory))]
    remembered: Option<PathBuf>,
    /// Do not read back from the disk what was written of the root file system: faster, and a drive that loses writes is not
    /// noticed there. Hash tree, boot loader and UKI are read back all the same
    #[arg(long)]
    no_read_back: bool,
    /// Print every event on standard output, one line of JSON each
    #[arg(long)]
    json: bool,
}

fn sector_size(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("a sector has 512 or 4096 bytes".to_owned()),
    }
}

/// The file of versions: not that of the intents, which would be written over.
fn memory(file: PathBuf) -> Result<PathBuf, String> {
    if file.file_name().is_some_and(|name| name == remembered::INTENTS_FILE) {
        return Err(format!("{} has what happened to disks: name another file beside it", remembered::INTENTS_FILE));
    }
    Ok(file)
}

impl Target {
    fn place(&self, mode: Mode) -> Place {
        Place::Ordinary {
            site: self.site.clone(),
            disk: self.disk.clone(),
            sector_size: self.sector_size,
            directory: self.repository.clone(),
            host: self.host.clone(),
            remembered: self.remembered.clone(),
            read_back: !self.no_read_back,
            mode,
        }
    }
}

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    crate::sys::frugal_allocator();
    ExitCode::from(carry_out(Command::parse().verb))
}

/// The exit code of a command with these arguments, the program's name first.
///
/// # Errors
/// Clap's, with the exit code that it ends with.
#[cfg(test)]
pub(crate) fn exit_code_of(arguments: &[&str]) -> Result<u8, i32> {
    Command::try_parse_from(arguments).map(|command| carry_out(command.verb)).map_err(|error| error.exit_code())
}

fn carry_out(verb: Verb) -> u8 {
    match verb {
        Verb::Install(target) => ordinary(|| install_ordinary(&target.place(Mode::Install), target.json)),
        Verb::Repair(target) => ordinary(|| install_ordinary(&target.place(Mode::Repair), target.json)),
        Verb::Verify(target) => verify(&target),
        Verb::Plan { target, format } => ordinary(|| print_plan(&target, format)),
        Verb::Inventory => ordinary(print_inventory),
        Verb::Ek => ordinary(print_ek),
        Verb::Attest(verb) => ordinary(|| print(&verb.message()?).context("printing the message")),
        Verb::Run => ordinary(run),
        Verb::ReportFailure => ordinary(crate::last_words::report_from_stdin),
    }
}

/// One place prints an error with its whole chain, and turns it into the exit status.
fn ordinary(body: impl FnOnce() -> Result<()>) -> u8 {
    match body() {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("error: {}", escapes::line(&format!("{error:#}")));
            FAILED
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("starting the runtime")
}

fn stderr(json: bool) -> Result<Reporter> {
    let events = if json { Events::Stdout } else { Events::Nowhere };
    Ok(Reporter::new(config::new_run_id()?, Box::new(ConsoleScreen::new(Consoles::stderr(), events)), None))
}

fn install_ordinary(place: &Place, json: bool) -> Result<()> {
    let tell = stderr(json)?;
    runtime()?.block_on(async {
        let Err(error) = install::install(place, &tell).await else { return Ok(()) };
        let failure = Failure::new(&tell.current_step(), &error, &tell.touched());
        summary::report_failure(&failure, &tell).await;
        tell.say(&failure.untouched);
        tell.say(&failure.advice);
        Err(error.context(format!("[{}]", failure.code)))
    })
}

fn print_plan(target: &Target, format: Format) -> Result<()> {
    let tell = stderr(target.json)?;
    let plan = runtime()?.block_on(install::plan(&target.place(Mode::Install), &tell)).map_err(with_code)?;
    let text = if format == Format::Json { escapes::json(&plan.to_json()?) } else { escapes::lines(&plan.explain()?) };
    print(text.trim_end()).context("printing the plan")
}

fn print_inventory() -> Result<()> {
    let disks = inventory::disks(Path::new("/sys")).map_err(with_code)?;
    print(&escapes::json(&serde_json::to_string_pretty(&disks)?)).context("printing the disks")
}

fn print_ek() -> Result<()> {
    let mut tpm = direct::open()?.context("this machine has no TPM 2.0")?;
    print(tpm.ek().context("asking the TPM")?.to_pem().trim_end()).context("printing the endorsement key")
}

/// Says on standard output what is damaged.
fn verify(target: &Target) -> u8 {
    let look = || -> Result<bool> {
        let tell = stderr(target.json)?;
        let found = runtime()?.block_on(install::verify(&target.place(Mode::Repair), &tell)).map_err(with_code)?;
        print(&escapes::json(&serde_json::to_string_pretty(&found)?)).context("printing what was found")?;
        Ok(found.whole)
    };
    match look() {
        Ok(true) => DONE,
        Ok(false) => DAMAGED,
        Err(error) => ordinary(|| Err(error)),
    }
}

fn with_code(error: anyhow::Error) -> anyhow::Error {
    let code = failure::code_of(&error);
    error.context(format!("[{code}]"))
}

fn print(text: &str) -> std::io::Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        // A reader such as `head` that has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// The child of the supervisor: whatever happens, the supervisor hears of it.
fn run() -> Result<()> {
    kmsg::log_to_kernel();
    let pipe = EndingPipe::from_env()?.context("`run` is started by PID 1 only")?;
    let screen = ConsoleScreen::new(Consoles::open(), Events::SerialConsoles);
    let tell = Reporter::new(config::new_run_id()?, Box::new(screen), Some(pipe.clone()));
    pipe.run(tell.run_id());
    let runtime = runtime()?;
    let ending = runtime.block_on(install::netboot(&tell));
    let told = pipe.end(&ending);
    // Not dropped, which would wait for threads that wait for a disk: the supervisor ends what is left.
    runtime.shutdown_background();
    told
}
