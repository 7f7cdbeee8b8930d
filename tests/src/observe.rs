//! What the installed OS says of itself: a unit that reaches it as a credential, so that the image stays untouched.

use anyhow::{Context as _, Result};
use metalstrap_qemu::Builder;
use serde::{Deserialize, Serialize};

/// The line on the serial console starts with this.
pub const MARK: &str = "METALSTRAP-OBSERVED ";

/// What the unit saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// `systemctl is-active multi-user.target`.
    pub multi_user: bool,
    /// The device of `/` is a dm-verity device.
    pub root_is_verity: bool,
    /// Root hash in the kernel's dm table of that device.
    pub root_hash: String,
    /// SHA-256 bank of PCR 13, lower case.
    pub pcr13: String,
    /// The title of the firmware's entry that this boot of the firmware came from, as efibootmgr shows it.
    pub boot_entry: String,
    /// The number of that entry.
    pub boot_current: String,
    /// The lines of efibootmgr, with blanks in place of tabs.
    pub efibootmgr: Vec<String>,
    /// The unique GUID of the disk's first partition, as lsblk shows it.
    pub esp: String,
    /// First sector and number of sectors of that partition, as sysfs has them.
    pub esp_place: String,
    /// `/proc/cmdline`.
    pub cmdline: String,
    /// File system of /var: `ext4` when the OS's own systemd-repart made it.
    pub var: String,
}

impl Observed {
    /// Parses the text behind [`MARK`] on its line.
    ///
    /// # Errors
    /// It is not the JSON that the unit prints.
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line.trim()).with_context(|| format!("reading what the guest observed: {line}"))
    }
}

/// Printed by [`updating`], with the result of the service behind it.
pub const UPDATED: &str = "METALSTRAP-UPDATED ";

/// Credentials that make the OS update itself by its own systemd-sysupdate.service as soon as it is up, whose downloads believe
/// the certificate authority `ca` (PEM), and print one line when it is done.
#[must_use]
pub fn updating(ca: &[u8]) -> Vec<(String, Vec<u8>)> {
    let wanted = "[Unit]\nWants=systemd-sysupdate.service\n";
    let service = format!(
        "[Service]\nBindReadOnlyPaths=/run/credentials/@system/lab.ca:/etc/ssl/certs/ca-certificates.crt\n\
         ExecStopPost=/bin/sh -c \"printf '\\\\n{UPDATED}%%s %%s\\\\n' $SERVICE_RESULT $EXIT_STATUS >/dev/ttyS0\"\n"
    );
    vec![
        ("lab.ca".into(), ca.to_vec()),
        ("systemd.unit-dropin.systemd-sysupdate.service".into(), service.into_bytes()),
        ("systemd.unit-dropin.multi-user.target~update".into(), wanted.as_bytes().to_vec()),
    ]
}

/// Printed by the unit of [`with_settings`], with what it saw behind it.
pub const SETTLED: &str = "METALSTRAP-SETTINGS ";

/// What of a host config's credentials the OS has: what PID 1, generators and services make of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The kernel's host name: `system.hostname`.
    pub hostname: String,
    /// `/etc/machine-id`: `system.machine_id`.
    pub machine_id: String,
    /// `/run/lab.tmpfiles`: of `tmpfiles.extra`.
    pub tmpfiles: String,
    /// File system of `/run/labmount`: of `fstab.extra`.
    pub mount: String,
    /// The credential `lab.plain`, as a service has it.
    pub plain: String,
    /// SHA-256 of the credential `lab.secret`, likewise.
    pub secret: String,
}

impl Settings {
    /// Parses the text behind [`SETTLED`] on its line.
    ///
    /// # Errors
    /// It is not the JSON that the unit prints.
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line.trim()).with_context(|| format!("reading the settings that the guest has: {line}"))
    }
}

/// How a service gets those that came from the ESP.
const LAB_CREDENTIALS: &str = "LoadCredentialEncrypted=lab.plain\nLoadCredentialEncrypted=lab.secret\n";

/// The shell of the unit that tells them.
const SETTINGS: &str = r#"
cd $CREDENTIALS_DIRECTORY
printf '\n%s{"hostname":"%s","machine_id":"%s","tmpfiles":"%s","mount":"%s","plain":"%s","secret":"%s"}\n' \
    'METALSTRAP-SETTINGS ' "$(cat /proc/sys/kernel/hostname)" "$(cat /etc/machine-id)" "$(cat /run/lab.tmpfiles)" \
    "$(findmnt -no FSTYPE /run/labmount)" "$(cat lab.plain)" "$(sha256sum <lab.secret | cut -d' ' -f1)" >/dev/ttyS0
"#;

/// `machine` with an OS that prints one line with its [`Settings`] when it has reached multi-user.
#[must_use]
pub fn with_settings(machine: Builder) -> Builder {
    machine.credential_unit("metalstrap-settings", &settings_unit())
}

fn settings_unit() -> String {
    unit("Tell what it has of its settings", LAB_CREDENTIALS, SETTINGS)
}

/// The shell that the unit runs. `$$` is systemd's spelling of one dollar sign. The console is opened as late as can be: getty
/// hangs it up when it starts, and what was opened before says nothing any more.
const SCRIPT: &str = r#"
name=$(basename "$(findmnt -nvo SOURCE /)")
table=$(dmsetup table "$name")
case $table in *" verity "*) verity=true ;; *) verity=false ;; esac
[ "$(systemctl is-active multi-user.target)" = active ] && multi=true || multi=false
entries=$(efibootmgr 2>/dev/null)
current=$(printf '%s\n' "$entries" | sed -n 's/^BootCurrent: //p')
entry=$(printf '%s\n' "$entries" | sed -n "s/^Boot$current[* ] *//p" | cut -f1)
listing=$(printf '%s\n' "$entries" | sed 's/\t/ /g; s/\\/\\\\/g; s/"/\\"/g; s/.*/"&"/' | paste -sd,)
place=/sys/class/block/nvme0n1p1
printf '\n%s{"multi_user":%s,"root_is_verity":%s,"root_hash":"%s","pcr13":"%s","boot_entry":"%s","boot_current":"%s","efibootmgr":[%s],"esp":"%s","esp_place":"%s","var":"%s","cmdline":"%s"}\n' \
    'METALSTRAP-OBSERVED ' "$multi" "$verity" "$(echo "$table" | cut -d' ' -f12)" \
    "$(tr A-Z a-z < /sys/class/tpm/tpm0/pcr-sha256/13)" "$entry" "$current" \
    "$listing" "$(lsblk -no PARTUUID /dev/nvme0n1p1)" "$(cat $place/start) $(cat $place/size)" "$(findmnt -no FSTYPE /var)" "$(cat /proc/cmdline)" >/dev/ttyS0
"#;

/// Credentials (name, content) that make the OS print one line when it has reached multi-user.
#[must_use]
pub fn credentials() -> Vec<(String, Vec<u8>)> {
    let unit = unit("Tell the demo what it sees", "", SCRIPT);
    let wanted = "[Unit]\nWants=metalstrap-observe.service\n";
    vec![
        ("systemd.extra-unit.metalstrap-observe.service".into(), unit.into_bytes()),
        ("systemd.unit-dropin.multi-user.target".into(), wanted.as_bytes().to_vec()),
    ]
}

/// A unit that runs `script` in a shell when multi-user has been reached; `more` are further lines of its service. From then on the
/// kernel says nothing on the console but its last words: a message of its own would tear a line of the script's.
pub(crate) fn unit(description: &str, more: &str, script: &str) -> String {
    let script: String = script.replace('\\', "\\\\").replace('$', "$$").replace('%', "%%").replace('"', "\\\"");
    let script = script.trim().replace('\n', "\\n");
    format!(
        "[Unit]\nDescription={description}\nAfter=multi-user.target\n\
         [Service]\nType=oneshot\nStandardOutput=file:/dev/ttyS0\nStandardError=file:/dev/ttyS0\n\
         {more}ExecStartPre=-/bin/sh -c \"echo 1 >/proc/sys/kernel/printk\"\n\
         ExecStart=/bin/sh -c \"{script}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_are_some_that_systemd_reads() {
        let (name, observe) = credentials().remove(0);
        assert_eq!(name, "systemd.extra-unit.metalstrap-observe.service");
        for (unit, what) in [(observe, "observe"), (settings_unit().into_bytes(), "settings")] {
            let directory = std::env::temp_dir().join(format!("{what}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).unwrap();
            let path = directory.join(format!("metalstrap-{what}.service"));
            std::fs::write(&path, unit).unwrap();
            let verify = std::process::Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
            let said = verify.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap();
            std::fs::remove_dir_all(&directory).unwrap();
            assert!(!said.contains(&format!("metalstrap-{what}")), "{said}");
        }
    }
}
