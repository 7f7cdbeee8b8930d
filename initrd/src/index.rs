//! The indexes that depmod writes beside the modules (man pages modules.dep(5), depmod.d(5), modprobe.d(5)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};

/// Which modules there are, and what needs what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index {
    /// A module's file, below the modules directory, to the files that it needs, nearest first.
    pub needs: BTreeMap<String, Vec<String>>,
    /// A module's name to its file.
    files: BTreeMap<String, String>,
    /// Pattern of a device or service, and the name of the module that serves it, in depmod's order.
    pub aliases: Vec<(String, String)>,
    /// Soft dependencies of a module, by name.
    soft: BTreeMap<String, Soft>,
    /// Text of `modules.builtin`.
    pub builtin: String,
    builtin_names: BTreeSet<String>,
}

/// What is wanted before and after a module; names or aliases, and it is no failure where they are missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Soft {
    /// To be loaded before it.
    pub pre: Vec<String>,
    /// To be loaded after it.
    pub post: Vec<String>,
}

impl Index {
    /// Reads the indexes in `dir`.
    ///
    /// # Errors
    ///
    /// A file that cannot be read.
    pub fn read(dir: &Path) -> Result<Self> {
        let text = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        Ok(Self::parse(
            &text("modules.dep")?,
            &text("modules.alias")?,
            &text("modules.softdep")?,
            text("modules.builtin")?,
        ))
    }

    /// Reads the texts of `modules.dep`, `modules.alias`, `modules.softdep` and `modules.builtin`.
    #[must_use]
    pub fn parse(dep: &str, alias: &str, softdep: &str, builtin: String) -> Self {
        let mut index = Self { builtin_names: builtin.lines().map(name_of).collect(), builtin, ..Self::default() };
        for (file, needs) in dep.lines().filter_map(|line| line.split_once(':')) {
            index.files.insert(name_of(file), file.to_owned());
            index.needs.insert(file.to_owned(), needs.split_whitespace().map(str::to_owned).collect());
        }
        for rest in alias.lines().filter_map(|line| line.strip_prefix("alias ")) {
            // A pattern may hold spaces; the module's name holds none.
            if let Some((pattern, module)) = rest.rsplit_once(' ') {
                index.aliases.push((pattern.to_owned(), name_of(module)));
            }
        }
        for rest in softdep.lines().filter_map(|line| line.strip_prefix("softdep ")) {
            let mut words = rest.split_whitespace();
            let soft = index.soft.entry(name_of(words.next().unwrap_or_default())).or_default();
            add_soft(soft, words);
        }
        index
    }

    /// The file of the module called `name`; `-` and `_` are the same.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&str> {
        self.files.get(&name_of(name)).map(String::as_str)
    }

    /// Whether the module called `name` is part of the kernel image.
    #[must_use]
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin_names.contains(&name_of(name))
    }

    /// The soft dependencies of a module with their aliases resolved to names of modules that exist as files.
    #[must_use]
    pub fn soft(&self, name: &str) -> Soft {
        let Some(soft) = self.soft.get(name) else { return Soft::default() };
        let resolve = |wanted: &[String]| wanted.iter().flat_map(|word| self.resolve(word)).collect();
        Soft { pre: resolve(&soft.pre), post: resolve(&soft.post) }
    }

    /// The modules that `word` means: the module of that name, else all that carry it as alias.
    fn resolve(&self, word: &str) -> Vec<String> {
        let name = name_of(word);
        if self.files.contains_key(&name) || self.builtin_names.contains(&name) {
            return self.files.contains_key(&name).then_some(name).into_iter().collect();
        }
        // The pattern side is taken as it stands: soft dependencies name services, and those aliases have no `*`.
        self.aliases.iter().filter(|(alias, _)| alias == word).map(|(_, module)| module.clone()).collect()
    }
}

/// Words before `pre:` or `post:` mean nothing to kmod either.
fn add_soft<'a>(soft: &mut Soft, words: impl Iterator<Item = &'a str>) {
    let mut list: Option<&mut Vec<String>> = None;
    for word in words {
        match (word, &mut list) {
            ("pre:", _) => list = Some(&mut soft.pre),
            ("post:", _) => list = Some(&mut soft.post),
            (_, Some(list)) => list.push(word.to_owned()),
            (_, None) => {}
        }
    }
}

/// The name of the module in `path`: without directory, `.ko` and compression, with `_` for `-`.
#[must_use]
pub fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split_once(".ko").map_or(file, |(stem, _)| stem);
    stem.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_read() {
        let index = Index::parse(
            "kernel/lib/libcrc32c.ko.xz:\nkernel/crypto/crc32c_generic.ko.xz:\nkernel/n/bnx-2x.ko.xz: kernel/lib/libcrc32c.ko.xz\n",
            "# Aliases\nalias crypto-crc32c crc32c_generic\nalias pci:v1d* bnx_2x\n",
            "# Soft\nsoftdep libcrc32c pre: crypto-crc32c tpm post: nothing\nsoftdep cifs gcm\n",
            "kernel/drivers/char/tpm/tpm.ko\n".into(),
        );
        assert_eq!(index.file("bnx-2x"), Some("kernel/n/bnx-2x.ko.xz"));
        assert_eq!(index.needs["kernel/n/bnx-2x.ko.xz"], ["kernel/lib/libcrc32c.ko.xz"]);
        assert_eq!(index.soft("libcrc32c"), Soft { pre: vec!["crc32c_generic".into()], post: vec![] });
        assert_eq!(index.soft("cifs"), Soft::default());
        assert_eq!(index.aliases[1], ("pci:v1d*".into(), "bnx_2x".into()));
        assert!(index.is_builtin("tpm"));
        assert!(!index.is_builtin("libcrc32c"));
    }
}
