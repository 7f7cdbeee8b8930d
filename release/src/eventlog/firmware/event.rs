//! One event, and what is in its data.

use uuid::{Uuid, uuid};

use super::{Fields, Kind};
use crate::pcr::{Bank, BankDigest};
use crate::utf16;

/// The vendor of the variables that UEFI defines (`EFI_GLOBAL_VARIABLE`).
pub(crate) const GLOBAL: Uuid = uuid!("8be4df61-93ca-11d2-aa0d-00e098032b8c");

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The PCR that was extended; for [`Kind::NO_ACTION`], which extends none, what the firmware has put there.
    pub pcr: u32,
    /// Its type.
    pub kind: Kind,
    /// What the banks that are known here were extended with.
    pub digests: Vec<BankDigest>,
    /// What other banks were extended with.
    pub others: Vec<OtherDigest>,
    /// What the firmware says of it. Only for some types is it what was hashed.
    pub data: Vec<u8>,
}

/// A digest of an algorithm that is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherDigest {
    /// Its `TPM_ALG_ID`.
    pub algorithm: u16,
    /// As many bytes as the log says that the algorithm makes.
    pub digest: Vec<u8>,
}

/// A variable of the firmware (`UEFI_VARIABLE_DATA`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable<'a> {
    /// Its vendor.
    pub vendor: Uuid,
    /// Its name.
    pub name: String,
    /// Its value.
    pub data: &'a [u8],
}

impl Variable<'_> {
    /// Whether it is the one that says whether Secure Boot is on.
    pub(super) fn is_secure_boot(&self) -> bool {
        self.vendor == GLOBAL && self.name == "SecureBoot"
    }
}

/// The data of an [`Kind::EVENT_TAG`] (`TCG_PCClientTaggedEvent`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tagged<'a> {
    /// Says what was measured: those of systemd-stub are in systemd's `src/fundamental/tpm2-pcr.h`, those of Linux in its
    /// `drivers/firmware/efi/libstub/efistub.h`.
    pub id: u32,
    /// More of it, in words.
    pub data: &'a [u8],
}

impl Event {
    /// Whether a PCR was extended by it.
    #[must_use]
    pub fn extends(&self) -> bool {
        self.kind != Kind::NO_ACTION
    }

    /// What a bank was extended with.
    #[must_use]
    pub fn digest(&self, bank: Bank) -> Option<&[u8]> {
        BankDigest::find(&self.digests, bank)
    }

    /// Whether it is `bytes` that were measured, by all digests of banks that are known here.
    #[must_use]
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        BankDigest::are_of(&self.digests, bytes)
    }

    /// The variable that an event about one has in its data; `None` for events of other types, and where it does not fit.
    #[must_use]
    pub fn variable(&self) -> Option<Variable<'_>> {
        let of_variables = [
            Kind::EFI_VARIABLE_DRIVER_CONFIG,
            Kind::EFI_VARIABLE_BOOT,
            Kind::EFI_VARIABLE_BOOT2,
            Kind::EFI_VARIABLE_AUTHORITY,
        ];
        if !of_variables.contains(&self.kind) {
            return None;
        }
        let mut fields = Fields::new(&self.data);
        let vendor = Uuid::from_bytes_le(fields.bytes(16, "vendor").ok()?.try_into().ok()?);
        let (characters, length) = (size(&mut fields)?, size(&mut fields)?);
        let name = utf16::decode(fields.bytes(characters.checked_mul(2)?, "name").ok()?)?;
        let data = fields.bytes(length, "value").ok()?;
        fields.is_empty().then_some(Variable { vendor, name, data })
    }

    /// Where a program or driver was loaded from, of an event about one (`UEFI_IMAGE_LOAD_EVENT`): the file or URL of its device
    /// path. The digest does not cover it.
    #[must_use]
    pub fn image(&self) -> Option<String> {
        let of_images =
            [Kind::EFI_BOOT_SERVICES_APPLICATION, Kind::EFI_BOOT_SERVICES_DRIVER, Kind::EFI_RUNTIME_SERVICES_DRIVER];
        if !of_images.contains(&self.kind) {
            return None;
        }
        let mut fields = Fields::new(&self.data);
        // Where it lay in memory, how long it was, and where it was linked for.
        fields.bytes(24, "place").ok()?;
        let length = size(&mut fields)?;
        device_path(fields.bytes(length, "device path").ok()?)
    }

    /// Its data as text in UTF-16 with one NUL at its end: for [`Kind::IPL`] in PCR 11 the name of a UKI's section, in PCR 12
    /// a command line (systemd, `src/boot/measure.c`, tpm_log_event).
    #[must_use]
    pub fn text(&self) -> Option<String> {
        utf16::decode(self.data.strip_suffix(b"\0\0")?)
    }

    /// The data of a tagged event; `None` for events of other types, and where it does not fit.
    #[must_use]
    pub fn tagged(&self) -> Option<Tagged<'_>> {
        if self.kind != Kind::EVENT_TAG {
            return None;
        }
        let mut fields = Fields::new(&self.data);
        let (id, length) = (fields.u32("tag").ok()?, fields.u32("size").ok()?);
        let data = fields.bytes(usize::try_from(length).ok()?, "data").ok()?;
        Some(Tagged { id, data })
    }
}

fn size(fields: &mut Fields<'_>) -> Option<usize> {
    usize::try_from(fields.u64("size").ok()?).ok()
}

/// The last file or URL of a device path (UEFI, "File Path Media Device Path", "Uniform Resource Identifiers").
fn device_path(path: &[u8]) -> Option<String> {
    let (mut fields, mut found) = (Fields::new(path), None);
    while !fields.is_empty() {
        let (kind, length) = (fields.bytes(2, "type").ok()?, fields.u16("length").ok()?);
        let content = fields.bytes(usize::from(length).checked_sub(4)?, "content").ok()?;
        match kind {
            [0x04, 0x04] => found = utf16::decode(content.strip_suffix(b"\0\0")?),
            [0x03, 0x18] => found = String::from_utf8(content.to_vec()).ok(),
            _ => (),
        }
    }
    found
}
