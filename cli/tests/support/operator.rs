//! The command, run as an operator runs it.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::Inputs;

/// A directory with inputs, `D` in texts, and the command run on it.
pub struct Operator(pub Inputs);

impl Operator {
    pub fn new() -> Self {
        let operator = Self(Inputs::new());
        operator.ok("keygen --keys D/keys");
        operator.ok(PUBLISH);
        operator
    }

    /// The command; tests with tokens have SoftHSM look into this directory.
    pub fn command(&self, line: &str) -> Command {
        let directory = self.0.directory.path().to_str().unwrap();
        let words = line.split(' ').map(|word| word.replace("D/", &format!("{directory}/")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_metalstrap"));
        command.args(words).env("SOFTHSM2_CONF", self.0.path("softhsm2.conf"));
        command.env_remove("METALSTRAP_PASSPHRASE").env_remove("METALSTRAP_TOKEN_PIN");
        command
    }

    pub fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    /// The result, and what was said.
    pub fn told(&self, line: &str) -> (Value, String) {
        let output = self.run(line);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{line}: {text}");
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1, "one line of JSON");
        (serde_json::from_slice(&output.stdout).unwrap(), text)
    }

    pub fn ok(&self, line: &str) -> Value {
        self.told(line).0
    }

    pub fn refusal(&self, line: &str) -> String {
        self.refused(&self.run(line))
    }

    /// The last line of what was said.
    pub fn refused(&self, output: &Output) -> String {
        assert!(!output.status.success(), "{output:?}");
        assert_eq!(output.stdout, b"");
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        text.replace(self.0.directory.path().to_str().unwrap(), "D").lines().last().unwrap().to_owned()
    }
}

/// The repository, and the keys that sign it.
pub const ON: &str = "--repository D/repository --keys D/keys";
/// Publishes version 1.
pub const PUBLISH: &str = "publish --name os --version 1 --level 1 --root D/root --verity D/verity --uki D/uki \
                       --loader D/loader --repository D/repository --keys D/keys";
