//! What publishing says of the signatures in the UKI itself, which are all that a boot from the disk has.

use super::*;

const NONE: &str = "the UKI has no .pcrsig: what the OS seals by the PCR key would not open at a boot from the disk, \
                    only after a kexec; give the key to ukify too";
const FORM: &str = "the UKI's .pcrsig is not in the form of systemd-measure: what the OS seals by the PCR key would \
                    not open at a boot from the disk, only after a kexec; give the key to ukify too";
const OTHERS: &str = "the UKI's .pcrsig has no signature by the PCR key for its initrd (enter-initrd, SHA-256): what \
                      the OS seals by the PCR key would not open at a boot from the disk, only after a kexec; give \
                      the key to ukify too";

/// All warnings where the UKI has this `.pcrsig`. A published release never changes, so each has a name of its own.
fn warnings(operator: &Operator, name: &str, own: Option<&[u8]>) -> Vec<String> {
    let mut sections = parts(&operator.0);
    sections.extend(own.map(|own| (".pcrsig", own.to_vec())));
    fs::write(operator.0.path("uki"), pe(&sections)).unwrap();
    let publish = PUBLISH.replace("--name os", &format!("--name {name}"));
    let (result, said) = operator.told(&format!("{publish} --pcr-key D/pcr.pem"));
    assert_eq!(result["published"], true, "{name}");
    said.lines().filter_map(|line| line.strip_prefix("warning: ")).map(str::to_owned).collect()
}

#[test]
fn a_uki_that_opens_nothing_at_a_boot_from_the_disk_is_warned_of() {
    let operator = operator();
    let directory = operator.0.directory.path();
    openssl(directory, "genrsa -out other.pem 2048");
    openssl(directory, "rsa -in other.pem -pubout -out other-public.pem");
    assert_eq!(warnings(&operator, "none", None), [NONE]);
    assert_eq!(warnings(&operator, "empty", Some(b"")), [NONE]);
    assert_eq!(warnings(&operator, "form", Some(b"{\"sha256\": 1}")), [FORM]);

    let read = |text: String| -> Signatures { serde_json::from_str(&text).unwrap() };
    let right = read(systemd_signatures(&operator));
    let other = read(signatures_by(&operator, ["other.pem", "other-public.pem"]));
    let later = Signatures { sha256: right.sha256[1..].to_vec(), ..right.clone() };
    let mut damaged = right.clone();
    damaged.sha256[0].sig = other.sha256[0].sig.clone();
    for (name, own) in [("other-key", &other), ("later-phases", &later), ("damaged", &damaged)] {
        assert_eq!(warnings(&operator, name, Some(&serde_json::to_vec(own).unwrap())), [OTHERS], "{name}");
    }
}

#[test]
fn a_uki_that_has_the_signature_for_its_initrd_is_not_warned_of() {
    let operator = operator();
    let text = systemd_signatures(&operator);
    let none: [&str; 0] = [];
    assert_eq!(warnings(&operator, "right", Some(text.as_bytes())), none);
    assert_eq!(warnings(&operator, "padded", Some(format!("{text}\n\0\0").as_bytes())), none);
    let right: Signatures = serde_json::from_str(&text).unwrap();
    let initrd = Signatures { sha256: right.sha256[..1].to_vec(), ..Signatures::default() };
    assert_eq!(warnings(&operator, "initrd", Some(&serde_json::to_vec(&initrd).unwrap())), none);
}
