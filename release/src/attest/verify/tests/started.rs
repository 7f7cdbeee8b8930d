//! Which programs, in which order, are taken for the netboot image.

use super::*;

/// An event of PCR 4: a text of EDK2's, or the program of that name.
fn event(word: &str) -> Event {
    match word {
        "calling" => text(4, ACTION, b"Calling EFI Application from Boot Option"),
        "returning" => text(4, ACTION, b"Returning from EFI Application from Boot Option"),
        "separator" => text(4, SEPARATOR, &[0; 4]),
        program => (4, APPLICATION, sha256(program.as_bytes()), vec![0; 32]),
    }
}

fn program(word: &str, kernel: Option<&str>) -> Program {
    let digests = |word: &str| vec![Bank::Sha256.digest(word.as_bytes())];
    Program { name: format!("{word}.efi"), digests: digests(word), kernel: kernel.map(digests) }
}

/// What is said of a machine with these events in PCR 4, where these programs are expected; of nothing else there is a doubt.
fn found(programs: &[Program], events: &str) -> String {
    let mut machine = Machine::new();
    machine.firmware.retain(|(pcr, ..)| *pcr != 4);
    machine.firmware.extend(events.split(' ').map(event));
    let pending = machine.pending();
    let expected = Expected { programs: programs.to_vec(), ..expected() };
    let verdict = verify(&pending, &machine.evidence(&pending), &expected);
    let [others @ .., netboot_image, secure_boot] = verdict.findings.as_slice() else { panic!("{verdict:?}") };
    assert_eq!(netboot_image.what, "netboot-image");
    assert!(others.iter().chain([secure_boot]).all(|finding| finding.outcome == Outcome::Proved), "{verdict:?}");
    assert_eq!(verdict.accepted, netboot_image.outcome == Outcome::Proved);
    format!("{:?}: {}", netboot_image.outcome, netboot_image.text)
}

/// Where the netboot UKI is expected, and what may come before it: the boot options' events.
fn behind_separator(events: &str) -> String {
    let expected = [program("ipxe", None), program("netboot", Some("kernel"))];
    found(&expected, &format!("calling separator {events}"))
}

fn proved(names: &str) -> String {
    format!("Proved: the firmware has started {names}, and nothing else")
}

const KERNEL_ALONE: &str = "Refuted: the firmware has started the kernel in netboot.efi, but not directly behind \
                            netboot.efi: with which initrd is not known";
const NO_UKI: &str =
    "Refuted: the last program that the firmware has started is ipxe.efi, which is no UKI, and one was expected";

#[test]
fn a_uki_starts_its_kernel_with_an_event_or_without() {
    let with_kernel = "netboot.efi, the kernel in netboot.efi";
    assert_eq!(behind_separator("netboot"), proved("netboot.efi"));
    assert_eq!(behind_separator("netboot kernel"), proved(with_kernel));
    assert_eq!(behind_separator("ipxe netboot"), proved("ipxe.efi, netboot.efi"));
    assert_eq!(behind_separator("ipxe netboot kernel"), proved(&format!("ipxe.efi, {with_kernel}")));
    // Boot options that came back, before the one that did not.
    assert_eq!(behind_separator("ipxe returning calling netboot kernel"), proved(&format!("ipxe.efi, {with_kernel}")));
    assert_eq!(
        behind_separator("netboot kernel returning calling netboot kernel"),
        proved(&format!("{with_kernel}, {with_kernel}"))
    );
}

#[test]
fn a_kernel_that_its_uki_has_not_started_is_refuted() {
    for events in [
        "kernel",
        "ipxe kernel",
        "netboot returning calling kernel",
        "netboot separator kernel",
        "netboot ipxe kernel",
        "netboot kernel kernel",
        "kernel netboot",
        "kernel netboot kernel",
    ] {
        assert_eq!(behind_separator(events), KERNEL_ALONE, "{events}");
    }
}

#[test]
fn what_only_comes_before_a_uki_is_not_taken_for_it() {
    for events in ["ipxe", "netboot ipxe", "netboot kernel ipxe", "netboot kernel returning calling ipxe"] {
        assert_eq!(behind_separator(events), NO_UKI, "{events}");
    }
}

/// What runs then may be a shell in the firmware, which it does not measure.
#[test]
fn a_uki_that_has_come_back_is_a_doubt() {
    let text = "Unknown: the firmware has gone on behind netboot.efi, so that has come back: what of the firmware's own \
                runs since is not known";
    for events in ["netboot returning", "netboot kernel returning calling", "ipxe netboot kernel returning"] {
        assert_eq!(behind_separator(events), text, "{events}");
    }
}

/// Of two images with the same kernel either may have been started.
#[test]
fn a_kernel_is_that_of_the_uki_before_it() {
    let both = [program("first", Some("kernel")), program("second", Some("kernel"))];
    let of_both = |events: &str| found(&both, &format!("calling separator {events}"));
    assert_eq!(of_both("second kernel"), proved("second.efi, the kernel in second.efi"));
    assert_eq!(of_both("second first kernel"), proved("second.efi, first.efi, the kernel in first.efi"));
    assert_eq!(of_both("second returning first"), proved("second.efi, first.efi"));

    let other = [program("first", Some("kernel")), program("second", Some("other"))];
    let text = "Refuted: the firmware has started the kernel in first.efi, but not directly behind first.efi: with \
                which initrd is not known";
    assert_eq!(found(&other, "calling separator second kernel"), text);
}

/// Before its boot options the firmware starts others (`SysPrep####`), and measures no text when one comes back.
#[test]
fn a_uki_that_is_no_boot_option_is_a_doubt() {
    let text = "Unknown: the firmware has started netboot.efi before its separator in PCR 4, so not as a boot option: \
                whether that has come back is not known";
    let expected = [program("netboot", Some("kernel"))];
    assert_eq!(found(&expected, "netboot kernel calling separator"), text);
    assert_eq!(found(&expected, "netboot kernel"), text);
    assert_eq!(found(&expected, "netboot calling separator"), text);
    let twice = "netboot.efi, netboot.efi, the kernel in netboot.efi";
    assert_eq!(found(&expected, "netboot calling separator netboot kernel"), proved(twice));
}

#[test]
fn a_kernel_that_is_no_program_is_expected_nowhere() {
    let uki = Program { kernel: Some(Vec::new()), ..program("netboot", None) };
    assert_eq!(found(std::slice::from_ref(&uki), "calling separator netboot"), proved("netboot.efi"));
    let digest = to_hex(&sha256(b"kernel"));
    let text =
        format!("Refuted: the firmware has started a program of sha256 {digest}, which is none of those expected");
    assert_eq!(found(&[uki], "calling separator netboot kernel"), text);
}

/// Who names a kernel as a program of its own does not have it taken for a UKI; who names no UKI gets what he names.
#[test]
fn other_programs_than_ukis_are_expected_in_any_order() {
    let (ipxe, kernel) = (program("ipxe", None), program("kernel", None));
    assert_eq!(found(&[ipxe.clone(), kernel.clone()], "kernel ipxe"), proved("kernel.efi, ipxe.efi"));
    assert_eq!(found(&[ipxe, kernel.clone()], "calling separator kernel"), proved("kernel.efi"));

    let text =
        "Refuted: the last program that the firmware has started is kernel.efi, which is no UKI, and one was expected";
    let expected = [program("netboot", Some("kernel")), kernel];
    assert_eq!(found(&expected, "calling separator kernel"), text);
    assert_eq!(found(&expected, "calling separator netboot returning calling kernel"), text);
    let whole = "netboot.efi, the kernel in netboot.efi";
    assert_eq!(found(&expected, "calling separator netboot kernel"), proved(whole));
}
