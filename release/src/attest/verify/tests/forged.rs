//! Logs that are not those of what was measured, with the machine's own quote.

use super::*;

/// What is said of a PCR that holds what was measured on a machine as it should be, where the log is that of a `changed` one, with
/// so many events for it.
fn differs(pcr: u32, changed: Change, events: usize) -> String {
    let mut other = Machine::new();
    changed(&mut other);
    let [found, said] = [Machine::new(), other].map(|machine| to_hex(&machine.values()[&pcr]));
    assert_ne!(found, said);
    format!(
        "PCR {pcr} of bank sha256 is {found}, but the logs, with {events} events for it, say {said}: an event is missing in them, is \
         one too many, or stands in another place"
    )
}

/// The log of a changed machine.
fn with_log_of(changed: Change) -> Verdict {
    let mut other = Machine::new();
    changed(&mut other);
    judged(&Machine::new(), |evidence| {
        evidence.firmware_log = Some(Base64(other.firmware_log()));
        evidence.userspace_log = other.userspace_log();
    })
}

/// Whether `machine` is accepted with this log, and what is said of it and what rests on it.
fn with_records(machine: &Machine, log: String) -> (bool, Vec<String>) {
    let verdict = judged(machine, |evidence| evidence.userspace_log = log);
    let of = |what: &str| {
        let finding = verdict.findings.iter().find(|finding| finding.what == what).unwrap();
        format!("{:?}: {}", finding.outcome, finding.text)
    };
    (verdict.accepted, ["userspace-log", "release", "host-config"].map(of).to_vec())
}

#[test]
fn a_record_too_many_too_few_or_in_another_place_is_found() {
    let cases: [(Change, usize); 3] = [
        (|machine| machine.records.push(("plan", b"plan".to_vec())), 6),
        (|machine| drop(machine.records.remove(2)), 4),
        (|machine| machine.records.swap(0, 1), 5),
    ];
    for (changed, events) in cases {
        let verdict = with_log_of(changed);
        let (text, none) = (differs(13, changed, events), "the userspace log is not proved");
        let expected = vec![
            ("userspace-log", Outcome::Refuted, text.as_str()),
            ("release", Outcome::Unknown, none),
            ("host-config", Outcome::Unknown, none),
        ];
        assert_eq!(doubts(&verdict), (false, expected));
    }
}

#[test]
fn an_event_of_the_firmware_too_many_too_few_or_in_another_place_is_found() {
    let cases: [(Change, usize); 4] = [
        (|machine| machine.firmware.push((4, APPLICATION, sha256(b"netboot"), vec![0; 32])), 4),
        (|machine| drop(machine.firmware.pop()), 2),
        (|machine| machine.firmware.swap(2, 4), 3),
        (|machine| machine.firmware[4].2 = sha256(b"another"), 3),
    ];
    for (changed, events) in cases {
        let verdict = with_log_of(changed);
        let text = differs(4, changed, events);
        let expected = vec![
            ("firmware-log", Outcome::Refuted, text.as_str()),
            ("netboot-image", Outcome::Unknown, "no firmware log accounts for PCR 4"),
        ];
        assert_eq!(doubts(&verdict), (false, expected));
    }
    // No PCR tells in which order two others were extended.
    assert_eq!(doubts(&with_log_of(|machine| machine.firmware.swap(2, 3))), (true, vec![]));
}

/// A name is no part of what is measured: that the expected one was measured is all that is said to be proved.
#[test]
fn that_no_other_host_config_was_measured_is_not_said_to_be_proved() {
    let mut machine = Machine::new();
    machine.records.insert(1, ("host-config", b"another".to_vec()));
    machine.records.insert(3, ("manifest", b"another".to_vec()));
    let (accepted, told) = with_records(&machine, machine.userspace_log());
    assert!(!accepted);
    assert_eq!(told[1], "Refuted: another manifest than that of debian 13.2 was measured");
    assert_eq!(told[2], "Refuted: another one was measured");

    machine.records[1].0 = "dhcp";
    machine.records[3].0 = "medium";
    let (_, told) = with_records(&machine, machine.userspace_log());
    assert_eq!(told[0], "Proved: its 7 records account for PCR 13, and both logs for all above 7");
    assert_eq!(told[1], format!("Proved: {RELEASE_MEASURED}"));
    assert_eq!(told[2], format!("Proved: {HOST_MEASURED}"));
}

/// Nobody has asked for PCR 15 or for an NV index: what the log says that these hold was perhaps never measured.
#[test]
fn a_record_that_no_quote_vouches_for_proves_nothing() {
    let wanted = Machine::new().records;
    let mut machine = Machine::new();
    machine.records = vec![("dhcp", b"another host".to_vec()), ("medium", b"another manifest".to_vec())];
    for (kind, register) in [("pcr", 15), ("pcr", 23), ("nv_index", 0x0180_0001)] {
        let more: String = wanted.iter().map(|(what, bytes)| record(kind, register, what, bytes)).collect();
        let told = with_records(&machine, machine.userspace_log() + &more);
        let expected = [
            "Proved: its 2 records account for PCR 13, and both logs for all above 7",
            "Refuted: no manifest was measured",
            "Refuted: none was measured: the machine went by a group's, or by none",
        ];
        assert_eq!(told, (false, expected.map(str::to_owned).to_vec()), "{kind} {register}");
    }
}

/// The stub measures a command line that it was given as the installer measures the one for kexec, and in the same PCR.
#[test]
fn a_command_line_of_the_netboot_image_is_not_taken_for_that_of_the_kexec() {
    let line: Vec<u8> = "root=x\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut machine = Machine::new();
    machine.firmware.push(text(12, 0x0d, &line));
    let with_log = |firmware: Vec<u8>, before: &str| {
        let verdict = judged(&machine, |evidence| {
            evidence.firmware_log = Some(Base64(firmware));
            evidence.userspace_log.insert_str(0, before);
        });
        let (accepted, doubts) = doubts(&verdict);
        let told: Vec<String> =
            doubts.into_iter().map(|(what, outcome, text)| format!("{what} {outcome:?}: {text}")).collect();
        (accepted, told)
    };
    let unknown = (false, vec![format!("netboot-image Unknown: {BESIDE}")]);
    assert_eq!(with_log(machine.firmware_log(), ""), unknown);
    // By these logs it is the installer that has measured it. They lead to the same PCRs.
    let moved = record("pcr", 12, "load-options", &line);
    assert_eq!(with_log(Machine::new().firmware_log(), &moved), unknown);
}

/// What is said where the userspace log has an event of a PCR of the firmware's.
fn in_both(number: usize, pcr: u32) -> String {
    format!(
        "the userspace event log's event {number} is of PCR {pcr}, which is the firmware's, and nothing tells which of \
         the logs an event is of"
    )
}

/// The doubts about `machine` where its firmware's log is that of a machine as it should be, and the userspace log has this behind
/// its own.
fn moved(machine: &Machine, records: &str) -> (bool, Vec<String>) {
    let verdict = judged(machine, |evidence| {
        evidence.firmware_log = Some(Base64(Machine::new().firmware_log()));
        evidence.userspace_log.push_str(records);
    });
    let (accepted, doubts) = doubts(&verdict);
    let told = |(what, outcome, text): (&str, Outcome, &str)| format!("{what} {outcome:?}: {text}");
    (accepted, doubts.into_iter().map(told).collect())
}

/// Both logs lead to the same PCRs then.
#[test]
fn what_was_started_last_is_not_hidden_in_the_other_log() {
    let mut machine = Machine::new();
    machine.firmware.push((4, APPLICATION, sha256(b"another"), vec![0; 32]));
    let text = in_both(5, 4);
    let expected = ["firmware-log", "netboot-image"].map(|what| format!("{what} Unknown: {text}")).to_vec();
    assert_eq!(moved(&machine, &record("pcr", 4, "boot-url", b"another")), (false, expected));

    let mut machine = Machine::new();
    machine.firmware.push(secure_boot(false));
    let text = in_both(6, 7);
    let expected = ["firmware-log", "secure-boot"].map(|what| format!("{what} Unknown: {text}")).to_vec();
    machine.records.push(("dhcp", b"option".to_vec()));
    let variable = variable(GLOBAL, "SecureBoot", &[0]);
    assert_eq!(moved(&machine, &record("pcr", 7, "smbios", &variable)), (false, expected));
}

/// Nobody has asked for these here, so that nothing but the log is in doubt.
#[test]
fn the_firmware_alone_measures_into_its_pcrs() {
    let machine = Machine::new();
    for pcr in [0, 1, 2, 3, 5, 6] {
        let expected = vec![format!("firmware-log Unknown: {}", in_both(5, pcr))];
        assert_eq!(moved(&machine, &record("pcr", pcr, "plan", b"plan")), (true, expected));
    }
    assert_eq!(moved(&machine, &record("pcr", 8, "plan", b"plan")), (true, vec![]));
    assert_eq!(moved(&machine, &record("nv_index", 4, "plan", b"plan")), (true, vec![]));
}

/// What the logs do not account for is refuted, whatever else they have.
#[test]
fn an_event_that_was_never_measured_is_no_doubt_but_refutes() {
    let (accepted, told) = moved(&Machine::new(), &record("pcr", 4, "plan", b"plan"));
    let differs = told[0].starts_with("firmware-log Refuted: PCR 4 of bank sha256 is ");
    assert!(!accepted && differs, "{told:?}");
    assert_eq!(told[1..], ["netboot-image Unknown: no firmware log accounts for PCR 4"]);
}

/// systemd 261 measures it into all of the firmware's PCRs.
#[test]
fn the_separator_of_the_os_hides_nothing() {
    let mut machine = Machine::new();
    let separator = b"os-separator";
    machine.firmware.extend([4, 7].map(|pcr| text(pcr, ACTION, separator)));
    let records = [0, 4, 7].map(|pcr| record("pcr", pcr, "separator", separator)).concat();
    assert_eq!(moved(&machine, &records), (true, vec![]));
    let another = record("pcr", 0, "separator", b"os-separator\0");
    let expected = vec![format!("firmware-log Unknown: {}", in_both(8, 0))];
    assert_eq!(moved(&machine, &(records + &another)), (true, expected));
}
