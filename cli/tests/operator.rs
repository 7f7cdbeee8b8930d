//! The verbs around publishing, as an operator runs them: keygen, host, refresh, site, completions, man.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use metalstrap_release::site::Site;
use serde_json::json;

#[path = "support/operator.rs"]
mod command;
mod support;

use command::{ON, Operator, PUBLISH};
use support::{Inputs, contents, files};

#[test]
fn keys_are_their_owners_and_never_overwritten() {
    let operator = Operator(Inputs::new());
    let result = operator.ok("keygen --keys D/keys --root-keys 2 --root-threshold 2");
    let keys = operator.0.path("keys");
    let names = ["hosts.pem", "root-1.pem", "root-2.pem", "snapshot.pem", "targets.pem", "timestamp.pem"];
    let all =
        [&["1.root.json", "delegation.json"], &names[..1], &["root-1.pem", "root-2.pem", "root.json"], &names[3..]];
    assert_eq!(files(&keys), all.concat());
    assert_eq!(result["root"]["version"], 1);
    let mode = |name: &str| fs::metadata(keys.join(name)).unwrap().permissions().mode() & 0o777;
    assert!(names.iter().all(|name| mode(name) == 0o600));
    assert_eq!(mode(""), 0o700);
    assert_eq!(
        operator.refusal("keygen --keys D/keys"),
        "metalstrap: D/keys/targets.pem is there already, and no key is ever overwritten: take another --keys"
    );
    fs::remove_file(keys.join("root-2.pem")).unwrap();
    assert_eq!(
        operator.refusal("keygen --keys D/keys --renew"),
        "metalstrap: signing the next root by keys in D/keys: the role root must be signed by 2 of its keys, and 1 of \
         them are at hand"
    );
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o755)).unwrap();
    let text = "metalstrap: D/keys is open to others (mode 755): chmod 700 D/keys";
    assert_eq!(operator.refusal("keygen --keys D/keys --renew"), text);
    let text = "metalstrap: a root with 1 keys cannot be signed by 2 of them";
    assert_eq!(operator.refusal("keygen --keys D/new --root-threshold 2"), text);
}

#[test]
fn keys_are_replaced_and_the_repository_follows() {
    let operator = Operator::new();
    operator.ok(&format!("host add default --release os 1 {ON}"));
    fs::copy(operator.0.path("keys/1.root.json"), operator.0.path("first.json")).unwrap();
    let result = operator.ok("keygen --keys D/keys --rotate timestamp --rotate hosts");
    assert_eq!(result["root"]["version"], 2);
    assert_eq!(result["files"], json!(["timestamp.pem", "hosts.pem", "delegation.json", "2.root.json", "root.json"]));
    assert!(operator.0.path("keys/timestamp.old-1.pem").exists());
    let result = operator.ok(&format!("refresh {ON}"));
    assert_eq!(result["signed"], json!(["targets", "hosts", "snapshot", "timestamp"]));
    assert_eq!(
        result["metadata"]["versions"],
        json!({"root": 2, "targets": 2, "snapshot": 3, "timestamp": 3, "hosts": 2})
    );
    let shown = operator.ok("host show --repository D/repository --root D/first.json");
    assert_eq!(shown["hosts"][0]["host"], "default");
    fs::remove_file(operator.0.path("keys/timestamp.old-1.pem")).unwrap();
    let result = operator.ok(&format!("refresh {ON}"));
    assert_eq!(result["signed"], json!(["snapshot", "timestamp"]));
    let (result, text) = operator.told(&format!("refresh {ON} --within 400"));
    assert_eq!((&result["signed"], text.as_str()), (&json!(["targets", "hosts", "snapshot", "timestamp"]), ""));
    fs::remove_file(operator.0.path("keys/targets.pem")).unwrap();
    let (_, text) = operator.told(&format!("refresh {ON} --within 400"));
    assert!(text.starts_with("warning: the targets metadata expires in 36"), "{text}");
    assert!(text.ends_with(": run this where targets.pem is\n"), "{text}");
}

#[test]
fn a_machine_gets_what_its_host_config_says() {
    let operator = Operator::new();
    let missing = "metalstrap: the repository has no release os 2: publish it first (there are [\"os_1\"])";
    assert_eq!(operator.refusal(&format!("host add default --release os 2 {ON}")), missing);
    let result = operator.ok(&format!("host add default --release os 1 {ON}"));
    assert_eq!((&result["host"], &result["published"]), (&json!("default"), &json!(true)));
    let first = contents(&operator.0.path("repository"));
    let result = operator.ok(&format!("host add default --release os 1 {ON}"));
    assert_eq!(result["published"], false);
    assert!(contents(&operator.0.path("repository")) == first);
    let options = "--existing wipe --intent one --erase secure --disk-serial S1 --disk-size >=1GiB --handoff reboot";
    operator.ok(&format!("host add mac-52:54:00:12:34:56 --release os 1 {options} {ON}"));
    let shown = operator.ok(&format!("host show mac-525400123456 {ON}"));
    assert_eq!(shown["config"]["disk"]["size"], ">=1GiB");
    assert_eq!((&shown["config"]["existing"], &shown["config"]["erase"]), (&json!("wipe"), &json!("secure")));
    let (result, text) = operator.told(&format!("host explain --serial 7XK --mac 52:54:00:12:34:56 {ON}"));
    assert_eq!(result["looked_for"], json!(["serial-7XK", "mac-525400123456", "default"]));
    assert_eq!(result["host"], "mac-525400123456");
    assert_eq!(text, "serial-7XK: no host config\nmac-525400123456: there is a host config\n");
    operator.ok(&format!("host remove mac-525400123456 {ON}"));
    let result = operator.ok(&format!("host explain --mac 52:54:00:12:34:56 {ON}"));
    assert_eq!((&result["host"], &result["credentials"]), (&json!("default"), &json!([])));
    let credentials = json!({"system.hostname": {"text": "web-${serial}"}, "motd": {"text": "hush"}});
    let config = json!({"format": 1, "release": {"name": "os", "version": "1"}, "credentials": credentials});
    fs::write(operator.0.path("host.json"), config.to_string()).unwrap();
    operator.ok(&format!("host add serial-7XK --config D/host.json {ON}"));
    let (result, text) = operator.told(&format!("host explain --serial 7XK {ON}"));
    let expected = json!([{"name": "motd", "bytes": 4}, {"name": "system.hostname", "bytes": 7}]);
    assert_eq!((&result["credentials"], text.as_str()), (&expected, "serial-7XK: there is a host config\n"));
    operator.ok(&format!("host remove default {ON}"));
    let text = "metalstrap: the repository has no host config for this machine: default";
    assert_eq!(operator.refusal(&format!("host explain {ON}")), text);
    let text = "metalstrap: the repository has no host config for default";
    assert_eq!(operator.refusal(&format!("host remove default {ON}")), text);
    fs::remove_file(operator.0.path("keys/hosts.pem")).unwrap();
    let text = "metalstrap: D/keys/hosts.pem is missing: without this key, hosts metadata cannot be signed";
    assert_eq!(operator.refusal(&format!("host add default --release os 1 {ON}")), text);
}

#[test]
fn a_secret_is_nowhere_in_the_repository_but_for_its_name() {
    let operator = Operator::new();
    let path = |name: &str| operator.0.path(name).to_str().unwrap().to_owned();
    for arguments in [
        ["genpkey", "-algorithm", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &path("ek")].as_slice(),
        &["pkey", "-in", &path("ek"), "-pubout", "-out", &path("ek.pem")],
    ] {
        assert!(Command::new("openssl").args(arguments).output().unwrap().status.success());
    }
    fs::write(operator.0.path("psk"), "hush, nobody may hear this").unwrap();
    let add = format!("host add serial-7XK --release os 1 --secret wifi.psk=D/psk {ON}");
    let result = operator.ok(&format!("{add} --ek D/ek.pem"));
    assert_eq!(result["published"], true);
    let shown = operator.ok(&format!("host show serial-7XK {ON}"));
    let secret = &shown["config"]["secrets"]["wifi.psk"];
    let explained = operator.ok(&format!("host explain --serial 7XK {ON}"));
    assert_eq!(explained["secrets"], json!([{"name": "wifi.psk", "ek": secret["ek"]}]));
    for (path, bytes) in contents(&operator.0.path("repository")) {
        assert!(!bytes.windows(12).any(|part| part == b"hush, nobody"), "{path:?}");
    }
    assert!(operator.refusal(&add).contains("For more information"), "without a key there is nothing to encrypt to");
    let text = operator.refusal(&format!("{add} --ek D/psk"));
    assert!(text.starts_with("metalstrap: D/psk holds no endorsement key of RSA 2048 or ECC P-256: "), "{text}");
}

#[test]
fn a_machine_without_a_host_config_of_its_own_gets_that_of_its_group() {
    let operator = Operator::new();
    let write = |text: &str| fs::write(operator.0.path("groups.json"), text).unwrap();
    let group = |name: &str, matches: &str, version: &str| {
        format!(
            "{{\"name\": \"{name}\", \"match\": {matches},\n \"config\": {{\"format\": 1, \
             \"release\": {{\"name\": \"os\", \"version\": \"{version}\"}}}}}}"
        )
    };
    let list = |groups: &[String]| format!("{{\"format\": 1, \"groups\": [\n{}\n]}}", groups.join(",\n"));
    write(&list(&[group("web", "{\"serial\": \"7*\"}", "2")]));
    let text = "metalstrap: the group web gets os 2, but the repository has no such release: publish it first";
    assert_eq!(operator.refusal(&format!("host groups D/groups.json {ON}")), text);
    write(&list(&[
        group("web", "{\"serial\": \"7*\", \"vendor\": \"Dell*\"}", "1"),
        group("lab", "{\"mac\": \"52:54:*\"}", "1"),
    ]));
    operator.ok("host check D/groups.json");
    let result = operator.ok(&format!("host groups D/groups.json {ON}"));
    assert_eq!((&result["groups"], &result["published"]), (&json!(["web", "lab"]), &json!(true)));
    operator.ok(&format!("host add serial-7A --release os 1 {ON}"));
    operator.ok(&format!("host add default --release os 1 {ON}"));
    let explained = |machine: &str| {
        let (result, text) = operator.told(&format!("host explain {machine} {ON}"));
        (result["host"].as_str().unwrap().to_owned(), text)
    };
    assert_eq!(explained("--serial 7A --vendor Dell").0, "serial-7A");
    let (host, text) = explained("--serial 7B --vendor Dell");
    assert_eq!(
        (host.as_str(), text.as_str()),
        ("group web", "serial-7B: no host config\ngroup web: all of its match holds\n")
    );
    assert_eq!(explained("--serial 7B --vendor HPE --mac 52:54:00:12:34:56").0, "group lab");
    let (host, text) = explained("--serial 8");
    assert_eq!(host, "default");
    let expected = "serial-8: no host config\ngroup web: does not match\ngroup lab: does not match\ndefault: there is a host config\n";
    assert_eq!(text, expected);
    let shown = operator.ok(&format!("host show {ON}"));
    assert_eq!(
        (shown["hosts"].as_array().unwrap().len(), &shown["groups"][1]["match"]),
        (2, &json!({"mac": "52:54:*"}))
    );
    write("{\"format\": 1, \"groups\": [\n {\"name\": \"web\", \"match\": {}}\n]}");
    let text = operator.refusal("host check D/groups.json");
    assert_eq!(text, "metalstrap: 1 of 1 would be refused by every machine");
}

#[test]
fn a_site_config_is_one_that_the_installer_takes() {
    let operator = Operator::new();
    operator.ok("keygen --keys D/tls --tls repo.test --tls-ip 10.0.0.1");
    assert_eq!(files(&operator.0.path("tls")), ["ca.pem", "server.key", "server.pem"]);
    let output = Command::new("openssl")
        .args(["verify", "-purpose", "sslserver", "-verify_hostname", "repo.test", "-verify_ip", "10.0.0.1", "-CAfile"])
        .args([operator.0.path("tls/ca.pem"), operator.0.path("tls/server.pem")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let site = operator.ok("site --repository-url https://repo.test/os --keys D/keys --ca D/tls/ca.pem");
    let site = Site::parse(site.to_string().as_bytes()).unwrap();
    assert_eq!((site.repository.as_str(), site.network_timeout), ("https://repo.test/os", 180));
    assert!(site.mirrors.is_empty() && site.time_servers.is_empty());
    let words = "--mirror https://one.test/os --mirror https://two.test/os --keys D/keys --ca D/tls/ca.pem";
    let mirrored = operator.ok(&format!("site --repository-url https://repo.test/os {words}"));
    let mirrored = Site::parse(mirrored.to_string().as_bytes()).unwrap();
    assert_eq!(mirrored.mirrors, ["https://one.test/os", "https://two.test/os"]);
    let elsewhere = operator.ok("site --repository-from-network --keys D/keys --ca D/tls/ca.pem");
    assert_eq!(elsewhere.get("repository"), None);
    let ways = "--client-certificate D/tls/server.pem --client-key D/tls/server.key --proxy http://proxy.test:3128 \
                --no-proxy 10.0.0.0/8 --plain-mirrors --mirror http://near.test/os --attempts 20 --keys D/keys --system-cas";
    let pin = "0".repeat(64);
    let site = operator.ok(&format!("site --repository-url https://repo.test/os --pin {pin} {ways}"));
    let site = Site::parse(site.to_string().as_bytes()).unwrap();
    assert_eq!((site.pins.len(), site.retry.map(|retry| retry.attempts), site.plain_mirrors), (1, Some(20), true));
    let is_direct = site.exempt().iter().any(|entry| entry.covers("10.1.2.3"));
    assert_eq!((site.proxy.unwrap().0.as_str(), is_direct), ("http://proxy.test:3128", true));
    assert_eq!(site.ca, fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap());
    assert_eq!(site.client.unwrap().key, fs::read_to_string(operator.0.path("tls/server.key")).unwrap());
    // A pinned key needs no CA; and an https proxy's password comes from a file.
    let site = operator.ok(&format!("site --repository-url https://repo.test/os --pin {pin} --keys D/keys"));
    assert_eq!((site.get("ca"), &site["pins"]), (None, &json!([pin])));
    fs::write(operator.0.path("password"), "s@cret: 1%\n").unwrap();
    let ways = "--proxy https://ann@proxy.test:3128 --proxy-password D/password --keys D/keys --ca D/tls/ca.pem";
    let site = operator.ok(&format!("site --repository-url https://repo.test/os {ways}"));
    assert_eq!(site["proxy"], "https://ann:s%40cret%3A%201%25@proxy.test:3128/");
    let other = "--client-certificate D/tls/ca.pem --client-key D/tls/server.key --keys D/keys --ca D/tls/ca.pem";
    let text = "metalstrap: checking the site config: using client of the site config: keys may not be consistent: KeyMismatch";
    assert_eq!(operator.refusal(&format!("site --repository-url https://repo.test/os {other}")), text);
    let words = "--time-server ntp.test --time-server 10.0.0.1 --console ttyS1 --console hvc0 --ignore-media \
                 --keys D/keys --ca D/tls/ca.pem";
    let timed = operator.ok(&format!("site --repository-url https://repo.test/os {words}"));
    let timed = Site::parse(timed.to_string().as_bytes()).unwrap();
    assert_eq!(timed.time_servers, ["ntp.test", "10.0.0.1"]);
    assert_eq!(timed.consoles, ["ttyS1", "hvc0"]);
    assert!(timed.ignore_media);
    let text = "metalstrap: checking the site config: the site config's repository is \"http://repo.test\", not an \
                https:// URL";
    assert_eq!(operator.refusal("site --repository-url http://repo.test --keys D/keys --ca D/tls/ca.pem"), text);
}

#[test]
fn completions_and_manual_pages_name_every_verb() {
    let operator = Operator(Inputs::new());
    let result = operator.ok("man --output D/man");
    let pages = files(&operator.0.path("man"));
    assert_eq!(result["pages"], json!(pages));
    let verbs = [
        "keygen",
        "publish",
        "host",
        "refresh",
        "timestamp",
        "token",
        "site",
        "netboot",
        "predict",
        "attest",
        "verify",
        "vm",
        "schema",
        "completions",
        "man",
    ];
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(operator.run(&format!("completions {shell}")).stdout).unwrap();
        assert!(verbs.iter().all(|verb| script.contains(verb)), "{shell}");
    }
    let main = fs::read_to_string(operator.0.path("man/metalstrap.1")).unwrap();
    for verb in verbs {
        assert!(main.contains(&format!("metalstrap\\-{verb}(1)")), "{verb}");
        let page = fs::read_to_string(operator.0.path(&format!("man/metalstrap-{verb}.1"))).unwrap();
        assert!(page.contains("xample"), "{verb} has an example");
    }
    assert!(pages.contains(&"metalstrap-host-add.1".to_owned()), "{pages:?}");
}

#[test]
fn an_older_state_is_not_signed_again_unless_asked_for() {
    let operator = Operator::new();
    let (repository, old) = (operator.0.path("repository"), operator.0.path("old"));
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(&repository, &old);
    operator.ok(&format!("refresh {ON}"));
    fs::remove_dir_all(&repository).unwrap();
    copy(&old, &repository);
    let text = "metalstrap: this repository is older than what these keys signed last; if it was restored on purpose, say \
                --accept-older: the repository's timestamp metadata has version 1, but version 2 was seen here before";
    let before = contents(&repository);
    assert_eq!(operator.refusal(&format!("refresh {ON}")), text);
    assert!(contents(&repository) == before, "nothing was written");
    operator.ok(&format!("refresh {ON} --accept-older"));
}

#[test]
fn host_configs_name_only_what_targets_allow_once_there_is_a_list() {
    let operator = Operator::new();
    operator.ok(&PUBLISH.replace("--version 1", "--version 2"));
    operator.ok(&format!("host add default --release os 1 {ON}"));
    assert_eq!(operator.ok(&format!("host allowed {ON}"))["allowed"], json!(null));
    let (result, text) = operator.told(&format!("host allow os_2 tiny_* {ON}"));
    assert_eq!((&result["allowed"], &result["published"]), (&json!(["os_2", "tiny_*"]), &json!(true)));
    assert_eq!(result["metadata"]["versions"]["targets"], 3);
    let names = |host: &str| {
        format!(
            "{host} names the release os 1, but allowed-releases.json, which the role targets has signed, allows only os_2, \
             tiny_*"
        )
    };
    let default = names("the host config default");
    assert_eq!(text, format!("warning: {default}: its machines are refused from now on\n"));
    assert_eq!(operator.ok(&format!("host allowed {ON}"))["allowed"], json!(["os_2", "tiny_*"]));
    assert_eq!(operator.ok(&format!("host allow os_2 {ON}"))["published"], false);

    let before = contents(&operator.0.path("repository"));
    let key = names("the host config serial-7XK");
    assert_eq!(operator.refusal(&format!("host add serial-7XK --release os 1 {ON}")), format!("metalstrap: {key}"));
    let host = r#"{"format": 1, "release": {"name": "os", "version": "1"}}"#;
    let group =
        format!(r#"{{"format": 1, "groups": [{{"name": "a", "match": {{"serial": "7*"}}, "config": {host}}}]}}"#);
    fs::write(operator.0.path("groups.json"), group).unwrap();
    let group = names("the host config group a");
    assert_eq!(operator.refusal(&format!("host groups D/groups.json {ON}")), format!("metalstrap: {group}"));
    assert_eq!(operator.refusal(&format!("host explain {ON}")), format!("metalstrap: {default}"));
    assert!(contents(&operator.0.path("repository")) == before, "nothing was written");

    fs::write(operator.0.path("host.json"), host).unwrap();
    operator.ok("host check D/host.json D/groups.json");
    let output = operator.run(&format!("host check D/host.json D/groups.json {ON}"));
    let said = String::from_utf8(output.stderr).unwrap().replace(operator.0.directory.path().to_str().unwrap(), "D");
    let named = names("the host config");
    let expected = format!(
        "D/host.json:1: [release-not-allowed] {named}\nD/groups.json:1: [release-not-allowed] {group}\n\
         metalstrap: 2 of 2 would be refused by every machine\n"
    );
    assert_eq!((said, output.status.code()), (expected, Some(1)));
    let text = "metalstrap: whom to believe about the repository? Say --keys or --root";
    assert_eq!(operator.refusal("host check D/host.json --repository D/repository"), text);

    operator.ok(&format!("host add default --release os 2 {ON}"));
    assert_eq!(operator.ok(&format!("host explain {ON}"))["release"]["version"], "2");
    let text = "metalstrap: os_1 is no entry of the list of allowed releases: it has [\"os_2\", \"tiny_*\"]";
    assert_eq!(operator.refusal(&format!("host disallow os_1 {ON}")), text);
    operator.ok(&format!("host disallow os_2 tiny_* {ON}"));
    let none = "the host config default names the release os 2, but allowed-releases.json, which the role targets has signed, \
                allows none";
    assert_eq!(operator.refusal(&format!("host explain {ON}")), format!("metalstrap: {none}"));
    operator.ok(&format!("host allow * {ON}"));
    operator.ok(&format!("host add default --release os 1 {ON}"));
    fs::remove_file(operator.0.path("keys/targets.pem")).unwrap();
    let text = "metalstrap: D/keys/targets.pem is missing: without this key, targets metadata cannot be signed";
    assert_eq!(operator.refusal(&format!("host allow os_1 {ON}")), text);
    operator.ok(&format!("host add default --release os 2 {ON}"));
}

#[test]
fn only_a_repository_with_a_list_takes_entries_off() {
    let operator = Operator::new();
    let text = "metalstrap: there is no list of allowed releases: host configs may name every release";
    assert_eq!(operator.refusal(&format!("host disallow os_1 {ON}")), text);
    let output = operator.run(&format!("host allow os {ON}"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("has \"os\", which is no NAME_VERSION of a-z, A-Z, 0-9 and '.~^-', nor a pattern"), "{said}");
}

#[test]
fn a_machine_with_one_key_renews_the_timestamp_alone() {
    let operator = Operator::new();
    let keys = operator.0.path("keys");
    let names = ["targets.pem", "hosts.pem", "snapshot.pem", "root.pem", "delegation.json"];
    names.iter().for_each(|name| fs::remove_file(keys.join(name)).unwrap());
    let before = contents(&operator.0.path("repository"));
    let result = operator.ok(&format!("timestamp {ON}"));
    assert_eq!(result["signed"], json!(["timestamp"]));
    let versions = json!({"root": 1, "targets": 1, "snapshot": 1, "timestamp": 2, "hosts": 0});
    assert_eq!(result["metadata"]["versions"], versions);
    let after = contents(&operator.0.path("repository"));
    let changed: Vec<_> = after.iter().filter(|file| !before.contains(file)).map(|(name, _)| name.as_str()).collect();
    assert_eq!((changed, after.len()), (vec!["timestamp.json"], before.len()));

    let text = operator.refusal(&format!("timestamp {ON} --days 31"));
    let (start, end) =
        ("metalstrap: signing the timestamp: the repository's snapshot metadata expires at ", "fewer days");
    assert!(text.starts_with(start) && text.ends_with(end), "{text}");
    assert!(contents(&operator.0.path("repository")) == after, "nothing was written");
    fs::remove_file(keys.join("timestamp.pem")).unwrap();
    assert_eq!(
        operator.refusal(&format!("timestamp {ON}")),
        "metalstrap: D/keys/timestamp.pem is missing: without this key, timestamp metadata cannot be signed"
    );
}

#[test]
fn keys_that_others_may_read_do_not_sign() {
    let operator = Operator::new();
    fs::set_permissions(operator.0.path("keys/timestamp.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    let text = "metalstrap: the key D/keys/timestamp.pem is open to others (mode 644): chmod 600 it";
    assert_eq!(operator.refusal(&format!("refresh {ON}")), text);
    let text = "metalstrap: --root-keys and --root-threshold are for new root keys: say --rotate root too";
    assert_eq!(operator.refusal("keygen --keys D/keys --renew --root-keys 3"), text);
}

#[test]
fn what_a_machine_would_refuse_is_not_published() {
    let operator = Operator::new();
    let before = contents(&operator.0.path("repository"));
    // Eight years on, the root's own time is over.
    let text = operator.refusal(&format!("refresh --now 2050000000 {ON}"));
    let start =
        "metalstrap: checking what was signed; nothing is published: the repository's root metadata expired at ";
    assert!(text.starts_with(start), "{text}");
    assert!(contents(&operator.0.path("repository")) == before, "nothing was written");
    assert_eq!(
        operator.refusal("refresh --repository D/nowhere --keys D/keys"),
        "metalstrap: D/nowhere is no repository yet: publish a release first"
    );
    assert!(!operator.0.path("nowhere").exists());
}
