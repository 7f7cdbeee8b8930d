//! Kernel modules: what depmod wrote about them, and loading one with all it needs.

use std::collections::{HashMap, HashSet};
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::modalias::Aliases;

/// What applies unless the kernel command line says otherwise.
/// `watchdog`: without it a watchdog is stopped on reboot, kexec included, and could not heal a hung jump.
/// `scsi_mod`: disks are found before the driver's load returns, so that settling does not guess.
const DEFAULT_PARAMETERS: &str = "watchdog.stop_on_reboot=0 scsi_mod.scan=sync";

/// Parameters by module, as `finit_module` takes them; it does not look at the kernel command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    values: HashMap<String, Vec<String>>,
    blacklist: HashSet<String>,
}

impl Parameters {
    /// Reads `module.parameter=value` words and `modprobe.blacklist=a,b`; later words win over earlier ones in the
    /// kernel's own parsing, which sees them in this order.
    #[must_use]
    pub fn parse(command_line: &str) -> Self {
        let mut parameters = Self::default();
        for word in words(command_line) {
            if let Some(names) = word.strip_prefix("modprobe.blacklist=") {
                parameters.blacklist.extend(names.split(',').map(canonical));
            } else if let Some((module, setting)) = word.split_once('.') {
                // `a.b=c` only where a and b can be names: not `url=http://host.example/`.
                let name = setting.split_once('=').map_or(setting, |(name, _)| name);
                if is_name(module) && is_name(name) {
                    parameters.values.entry(canonical(module)).or_default().push(setting.to_owned());
                }
            }
        }
        parameters
    }

    /// Whether `modprobe.blacklist` names the module: no device loads it then.
    #[must_use]
    pub fn blacklisted(&self, module: &str) -> bool {
        self.blacklist.contains(&canonical(module))
    }

    fn of(&self, module: &str) -> String {
        self.values.get(module).map(|settings| settings.join(" ")).unwrap_or_default()
    }
}

/// Words of a kernel command line; double quotes keep white space together and stay, as the kernel wants them.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.trim().chars() {
        quoted ^= c == '"';
        if c.is_ascii_whitespace() && !quoted {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(c);
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// Module names are equal up to `-` and `_`.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// Names to load before and after a module.
type Soft = (Vec<String>, Vec<String>);

/// What depmod wrote about a directory of modules.
#[derive(Debug, Default)]
pub struct Modules {
    directory: PathBuf,
    /// Name to the file's path below the directory and the names it needs, in depmod's order.
    files: HashMap<String, (String, Vec<String>)>,
    /// Modules to load before and after one, if they exist.
    soft: HashMap<String, Soft>,
    aliases: Aliases,
    parameters: Parameters,
    done: HashSet<String>,
}

/// What loading a module and its dependencies came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Modules loaded now, in this order.
    pub loaded: Vec<String>,
    /// Modules that the kernel refused, with its reason.
    pub failed: Vec<(String, String)>,
}

impl Modules {
    /// Reads `modules.dep`, `modules.alias` and `modules.softdep` of a directory. A directory without them is a
    /// kernel with everything built in.
    #[must_use]
    pub fn read(directory: &Path, command_line: &str) -> Self {
        let text = |name: &str| fs::read_to_string(directory.join(name)).unwrap_or_default();
        let parameters = Parameters::parse(&format!("{DEFAULT_PARAMETERS} {command_line}"));
        Self::parse(directory, &text("modules.dep"), &text("modules.alias"), &text("modules.softdep"), parameters)
    }

    fn parse(directory: &Path, dep: &str, alias: &str, softdep: &str, parameters: Parameters) -> Self {
        let files = dep.lines().filter_map(dependency).collect();
        let soft = softdep.lines().filter_map(soft_dependency).collect();
        let aliases = Aliases::parse(alias);
        Self { directory: directory.to_owned(), files, soft, aliases, parameters, done: HashSet::new() }
    }

    /// Number of modules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Modules for a device that are not on the blacklist.
    #[must_use]
    pub fn for_device(&self, modalias: &str) -> Vec<String> {
        let found = self.aliases.modules(modalias).into_iter().map(canonical);
        found.filter(|module| !self.parameters.blacklisted(module)).collect()
    }

    /// Loads what a name stands for (a module, or an alias such as `fs-vfat`) and all it needs. A name that is
    /// neither is built in or was not shipped: nothing happens. What was tried once is not tried again.
    pub fn load(&mut self, name: &str) -> Loaded {
        let mut result = Loaded::default();
        for module in self.order(name) {
            if self.done.insert(module.clone()) {
                match self.insert(&module) {
                    Ok(true) => result.loaded.push(module),
                    Ok(false) => {}
                    Err(error) => result.failed.push((module, format!("{error:#}"))),
                }
            }
        }
        result
    }

    /// The module and all it needs, each once, in the order to load them.
    fn order(&self, name: &str) -> Vec<String> {
        let mut order = Vec::new();
        self.visit(name, &mut HashSet::new(), &mut order);
        order
    }

    fn visit(&self, name: &str, seen: &mut HashSet<String>, order: &mut Vec<String>) {
        let module = canonical(name);
        let Some((_, needs)) = self.files.get(&module) else {
            // Soft dependencies may name an alias. Aliases lead to modules, so this ends.
            let real = self.aliases.modules(name).into_iter().map(canonical);
            real.filter(|real| self.files.contains_key(real)).for_each(|real| self.visit(&real, seen, order));
            return;
        };
        // Seen before its dependencies: soft dependencies may go in circles.
        if !seen.insert(module.clone()) {
            return;
        }
        let none = (Vec::new(), Vec::new());
        let (before, after) = self.soft.get(&module).unwrap_or(&none);
        before.iter().for_each(|name| self.visit(name, seen, order));
        // depmod lists what is needed first last.
        needs.iter().rev().for_each(|name| self.visit(name, seen, order));
        order.push(module);
        after.iter().for_each(|name| self.visit(name, seen, order));
    }

    /// Hands one module to the kernel; false if it was there already, built in or loaded.
    fn insert(&self, module: &str) -> Result<bool> {
        let Some((path, _)) = self.files.get(module) else { return Ok(false) };
        let path = self.directory.join(path);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let parameters = CString::new(self.parameters.of(module)).context("reading its parameters")?;
        match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(io::Error::from(errno)).with_context(|| format!("loading {}", path.display())),
        }
    }
}

/// A line of `modules.dep`: `PATH: PATH…`.
fn dependency(line: &str) -> Option<(String, (String, Vec<String>))> {
    let (path, needs) = line.split_once(':')?;
    let needs = needs.split_ascii_whitespace().map(name_of).collect();
    Some((name_of(path), (path.to_owned(), needs)))
}

/// The module in a file: `kernel/drivers/net/virtio_net.ko.xz` is `virtio_net`.
fn name_of(path: &str) -> String {
    let file = path.rsplit_once('/').map_or(path, |(_, file)| file);
    canonical(file.split_once(".ko").map_or(file, |(name, _)| name))
}

/// A line of `modules.softdep`: `softdep NAME [pre: NAME…] [post: NAME…]`.
fn soft_dependency(line: &str) -> Option<(String, Soft)> {
    let mut words = line.split_ascii_whitespace();
    let ("softdep", name) = (words.next()?, words.next()?) else { return None };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut list: Option<&mut Vec<String>> = None;
    for word in words {
        match word {
            "pre:" => list = Some(&mut before),
            "post:" => list = Some(&mut after),
            name => list.iter_mut().for_each(|list| list.push(name.to_owned())),
        }
    }
    Some((canonical(name), (before, after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "kernel/a-top.ko: kernel/b_mid.ko kernel/c.ko\n\
        kernel/b_mid.ko: kernel/c.ko\n\
        kernel/c.ko:\n\
        kernel/net/r8169.ko:\n\
        kernel/net/realtek.ko.xz: kernel/c.ko\n\
        kernel/crypto/crc32c_generic.ko:\n";

    fn modules(softdep: &str) -> Modules {
        let alias = "alias crypto-crc32c crc32c_generic\nalias pci:v1d* a_top\nalias pci:v1d2 r8169\n";
        Modules::parse(Path::new("/none"), DEP, alias, softdep, Parameters::parse("modprobe.blacklist=r8169,x"))
    }

    #[test]
    fn dependencies_come_first() {
        assert_eq!(modules("").order("a_top"), ["c", "b_mid", "a_top"]);
        assert_eq!(modules("").order("a-top"), ["c", "b_mid", "a_top"]);
        assert_eq!(modules("").order("not-there"), [""; 0]);
    }

    #[test]
    fn soft_dependencies_surround_and_may_go_in_circles() {
        let soft = "softdep r8169 pre: realtek crypto-crc32c missing post: b-mid\nsoftdep realtek pre: r8169\n# x\n";
        let order = modules(soft).order("r8169");
        assert_eq!(order, ["c", "realtek", "crc32c_generic", "r8169", "b_mid"]);
    }

    #[test]
    fn devices_get_their_modules_but_the_blacklisted() {
        assert_eq!(modules("").for_device("pci:v1d2"), ["a_top"]);
    }

    #[test]
    fn a_missing_file_is_named_and_tried_once() {
        let mut modules = modules("");
        let first = modules.load("c");
        let reason = "opening /none/kernel/c.ko: No such file or directory (os error 2)".to_owned();
        assert_eq!(first, Loaded { loaded: vec![], failed: vec![("c".into(), reason)] });
        assert_eq!(modules.load("c"), Loaded::default());
    }

    #[test]
    fn the_command_line_wins_over_what_applies_without_it() {
        let directory = tempfile::tempdir().unwrap();
        let of = |line: &str| Modules::read(directory.path(), line).parameters.of("watchdog");
        assert_eq!(of("quiet"), "stop_on_reboot=0");
        assert_eq!(of("console=ttyS0,115200 watchdog.stop_on_reboot=0"), "stop_on_reboot=0 stop_on_reboot=0");
        assert_eq!(
            of("watchdog.stop_on_reboot=0 watchdog.stop_on_reboot=1").rsplit(' ').next(),
            Some("stop_on_reboot=1")
        );
    }

    #[test]
    fn parameters_come_from_the_command_line() {
        let line =
            "console=ttyS0 nvme-core.io_timeout=9 nvme_core.x=\"a b\" url=http://a.b/c watchdog.stop_on_reboot=0";
        let parameters = Parameters::parse(line);
        assert_eq!(parameters.of("nvme_core"), "io_timeout=9 x=\"a b\"");
        assert_eq!(parameters.of("watchdog"), "stop_on_reboot=0");
        assert_eq!(parameters.values.len(), 2);
    }
}
