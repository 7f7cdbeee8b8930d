//! The keys of the host config for the firmware's Secure Boot.

use anyhow::Result;
use metalstrap_release::host::Host;
use metalstrap_release::manifest::Manifest;

use super::{Firmware, Machine};
use crate::credentials::SecureBoot;
use crate::failure::{Code, coded};
use crate::report::fields;
use crate::secure_boot::{self, Asked, Keys};

impl Machine<'_> {
    /// What of the host config's keys the firmware lacks: to be asked before the first write. Where it has none, a doubt whether the
    /// firmware will start the release is told.
    ///
    /// # Errors
    /// [`Code::SecureBoot`]: it would not take them, or not start the release with them. [`Code::Credentials`]: with them the OS
    /// would refuse the host config's credentials.
    pub fn missing_keys(&self, host: &Host, manifest: &Manifest) -> Result<Vec<Asked>> {
        if !self.sets_boot_entry() {
            return Ok(Vec::new());
        }
        let Some(keys) = &host.secure_boot_keys else {
            if let Some(text) = self.with_keys(|firmware| secure_boot::doubt(firmware, &manifest.boot)) {
                self.tell.warn("secure-boot", &text);
            }
            return Ok(Vec::new());
        };
        self.tell.step("secure-boot", "Checking the firmware's keys", |_| {
            let missing = self.with_keys(|firmware| secure_boot::missing(firmware, keys, &manifest.boot))?;
            if !missing.is_empty()
                && let Some(text) = self.refusal(host, SecureBoot::Enrolled)
            {
                return Err(coded(Code::Credentials, text));
            }
            Ok(missing)
        })
    }

    /// Gives the firmware these keys, when the disk is complete.
    ///
    /// # Errors
    /// [`Code::SecureBoot`]: it did not take one.
    pub fn enroll(&self, missing: &[Asked]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        self.tell.step("secure-boot", "Enrolling Secure Boot's keys", |_| {
            self.with_keys(|firmware| secure_boot::enroll(firmware, missing))
        })?;
        let names: Vec<&str> = missing.iter().map(|(name, _)| *name).collect();
        self.tell.tell("secure-boot", "info", fields([("enrolled", names.into())]));
        Ok(())
    }

    fn with_keys<T>(&self, act: impl FnOnce(&Keys<'_>) -> T) -> T {
        let own = Firmware::default();
        let Firmware { keys, database, .. } = self.seams.firmware.as_ref().unwrap_or(&own);
        act(&Keys { global: keys.as_ref(), database: database.as_ref() })
    }
}
