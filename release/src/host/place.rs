//! Where the host config of a machine stands in a repository.

use super::{HostKey, groups};

/// A target that may have a machine's host config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPlace {
    /// In a file of its own.
    Key(HostKey),
    /// Among the groups.
    Groups,
}

impl HostPlace {
    /// Where to look for a machine with these keys, in this order: its own, the groups, the one for every machine.
    #[must_use]
    pub fn in_order(keys: &[HostKey]) -> Vec<Self> {
        let (every, own): (Vec<_>, Vec<_>) =
            keys.iter().cloned().map(Self::Key).partition(|place| *place == Self::Key(HostKey::Default));
        own.into_iter().chain([Self::Groups]).chain(every).collect()
    }

    /// Its name among the repository's targets.
    #[must_use]
    pub fn target(&self) -> String {
        match self {
            Self::Key(key) => key.target(),
            Self::Groups => groups::TARGET.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_between_a_machines_own_and_the_one_for_all() {
        let keys =
            ["uuid-4c4c4544-0034-3510-8052-b4c04f4a3132", "serial-7XK", "default"].map(|key| key.parse().unwrap());
        let names: Vec<_> = HostPlace::in_order(&keys).iter().map(HostPlace::target).collect();
        let expected = [
            "host-uuid-4c4c4544-0034-3510-8052-b4c04f4a3132.json",
            "host-serial-7XK.json",
            "host-groups.json",
            "host-default.json",
        ];
        assert_eq!(names, expected);
    }
}
