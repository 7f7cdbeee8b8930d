//! Disk images before and after a machine, as the host's own tools see them.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use metalstrap_qemu::find_tool;
use metalstrap_release::manifest::Manifest;

/// A partition of a table, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Unique GUID, upper case.
    pub uuid: String,
    /// Label.
    pub label: String,
}

/// Makes the sparse image `path` of `bytes` bytes with a GPT that `script` (sfdisk(8)) describes, for 512-byte sectors.
///
/// # Errors
/// sfdisk's words.
pub fn partitioned(path: &Path, bytes: u64, script: &str) -> Result<()> {
    let making = || format!("making {}", path.display());
    File::create(path).and_then(|file| file.set_len(bytes)).with_context(making)?;
    let mut sfdisk = Command::new(find_tool("sfdisk")?);
    sfdisk.args(["--quiet", "--no-reread"]).arg(path).stdin(Stdio::piped());
    let mut child = sfdisk.spawn().with_context(making)?;
    let script = format!("label: gpt\n{script}");
    child.stdin.take().context("sfdisk has no input")?.write_all(script.as_bytes()).with_context(making)?;
    ensure!(child.wait().with_context(making)?.success(), "sfdisk refuses {script}");
    Ok(())
}

/// Makes the image `path` of a FAT file system with this label, and in its root directory the file `name`, as the tools of others
/// make it.
///
/// # Errors
/// mkfs.vfat's or mcopy's words.
pub fn labelled(path: &Path, label: &str, name: &str, content: &str) -> Result<()> {
    let file = path.with_extension("file");
    std::fs::write(&file, content).with_context(|| format!("writing {}", file.display()))?;
    let in_it = format!("::{name}");
    run("mkfs.vfat", &["-C", "-F", "16", "-n", label], &[path, Path::new("16384")])?;
    run("mcopy", &["-i"], &[path, &file, Path::new(&in_it)]).map(drop)
}

/// The partitions of the image `path`, whose sectors have `sector` bytes, as fdisk reads them; it must find nothing wrong.
///
/// # Errors
/// fdisk's words.
pub fn partitions(path: &Path, sector: u64) -> Result<Vec<Part>> {
    let columns = "Start,Sectors,UUID,Name";
    let sector_text = sector.to_string();
    let arguments = ["--sector-size", &sector_text, "--color=never", "--list", "--output", columns];
    let said = run("fdisk", &arguments, &[path])?;
    let rows = said.lines().skip_while(|line| !line.trim_start().starts_with("Start ")).skip(1);
    rows.map(|row| part(row, sector).with_context(|| format!("reading {row:?} of {said}"))).collect()
}

fn part(row: &str, sector: u64) -> Result<Part> {
    let mut words = row.split_whitespace();
    let mut number = || -> Result<u64> { Ok(words.next().context("a number is missing")?.parse::<u64>()? * sector) };
    let (start, size) = (number()?, number()?);
    let uuid = words.next().context("the GUID is missing")?.to_owned();
    Ok(Part { start, size, uuid, label: words.collect::<Vec<_>>().join(" ") })
}

/// What blkid finds from `start` on in the image; empty for nothing.
///
/// # Errors
/// It cannot be run.
pub fn signature(path: &Path, part: &Part) -> Result<String> {
    let (offset, size) = (part.start.to_string(), part.size.to_string());
    let mut blkid = Command::new(find_tool("blkid")?);
    blkid.args(["--probe", "--offset", &offset, "--size", &size, "--output", "value", "--match-tag", "TYPE"]);
    let output = blkid.arg(path).output().context("running blkid")?;
    // 2: nothing was found.
    ensure!(matches!(output.status.code(), Some(0 | 2)), "blkid: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Whether the image holds the release as the first thing on it: ESP, hash tree and root with the right labels, fsck.fat and
/// veritysetup have nothing to complain of.
///
/// # Errors
/// What is not as it should be.
pub fn check_release(path: &Path, sector: u64, manifest: &Manifest) -> Result<()> {
    let parts = partitions(path, sector)?;
    let release = format!("{}_{}", manifest.name, manifest.version);
    let labels: Vec<_> = parts.iter().map(|part| part.label.as_str()).collect();
    let hash_label = format!("{release}_verity");
    let [esp, rest @ ..] = parts.as_slice() else { anyhow::bail!("{} has no partitions", path.display()) };
    let named = |label: &str| rest.iter().find(|part| part.label == label);
    let found = (named(&hash_label), named(&release));
    let (Some(tree), Some(root)) = found else { anyhow::bail!("the partitions are {labels:?}") };
    let scratch = path.with_extension("parts");
    std::fs::create_dir_all(&scratch).with_context(|| format!("making {}", scratch.display()))?;
    let take = |part: &Part, name: &str| extract(path, part, &scratch.join(name));
    let (esp, tree, root) = (take(esp, "esp")?, take(tree, "tree")?, take(root, "root")?);
    run("fsck.fat", &["-n"], &[&esp])?;
    let hash = manifest.root()?.root_hash.to_string();
    run("veritysetup", &["verify"], &[&root, &tree, Path::new(&hash)])?;
    std::fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))
}

/// Copies a partition, sparsely.
fn extract(path: &Path, part: &Part, to: &Path) -> Result<PathBuf> {
    let copying = || format!("copying bytes {} and on of {}", part.start, path.display());
    let mut from = File::open(path).with_context(copying)?;
    from.seek(SeekFrom::Start(part.start)).with_context(copying)?;
    let mut from = from.take(part.size);
    let mut out = File::create(to).with_context(copying)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = from.read(&mut buffer).with_context(copying)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
        if bytes.iter().all(|byte| *byte == 0) {
            let more = i64::try_from(length).with_context(copying)?;
            out.seek(SeekFrom::Current(more)).with_context(copying)?;
        } else {
            out.write_all(bytes).with_context(copying)?;
        }
    }
    out.set_len(part.size).with_context(copying)?;
    Ok(to.to_owned())
}

/// What a program prints that must end well and have nothing to complain of.
fn run(program: &str, arguments: &[&str], paths: &[&Path]) -> Result<String> {
    let mut command = Command::new(find_tool(program)?);
    // mtools would have the size be a multiple of a geometry that no disk has.
    command.env("LC_ALL", "C").env("MTOOLS_SKIP_CHECK", "1").args(arguments).args(paths);
    let output = command.output().with_context(|| format!("running {program}"))?;
    let [said, complaints] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let well = output.status.success() && complaints.is_empty();
    ensure!(well, "{program} {} ended with {}: {complaints}{said}", arguments.join(" "), output.status);
    Ok(said)
}
