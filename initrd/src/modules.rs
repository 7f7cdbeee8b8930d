//! Chooses the modules of an initrd and lays them out for a loader that knows modalias, dependencies and nothing else.
//!
//! Below `lib/modules/VERSION/` of the initrd lie the modules as plain `.ko` (compressed once, with the archive) and,
//! cut down to what is there, `modules.dep`, `modules.alias`, `modules.softdep` (aliases resolved to module names),
//! `modules.builtin`. Beside VERSION lies `always-load`: one module name a line, to be loaded on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::drivers::{Drivers, matches};
use crate::index::{Index, name_of};
use crate::kernel::Kernel;

/// Class of the modules that come only because others need them.
pub const NEEDED: &str = "needed by these";

/// The modules of an initrd.
#[derive(Debug, Clone)]
pub struct Selection {
    index: Index,
    /// A module's file, below the modules directory, and its class.
    pub modules: BTreeMap<String, String>,
    /// Names of modules to load on every machine, in the order of the list.
    pub load: Vec<String>,
    /// Patterns that took nothing: the kernel lacks the module or has it built in.
    pub unmatched: Vec<String>,
}

impl Selection {
    /// Chooses by `drivers` from `kernel`, with everything that the chosen modules need.
    ///
    /// # Errors
    ///
    /// Indexes that cannot be read, or a `load` line that names a module the kernel neither has nor has built in.
    pub fn new(kernel: &Kernel, drivers: &Drivers) -> Result<Self> {
        let index = Index::read(&kernel.modules)?;
        Self::from_index(index, drivers).with_context(|| format!("choosing modules of kernel {}", kernel.version))
    }

    /// Chooses the modules called `names`, to be loaded in that order, with everything that they need.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn named(kernel: &Kernel, names: &[&str]) -> Result<Self> {
        let class = crate::drivers::Class {
            name: "named".into(),
            load: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        Self::new(kernel, &Drivers { classes: vec![class] })
    }

    fn from_index(index: Index, drivers: &Drivers) -> Result<Self> {
        let mut chosen = Self { index, modules: BTreeMap::new(), load: Vec::new(), unmatched: Vec::new() };
        for class in &drivers.classes {
            for pattern in &class.take {
                chosen.take(pattern, &class.name, &class.leave);
            }
            for name in &class.load {
                match chosen.index.file(name).map(str::to_owned) {
                    Some(file) => {
                        chosen.modules.entry(file).or_insert_with(|| class.name.clone());
                        chosen.load.push(name.clone());
                    }
                    None if chosen.index.is_builtin(name) => {}
                    None => bail!("class {} wants module {name} loaded, and there is none", class.name),
                }
            }
        }
        chosen.close();
        Ok(chosen)
    }

    fn take(&mut self, pattern: &str, class: &str, leave: &[String]) {
        let mut taken = false;
        for file in self.index.needs.keys() {
            let path = file.split_once(".ko").map_or(file.as_str(), |(path, _)| path);
            if matches(pattern, path) && !leave.iter().any(|pattern| matches(pattern, path)) {
                self.modules.entry(file.clone()).or_insert_with(|| class.to_owned());
                taken = true;
            }
        }
        if !taken {
            self.unmatched.push(pattern.to_owned());
        }
    }

    /// Adds what the chosen modules need, hard and soft.
    fn close(&mut self) {
        let mut open: Vec<String> = self.modules.keys().cloned().collect();
        while let Some(file) = open.pop() {
            let soft = self.index.soft(&name_of(&file));
            let wanted = soft.pre.iter().chain(&soft.post).filter_map(|name| self.index.file(name));
            let needed = self.index.needs.get(&file).into_iter().flatten().map(String::as_str).chain(wanted);
            for other in needed.map(str::to_owned).collect::<Vec<_>>() {
                if !self.modules.contains_key(&other) {
                    self.modules.insert(other.clone(), NEEDED.to_owned());
                    open.push(other);
                }
            }
        }
    }

    /// The files to load so that the `load` modules run, in an order in which each finds what it needs.
    #[must_use]
    pub fn load_order(&self) -> Vec<String> {
        let mut order: Vec<String> = Vec::new();
        for name in &self.load {
            let Some(file) = self.index.file(name) else { continue };
            self.visit(file, &mut order, &mut BTreeSet::new());
        }
        order.iter().map(|file| plain(file)).collect()
    }

    /// Depth first; `above` holds the modules on the way here, since soft dependencies may form a circle.
    fn visit(&self, file: &str, order: &mut Vec<String>, above: &mut BTreeSet<String>) {
        if order.iter().any(|done| done == file) || !above.insert(file.to_owned()) {
            return;
        }
        for before in self.index.soft(&name_of(file)).pre {
            if let Some(before) = self.index.file(&before) {
                self.visit(before, order, above);
            }
        }
        for needed in self.index.needs.get(file).into_iter().flatten() {
            self.visit(needed, order, above);
        }
        order.push(file.to_owned());
        above.remove(file);
    }

    /// Puts the modules of `kernel`, decompressed, and their indexes into `archive`.
    ///
    /// # Errors
    ///
    /// A module that cannot be read or decompressed, with its path.
    pub fn put(&self, kernel: &Kernel, archive: &mut Archive) -> Result<()> {
        let base = format!("lib/modules/{}", kernel.version);
        for file in self.modules.keys() {
            archive.file(&format!("{base}/{}", plain(file)), 0o644, module(&kernel.modules.join(file))?)?;
        }
        for (name, text) in self.indexes() {
            archive.file(&format!("{base}/{name}"), 0o644, text.into_bytes())?;
        }
        let load: String = self.load.iter().map(|name| format!("{name}\n")).collect();
        archive.file("lib/modules/always-load", 0o644, load.into_bytes())?;
        Ok(())
    }

    /// Names and texts of the index files.
    pub(crate) fn indexes(&self) -> [(&'static str, String); 4] {
        let names: BTreeSet<String> = self.modules.keys().map(|file| name_of(file)).collect();
        let (mut dep, mut alias, mut soft) = (String::new(), String::new(), String::new());
        for file in self.modules.keys() {
            let needs: String =
                self.index.needs.get(file).into_iter().flatten().map(|need| format!(" {}", plain(need))).collect();
            dep += &format!("{}:{needs}\n", plain(file));
        }
        for (pattern, module) in self.index.aliases.iter().filter(|(_, module)| names.contains(module)) {
            alias += &format!("alias {pattern} {module}\n");
        }
        for name in &names {
            let wanted = self.index.soft(name);
            for (when, list) in [("pre", wanted.pre), ("post", wanted.post)] {
                if !list.is_empty() {
                    soft += &format!("softdep {name} {when}: {}\n", list.join(" "));
                }
            }
        }
        [
            ("modules.dep", dep),
            ("modules.alias", alias),
            ("modules.softdep", soft),
            ("modules.builtin", self.index.builtin.clone()),
        ]
    }
}

/// The module's path without its compression.
fn plain(file: &str) -> String {
    file.strip_suffix(".xz").unwrap_or(file).to_owned()
}

/// Bytes of the module at `path`, decompressed, with its signature.
fn module(path: &Path) -> Result<Vec<u8>> {
    let decompressing = || format!("decompressing {}", path.display());
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => std::fs::read(path).with_context(|| format!("reading {}", path.display())),
        Some("xz") => {
            let output = Command::new("xz").args(["-dc", "--"]).arg(path).output().with_context(decompressing)?;
            if !output.status.success() {
                bail!("{}: xz: {}", decompressing(), String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(output.stdout)
        }
        _ => bail!("{}: modules are read plain or compressed by xz", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        Index::parse(
            "kernel/a/nic.ko.xz: kernel/lib/crc.ko.xz kernel/lib/base.ko.xz\nkernel/lib/crc.ko.xz: kernel/lib/base.ko.xz\n\
             kernel/lib/base.ko.xz:\nkernel/lib/fast.ko.xz:\nkernel/a/other.ko.xz:\nkernel/fs/efivarfs.ko.xz:\n",
            "alias pci:1 nic\nalias pci:2 other\nalias svc fast\n",
            "softdep crc pre: svc\nsoftdep other pre: svc\n",
            "kernel/net/packet/af_packet.ko\n".into(),
        )
    }

    fn select(conf: &str) -> Result<Selection> {
        Selection::from_index(index(), &Drivers::parse(conf).unwrap())
    }

    #[test]
    fn what_is_needed_comes_along_and_nothing_else() {
        let chosen =
            select("[network]\nkernel/a/\n!kernel/a/other\nkernel/b/\nload af_packet\n[efi]\nload efivarfs\n").unwrap();
        let classes: Vec<(&str, &str)> = chosen.modules.iter().map(|(f, c)| (f.as_str(), c.as_str())).collect();
        assert_eq!(
            classes,
            [
                ("kernel/a/nic.ko.xz", "network"),
                ("kernel/fs/efivarfs.ko.xz", "efi"),
                ("kernel/lib/base.ko.xz", NEEDED),
                ("kernel/lib/crc.ko.xz", NEEDED),
                ("kernel/lib/fast.ko.xz", NEEDED),
            ]
        );
        assert_eq!(chosen.unmatched, ["kernel/b/"]);
        assert_eq!(
            chosen.indexes(),
            [
                (
                    "modules.dep",
                    "kernel/a/nic.ko: kernel/lib/crc.ko kernel/lib/base.ko\nkernel/fs/efivarfs.ko:\nkernel/lib/base.ko:\n\
                     kernel/lib/crc.ko: kernel/lib/base.ko\nkernel/lib/fast.ko:\n"
                        .into()
                ),
                ("modules.alias", "alias pci:1 nic\nalias svc fast\n".into()),
                ("modules.softdep", "softdep crc pre: fast\n".into()),
                ("modules.builtin", "kernel/net/packet/af_packet.ko\n".into()),
            ]
        );
        assert_eq!(chosen.load, ["efivarfs"]);
    }

    #[test]
    fn the_load_order_serves_what_is_needed_first() {
        let order = select("[x]\nload nic\n").unwrap().load_order();
        let first = order.iter().position(|file| file == "kernel/lib/base.ko").unwrap();
        assert_eq!(order.len(), 4);
        assert!(first < order.iter().position(|file| file == "kernel/lib/crc.ko").unwrap());
        assert!(order.contains(&"kernel/lib/fast.ko".to_owned()));
        assert_eq!(order.last().unwrap(), "kernel/a/nic.ko");
    }

    #[test]
    fn a_module_to_load_must_be_there() {
        let error = select("[efi]\nload nothing\n").unwrap_err();
        assert_eq!(error.to_string(), "class efi wants module nothing loaded, and there is none");
    }

    #[test]
    fn xz_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ko.xz");
        std::fs::write(&path, "no xz").unwrap();
        let error = module(&path).unwrap_err().to_string();
        assert!(error.ends_with("File format not recognized"), "{error}");
        assert!(error.starts_with(&format!("decompressing {}: xz: ", path.display())), "{error}");
    }
}
