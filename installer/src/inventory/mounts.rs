//! What is mounted: `/proc/self/mountinfo` (proc_pid_mountinfo(5)), and swapped to: `/proc/swaps` (proc_swaps(5)).

use std::path::Path;

/// The block devices that file systems are mounted from, and that the kernel swaps to.
#[derive(Debug, Default)]
pub(crate) struct Mounts {
    /// (device number as `major:minor`, source, mount point)
    entries: Vec<(String, String, String)>,
    /// Device nodes.
    swaps: Vec<String>,
}

impl Mounts {
    /// Parses the text of both files. Lines of another form are left out.
    pub(super) fn parse(text: &str, swaps: &str) -> Self {
        let entry = |line: &str| {
            let (before, after) = line.split_once(" - ")?;
            let mut before = before.split(' ');
            let (number, point) = (before.nth(2)?, before.nth(1)?);
            let source = after.split(' ').nth(1)?;
            Some((number.to_owned(), source.to_owned(), point.to_owned()))
        };
        let swaps = swaps.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next());
        Self { entries: text.lines().filter_map(entry).collect(), swaps: swaps.map(ToOwned::to_owned).collect() }
    }

    /// Whether the kernel swaps to the device with this name.
    pub(crate) fn is_swap(&self, name: &str) -> bool {
        self.swap(name).is_some()
    }

    /// The node by which the kernel swaps to the device with this name, which may be `mapper/vg-swap`.
    pub(crate) fn swap(&self, name: &str) -> Option<&str> {
        self.swaps.iter().find(|swap| swap.strip_prefix("/dev/") == Some(name)).map(String::as_str)
    }

    /// Whether the kernel swaps to this node.
    pub(crate) fn is_swapped_to(&self, node: &Path) -> bool {
        self.swaps.iter().any(|swap| Path::new(swap) == node)
    }

    /// Where the device with this number or name is mounted. btrfs has device numbers of its own, so the source's name
    /// counts too.
    pub(crate) fn point(&self, number: &str, name: &str) -> Option<&str> {
        let mounted =
            |(n, source, _): &&(String, String, String)| n == number || source.strip_prefix("/dev/") == Some(name);
        self.entries.iter().find(mounted).map(|(_, _, point)| point.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_name() {
        let mounts = Mounts::parse(
            "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n\
             40 35 0:45 / /srv rw - btrfs /dev/vdb3 rw,subvol=/\n\
             nonsense\n",
            "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
             /dev/sda2                               partition\t1048572\t\t0\t\t-2\n",
        );
        assert_eq!(mounts.point("98:0", "sda1"), Some("/mnt2"));
        assert_eq!(mounts.point("254:19", "vdb3"), Some("/srv"));
        assert_eq!(mounts.point("254:16", "vdb"), None);
        assert_eq!((mounts.is_swap("sda2"), mounts.is_swap("sda")), (true, false));
    }
}
