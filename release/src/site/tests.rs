use std::error::Error as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Root metadata, made once: the same keys for every test.
pub(crate) fn root() -> &'static Value {
    use crate::metadata::{Keyring, Lifetimes, PrivateKey, RoleSigners, new_root};
    static ROOT: std::sync::LazyLock<Value> = std::sync::LazyLock::new(|| {
        let signers = RoleSigners { keys: vec![PrivateKey::generate().unwrap()], threshold: std::num::NonZeroU64::MIN };
        let [root, targets, snapshot, timestamp, hosts] = std::array::from_fn(|_| signers.clone());
        let keyring = Keyring { root, targets, snapshot, timestamp, hosts };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let root = runtime.block_on(new_root(&keyring, &Lifetimes::default(), 0)).unwrap();
        serde_json::from_slice(&root.bytes).unwrap()
    });
    &ROOT
}

fn site() -> Value {
    json!({
        "format": 1,
        "repository": "https://repo.test:8443/os",
        "root": root(),
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
    assert_eq!((site.report_url, site.reboot_on_failure_after), (None, None));
    assert_eq!((site.network_timeout, site.connections), (180, 8));
    assert_eq!((site.mirrors, site.time_servers, site.consoles), (Vec::new(), Vec::new(), Vec::new()));
    assert!(!site.ignore_media);
}

#[test]
fn what_is_written_reads_back() {
    let text = with("/report_url", json!("https://report.test"));
    let site = Site::parse(text.as_bytes()).unwrap();
    assert_eq!(Site::parse(&serde_json::to_vec(&site).unwrap()).unwrap(), site);
    let mirrors: Vec<String> = (0..16).map(|number| format!("https://m{number}.test/os")).collect();
    let site = Site::parse(with("/mirrors", json!(mirrors)).as_bytes()).unwrap();
    assert_eq!(site.mirrors, mirrors);
    let servers = ["ntp.test", "time-1.test.", "10.0.0.1", "2001:db8::1"];
    let timed = Site::parse(with("/time_servers", json!(servers)).as_bytes()).unwrap();
    assert_eq!(timed.time_servers, servers);
    let shown = Site::parse(with("/consoles", json!(["ttyS1", "tty0", "ttyS2,57600"])).as_bytes()).unwrap();
    assert_eq!(shown.consoles, ["ttyS1", "tty0", "ttyS2,57600"]);
    assert_eq!(Site::parse(&serde_json::to_vec(&shown).unwrap()).unwrap(), shown);
    assert_eq!(Site::parse(&serde_json::to_vec(&site).unwrap()).unwrap(), site);
}

#[test]
fn values_that_cannot_hold_are_refused_by_field() {
    let url = "with characters that a URL here must not have";
    let no_console = |shown: &str| {
        format!(
            "consoles holds \"{shown}\", which is not 1 to 32 letters and digits, alone or with a comma and a speed (9600, \
             19200, 38400, 57600, 115200)"
        )
    };
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
        ("/mirrors", json!(["https://a/b", "http://a/b"]), "mirrors is \"http://a/b\", not an https:// URL".to_owned()),
        (
            "/mirrors",
            json!(["https://a/b/"]),
            "mirrors is \"https://a/b/\", with a slash at its end or a query".to_owned(),
        ),
        ("/mirrors", json!(["https://u:p@a"]), "mirrors holds a user name or password".to_owned()),
        ("/mirrors", json!(vec!["https://a"; 17]), "mirrors has 17 entries, more than the 16 allowed".to_owned()),
        ("/report_url", json!("ftp://a"), "report_url is \"ftp://a\", not an https:// URL".to_owned()),
        ("/ca", json!("none"), "ca holds no PEM certificate".to_owned()),
        (
            "/root",
            json!({}),
            "root is no root metadata: the trusted root is not valid: missing field `signed`".to_owned(),
        ),
        ("/network_timeout", json!(0), "network_timeout is 0, not 1 to 86400".to_owned()),
        ("/dhcp_may_set", json!(["mirrors", "host"]), "dhcp_may_set names host, which DHCP never sets".to_owned()),
        (
            "/time_servers",
            json!(["10.0.0.1", "10.0.0.1:123"]),
            "time_servers holds \"10.0.0.1:123\", neither a name nor an address".to_owned(),
        ),
        ("/time_servers", json!([""]), "time_servers holds \"\", neither a name nor an address".to_owned()),
        ("/time_servers", json!(["a/b"]), "time_servers holds \"a/b\", neither a name nor an address".to_owned()),
        ("/time_servers", json!(vec!["a"; 9]), "time_servers has 9 entries, more than the 8 allowed".to_owned()),
        ("/consoles", json!(["ttyS0", "../sda"]), no_console("../sda")),
        ("/consoles", json!([""]), no_console("")),
        ("/consoles", json!(["tty\u{1b}[2J"]), no_console("tty\\u{1b}[2J")),
        ("/consoles", json!(["a".repeat(33)]), no_console(&"a".repeat(33))),
        ("/consoles", json!(["ttyS1,"]), no_console("ttyS1,")),
        ("/consoles", json!(["ttyS1,115201"]), no_console("ttyS1,115201")),
        ("/consoles", json!([",9600"]), no_console(",9600")),
        ("/consoles", json!(vec!["tty0"; 9]), "consoles has 9 entries, more than the 8 allowed".to_owned()),
        ("/connections", json!(0), "connections is 0, not 1 to 16".to_owned()),
        ("/connections", json!(17), "connections is 17, not 1 to 16".to_owned()),
    ] {
        assert_eq!(refusal(&with(pointer, value)), format!("the site config's {expected}"));
    }
}

#[test]
fn a_repository_may_be_left_out_but_not_empty() {
    let mut left_out = site();
    left_out.as_object_mut().unwrap().remove("repository");
    let site = Site::parse(left_out.to_string().as_bytes()).unwrap();
    assert_eq!(site.repository, "");
    assert_eq!(Site::parse(&serde_json::to_vec(&site).unwrap()).unwrap(), site);
    let text = refusal(&with("/repository", json!("")));
    assert!(
        text.starts_with("the site config is not valid: an empty text says nothing: leave it out at line 1"),
        "{text}"
    );
}

#[test]
fn ways_to_servers_that_cannot_hold_are_refused_by_field() {
    let certificate = "-----BEGIN CERTIFICATE-----";
    let key = "-----BEGIN PRIVATE KEY-----";
    let form = "not http://host:port or https://host:port";
    for (pointer, value, expected) in [
        ("/pins", json!(vec!["0".repeat(64); 65]), "pins has 65 entries, more than the 64 allowed".to_owned()),
        ("/client", json!({"certificate": "x", "key": key}), "client.certificate holds no PEM certificate".to_owned()),
        (
            "/client",
            json!({"certificate": certificate, "key": "-----BEGIN ENCRYPTED PRIVATE KEY-----"}),
            "client.key holds no PEM private key, or an encrypted one".to_owned(),
        ),
        ("/proxy", json!("socks5://a:1"), format!("proxy is \"socks5://a:1\", {form}")),
        ("/proxy", json!("http://a:1/b"), format!("proxy is \"http://a:1/b\", {form}")),
        ("/proxy", json!("a:1"), format!("proxy is \"a:1\", {form}")),
        (
            "/proxy",
            json!("http://u:p@a:1"),
            "proxy has a name or a password, which an http:// one would get in plain text".to_owned(),
        ),
        (
            "/proxy",
            json!("https://u:p@a:1/b"),
            "proxy has a name or a password, and is not https://name:password@host:port".to_owned(),
        ),
        (
            "/proxy",
            json!("u:p@a:1"),
            "proxy has a name or a password, and is not https://name:password@host:port".to_owned(),
        ),
        ("/proxy", json!("https://:p@a:1"), "proxy has a password without a name, or a name with a colon".to_owned()),
        (
            "/proxy",
            json!("https://u%3Av:p@a"),
            "proxy has a password without a name, or a name with a colon".to_owned(),
        ),
        ("/no_proxy", json!(["a"]), "no_proxy is there, and no proxy".to_owned()),
        ("/no_proxy", json!(["*"]), "no_proxy has \"*\", which is no name, address or network".to_owned()),
        ("/retry", json!({"attempts": 0}), "retry.attempts is 0, not 1 to 1000".to_owned()),
        ("/retry", json!({"longest_pause": 3601}), "retry.longest_pause is 3601, not 1 to 3600".to_owned()),
    ] {
        assert_eq!(refusal(&with(pointer, value)), format!("the site config's {expected}"));
    }
    let plain = with("/mirrors", json!(["http://a/b"]));
    assert_eq!(refusal(&plain), "the site config's mirrors is \"http://a/b\", not an https:// URL");
    let mut plain: Value = serde_json::from_str(&plain).unwrap();
    plain["plain_mirrors"] = json!(true);
    assert_eq!(Site::parse(plain.to_string().as_bytes()).unwrap().mirrors, ["http://a/b"]);
    plain["repository"] = json!("http://a/b");
    assert_eq!(refusal(&plain.to_string()), "the site config's repository is \"http://a/b\", not an https:// URL");
    let site = Site::parse(with("/retry", json!({"attempts": 3})).as_bytes()).unwrap();
    assert_eq!(site.retry, Some(Retry { attempts: 3, ..Retry::default() }));
    // No secret in what is printed for debugging.
    let client = with("/client", json!({"certificate": certificate, "key": format!("{key} hidden")}));
    let proxy = with("/proxy", json!("https://name:hidden@proxy.test:3128"));
    for site in [client, proxy] {
        let site = Site::parse(site.as_bytes()).unwrap();
        assert!(!format!("{site:?}").contains("hidden"));
        assert_eq!(Site::parse(&serde_json::to_vec(&site).unwrap()).unwrap(), site);
    }
}

#[test]
fn a_ca_may_be_left_out_where_there_are_pins() {
    let mut site = site();
    site.as_object_mut().unwrap().remove("ca");
    let text = "the site config's ca is left out, and there are no pins: no server could be believed";
    assert_eq!(refusal(&site.to_string()), text);
    site["pins"] = json!(["0".repeat(64)]);
    let parsed = Site::parse(site.to_string().as_bytes()).unwrap();
    assert_eq!(parsed.ca, "");
    assert_eq!(Site::parse(&serde_json::to_vec(&parsed).unwrap()).unwrap(), parsed);
    // An https proxy's certificate is of a CA: no pin is for it.
    site["proxy"] = json!("https://proxy.test");
    let text = "the site config's proxy is an https:// one, and there is no ca that its certificate could be of";
    assert_eq!(refusal(&site.to_string()), text);
    site["proxy"] = json!("http://proxy.test:3128");
    Site::parse(site.to_string().as_bytes()).unwrap();
    site["ca"] = json!("");
    let text = refusal(&site.to_string());
    assert!(
        text.starts_with("the site config is not valid: an empty text says nothing: leave it out at line 1"),
        "{text}"
    );
}

#[test]
fn a_root_that_its_keys_have_not_signed_is_refused() {
    let mut forged = root().clone();
    forged["signed"]["expires"] = json!("2200-01-01T00:00:00Z");
    let expected = "the site config's root is no root metadata: the trusted root is not valid: Signature threshold of 1 not \
                    met for role root (0 valid signatures)";
    assert_eq!(refusal(&with("/root", forged)), expected);
}

#[test]
fn machines_without_kexec_are_named_by_what_they_are() {
    let with = |value: Value| {
        let mut site = site();
        site["kexec_deny"] = value;
        site.to_string()
    };
    assert!(Site::parse(site().to_string().as_bytes()).unwrap().kexec_deny.is_empty());
    let entries = json!([{"vendor": "HPE", "product": "ProLiant DL3*"}, {"pci": "15b3:1017"}, {"pci": "15b3:*"}]);
    let parsed = Site::parse(with(entries).as_bytes()).unwrap().kexec_deny;
    assert_eq!(parsed[0].product.as_deref(), Some("ProLiant DL3*"));
    assert_eq!((parsed[1].pci.as_deref(), parsed[1].vendor.as_deref()), (Some("15b3:1017"), None));
    let refused = |value: Value| refusal(&with(value));
    assert_eq!(
        refused(json!([{}])),
        "the site config's kexec_deny has an entry that names nothing, and so would be every machine"
    );
    for id in ["15B3:1017", "15b3", "15b3:10*", "*:1017", "15b3:10170"] {
        let expected =
            format!("the site config's kexec_deny holds {id:?}, not a PCI id like \"15b3:1017\" or \"15b3:*\"");
        assert_eq!(refused(json!([{"pci": id}])), expected);
    }
    assert_eq!(
        refused(json!([{"vendor": ""}])),
        "the site config's kexec_deny holds \"\", not 1 to 128 bytes of printable text"
    );
    let many = vec![json!({"vendor": "A"}); 65];
    assert_eq!(refused(json!(many)), "the site config's kexec_deny has 65 entries, more than the 64 allowed");
}

#[test]
fn shapes_other_than_the_format_are_refused() {
    let cause = |text: &str| {
        let text = refusal(text);
        let cause = text.strip_prefix("the site config is not valid: ").expect(&text).to_owned();
        cause.split(" at line").next().unwrap().to_owned()
    };
    let fields = "expected one of `format`, `repository`, `mirrors`, `connections`, `root`, `ca`, \
                  `pins`, `client`, `proxy`, `no_proxy`, `plain_mirrors`, `retry`, `consoles`, `report_url`, `reboot_on_failure_after`, `clock_floor`, `time_servers`, `network_timeout`, `dhcp_may_set`, `ignore_media`, `kexec_deny`";
    assert_eq!(cause(&with("/manifest", json!({}))), format!("unknown field `manifest`, {fields}"));
    let cut = with("/network_timeout", json!(1e30));
    assert_eq!(cause(&cut), "invalid type: floating point `1e+30`, expected u32");
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
        let _: Result<Site, DocumentError> = Site::parse(&damaged);
    }
}
