//! The list of driver classes, `drivers.conf`; the file itself says how it is written.

use anyhow::{Context, Result, bail};

/// The list that the netboot initrd is made by.
const STANDARD: &str = include_str!("../drivers.conf");

/// A list of driver classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drivers {
    /// In the order of the file.
    pub classes: Vec<Class>,
}

/// A class: what its drivers are for, and which modules it takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Class {
    /// `storage`, `network`, …
    pub name: String,
    /// Patterns of the modules that it takes.
    pub take: Vec<String>,
    /// Patterns of modules that it does not take although one of `take` names them.
    pub leave: Vec<String>,
    /// Modules to load on every machine.
    pub load: Vec<String>,
}

impl Drivers {
    /// The list of the netboot initrd.
    ///
    /// # Errors
    ///
    /// None in a tested build.
    pub fn standard() -> Result<Self> {
        Self::parse(STANDARD).context("reading initrd/drivers.conf")
    }

    /// Reads a list.
    ///
    /// # Errors
    ///
    /// The first line that is not of the form, with its number.
    pub fn parse(text: &str) -> Result<Self> {
        let mut classes: Vec<Class> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                classes.push(Class { name: name.to_owned(), ..Class::default() });
                continue;
            }
            let Some(class) = classes.last_mut() else {
                bail!("line {number}: {line:?} stands before the first class")
            };
            match (line.strip_prefix("load "), line.strip_prefix('!')) {
                (Some(module), _) => class.load.push(module.trim().to_owned()),
                (_, Some(pattern)) => class.leave.push(pattern.to_owned()),
                _ if line.starts_with("kernel/") => class.take.push(line.to_owned()),
                _ => bail!("line {number}: {line:?} is no pattern below kernel/, no `load` and no class"),
            }
        }
        Ok(Self { classes })
    }
}

/// Whether `pattern` takes the module at `path` (below the modules directory, without `.ko` and compression).
#[must_use]
pub fn matches(pattern: &str, path: &str) -> bool {
    if pattern.ends_with('/') {
        return path.starts_with(pattern);
    }
    let (pattern, path): (Vec<&str>, Vec<&str>) = (pattern.split('/').collect(), path.split('/').collect());
    pattern.len() == path.len() && pattern.iter().zip(&path).all(|(pattern, part)| part_matches(pattern, part))
}

/// `*` in `pattern` stands for any characters; there is no other special character.
fn part_matches(pattern: &str, part: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == part,
        Some((head, tail)) => part.strip_prefix(head).is_some_and(|rest| {
            rest.char_indices()
                .map(|(at, _)| at)
                .chain([rest.len()])
                .any(|at| rest.get(at..).is_some_and(|rest| part_matches(tail, rest)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_what_they_say() {
        assert!(matches("kernel/drivers/ata/ahci", "kernel/drivers/ata/ahci"));
        assert!(!matches("kernel/drivers/ata/ahci", "kernel/drivers/ata/libahci"));
        assert!(matches("kernel/drivers/net/ethernet/intel/", "kernel/drivers/net/ethernet/intel/ice/ice"));
        assert!(!matches("kernel/drivers/net/ethernet/intel/", "kernel/drivers/net/ethernet/intelligent"));
        assert!(matches("kernel/drivers/ata/sata_*", "kernel/drivers/ata/sata_mv"));
        assert!(!matches("kernel/drivers/ata/sata_*", "kernel/drivers/ata/sata_mv/x"));
        assert!(matches("k/*a*b", "k/xaayb"));
        assert!(!matches("k/*a*b", "k/xaaybc"));
    }

    #[test]
    fn a_list_is_read() {
        let text = "# c\n[a b]\nkernel/x/\n  !kernel/x/y\nload z\n\n[empty]\n";
        let read = Drivers::parse(text).unwrap();
        let first = Class {
            name: "a b".into(),
            take: vec!["kernel/x/".into()],
            leave: vec!["kernel/x/y".into()],
            load: vec!["z".into()],
        };
        let second = Class { name: "empty".into(), ..Class::default() };
        assert_eq!(read.classes, [first, second]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = |text| Drivers::parse(text).unwrap_err().to_string();
        assert_eq!(error("kernel/x"), "line 1: \"kernel/x\" stands before the first class");
        assert_eq!(error("[a]\nx/y"), "line 2: \"x/y\" is no pattern below kernel/, no `load` and no class");
    }

    #[test]
    fn the_standard_list_has_every_class_and_not_efibc() {
        let standard = Drivers::standard().unwrap();
        let names: Vec<&str> = standard.classes.iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["storage", "network", "file systems", "tpm", "efi", "usb", "watchdog"]);
        for module in ["kernel/drivers/firmware/efi/efibc", "kernel/drivers/gpu/drm/i915/i915"] {
            assert!(!standard.classes.iter().flat_map(|class| &class.take).any(|pattern| matches(pattern, module)));
        }
    }
}
