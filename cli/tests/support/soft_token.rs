//! A token in software: SoftHSM's, in the directory of the test, with keys that are made on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::command::Operator;
use crate::readers::tree;
use crate::support::Inputs;

/// The module of SoftHSM.
pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Digits that stand nowhere else.
pub const PIN: &str = "71930254";

/// An operator with a token called `metalstrap`, and its PIN in `D/pin`.
pub struct SoftToken(pub Operator);

impl SoftToken {
    pub fn new() -> Self {
        assert!(
            Path::new(MODULE).exists(),
            "{MODULE} is not there: scripts/deps installs softhsm2 and opensc (keys on tokens are tested with them)"
        );
        let status = Command::new(tree().join("scripts/build-token")).status().unwrap();
        assert!(status.success(), "scripts/build-token: {status}");
        let token = Self(Operator(Inputs::new()));
        let tokens = token.0.0.path("tokens");
        fs::create_dir(&tokens).unwrap();
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", tokens.display());
        fs::write(token.0.0.path("softhsm2.conf"), text).unwrap();
        token.tool(
            "softhsm2-util",
            &["--init-token", "--free", "--label", "metalstrap", "--so-pin", "8842", "--pin", PIN],
        );
        token.write("pin", &format!("{PIN}\n"), 0o600);
        token
    }

    pub fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.0.0.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn tool(&self, program: &str, words: &[&str]) -> String {
        let mut command = Command::new(program);
        command.args(words).env("SOFTHSM2_CONF", self.0.0.path("softhsm2.conf"));
        let output = command.current_dir(self.0.0.directory.path()).output();
        let output = output.unwrap_or_else(|error| panic!("{program}, which scripts/deps installs: {error}"));
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Makes a key on the token.
    pub fn generate(&self, label: &str, id: &str, kind: &str, more: &[&str]) {
        let words = ["--module", MODULE, "--token-label", "metalstrap", "--login", "--pin", PIN, "--keypairgen"];
        let key = ["--key-type", kind, "--label", label, "--id", id];
        self.tool("pkcs11-tool", &[&words[..], &key, more].concat());
    }

    /// The public half of a key in PEM, as other tools read it.
    pub fn public(&self, label: &str) -> String {
        let words = ["--module", MODULE, "--token-label", "metalstrap", "--read-object", "--type", "pubkey"];
        self.tool("pkcs11-tool", &[&words[..], &["--label", label, "--output-file", "public.der"]].concat());
        self.tool("openssl", &["pkey", "-pubin", "-inform", "DER", "-in", "public.der"])
    }

    /// Runs metalstrap with metalstrap-token in PATH and no terminal.
    pub fn run(&self, line: &str, pin: Option<&str>) -> Output {
        let program = self.0.command(line);
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(program.get_program()).args(program.get_args());
        command.env("SOFTHSM2_CONF", self.0.0.path("softhsm2.conf")).env_remove("METALSTRAP_PASSPHRASE");
        command.env("PATH", format!("{}:{}", tree().join("out/token").display(), std::env::var("PATH").unwrap()));
        match pin {
            Some(pin) => command.env("METALSTRAP_TOKEN_PIN", pin),
            None => command.env_remove("METALSTRAP_TOKEN_PIN"),
        };
        let output = command.output().unwrap();
        for text in [&output.stdout, &output.stderr] {
            assert!(!String::from_utf8_lossy(text).contains(PIN), "the PIN is shown");
        }
        output
    }

    /// The result.
    pub fn ok(&self, line: &str) -> serde_json::Value {
        let output = self.run(line, None);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Why not.
    pub fn refusal(&self, line: &str) -> String {
        self.0.refused(&self.run(line, None))
    }
}

/// The URI of a key, with the PIN in a file.
pub fn uri(label: &str) -> String {
    format!("pkcs11:token=metalstrap;object={label}?module-path={MODULE}&pin-source=file:D/pin")
}
