//! Machines that are known not to survive a kexec.

use serde::{Deserialize, Serialize};

use super::{KIND, Site};
use crate::digest::from_hex;
use crate::document::DocumentError;

const FIELD: &str = "kexec_deny";
/// Most entries.
const MAX: usize = 64;
/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 128;

/// Machines that are left by a reboot instead of kexec. All that an entry names must fit, and it names at least one thing.
/// Patterns are those of a shell: `*`, `?`, `[…]`; case counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct KexecDeny {
    /// Pattern of the manufacturer as SMBIOS says it (`/sys/class/dmi/id/sys_vendor`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Pattern of the product's name (`/sys/class/dmi/id/product_name`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// A PCI device that the machine has: vendor and device id, in four hexadecimal digits each of small letters
    /// (`15b3:1017`), or all devices of a vendor (`15b3:*`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
}

impl Site {
    /// Checks the entries.
    pub(super) fn check_kexec_deny(&self) -> Result<(), DocumentError> {
        if self.kexec_deny.len() > MAX {
            let text = format!("has {} entries, more than the {MAX} allowed", self.kexec_deny.len());
            return KIND.refuse(FIELD, text);
        }
        for KexecDeny { vendor, product, pci } in &self.kexec_deny {
            if vendor.is_none() && product.is_none() && pci.is_none() {
                return KIND.refuse(FIELD, "has an entry that names nothing, and so would be every machine");
            }
            let fits = |text: &&String| (1..=MAX_PATTERN).contains(&text.len()) && !text.contains(char::is_control);
            if let Some(text) = vendor.iter().chain(product).find(|text| !fits(text)) {
                return KIND.refuse(FIELD, format!("holds {text:?}, not 1 to {MAX_PATTERN} bytes of printable text"));
            }
            if let Some(text) = pci.as_ref().filter(|text| !is_pci_id(text)) {
                return KIND.refuse(FIELD, format!("holds {text:?}, not a PCI id like \"15b3:1017\" or \"15b3:*\""));
            }
        }
        Ok(())
    }
}

fn is_pci_id(text: &str) -> bool {
    let number = |text: &str| from_hex(text).is_some_and(|bytes| bytes.len() == 2);
    text.split_once(':').is_some_and(|(vendor, device)| number(vendor) && (device == "*" || number(device)))
}
