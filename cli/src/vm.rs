//! `metalstrap vm`: provisions a virtual machine as a machine in a datacenter would be, and says what came of it.

mod disk;
mod interrupt;
mod lab;
mod logs;
mod outcome;
mod provision;
mod telling;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use metalstrap_qemu::{Missing, Network};

use disk::DiskSpec;
use interrupt::Interrupt;
use logs::Logs;
use outcome::{Kind, Outcome};

use crate::output;

/// Exit code after an argument that cannot be used, as clap has it.
const USAGE: u8 = 2;

/// Provisions a virtual machine from a netboot UKI and a repository, by the same path as hardware, and prints the
/// result as one line of JSON.
///
/// With --repository, the machine is alone with the repository in a network of its own: the directory is served under
/// the host name, port and path that the site config in the netboot UKI names, and the UEFI firmware boots over HTTP.
/// Without it, the machine is in QEMU's user-mode network, reaches what this host reaches, and starts the netboot UKI
/// from a USB stick. KVM is used where it runs guests; without it everything takes about ten times longer.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap vm --netboot netboot.efi --repository /srv/os --tls-certificate tls.pem --tls-key tls.key \\
      --disk 16G,serial=DISK-1 --expect 'login:' --boot-again --logs out/vm
  metalstrap vm --netboot netboot.efi --disk 8G,virtio --disk 8G,virtio,sector=4096 --no-tpm --expect 'login:'

Fields of the JSON: `outcome` (installed, failed, timeout, machine-ended, machine-reset, not-started, interrupted,
host-unfit, error), `phase` (preparation, installation, first-boot, cold-boot: where it ended), `code`, `happened`,
`untouched`, `advice`, `seconds`, `bytes`, `said` (the lines with the expected text), and where the logs are.

Exit code: 0 everything asked for was seen; 1 not installed, or the text not seen; 2 wrong usage; 3 something is missing
on this host; 4 the run could not be carried out; 129, 130 or 143 ended by a signal.")]
pub struct Args {
    /// The netboot UKI, as `metalstrap netboot` makes it
    #[arg(long, value_name = "FILE")]
    netboot: PathBuf,
    /// Directory of the repository, to be served to the machine [default: none, the real network is used]
    #[arg(long, value_name = "DIR", requires_all = ["tls_certificate", "tls_key"])]
    repository: Option<PathBuf>,
    /// Certificate (PEM, with intermediate ones) that the repository's server shows; of a CA in the site config
    #[arg(long, value_name = "FILE", requires = "repository")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "repository")]
    tls_key: Option<PathBuf>,
    /// A disk; repeat for several [default: 8G,nvme]
    ///
    /// SIZE is in bytes or has K, M, G or T. TYPE is nvme (if not said), virtio, scsi or sata. Files are sparse.
    #[arg(long = "disk", value_name = "SIZE[,TYPE][,serial=TEXT][,sector=512|4096]")]
    disks: Vec<DiskSpec>,
    /// Memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..))]
    memory: u32,
    /// Processors; without KVM one is safest
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// The network [default: ipv4 with --repository, else user]
    #[arg(long, value_name = "KIND")]
    network: Option<NetworkKind>,
    /// With a TPM 2.0 (the default)
    #[arg(long, overrides_with = "no_tpm")]
    tpm: bool,
    /// Without a TPM
    #[arg(long)]
    no_tpm: bool,
    /// Secure Boot, with this certificate (PEM) as platform key and in KEK and db: the firmware starts nothing else
    #[arg(long, value_name = "CERTIFICATE")]
    secure_boot: Option<PathBuf>,
    /// UUID of the machine in SMBIOS, which host configs may name
    #[arg(long, value_name = "UUID", value_parser = uuid)]
    smbios_uuid: Option<String>,
    /// Serial number of the machine in SMBIOS
    #[arg(long, value_name = "TEXT")]
    serial_number: Option<String>,
    /// Credential for the installed OS (systemd.system-credentials(7)); repeat for several
    #[arg(long = "credential", value_name = "NAME=FILE", value_parser = credential)]
    credentials: Vec<(String, PathBuf)>,
    /// What the installed OS must print on its serial console [default: none, the run ends with the installer's handoff]
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    expect: Option<String>,
    /// Then pull the plug, and boot from the machine's own disk up to the same text
    #[arg(long, requires = "expect")]
    boot_again: bool,
    /// Seconds that the whole run may take
    #[arg(long, value_name = "SECONDS", default_value_t = 1800, value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
    /// Directory for logs, empty or not there yet [default: a temporary one, removed after success]
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
    /// Keep the disks and the TPM's state with the logs
    #[arg(long, requires = "logs")]
    keep_disks: bool,
    /// Show the machine's console instead of phases with progress
    #[arg(long)]
    console: bool,
}

/// What network the machine is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkKind {
    /// DHCPv4; UEFI HTTP boot
    Ipv4,
    /// DHCPv4 and IPv6 by router advertisements; UEFI HTTP boot
    Dual,
    /// Only IPv6, by router advertisements; starts from a USB stick
    Ipv6Slaac,
    /// Only IPv6, by DHCPv6; starts from a USB stick
    Ipv6Dhcp,
    /// What this host reaches, by address translation in QEMU; starts from a USB stick
    User,
}

impl Args {
    /// Runs the machine and prints what came of it.
    ///
    /// # Errors
    /// When the result cannot be printed.
    pub fn run(self) -> Result<ExitCode> {
        let interrupt = Interrupt::listen()?;
        let prepared = self.check().and_then(|()| {
            let endpoint = self.endpoint()?;
            Ok((endpoint, Logs::new(self.logs.as_deref(), self.keep_disks)?))
        });
        let (endpoint, logs) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                output::complain(&format!("{error:#}"));
                return Ok(USAGE.into());
            }
        };
        let mut outcome = Outcome::default();
        if let Err(error) = self.provision(endpoint, &logs, &interrupt, &mut outcome) {
            outcome.fails(&error, &interrupt);
        }
        logs.finish(&mut outcome);
        println!("{}", output::line(&outcome)?);
        if let (true, Some(happened)) = (outcome.kind != Kind::Installed, &outcome.happened) {
            output::complain(happened);
        }
        Ok(outcome.exit_code())
    }

    /// What clap cannot check.
    fn check(&self) -> Result<()> {
        let user = self.network == Some(NetworkKind::User);
        ensure!(
            self.repository.is_none() || !user,
            "--repository and --network user exclude each other: nothing is served in the user-mode network"
        );
        ensure!(
            self.repository.is_some() || self.network.is_none_or(|_| user),
            "--network needs --repository: in a network of its own, a machine reaches only what is served there"
        );
        let sata = self.disks.iter().filter(|disk| disk.is_sata()).count();
        ensure!(sata <= 6 && self.disks.len() <= 24, "a machine has at most 24 disks, and at most 6 on sata");
        let credentials = self.credentials.iter().map(|(_, file)| file);
        for file in self.secure_boot.iter().chain(credentials) {
            ensure!(file.is_file(), "{} is no file", file.display());
        }
        Ok(())
    }

    fn network(&self) -> Network {
        match (self.network, &self.repository) {
            (None, Some(_)) | (Some(NetworkKind::Ipv4), _) => Network::Ipv4,
            (Some(NetworkKind::Dual), _) => Network::Dual,
            (Some(NetworkKind::Ipv6Slaac), _) => Network::Ipv6Slaac,
            (Some(NetworkKind::Ipv6Dhcp), _) => Network::Ipv6Dhcp,
            (None, None) | (Some(NetworkKind::User), _) => Network::User,
        }
    }

    fn has_tpm(&self) -> bool {
        !self.no_tpm
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

impl Outcome {
    /// The run stopped with `error`.
    fn fails(&mut self, error: &anyhow::Error, interrupt: &Interrupt) {
        self.happened = Some(format!("{error:#}"));
        self.kind = match interrupt.signal() {
            Some(signal) => {
                self.happened = Some(format!("ended by {signal}"));
                Kind::Interrupted(signal)
            }
            None if error.is::<Missing>() => Kind::HostUnfit,
            None => Kind::Error,
        };
    }
}

/// A UUID in its usual form.
fn uuid(text: &str) -> Result<String, String> {
    let right = text.len() == 36
        && text.char_indices().all(|(at, character)| match at {
            8 | 13 | 18 | 23 => character == '-',
            _ => character.is_ascii_hexdigit(),
        });
    if right {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("not a UUID, as 4c4c4544-0043-3510-8052-b7c04f4e5731".into())
    }
}

/// NAME=FILE, where NAME is one that a file of systemd's credential directory can have.
fn credential(text: &str) -> Result<(String, PathBuf), String> {
    let refusal = || "not NAME=FILE, where NAME has no '/', ':', '=' or white space".to_owned();
    let (name, file) = text.split_once('=').ok_or_else(refusal)?;
    let bad = |character: char| "/:".contains(character) || character.is_whitespace() || character.is_control();
    if name.is_empty() || name.contains(bad) || file.is_empty() {
        Err(refusal())
    } else {
        Ok((name.into(), file.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Args {
        use clap::Parser as _;
        Command::try_parse_from(["vm", "--netboot", "n.efi"].iter().chain(words)).unwrap().args
    }

    const SERVED: [&str; 6] = ["--repository", "r", "--tls-certificate", "c", "--tls-key", "k"];

    #[test]
    fn the_network_follows_the_repository() {
        assert_eq!(parse(&[]).network(), Network::User);
        assert_eq!(parse(&SERVED).network(), Network::Ipv4);
        let six = parse(&[SERVED.as_slice(), &["--network", "ipv6-dhcp"]].concat());
        assert_eq!((six.check().is_ok(), six.network()), (true, Network::Ipv6Dhcp));
        let refusal = |words: &[&str]| parse(words).check().unwrap_err().to_string();
        assert_eq!(
            refusal(&["--network", "dual"]),
            "--network needs --repository: in a network of its own, a machine reaches only what is served there"
        );
        assert_eq!(
            refusal(&[SERVED.as_slice(), &["--network", "user"]].concat()),
            "--repository and --network user exclude each other: nothing is served in the user-mode network"
        );
        assert_eq!(refusal(&["--credential", "a=/no/such"]), "/no/such is no file");
        assert_eq!(refusal(&["--disk=1G,sata"].repeat(7)), "a machine has at most 24 disks, and at most 6 on sata");
    }

    #[test]
    fn there_is_a_tpm_unless_the_last_word_is_no() {
        let has = |words: &[&str]| parse(words).has_tpm();
        assert_eq!(
            [has(&[]), has(&["--tpm"]), has(&["--no-tpm"]), has(&["--no-tpm", "--tpm"])],
            [true, true, false, true]
        );
    }

    #[test]
    fn uuids_and_credentials_are_checked() {
        assert_eq!(uuid("4C4C4544-0043-3510-8052-B7C04F4E5731").unwrap(), "4c4c4544-0043-3510-8052-b7c04f4e5731");
        assert!(uuid("4c4c4544004335108052b7c04f4e5731").is_err());
        assert!(uuid("4c4c4544-0043-3510-8052-b7c04f4e573x").is_err());
        assert_eq!(credential("a.b=/f=1").unwrap(), ("a.b".to_owned(), PathBuf::from("/f=1")));
        for bad in ["a", "=f", "a=", "a:b=f", "a b=f", "a/b=f"] {
            let refusal = "not NAME=FILE, where NAME has no '/', ':', '=' or white space";
            assert_eq!(credential(bad).unwrap_err(), refusal, "{bad}");
        }
    }
}
