//! What this host must have before machines can run on it; all that is missing is said at once.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use nix::unistd::geteuid;

use crate::dnsmasq::Network;
use crate::{firmware, tool};

/// What a run needs of its host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requirements {
    /// The network of its lab.
    pub network: Network,
    /// A machine has a TPM.
    pub tpm: bool,
    /// A machine has Secure Boot.
    pub secure_boot: bool,
}

/// What is missing on this host, one line each, with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing(pub Vec<String>);

impl std::error::Error for Missing {}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this host cannot run the machine:")?;
        self.0.iter().try_for_each(|line| write!(f, "\n  - {line}"))
    }
}

impl Requirements {
    /// Looks for all of it.
    ///
    /// # Errors
    /// [`Missing`], with everything that is.
    pub fn check(&self) -> Result<()> {
        let mut missing = self.programs(|name| tool::find(name).is_ok());
        missing.extend(
            firmware::files(self.secure_boot)
                .into_iter()
                .filter(|file| !file.exists())
                .map(|file| format!("the firmware {} is not there: it is in the Debian package ovmf", file.display())),
        );
        if self.network != Network::User {
            missing.extend(tun(Path::new("/dev/net/tun")));
        }
        if tool::find("unshare").is_ok() {
            missing.extend(self.namespaces()?);
        }
        if missing.is_empty() { Ok(()) } else { Err(Missing(missing).into()) }
    }

    /// Lines for programs that `is_there` does not find.
    fn programs(&self, is_there: impl Fn(&str) -> bool) -> Vec<String> {
        let mut names = vec!["qemu-system-x86_64", "unshare", "nsenter"];
        if self.network != Network::User {
            names.extend(["ip", "dnsmasq", "nginx", "openssl"]);
        }
        if self.tpm {
            names.extend(["swtpm", "swtpm_setup", "swtpm_localca"]);
        }
        names.into_iter().filter(|name| !is_there(name)).map(tool::not_installed).collect()
    }

    /// Tries to make the namespaces of a run.
    fn namespaces(&self) -> Result<Option<String>> {
        let user = !geteuid().is_root();
        let mut unshare = Command::new(tool::find("unshare")?);
        unshare.args(arguments(user, self.network)).arg("true");
        let output = unshare.stdin(Stdio::null()).output().context("starting unshare")?;
        if output.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let read = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok();
        Ok(Some(refused(user, &said, read)))
    }
}

/// Arguments of unshare for a run's namespaces.
///
/// An ordinary user is mapped to root: with any other id the capabilities would be lost at the first exec.
pub(crate) fn arguments(user: bool, network: Network) -> Vec<&'static str> {
    let mut arguments = Vec::new();
    if user {
        arguments.extend(["--user", "--map-root-user"]);
    }
    if network != Network::User {
        arguments.push("--net");
    }
    arguments.extend(["--pid", "--fork", "--kill-child=KILL"]);
    arguments
}

/// Why namespaces are refused, by the settings that are known to do it; `read` reads one.
fn refused(user: bool, said: &str, read: impl Fn(&str) -> Option<String>) -> String {
    let is = |name: &str, value: &str| read(name).is_some_and(|text| text.trim() == value);
    if !user {
        return format!("namespaces cannot be made ({said}): a container must be started with CAP_SYS_ADMIN");
    }
    let switches = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "15000"),
    ];
    let wrong = switches.into_iter().filter(|(name, bad, _)| is(name, bad));
    let cures: Vec<String> = wrong.map(|(name, _, good)| format!("sysctl {name}={good}")).collect();
    if cures.is_empty() {
        format!(
            "an ordinary user may not make namespaces here ({said}): a chroot and many containers never allow it; run as root"
        )
    } else {
        format!(
            "an ordinary user may not make namespaces here ({said}): as root, run `{}`; or run this as root",
            cures.join("` and `")
        )
    }
}

/// What is wrong with the device that Ethernet ports of machines are made with.
fn tun(path: &Path) -> Option<String> {
    let error = File::options().read(true).write(true).open(path).err()?;
    let shown = path.display();
    Some(match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("{shown} is not there: as root, run `modprobe tun`, and give a container the device")
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("{shown} may not be opened: as root, run `chmod 666 {shown}` (what udev sets)")
        }
        _ => format!("{shown} cannot be opened ({error}): as root, run `modprobe tun`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_program_is_named_with_its_package() {
        let all = Requirements { network: Network::Ipv4, tpm: true, secure_boot: false };
        let missing = all.programs(|name| !["swtpm_setup", "dnsmasq", "qemu-system-x86_64"].contains(&name));
        let expected = [
            "qemu-system-x86_64 is not installed: it is in the Debian package qemu-system-x86",
            "dnsmasq is not installed: it is in the Debian package dnsmasq-base",
            "swtpm_setup is not installed: it is in the Debian package swtpm-tools",
        ];
        assert_eq!(missing, expected);
        let shown = Missing(missing).to_string();
        assert_eq!(shown, format!("this host cannot run the machine:\n  - {}", expected.join("\n  - ")));
        let less = Requirements { network: Network::User, tpm: false, secure_boot: false };
        assert_eq!(less.programs(|_| false).len(), 3);
    }

    #[test]
    fn the_setting_that_forbids_namespaces_is_named() {
        let of = |set: &'static [(&str, &str)]| {
            refused(true, "unshare failed", move |name| {
                set.iter().find(|(known, _)| *known == name).map(|(_, value)| format!("{value}\n"))
            })
        };
        let start = "an ordinary user may not make namespaces here (unshare failed): ";
        assert_eq!(
            of(&[("kernel.unprivileged_userns_clone", "0"), ("user.max_user_namespaces", "96365")]),
            format!("{start}as root, run `sysctl kernel.unprivileged_userns_clone=1`; or run this as root")
        );
        assert_eq!(
            of(&[("kernel.apparmor_restrict_unprivileged_userns", "1"), ("user.max_user_namespaces", "0")]),
            format!(
                "{start}as root, run `sysctl kernel.apparmor_restrict_unprivileged_userns=0` and `sysctl \
                 user.max_user_namespaces=15000`; or run this as root"
            )
        );
        assert_eq!(of(&[]), format!("{start}a chroot and many containers never allow it; run as root"));
        assert_eq!(
            refused(false, "Operation not permitted", |_| None),
            "namespaces cannot be made (Operation not permitted): a container must be started with CAP_SYS_ADMIN"
        );
    }

    #[test]
    fn a_missing_tun_device_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tun");
        let shown = path.display();
        assert_eq!(
            tun(&path).unwrap(),
            format!("{shown} is not there: as root, run `modprobe tun`, and give a container the device")
        );
        std::fs::write(&path, "").unwrap();
        assert_eq!(tun(&path), None);
    }

    #[test]
    fn this_host_has_everything() {
        Requirements { network: Network::Dual, tpm: true, secure_boot: true }.check().unwrap();
    }
}
