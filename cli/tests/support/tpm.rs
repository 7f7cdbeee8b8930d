//! A machine with swtpm as its TPM, which tpm2-tools work with: a second implementation of all that a machine does when it is
//! attested.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::digest::to_hex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The PCRs of tests.
pub const PCRS: &str = "0-7,12,13";
/// The same for tpm2-tools.
pub const SELECTION: &str = "sha256:0,1,2,3,4,5,6,7,12,13";
/// And what the installer's final report quotes.
const REPORTED: &str = "sha256:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15";
/// Bytes of a value in that bank.
const VALUE: usize = 32;

/// A TPM, and a directory with what the tools write.
pub struct Machine {
    child: Child,
    port: u16,
    pub directory: TempDir,
}

impl Drop for Machine {
    /// Also runs when the test panics.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Machine {
    /// A new one, whose endorsement key an authority has certified: `root.pem`, by way of `issuer.pem`, both in its directory.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        fs::create_dir(path("state")).unwrap();
        fs::create_dir(path("ca")).unwrap();
        let ca = path("ca");
        fs::write(
            path("localca.conf"),
            format!(
                "statedir = {ca}\nsigningkey = {ca}/key.pem\nissuercert = {ca}/issuer.pem\ncertserial = {ca}/serial\n"
            ),
        )
        .unwrap();
        let options = "--platform-manufacturer Maker\n--platform-version 1\n--platform-model Model\n";
        fs::write(path("localca.options"), options).unwrap();
        let (config, options) = (path("localca.conf"), path("localca.options"));
        fs::write(
            path("setup.conf"),
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {config}\n\
                 create_certs_tool_options = {options}\nactive_pcr_banks = sha256\n"
            ),
        )
        .unwrap();
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--pcr-banks", "sha256", "--config", &path("setup.conf")])
            .args(["--tpmstate", &path("state")])
            .output()
            .expect("swtpm_setup (Debian package swtpm-tools) can be run");
        assert!(output.status.success(), "{output:?}");
        fs::copy(format!("{ca}/issuer.pem"), path("issuer.pem")).unwrap();
        fs::copy(format!("{ca}/swtpm-localca-rootca-cert.pem"), path("root.pem")).unwrap();
        let (child, port) = launch(&path("state"));
        let machine = Self { child, port, directory };
        machine.tool("tpm2_createek -c ek.ctx -G rsa -u ek.pub");
        machine.tool("tpm2_nvread 0x01c00002 -C o -o ek.der");
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Runs a tool, whatever comes of it. No objects stay in the TPM, which has little room.
    pub fn try_tool(&self, line: &str) -> Output {
        let run = |line: &str| {
            let mut words = line.split(' ');
            Command::new(words.next().unwrap())
                .args(words)
                .current_dir(self.directory.path())
                .env("TPM2TOOLS_TCTI", format!("swtpm:host=127.0.0.1,port={}", self.port))
                .output()
                .expect("the tools of Debian's package tpm2-tools can be run")
        };
        let output = run(line);
        assert!(run("tpm2_flushcontext -t").status.success());
        output
    }

    /// Runs a tool.
    pub fn tool(&self, line: &str) {
        let output = self.try_tool(line);
        assert!(output.status.success(), "{line}: {output:?}");
    }

    /// Makes an attestation key, `NAME.ctx`, `NAME.pub` and `NAME.pem`: rsa or ecc.
    pub fn make_ak(&self, name: &str, kind: &str) {
        let scheme = if kind == "rsa" { "rsassa" } else { "ecdsa" };
        let names = format!("-c {name}.ctx -u {name}.pub -n {name}.name");
        self.tool(&format!("tpm2_createak -C ek.ctx -G {kind} -g sha256 -s {scheme} {names}"));
        self.tool(&format!("tpm2_readpublic -c {name}.ctx -f pem -o {name}.pem"));
    }

    /// Measures as the installer does; the record for its log.
    pub fn measure(&self, what: &str, bytes: &[u8]) -> String {
        let digest = to_hex(&Sha256::digest(bytes));
        self.tool(&format!("tpm2_pcrextend 13:sha256={digest}"));
        let content = json!({"input": what, "eventType": "metalstrap"});
        let digests = json!([{"hashAlg": "sha256", "digest": digest}]);
        let record = json!({"pcr": 13, "digests": digests, "content_type": "systemd", "content": content});
        format!("\u{1e}{record}\n")
    }

    /// What it says of itself.
    pub fn introduction(&self, ak: &str) -> Value {
        // Without the length of TPM2B_PUBLIC.
        let public = |name: &str| STANDARD.encode(&self.bytes(name)[2..]);
        json!({"format": 1, "claims": {"serial": "7XK2J13"}, "ek": public("ek.pub"), "ak": public(&format!("{ak}.pub"))})
    }

    /// What the TPM gives out for a challenge's credential.
    pub fn activate(&self, challenge: &Value, ak: &str) -> Result<Vec<u8>, Output> {
        let part = |name: &str| STANDARD.decode(challenge[name].as_str().unwrap()).unwrap();
        // As tpm2_makecredential writes it: a magic number and a version come first.
        let start = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
        fs::write(self.path("credential"), [&start[..], &part("credential"), &part("encrypted_secret")].concat())
            .unwrap();
        self.tool("tpm2_startauthsession --policy-session -S session.ctx");
        self.tool("tpm2_policysecret -S session.ctx -c e");
        let activate =
            format!("tpm2_activatecredential -c {ak}.ctx -C ek.ctx -i credential -o secret -P session:session.ctx");
        let output = self.try_tool(&activate);
        self.tool("tpm2_flushcontext session.ctx");
        if output.status.success() { Ok(self.bytes("secret")) } else { Err(output) }
    }

    /// A quote as `NAME.msg`, `NAME.sig` and `NAME.pcrs`; the nonce as hexadecimal text.
    pub fn quote(&self, name: &str, ak: &str, nonce: &str) {
        self.quote_of(SELECTION, name, ak, nonce);
    }

    fn quote_of(&self, selection: &str, name: &str, ak: &str, nonce: &str) {
        let files = format!("-m {name}.msg -s {name}.sig -o {name}.pcrs");
        self.tool(&format!("tpm2_quote -c {ak}.ctx -l {selection} -q {nonce} -g sha256 {files}"));
        self.tool(&format!("tpm2_pcrread {selection} -o {name}.values"));
    }

    /// Whether tpm2_checkquote takes a quote.
    pub fn check_quote(&self, name: &str, ak: &str, nonce: &str, pcrs: &str) -> bool {
        let files = format!("-u {ak}.pem -m {name}.msg -s {name}.sig -f {pcrs}.pcrs");
        self.try_tool(&format!("tpm2_checkquote {files} -g sha256 -q {nonce}")).status.success()
    }

    /// The quote as evidence has it, with the values that were read after the quote `values`.
    pub fn quote_json(&self, name: &str, values: &str) -> Value {
        self.quote_json_of((0..8).chain([12, 13]), name, values)
    }

    fn quote_json_of(&self, numbers: impl Iterator<Item = u32>, name: &str, values: &str) -> Value {
        let bytes = self.bytes(&format!("{values}.values"));
        let pcrs: serde_json::Map<_, _> = numbers
            .zip(bytes.chunks(VALUE))
            .map(|(pcr, value)| (u32::to_string(&pcr), Value::from(to_hex(value))))
            .collect();
        let part = |end: &str| STANDARD.encode(self.bytes(&format!("{name}.{end}")));
        json!({"bank": "sha256", "quoted": part("msg"), "signature": part("sig"), "pcrs": pcrs})
    }

    /// The whole answer to a challenge.
    pub fn evidence(&self, challenge: &Value, ak: &str, log: &str) -> Value {
        let secret = self.activate(challenge, ak).unwrap();
        self.quote("quote", ak, &nonce(challenge));
        json!({
            "format": 1,
            "id": challenge["id"],
            "secret": STANDARD.encode(secret),
            "quotes": [self.quote_json("quote", "quote")],
            "userspace_log": log,
        })
    }

    /// The final event of a run; its quote is `report`.
    pub fn event(&self, run: &str, ak: &str, log: &str) -> Value {
        self.quote_of(REPORTED, "report", ak, &to_hex(&Sha256::digest(run)));
        let quote = self.quote_json_of(0..16, "report", "report");
        let attestation = json!({"introduction": self.introduction(ak), "quote": quote});
        let fields = json!({"release": "tiny_1", "event_log": log, "attestation": attestation});
        json!({
            "metalstrap": 1,
            "run": run,
            "sequence": 9,
            "at": 1.5,
            "step": "run",
            "state": "finished",
            "fields": fields,
        })
    }
}

/// A challenge's nonce as hexadecimal text.
pub fn nonce(challenge: &Value) -> String {
    to_hex(&STANDARD.decode(challenge["nonce"].as_str().unwrap()).unwrap())
}

/// Another process may take a port between its choice and swtpm's bind: then swtpm ends, and other ports are tried.
fn launch(state: &str) -> (Child, u16) {
    // Written by swtpm when it listens on both ports.
    let up = format!("{state}/pid");
    for _ in 0..20 {
        let (lower, port) = loop {
            let lower = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = lower.local_addr().unwrap().port();
            if port < u16::MAX && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
                break (lower, port);
            }
        };
        drop(lower);
        let mut child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={port}")])
            .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1)])
            .args(["--tpmstate", &format!("dir={state}")])
            .args(["--pid", &format!("file={up}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("swtpm (Debian package swtpm) can be run");
        let deadline = Instant::now() + Duration::from_secs(30);
        while child.try_wait().unwrap().is_none() {
            if fs::read_to_string(&up).is_ok_and(|text| text.trim() == child.id().to_string()) {
                return (child, port);
            }
            assert!(Instant::now() < deadline, "swtpm does not write {up}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    panic!("swtpm found no free ports");
}
