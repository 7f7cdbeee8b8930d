//! `metalstrap vm` when things end otherwise than by an installation: a killed QEMU, a signal, wrong usage. The image is
//! made from the real kernel package (`scripts/fetch-kernels`).
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in helpers of tests"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use metalstrap_initrd::{BootTools, Kernel, NetbootOptions, netboot};
use metalstrap_qemu::{seconds, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Makes netboot.efi in `dir`.
fn image(dir: &Path) {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out");
    netboot(&NetbootOptions {
        kernel: Kernel::find(&out.join("kernels/cloud")).unwrap(),
        installer: "/bin/true".into(),
        site: br#"{"repository": "https://images.example.com"}"#.to_vec(),
        build_time: 1_760_000_000,
        tools: BootTools::find(&out.join("boot-tools")).unwrap(),
        cmdline_extra: String::new(),
        extra_files: Vec::new(),
        cache: Some(out.join("cache/initrd")),
        output: dir.join("netboot.efi"),
    })
    .unwrap();
}

fn vm(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_metalstrap"));
    command.args(["vm", "--netboot", "netboot.efi", "--memory", "256", "--logs", "logs"]).current_dir(dir);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts it, and waits until the machine is on.
fn switched_on(dir: &Path) -> Child {
    let mut child = vm(dir).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.ends_with("switched on; it boots the netboot UKI")));
    // The rest is read too, lest the pipe fills up or breaks.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

/// Its exit code and result.
fn end(mut child: Child) -> (Option<i32>, Value) {
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    (child.wait().unwrap().code(), serde_json::from_str(&said).unwrap())
}

/// Processes that work in `dir` or below, or name it on their command line.
fn processes(dir: &Path) -> Vec<(Pid, String)> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path: PathBuf = entry.ok()?.path();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        let line = String::from_utf8_lossy(&fs::read(path.join("cmdline")).ok()?).replace('\0', " ");
        let works = fs::read_link(path.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        (works || line.contains(dir.to_str()?)).then_some((Pid::from_raw(id), line))
    });
    all.collect()
}

#[test]
fn a_qemu_that_is_killed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path());
    let child = switched_on(dir.path());
    let qemu = processes(dir.path()).into_iter().find(|(_, line)| line.starts_with("/usr/bin/qemu-system-x86_64"));
    kill(qemu.unwrap().0, Signal::SIGKILL).unwrap();
    let (code, result) = end(child);
    assert_eq!(
        (code, &result["outcome"], &result["phase"]),
        (Some(1), &"machine-ended".into(), &"installation".into())
    );
    assert_eq!(result["happened"], "QEMU died before the machine ended its installation: signal: 9 (SIGKILL)");
    let logs = fs::canonicalize(dir.path()).unwrap().join("logs");
    assert_eq!(result["logs"], logs.to_str().unwrap());
    for log in ["machine/serial.log", "machine/qemu.log", "tpm/swtpm.log", "events.jsonl"] {
        assert!(logs.join(log).exists(), "{log}");
    }
    assert!(!logs.join("machine/disk-0.raw").exists() && !logs.join("tpm/tpm2-00.permall").exists());
}

#[test]
fn a_signal_ends_the_run_in_order_and_leaves_no_process() {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let dir = tempfile::tempdir().unwrap();
        image(dir.path());
        let child = switched_on(dir.path());
        for program in ["qemu-system-x86_64", "swtpm"] {
            let running = processes(dir.path());
            assert!(running.iter().any(|(_, line)| line.contains(program)), "{program} does not run: {running:?}");
        }
        kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
        let (ended, result) = end(child);
        assert_eq!((ended, &result["outcome"]), (Some(code), &"interrupted".into()));
        assert_eq!(result["happened"], format!("ended by {signal}"));
        assert_eq!(processes(dir.path()), []);
    }
}

#[test]
fn sigkill_leaves_no_process_either() {
    let dir = tempfile::tempdir().unwrap();
    image(dir.path());
    let mut child = switched_on(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    until("the end of everything", seconds(10), || Ok(processes(dir.path()).is_empty().then_some(()))).unwrap();
}

#[test]
fn what_cannot_be_used_is_said_with_exit_code_2_and_nothing_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let output = vm(dir.path()).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "metalstrap: reading the site config of netboot.efi: No such file or directory (os error 2)\n"
    );
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), b"".as_slice()));
    image(dir.path());
    fs::create_dir_all(dir.path().join("logs/old")).unwrap();
    let output = vm(dir.path()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "metalstrap: the directory logs for logs is not empty\n");
    assert_eq!(output.status.code(), Some(2));
}
