//! Keys on a PKCS#11 token, as an operator uses them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

#[path = "support/operator.rs"]
mod command;
#[path = "support/readers.rs"]
mod readers;
#[path = "support/soft_token.rs"]
mod soft_token;
mod support;

use command::{ON, PUBLISH};
use readers::target;
use soft_token::{MODULE, PIN, SoftToken, uri};
use support::contents;

const P256: &str = "EC:prime256v1";
const ED25519: &str = "EC:edwards25519";

/// Keys of root, targets and timestamp on a token, and a repository that they have signed.
fn published() -> SoftToken {
    let token = SoftToken::new();
    for (label, id, kind) in [("root", "01", P256), ("targets", "02", ED25519), ("timestamp", "03", P256)] {
        token.generate(label, id, kind, &[]);
    }
    let (root, targets, timestamp) = (uri("root"), uri("targets"), uri("timestamp"));
    let line =
        format!("keygen --keys D/keys --token root={root} --token targets={targets} --token timestamp={timestamp}");
    let made = token.ok(&line);
    let files = json!([
        "root.uri",
        "targets.uri",
        "snapshot.pem",
        "timestamp.uri",
        "hosts.pem",
        "1.root.json",
        "delegation.json",
        "root.json"
    ]);
    assert_eq!(made["files"], files);
    token.ok(PUBLISH);
    token
}

#[test]
fn keys_on_a_token_sign_a_repository_that_everybody_reads() {
    let token = published();
    let operator = &token.0;
    let path = operator.0.path("keys/timestamp.uri");
    let directory = operator.0.directory.path().display().to_string();
    assert_eq!(fs::read_to_string(&path).unwrap().replace(&directory, "D"), format!("{}\n", uri("timestamp")));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let root: serde_json::Value =
        serde_json::from_slice(&fs::read(operator.0.path("keys/root.json")).unwrap()).unwrap();
    let kind = |role: &str| {
        let id = root["signed"]["roles"][role]["keyids"][0].as_str().unwrap();
        root["signed"]["keys"][id]["keytype"].as_str().unwrap().to_owned()
    };
    assert_eq!(["root", "targets", "snapshot", "timestamp"].map(kind), ["ecdsa", "ed25519", "ed25519", "ecdsa"]);

    // Every verb that signs, and the PIN from the environment.
    token.ok(&format!("host add default --release os 1 {ON}"));
    token.ok(&format!("timestamp {ON} --days 2"));
    token.ok(&format!("host allow os_1 {ON} --stage D/stage"));
    let signed = token.ok("sign D/stage --keys D/keys --yes");
    assert_eq!((&signed["complete"], signed["roles"][0]["signed"].as_array().unwrap().len()), (&json!(true), 1));
    token.ok(&format!("finish D/stage {ON}"));
    let bare = uri("timestamp").replace("&pin-source=file:D/pin", "");
    token.write("keys/timestamp.uri", &bare, 0o600);
    let output = token.run(&format!("refresh {ON}"), Some(PIN));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    operator.ok("keygen --tls repo.test --keys D/tls");
    let site = operator.ok("site --repository-url https://repo.test/os --keys D/keys --ca D/tls/ca.pem");
    fs::write(operator.0.path("site.json"), site.to_string()).unwrap();
    let seen = operator.ok("verify --site D/site.json --repository D/repository --deep");
    assert_eq!((&seen["problems"], &seen["releases"]), (&json!([]), &json!(["os_1.json"])));

    let names = ["os_1.json", "host-default.json", "allowed-releases.json"];
    let targets: serde_json::Map<_, _> =
        names.map(|name| (name.to_owned(), target(operator, name))).into_iter().collect();
    let memory = tempfile::tempdir().unwrap();
    let found = readers::tough(operator, "keys/1.root.json", memory.path(), &names).unwrap();
    assert_eq!(found["targets"], json!(targets));
    readers::fetch_python_tuf();
    let found = readers::python_tuf(operator, "keys/1.root.json", &names).unwrap();
    assert_eq!(found["targets"], json!(targets));
}

#[test]
fn a_key_on_a_token_is_rotated_and_the_old_one_signs_along() {
    let token = published();
    fs::copy(token.0.0.path("keys/1.root.json"), token.0.0.path("first.json")).unwrap();
    token.generate("next", "04", ED25519, &[]);
    let text = token.refusal(&format!("keygen --keys D/keys --renew --token timestamp={}", uri("next")));
    assert_eq!(text, "metalstrap: --token is for new keys: say --rotate timestamp too");
    let result = token.ok(&format!("keygen --keys D/keys --rotate timestamp --token timestamp={}", uri("next")));
    assert_eq!(result["files"], json!(["timestamp.uri", "2.root.json", "root.json"]));
    assert!(token.0.0.path("keys/timestamp.old-1.uri").exists());
    token.ok(&format!("refresh {ON}"));
    let bytes = fs::read(token.0.0.path("repository/metadata/timestamp.json")).unwrap();
    let timestamp: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(timestamp["signatures"].as_array().unwrap().len(), 2);
    let memory = tempfile::tempdir().unwrap();
    let found = readers::tough(&token.0, "first.json", memory.path(), &["os_1.json"]).unwrap();
    assert_eq!(found["versions"]["root"], 2);
    // The old token is returned: it is said, and nothing fails for it.
    for (module, why) in [
        (MODULE, "there is no token with token=\"gone\": "),
        ("/nowhere.so", "the PKCS#11 module /nowhere.so is not there"),
    ] {
        let gone = format!("pkcs11:token=gone;object=timestamp?module-path={module}");
        token.write("keys/timestamp.old-1.uri", &gone, 0o600);
        let output = token.run(&format!("timestamp {ON}"), None);
        assert!(output.status.success(), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        let warning = format!("timestamp.old-1.uri is not at hand: {why}");
        assert!(said.starts_with("warning: the key ") && said.contains(&warning), "{said}");
    }
}

#[test]
fn what_is_wrong_with_pin_token_or_key_is_said_and_changes_nothing() {
    let token = published();
    let before = contents(&token.0.0.path("repository"));
    let timestamp = format!("timestamp {ON}");
    let reading = "metalstrap: reading the key D/keys/timestamp.uri: ";

    token.write("pin", "40404040\n", 0o600);
    let text = "the PIN in D/pin is not that of the token \"metalstrap\"; it is not tried again, since tokens lock";
    assert_eq!(token.refusal(&timestamp), format!("{reading}{text}"));
    token.write("pin", PIN, 0o640);
    assert_eq!(token.refusal(&timestamp), format!("{reading}the PIN D/pin is open to others (mode 640): chmod 600 it"));
    token.write("pin", PIN, 0o600);
    let refused = |uri: &str| {
        let directory = token.0.0.directory.path().display().to_string();
        token.write("keys/timestamp.uri", &uri.replace("D/", &format!("{directory}/")), 0o600);
        token.refusal(&timestamp)
    };
    let with = |from: &str, to: &str| refused(&uri("timestamp").replace(from, to));

    let text = with("&pin-source=file:D/pin", "");
    let start = "the token \"metalstrap\" wants its PIN: say pin-source in the key's URI, set METALSTRAP_TOKEN_PIN, or run this \
                 at a terminal: ";
    assert!(text.starts_with(&format!("{reading}{start}")), "{text}");
    let text = token.0.refused(&token.run(&timestamp, Some("40404040")));
    let start = "the PIN in METALSTRAP_TOKEN_PIN is not that of the token \"metalstrap\"; ";
    assert!(text.starts_with(&format!("{reading}{start}")), "{text}");
    let text = token.0.refused(&token.run(&timestamp, Some("")));
    assert_eq!(text, format!("{reading}the PIN in METALSTRAP_TOKEN_PIN is empty"));
    let text = with("&pin-source=file:D/pin", &format!("&pin-value={PIN}"));
    assert!(text.starts_with(&format!("{reading}a PIN does not belong there (pin-value): ")), "{text}");

    let text = with(MODULE, "D/root");
    assert!(text.starts_with(&format!("{reading}loading the PKCS#11 module D/root: ")), "{text}");
    let start = "metalstrap: the key D/keys/timestamp.uri is not at hand: ";
    assert_eq!(with(MODULE, "/nowhere.so"), format!("{start}the PKCS#11 module /nowhere.so is not there"));
    let text = format!("there is no token with token=\"gone\": the module {MODULE} finds \"metalstrap\"");
    assert_eq!(with("token=metalstrap", "token=gone"), format!("{start}{text}"));
    let text = "the token \"metalstrap\" has no key with object=\"nothing\"";
    assert_eq!(refused(&uri("nothing")), format!("{reading}{text}"));

    token.generate("twin", "11", P256, &[]);
    token.generate("twin", "12", P256, &[]);
    let text = "the token \"metalstrap\" has 2 keys with object=\"twin\": name one by its id too";
    assert_eq!(refused(&uri("twin")), format!("{reading}{text}"));
    token.generate("large", "13", "EC:secp384r1", &[]);
    let text = "the key with object=\"large\" on the token \"metalstrap\" is neither of Ed25519 nor of P-256";
    assert_eq!(refused(&uri("large")), format!("{reading}{text}"));
    token.generate("always", "14", P256, &["--always-auth"]);
    let text = "the key with object=\"always\" on the token \"metalstrap\" wants the PIN anew for each signature \
                (CKA_ALWAYS_AUTHENTICATE): take one that does not";
    assert_eq!(refused(&uri("always")), format!("{reading}{text}"));
    // A key that signs, and is not the timestamp's.
    let text = "metalstrap: signing the timestamp: looking for the key D/keys/timestamp.uri: the role timestamp must be signed \
                by 1 of its keys, and 0 of them are at hand";
    assert_eq!(with("object=timestamp", "id=%11"), text);
    token.write("keys/timestamp.uri", &uri("timestamp"), 0o662);
    let text = "metalstrap: the key D/keys/timestamp.uri can be changed by others (mode 662): chmod go-w it";
    assert_eq!(token.refusal(&timestamp), text);
    token.write("keys/timestamp.uri", &uri("timestamp").replace("&pin-source=file:D/pin", ""), 0o600);
    let mut without = token.0.command(&timestamp);
    let output = without.env("PATH", "/usr/bin:/bin").output().unwrap();
    let text =
        "metalstrap-token is not beside metalstrap and not in PATH: it asks tokens (`scripts/build-token` makes it)";
    assert_eq!(token.0.refused(&output), format!("{reading}{text}"));
    fs::create_dir(token.0.0.path("open")).unwrap();
    token.write("open/metalstrap-token", "", 0o722);
    let output = token.0.command(&timestamp).env("PATH", token.0.0.path("open")).output().unwrap();
    let text = "D/open/metalstrap-token can be changed by others (mode 722): chmod go-w it";
    assert_eq!(token.0.refused(&output), format!("{reading}{text}"));
    assert!(contents(&token.0.0.path("repository")) == before, "nothing was written");
    // No wrong PIN was tried twice, or the token would want more than the right one.
    let output = token.run(&timestamp, Some(PIN));
    assert!(output.status.success(), "{output:?}");

    // What is refused is not shown: a PIN is in it.
    let secret = format!("{}&pin-value={PIN}", uri("root"));
    for (line, reading) in [
        (format!("token {secret}"), "the URI"),
        (format!("keygen --keys D/new --token root={secret}"), "the URI of --token root=…"),
    ] {
        let start = format!("metalstrap: reading {reading}: a PIN does not belong there (pin-value): ");
        assert!(token.refusal(&line).starts_with(&start), "{line}");
    }
    for (wrong, text) in [
        ("root", "--token is ROLE=URI"),
        ("roots=pkcs11:", "reading the role of --token: not a role: root, targets, snapshot, timestamp or hosts"),
    ] {
        assert_eq!(token.refusal(&format!("keygen --keys D/new --token {wrong}")), format!("metalstrap: {text}"));
    }

    let refusal = token.refusal(&format!("keygen --keys D/new --token root={}", uri("nothing")));
    let start = "metalstrap: looking for the key pkcs11:token=metalstrap;object=nothing?";
    assert!(refusal.starts_with(start), "{refusal}");
    assert_eq!(fs::read_dir(token.0.0.path("new")).unwrap().count(), 0);
}

#[test]
fn a_key_on_a_token_is_shown_to_others() {
    let token = SoftToken::new();
    token.generate("ann", "01", P256, &[]);
    token.generate("bob", "02", ED25519, &[]);
    let shown = token.ok(&format!("token {}", uri("ann")));
    assert_eq!(shown["public"], token.public("ann"));
    token.ok(&format!("token --check {}", uri("ann")));
    token.write("pin", "40404040", 0o600);
    // The public half needs no PIN.
    let other = token.ok(&format!("token {}", uri("bob")));
    assert_eq!(token.ok(&format!("token {}", uri("ann"))), shown);
    let text = token.refusal(&format!("token --check {}", uri("ann")));
    let end = ": the PIN in D/pin is not that of the token \"metalstrap\"; it is not tried again, since tokens lock";
    assert!(text.starts_with("metalstrap: looking for the key pkcs11:") && text.ends_with(end), "{text}");

    // Two people, each with a key on a token of their own, make the next root of somebody else's repository.
    token.write("pin", PIN, 0o600);
    token.ok("keygen --keys D/keys");
    for (name, key) in [("ann", &shown), ("bob", &other)] {
        token.write(&format!("{name}.pub"), key["public"].as_str().unwrap(), 0o644);
        fs::create_dir(token.0.0.path(name)).unwrap();
        let directory = token.0.0.directory.path().display().to_string();
        token.write(&format!("{name}/root.uri"), &uri(name).replace("D/", &format!("{directory}/")), 0o600);
        for file in ["root.json", "1.root.json"] {
            fs::copy(token.0.0.path(&format!("keys/{file}")), token.0.0.path(&format!("{name}/{file}"))).unwrap();
        }
    }
    token.ok(
        "keygen --keys D/keys --rotate root --root-public D/ann.pub --root-public D/bob.pub --root-threshold 2 --stage D/stage",
    );
    for (keys, complete) in [("keys", false), ("ann", false), ("bob", true)] {
        let signed = token.ok(&format!("sign D/stage --keys D/{keys} --yes"));
        assert_eq!(signed["complete"], complete, "{keys}");
    }
    let finished = token.ok("finish D/stage --keys D/keys");
    assert_eq!(finished["root"]["version"], 2);
}
