//! What somebody has told systemd-boot to start, in the Boot Loader Interface's variables. It would be started instead of what
//! the host config names, and `LoaderEntryDefault` also when it has no attempts left, so that nothing would fall back.
//! What is to be started once (`LoaderEntryOneShot`) is left alone: systemd-boot removes it itself.

use anyhow::Result;

use super::Variables;

/// systemd-boot(7), "EFI Variables"; the second one is new in systemd 260.
const CHOICES: [&str; 2] = ["LoaderEntryDefault", "LoaderEntryPreferred"];

/// Removes them from `variables`, those of systemd-boot's namespace, and gives what they said: each one sentence.
///
/// # Errors
/// The firmware's.
pub fn forget(variables: &dyn Variables) -> Result<Vec<String>> {
    let mut forgotten = Vec::new();
    for name in CHOICES {
        let Some(value) = variables.read(name)? else { continue };
        variables.remove(name)?;
        let units = value.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit));
        let text = String::from_utf16_lossy(&units.take_while(|unit| *unit != 0).collect::<Vec<_>>());
        forgotten.push(format!("removed the EFI variable {name} ({text:?}): the host config says what is started"));
    }
    Ok(forgotten)
}

#[cfg(test)]
mod tests {
    use super::super::Efivarfs;
    use super::super::token::VENDOR;
    use super::*;

    #[test]
    fn what_was_chosen_to_be_started_is_forgotten() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(place.path()).of_vendor(VENDOR);
        assert_eq!(forget(&variables).unwrap(), Vec::<String>::new());
        let value: Vec<u8> = "debian_1.efi\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for name in ["LoaderEntryDefault", "LoaderEntryOneShot", "LoaderEntryPreferred"] {
            variables.write(name, &value).unwrap();
        }
        let said =
            |name| format!("removed the EFI variable {name} (\"debian_1.efi\"): the host config says what is started");
        assert_eq!(forget(&variables).unwrap(), [said("LoaderEntryDefault"), said("LoaderEntryPreferred")]);
        assert!(variables.names().unwrap().into_iter().eq(["LoaderEntryOneShot"]));
    }
}
