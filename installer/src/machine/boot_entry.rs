//! The firmware's boot entry. Whatever the firmware makes of it is told, and ends no run.

use metalstrap_release::host::Host;
use metalstrap_release::manifest::Manifest;

use super::Machine;
use crate::bootvars::{self, BootEntry, Efivarfs, Variables, choice, token};
use crate::esp::random_seed;
use crate::secure_boot::DATABASE;

/// The variables of a firmware.
#[derive(Debug)]
pub struct Firmware {
    /// Its own: boot entries and their order.
    pub boot: Box<dyn Variables + Send + Sync>,
    /// systemd-boot's.
    pub loader: Box<dyn Variables + Send + Sync>,
    /// Secure Boot's PK and KEK, and its mode.
    pub keys: Box<dyn Variables + Send + Sync>,
    /// Secure Boot's db.
    pub database: Box<dyn Variables + Send + Sync>,
}

/// This machine's.
impl Default for Firmware {
    fn default() -> Self {
        let loader = Efivarfs::default().of_vendor(token::VENDOR).secret();
        let keys = Efivarfs::default().authenticated();
        let database = Efivarfs::default().of_vendor(DATABASE).authenticated();
        let boot = Box::new(Efivarfs::default());
        Self { boot, loader: Box::new(loader), keys: Box::new(keys), database: Box::new(database) }
    }
}

impl Machine<'_> {
    /// Whether the firmware gets a boot entry.
    #[must_use]
    pub fn sets_boot_entry(&self) -> bool {
        self.is_netboot() || self.seams.firmware.is_some()
    }

    /// Makes the firmware's entry for the ESP at `partition` and tells what became of it. It is never a failure:
    /// `\EFI\BOOT\BOOTX64.EFI` is there in any case.
    #[must_use]
    pub fn boot_entry(&mut self, partition: &bootvars::Partition, manifest: &Manifest, host: &Host) -> BootEntry {
        let own = Firmware::default();
        let Firmware { boot, loader, .. } = self.seams.firmware.as_ref().unwrap_or(&own);
        let title = format!("Linux ({})", manifest.name);
        let entry = bootvars::install(boot.as_ref(), partition, &title, host.boot_order);
        self.leaving.disk_is_next = bootvars::is_next(boot.as_ref(), &entry);
        for warning in &entry.warnings {
            self.tell.warn("boot-entry", warning);
        }
        if let Err(error) = random_seed().and_then(|random| token::provide(loader.as_ref(), &random)) {
            self.tell.warn("boot-entry", &format!("systemd-boot's random seed is not tied to this machine: {error:#}"));
        }
        match choice::forget(loader.as_ref()) {
            Ok(forgotten) => forgotten.iter().for_each(|text| self.tell.say(text)),
            Err(error) => {
                let text = "systemd-boot may start something else than the installed OS, as an EFI variable says";
                self.tell.warn("boot-entry", &format!("{text}: {error:#}"));
            }
        }
        entry
    }
}
