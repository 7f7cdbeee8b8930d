//! The plan for a person: what goes, what stays, what is written, a line each.

use std::fmt::Write as _;

use metalstrap_release::host::Erase;

use super::{Becomes, Partition, Plan, Role, Wipe};
use crate::credentials::Listed;
use crate::handoff::Decision;
use crate::progress::size;

/// Says all that a person must know before they let it happen.
pub(super) fn explain(plan: &Plan, hash: &str) -> String {
    let mut text = String::new();
    let mut line = |what: &str, said: String| {
        let _ = writeln!(text, "{what:<12} {said}");
    };
    line("plan", hash.to_owned());
    line("disk", disk(plan));
    let release = &plan.release;
    let (name, version) = (&release.name, &release.version);
    line("release", format!("{name} {version}, root hash {}, into slot {}", release.root_hash, plan.target));
    line("the disk", existing(plan));
    if let Some(fallback) = &plan.fallback {
        line("fallback", format!("{fallback}: starts until the release is there, and if it does not start"));
    }
    if let Some(how) = erasure(plan.erase) {
        line("erased", how.to_owned());
    }
    plan.names.removed.iter().for_each(|path| line("goes", format!("the boot file {path}")));
    for (path, name) in &plan.names.renamed {
        line("renamed", format!("{path} to {name}"));
    }
    for Listed { name, size } in &plan.credentials {
        line(
            "credential",
            match size {
                Some(size) => format!("{name}: {size} bytes, on the ESP"),
                None => format!("{name}: a secret, sealed to the TPM, on the ESP"),
            },
        );
    }
    for Wipe { what, ranges } in plan.wipes.iter().chain(&plan.leftovers) {
        let bytes = ranges.iter().map(|range| range.size).sum();
        line("zeroed", format!("{what}: {}", size(bytes)));
    }
    partitions(plan).into_iter().for_each(|partition| line("partition", partition));
    line("free", format!("{} at {}", size(plan.free.size), size(plan.free.start)));
    let discarded: u64 = plan.discards.iter().map(|range| range.size).sum();
    if discarded > 0 {
        line("discarded", format!("{} that nobody uses", size(discarded)));
    }
    if let Some(text) = plan.handoff.as_ref().and_then(Decision::complaint) {
        line("handoff", text);
    }
    text
}

fn disk(plan: &Plan) -> String {
    let identity = &plan.disk;
    let known = [("model", &identity.model), ("serial", &identity.serial), ("wwid", &identity.wwid)];
    // As they come from the drive: whatever a terminal would take for a command is escaped.
    let known = known.iter().filter_map(|(what, value)| Some(format!("{what} {:?}, ", value.as_ref()?)));
    let known: String = known.collect();
    format!("{known}{}, sectors of {} bytes", size(identity.size), plan.sector_size)
}

fn existing(plan: &Plan) -> String {
    let target = plan.target;
    match &plan.existing {
        Becomes::Blank => "is blank".to_owned(),
        Becomes::Kept => "has the release already: what is right stays, what is not is mended".to_owned(),
        Becomes::Updated { from } => format!("is kept; only slot {target}, which has {from:?}, is written anew"),
        Becomes::Replaced { what } => {
            format!("is WIPED of {what}; blocks of the release that are in its slots are used first")
        }
        Becomes::Wiped { what } => format!("is WIPED of {what}"),
    }
}

fn erasure(erase: Erase) -> Option<&'static str> {
    match erase {
        Erase::None => None,
        Erase::Discard => Some("every sector is discarded, and samples must be gone"),
        Erase::Zeroes => Some("every sector becomes zero, and samples must be"),
        Erase::Secure => Some("by the drive's own command, and samples must be gone"),
    }
}

/// Every partition of the disk as it will be, and what becomes of its content.
fn partitions(plan: &Plan) -> Vec<String> {
    let stays = plan.existing.stays();
    let ours = plan.partitions.iter().map(|Partition { role, entry }| {
        let fate = match role {
            Role::Esp if stays => "stays; boot files that are not right are written anew",
            Role::Esp => "is made",
            Role::Root { slot } | Role::RootVerity { slot } if *slot == plan.target => "gets the release",
            Role::Root { .. } | Role::RootVerity { .. } if stays => "stays to the byte",
            Role::Root { .. } | Role::RootVerity { .. } => "is empty",
            Role::Data { kept: true, .. } => "stays to the byte",
            Role::Data { kept: false, .. } => "is made, without a file system",
        };
        (entry, role.to_string(), fate)
    });
    let kept = plan.kept.iter().map(|entry| (entry, "the OS's".to_owned(), "stays to the byte"));
    let mut all: Vec<_> = ours.chain(kept).collect();
    all.sort_by_key(|(entry, ..)| entry.index);
    let shown = |(entry, role, fate): (&crate::gpt::Entry, String, &str)| {
        let (start, bytes) = (size(entry.start), size(entry.size));
        format!("{:<3} {role:<13} {:<26} {bytes:>11} at {start:<11} {fate}", entry.index, format!("{:?}", entry.label))
    };
    all.into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use metalstrap_release::host::{Existing, Host};

    use super::super::tests::{GIB, disk as blank, host, manifest, plan};
    use super::*;
    use crate::inventory::Contents;

    #[test]
    fn a_person_reads_what_goes_and_what_stays() {
        let text = explain(&plan(GIB, 512, Contents::Blank), "0123");
        let expected = [
            "plan         0123",
            "disk         model \"M\", serial \"X\", 1.0 GiB, sectors of 512 bytes",
            "release      debian 13.1, root hash 4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2, into slot a",
            "the disk     is blank",
        ];
        assert!(text.lines().take(4).eq(expected), "{text}");
        let partitions: Vec<_> = text.lines().filter(|line| line.starts_with("partition")).collect();
        let expected = [
            "partition    1   esp           \"esp\"                        512.0 MiB at 1.0 MiB     is made",
            "partition    2   root-verity-a \"debian_13.1_verity\"           1.0 MiB at 513.0 MiB   gets the release",
            "partition    3   root-a        \"debian_13.1\"                 32.0 MiB at 514.0 MiB   gets the release",
            "partition    4   root-verity-b \"_empty\"                       1.0 MiB at 546.0 MiB   is empty",
            "partition    5   root-b        \"_empty\"                      32.0 MiB at 547.0 MiB   is empty",
        ];
        assert_eq!(partitions, expected, "{text}");
    }

    #[test]
    fn credentials_are_named_and_not_shown() {
        let host = r#"{"format": 1, "release": {"name": "debian", "version": "13.1"},
            "credentials": {"motd": {"text": "hush"}, "system.hostname": {"text": "web-1"}}}"#;
        let host = Host::parse(host.as_bytes()).unwrap();
        let text = explain(&Plan::new(&blank(GIB, 512, Contents::Blank), &manifest(), &host).unwrap(), "0123");
        let credentials: Vec<_> = text.lines().filter(|line| line.starts_with("credential")).collect();
        let expected = ["credential   motd: 4 bytes, on the ESP", "credential   system.hostname: 5 bytes, on the ESP"];
        assert_eq!(credentials, expected, "{text}");
        assert!(!text.contains("hush"), "{text}");
    }

    #[test]
    fn what_a_drive_calls_itself_does_nothing_to_a_terminal() {
        let foreign = Contents::Foreign { what: vec!["LVM"], areas: Vec::new() };
        let mut on = blank(GIB, 4096, foreign);
        on.identity.model = Some("\u{1b}[2J".to_owned());
        let host = Host { erase: Erase::Zeroes, ..host(Existing::Wipe) };
        let text = explain(&Plan::new(&on, &manifest(), &host).unwrap(), "0123");
        assert!(
            text.contains("disk         model \"\\u{1b}[2J\", serial \"X\", 1.0 GiB, sectors of 4096 bytes\n"),
            "{text}"
        );
        assert!(text.contains("the disk     is WIPED of LVM\n"), "{text}");
        assert!(text.contains("erased       every sector becomes zero, and samples must be\n"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("zeroed       ")), "{text}");
    }
}
