//! The copy of the event logs on the disk of the installed OS. `/run` outlives the way from the initrd into the OS, so a unit goes
//! there with the logs, and copies them when there is a disk to write to. What systemd appends to its own log later is not in the
//! copy: it is what the installer has handed over.

/// Where the logs are in the running OS.
const HANDED: &str = "/run/metalstrap";
/// Where the copies are.
const COPIED: &str = "/var/log/metalstrap";

/// Modes are those in the archive: that of a log may say that it is incomplete.
const PLACES: &str = "d /run/metalstrap 0755 - - -
C- /run/metalstrap/tpm2-measure.log - - - - /.extra/metalstrap/tpm2-measure.log
d /run/systemd/system 0755 - - -
C- /run/systemd/system/metalstrap-event-log-copy.service 0644 - - - /etc/metalstrap-event-log-copy.service
d /run/systemd/system/multi-user.target.wants 0755 - - -
L- /run/systemd/system/multi-user.target.wants/metalstrap-event-log-copy.service - - - - ../metalstrap-event-log-copy.service
";

/// What the archive of the importer has for it: paths and contents.
pub(super) fn files() -> [(&'static str, String); 2] {
    [
        ("etc/metalstrap-event-log-copy.conf", PLACES.to_owned()),
        ("etc/metalstrap-event-log-copy.service", unit(&copy(HANDED, COPIED))),
    ]
}

/// Nothing waits for it, and where it fails nothing else does.
fn unit(script: &str) -> String {
    format!(
        "[Unit]\nDescription=Copy the event logs of the installer to the disk\n\
         ConditionPathExists=!/etc/initrd-release\n\
         ConditionPathExists={HANDED}/tpm2-measure.log\n\
         RequiresMountsFor={COPIED}\n\
         After=multi-user.target\n\n\
         [Service]\nType=oneshot\nTimeoutStartSec=10min\n\
         ExecStart=-:/bin/sh -c '{script}'\n"
    )
}

/// Old copies go when the new ones are on the disk, both of them: with a firmware's log of another boot ours leads nowhere.
fn copy(from: &str, to: &str) -> String {
    format!(
        "mkdir -p -m 0700 {to} && cd {to} && chmod 0700 . && rm -rf new && mkdir new && \
         cp -p {from}/tpm2-measure.log new && \
         {{ [ ! -e {from}/binary_bios_measurements ] || cp -p {from}/binary_bios_measurements new; }} && \
         sync new/* && rm -f binary_bios_measurements && mv -f new/* . && rmdir new && sync ."
    )
}

#[cfg(test)]
mod tests;
