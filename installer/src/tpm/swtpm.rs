//! A software TPM for tests: a process of its own with fresh state, which ends with the value.

use std::fs;
use std::io::{self, Cursor, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::str::FromStr as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use tempfile::TempDir;
use tss_esapi::Context;
use tss_esapi::handles::AuthHandle;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::Auth;
use tss_esapi::tcti_ldr::{NetworkTPMConfig, TctiNameConf};

use super::TssTpm;
use super::direct::{Command as Sent, Direct, PASSWORD};

/// What the first command says when it has gone.
pub(crate) const GONE: &str =
    "the TPM does not answer as it should: response code not recognized: Response code value: 0xa000a";

/// swtpm on two neighbouring loopback ports, as the TCTI of tpm2-tss expects it.
#[derive(Debug)]
pub(crate) struct Swtpm {
    child: Child,
    port: u16,
    _state: TempDir,
}

impl Drop for Swtpm {
    /// Also runs when the test panics.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Swtpm {
    /// Starts one with the banks that libtpms has by default: SHA-1, SHA-256, SHA-384 and SHA-512.
    pub(crate) fn start() -> Self {
        Self::launch(tempfile::tempdir().unwrap())
    }

    /// Starts one that was set up with these banks only (comma-separated).
    pub(crate) fn start_with_banks(banks: &str) -> Self {
        let state = tempfile::tempdir().unwrap();
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--pcr-banks", banks, "--tpmstate"])
            .arg(state.path())
            .output()
            .expect("swtpm_setup (Debian package swtpm-tools) can be run");
        assert!(output.status.success(), "{output:?}");
        Self::launch(state)
    }

    /// A connection to it; it takes one at a time.
    pub(crate) fn connect(&self) -> TssTpm {
        self.try_connect().unwrap()
    }

    /// The same, which may be refused.
    pub(crate) fn try_connect(&self) -> Result<TssTpm> {
        TssTpm::connect(TctiNameConf::Swtpm(NetworkTPMConfig::from_str(&self.address()).unwrap()))
    }

    /// In its place there is one from now on that answers every command with the error `code`, as long as the process runs.
    pub(crate) fn fail(self, code: u32) {
        let port = self.port;
        drop(self);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        // TPM_ST_NO_SESSIONS, and the length.
        let answer = [&[0x80, 0x01, 0, 0, 0, 10][..], &code.to_be_bytes()].concat();
        thread::spawn(move || {
            // tpm2-tss connects anew for each command.
            for connection in listener.incoming() {
                let (mut connection, mut header) = (connection.unwrap(), [0_u8; 10]);
                connection.read_exact(&mut header).unwrap();
                let length = u32::from_be_bytes([header[2], header[3], header[4], header[5]]);
                let mut rest = vec![0; usize::try_from(length).unwrap() - header.len()];
                connection.read_exact(&mut rest).unwrap();
                connection.write_all(&answer).unwrap();
            }
        });
    }

    /// Has it in lockout: no wrong authorisation is allowed any more, and none is forgotten for 1000 s.
    pub(crate) fn lock_out(tpm: &mut Direct) {
        let parameters = [0, 1000, 1000].map(u32::to_be_bytes).concat();
        let (what, code) = ("TPM2_DictionaryAttackParameters", 0x13a);
        // TPM_RH_LOCKOUT.
        tpm.run(&Sent { what, code, handles: &[0x4000_000a], by: &[PASSWORD], parameters: &parameters }).unwrap();
        // TPM_PT_PERMANENT of TPM_CAP_TPM_PROPERTIES, behind the count and its name: inLockout.
        assert_eq!(tpm.capability(6, 0x200, 1).unwrap()[10] & 2, 2);
    }

    /// Where it is, as tpm2-tss is told.
    pub(crate) fn address(&self) -> String {
        format!("host=127.0.0.1,port={}", self.port)
    }

    /// The same, for commands as bytes.
    pub(crate) fn direct(&self) -> Direct {
        Direct::new(Box::new(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap()))
    }

    /// The same with a connection for each command, so that any number of these get their turn, as with the kernel's device.
    pub(crate) fn by_turns(&self) -> Direct {
        Direct::new(Box::new(Turns { port: self.port, answer: Cursor::default() }))
    }

    /// Has it forget the sessions of a program that has ended, as the kernel does where a program has the device.
    pub(crate) fn forget_sessions(&self) {
        let mut tpm = self.direct();
        // Of HMAC and of policies; those that are none are an error.
        for session in (0..8).flat_map(|number: u32| [0x0200_0000 | number, 0x0300_0000 | number]) {
            let parameters = session.to_be_bytes();
            let flush = Sent { what: "TPM2_FlushContext", code: 0x165, handles: &[], by: &[], parameters: &parameters };
            drop(tpm.run(&flush));
        }
    }

    /// What systemd-creds with this TPM makes of the credential `name` in `file`, which must be base64.
    pub(crate) fn decrypt(&self, name: &str, file: &Path) -> Output {
        let mut command = Command::new("systemd-creds");
        command.args([format!("--tpm2-device=swtpm:{}", self.address()), format!("--name={name}")]);
        command.arg("decrypt").arg(file).arg("-");
        let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output().unwrap();
        self.forget_sessions();
        output
    }

    /// Somebody has taken ownership: the owner's authorisation is not empty any more.
    pub(crate) fn set_owner_password(&self) {
        let mut tpm = self.connect();
        let password = Auth::try_from(b"secret".as_slice()).unwrap();
        let change = |context: &mut Context| context.hierarchy_change_auth(AuthHandle::Owner, password);
        tpm.context.execute_with_session(Some(AuthSession::Password), change).unwrap();
    }

    /// Another process may take a port between its choice and swtpm's bind: then swtpm ends, and other ports are tried.
    fn launch(state: TempDir) -> Self {
        let up = state.path().join("pid");
        for _ in 0..20 {
            let port = neighbouring_ports();
            let mut child = Command::new("swtpm")
                .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--server"])
                .arg(format!("type=tcp,bindaddr=127.0.0.1,port={port}"))
                .arg("--ctrl")
                .arg(format!("type=tcp,bindaddr=127.0.0.1,port={}", port + 1))
                .arg("--tpmstate")
                .arg(format!("dir={}", state.path().display()))
                .arg("--pid")
                .arg(format!("file={}", up.display()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("swtpm (Debian package swtpm) can be run");
            if comes_up(&mut child, &up) {
                return Self { child, port, _state: state };
            }
        }
        panic!("swtpm found no free ports");
    }
}

/// A command is written in one piece, and its answer is there before the connection goes.
struct Turns {
    port: u16,
    answer: Cursor<Vec<u8>>,
}

impl Write for Turns {
    fn write(&mut self, command: &[u8]) -> io::Result<usize> {
        let mut tpm = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        tpm.write_all(command)?;
        // Tag, length of the whole, code.
        let mut answer = vec![0; 10];
        tpm.read_exact(&mut answer)?;
        let length = u32::from_be_bytes(answer[2..6].try_into().unwrap());
        answer.resize(usize::try_from(length).unwrap(), 0);
        tpm.read_exact(&mut answer[10..])?;
        self.answer = Cursor::new(answer);
        Ok(command.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Turns {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.answer.read(buffer)
    }
}

/// A port that is free together with the one above it.
fn neighbouring_ports() -> u16 {
    for _ in 0..100 {
        let lower = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = lower.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two free neighbouring ports");
}

/// Waits until it listens on both ports, which it does before it writes its number into this file; false when it ended instead.
/// That somebody answers on a port is no sign: it may be another, and the control port is there before the other one.
fn comes_up(child: &mut Child, up: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if fs::read_to_string(up).is_ok_and(|text| text.trim() == child.id().to_string()) {
            return true;
        }
        assert!(Instant::now() < deadline, "swtpm does not write {}", up.display());
        thread::sleep(Duration::from_millis(10));
    }
    false
}
