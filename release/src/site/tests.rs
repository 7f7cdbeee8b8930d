use std::error::Error as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn site() -> Value {
    json!({
        "format": 1,
        "repository": "https://repo.test:8443/os",
        "manifest": {"path": format!("targets/{DIGEST}.debian_1.json"), "sha256": DIGEST},
        "ca": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    })
}

/// The site config with the value at `pointer` set, or taken away by null.
fn with(pointer: &str, value: Value) -> String {
    let mut site = site();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    site.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
    site.to_string()
}

/// The error's text and that of its cause.
fn refusal(text: &str) -> String {
    let error = Site::parse(text.as_bytes()).unwrap_err();
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[test]
fn absent_fields_take_the_harmless_default() {
    let site = Site::parse(site().to_string().as_bytes()).unwrap();
    assert_eq!(site.disk, DiskSelector::default());
    assert_eq!(site.existing, Existing::Refuse);
    assert_eq!(site.tpm, TpmPolicy::IfPresent);
    assert_eq!(site.handoff, HandoffMode::Kexec);
    assert_eq!(site.boot_order, BootOrder::NetworkFirst);
    assert_eq!((site.report_url, site.reboot_on_failure_after), (None, None));
    assert_eq!((site.cmdline_extra.as_str(), site.network_timeout), ("", 180));
}

#[test]
fn what_is_written_reads_back() {
    let text = with("/disk", json!({"serial": "S1", "transport": "nvme", "min_size": 1, "max_size": 2}));
    let site = Site::parse(text.as_bytes()).unwrap();
    assert_eq!(Site::parse(&serde_json::to_vec(&site).unwrap()).unwrap(), site);
}

#[test]
fn values_that_cannot_hold_are_refused_by_field() {
    let url = "with characters that a URL here must not have";
    for (pointer, value, expected) in [
        ("/format", json!(2), "format is 2, but this installer reads 1".to_owned()),
        ("/repository", json!("http://a/b"), "repository is \"http://a/b\", not an https:// URL".to_owned()),
        ("/repository", json!("https:///b"), "repository is \"https:///b\", not an https:// URL".to_owned()),
        (
            "/repository",
            json!("https://a/"),
            "repository is \"https://a/\", with a slash at its end or a query".to_owned(),
        ),
        (
            "/repository",
            json!("https://a/?b"),
            "repository is \"https://a/?b\", with a slash at its end or a query".to_owned(),
        ),
        ("/repository", json!("https://a/b c"), format!("repository is \"https://a/b c\", {url}")),
        ("/repository", json!("https://a/#b"), format!("repository is \"https://a/#b\", {url}")),
        ("/repository", json!("https://u:p@a"), "repository holds a user name or password".to_owned()),
        ("/report_url", json!("ftp://a"), "report_url is \"ftp://a\", not an https:// URL".to_owned()),
        ("/manifest/path", json!("../a"), "manifest.path is \"../a\", not a plain relative path".to_owned()),
        ("/manifest/path", json!("/a"), "manifest.path is \"/a\", not a plain relative path".to_owned()),
        ("/manifest/path", json!("a b"), "manifest.path is \"a b\", not a plain relative path".to_owned()),
        ("/manifest/path", json!(""), "manifest.path is \"\", not a plain relative path".to_owned()),
        ("/ca", json!("none"), "ca holds no PEM certificate".to_owned()),
        (
            "/disk",
            json!({"min_size": 3, "max_size": 2}),
            "disk.min_size is 3, more than max_size, which is 2".to_owned(),
        ),
        ("/cmdline_extra", json!("a\nb"), "cmdline_extra holds other characters than printable ASCII".to_owned()),
        ("/cmdline_extra", json!("a".repeat(2049)), "cmdline_extra has 2049 bytes, more than 2048".to_owned()),
        ("/network_timeout", json!(0), "network_timeout is 0, not 1 to 86400".to_owned()),
    ] {
        assert_eq!(refusal(&with(pointer, value)), format!("the site config's {expected}"));
    }
}

#[test]
fn the_command_line_added_cannot_change_what_is_started() {
    let starts = ["roothash=1", "usrhash=1", "root=/dev/sda", "usr=1", "systemd.verity=0", "init=/bin/sh", "rdinit=/a"];
    for word in starts.into_iter().chain(["systemd.verity_root_data=/dev/sda"]) {
        let text = refusal(&with("/cmdline_extra", json!(format!("quiet  {word} ro"))));
        let expected = "but what is started is for the release to say";
        assert_eq!(text, format!("the site config's cmdline_extra holds \"{word}\", {expected}"));
    }
    let quoted = refusal(&with("/cmdline_extra", json!("\"init=/bin/sh\"")));
    assert!(quoted.contains("holds \"\\\"init=/bin/sh\\\"\", but"), "{quoted}");
    let harmless = "console=ttyS0 rootwait rootflags=x quiet systemd.debug_shell xinit=1 initcall_debug";
    assert_eq!(Site::parse(with("/cmdline_extra", json!(harmless)).as_bytes()).unwrap().cmdline_extra, harmless);
}

#[test]
fn shapes_other_than_the_format_are_refused() {
    let cause = |text: &str| {
        let text = refusal(text);
        let cause = text.strip_prefix("the site config is not valid: ").expect(&text).to_owned();
        cause.split(" at line").next().unwrap().to_owned()
    };
    let fields = "expected one of `serial`, `wwid`, `model`, `transport`, `min_size`, `max_size`";
    assert_eq!(cause(&with("/disk", json!({"name": "sda"}))), format!("unknown field `name`, {fields}"));
    assert_eq!(cause(&with("/existing", json!("keep"))), "unknown variant `keep`, expected `refuse` or `wipe`");
    assert_eq!(cause(&with("/disk", json!({"min_size": -1}))), "invalid value: integer `-1`, expected u64");
    assert_eq!(cause(&with("/disk", json!({"min_size": 1e30}))), "invalid type: floating point `1e+30`, expected u64");
    assert_eq!(cause(&with("/repository", json!(["https://a"]))), "invalid type: sequence, expected a string");
    let doubled = site().to_string().replacen('{', "{\"format\":1,", 1);
    assert_eq!(cause(&doubled), "duplicate field `format`");
    assert_eq!(cause(&format!("{} {{}}", site())), "trailing characters");
    assert_eq!(cause("{}"), "missing field `format`");
    assert_eq!(cause(""), "EOF while parsing a value");
    let long = " ".repeat(MAX_BYTES + 1);
    assert_eq!(refusal(&long), "the site config has 1048577 bytes, more than the 1048576 allowed");
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), at in 0_usize..400) {
        prop_assert!(Site::parse(&bytes).is_err());
        let mut damaged = site().to_string().into_bytes();
        damaged.splice(at.min(damaged.len()).., bytes);
        let _: Result<Site, SiteError> = Site::parse(&damaged);
    }
}
