//! What a UKI must be like for a handoff by kexec, which splits it.

use super::{MAX_CMDLINE, Sections, UkiError, malformed};

/// Sections that systemd-stub hands over, in its order, each with the name of its file in `/.extra`.
pub const HANDED: [(&str, &str); 4] = [
    (".pcrsig", "tpm2-pcr-signature.json"),
    (".pcrpkey", "tpm2-pcr-public-key.pem"),
    (".osrel", "os-release"),
    (".profile", "profile"),
];
/// None of these is larger: keys, signatures and what a text file says.
pub const MAX_HANDED: u64 = 1 << 20;

impl Sections {
    /// Whether a file of `size` bytes with these sections can be split into what kexec starts. An initrd need not be there, as
    /// for systemd-stub: a kernel may have one built in.
    ///
    /// # Errors
    /// A section that must be there is missing, is larger than what is taken of it, or reaches behind the end of the file.
    pub fn check_split(&self, size: u64) -> Result<(), UkiError> {
        self.required(".linux")?;
        self.required(".cmdline")?;
        let bounded = HANDED.iter().map(|(name, _)| (*name, MAX_HANDED)).chain([(".cmdline", MAX_CMDLINE)]);
        for (name, limit) in bounded {
            if let Some(section) = self.get(name).filter(|section| section.virtual_size > limit) {
                return Err(UkiError::TooLarge { name: name.to_owned(), size: section.virtual_size, limit });
            }
        }
        let mut stored = self.iter().filter(|section| section.stored_size() > 0);
        match stored.find(|section| section.file_offset.saturating_add(section.stored_size()) > size) {
            Some(section) => {
                malformed(format!("has a section {} that reaches behind the end of the file", section.name))
            }
            None => Ok(()),
        }
    }
}

/// What `.cmdline` holds as manifests have it.
#[must_use]
pub fn trim_cmdline(text: &str) -> &str {
    text.trim_end_matches(['\0', '\n', ' '])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uki::tests::pe;

    /// What is wrong with a UKI of sections of these sizes, of which so many bytes are cut off.
    fn refusal(sections: &[(&str, usize)], cut: u64) -> Option<String> {
        let contents: Vec<_> = sections.iter().map(|(_, size)| vec![7; *size]).collect();
        let described = sections
            .iter()
            .zip(&contents)
            .map(|((name, size), content)| (name.as_bytes(), content.as_slice(), u32::try_from(*size).unwrap()));
        let bytes = pe(&described.collect::<Vec<_>>());
        let found = Sections::parse(&bytes).unwrap().check_split(bytes.len() as u64 - cut);
        found.err().map(|error| error.to_string())
    }

    const MIB: usize = 1 << 20;

    #[test]
    fn kernel_and_command_line_are_enough() {
        assert_eq!(refusal(&[(".linux", 1), (".cmdline", 1)], 0), None);
        assert_eq!(refusal(&[(".cmdline", 1), (".initrd", 1)], 0).unwrap(), "the UKI has no section .linux");
        assert_eq!(refusal(&[(".linux", 1), (".initrd", 1)], 0).unwrap(), "the UKI has no section .cmdline");
        // In another profile than the one that is started.
        let other = [(".linux", 1), (".profile", 1), (".profile", 1), (".cmdline", 1)];
        assert_eq!(refusal(&other, 0).unwrap(), "the UKI has no section .cmdline");
    }

    #[test]
    fn what_is_read_as_a_whole_is_bounded() {
        let kernel = (".linux", 1);
        assert_eq!(refusal(&[kernel, (".cmdline", 64 << 10)], 0), None);
        assert_eq!(
            refusal(&[kernel, (".cmdline", (64 << 10) + 1)], 0).unwrap(),
            "the UKI's section .cmdline has 65537 bytes, more than 65536"
        );
        for name in [".pcrsig", ".pcrpkey", ".osrel", ".profile"] {
            let sized = |size| refusal(&[kernel, (".cmdline", 1), (name, size)], 0);
            assert_eq!(sized(MIB), None);
            let expected = format!("the UKI's section {name} has 1048577 bytes, more than 1048576");
            assert_eq!(sized(MIB + 1), Some(expected));
        }
        assert_eq!(refusal(&[kernel, (".cmdline", 1), (".splash", MIB + 1)], 0), None);
    }

    #[test]
    fn no_section_reaches_behind_the_end() {
        let sections = [(".linux", 1), (".cmdline", 1), (".pcrsig", 512), (".bss", 0)];
        assert_eq!(refusal(&sections, 0), None, "one without bytes lies behind the last one");
        assert_eq!(
            refusal(&sections, 1).unwrap(),
            "the UKI has a section .pcrsig that reaches behind the end of the file"
        );
        // Padding is not content.
        assert_eq!(refusal(&[(".linux", 1), (".cmdline", 1), (".pcrsig", 511)], 1), None);
    }

    #[test]
    fn a_command_line_ends_with_its_last_word() {
        assert_eq!(trim_cmdline(" quiet  gpt \n\0\0"), " quiet  gpt");
        assert_eq!(trim_cmdline("\0"), "");
    }
}
