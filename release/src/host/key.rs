//! What a host config is found by: the machine's SMBIOS UUID, its serial number, one of its MAC addresses, or nothing
//! (`default`).

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// What firmware says where nobody has written a serial number (seen on boards of many makers; compared in lower case).
const NO_SERIALS: [&str; 16] = [
    "0",
    "00000000",
    "0123456789",
    "123456789",
    "1234567890",
    "chassis serial number",
    "default string",
    "empty",
    "n/a",
    "na",
    "none",
    "not applicable",
    "not specified",
    "system serial number",
    "to be filled by o.e.m.",
    "unknown",
];
/// UUIDs that thousands of boards share.
const NO_UUIDS: [u128; 3] = [0, u128::MAX, 0x0300_0200_0400_0500_0006_0007_0008_0009];
/// The longest serial number that is taken.
const MAX_SERIAL: usize = 64;

/// The key of a host config.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostKey {
    /// SMBIOS system UUID (type 1), as `/sys/class/dmi/id/product_uuid` shows it.
    Uuid(Uuid),
    /// SMBIOS system serial number, as `/sys/class/dmi/id/product_serial`.
    Serial(String),
    /// Permanent address of an Ethernet port.
    Mac([u8; 6]),
    /// Every machine without a host config of its own.
    Default,
}

/// Why a text is no key of a host config.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// Of no form that there is.
    #[error("{0:?} is no host: not `default`, `uuid-…`, `serial-…` or `mac-…`")]
    Form(String),
    /// What many machines have alike.
    #[error("{0} is what firmware says that knows none: it names no machine")]
    Placeholder(String),
}

impl fmt::Display for HostKey {
    /// As in the name of the target, `host-<key>.json`. Bytes of a serial number other than letters, digits, `.`, `_`
    /// and `-` are written as `~` and two hexadecimal digits, so that no serial number leads out of a directory.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uuid(uuid) => write!(f, "uuid-{uuid}"),
            Self::Serial(serial) => {
                f.write_str("serial-")?;
                serial.bytes().try_for_each(|byte| match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => write!(f, "{}", char::from(byte)),
                    other => write!(f, "~{other:02x}"),
                })
            }
            Self::Mac(mac) => {
                f.write_str("mac-")?;
                mac.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Self::Default => f.write_str("default"),
        }
    }
}

impl FromStr for HostKey {
    type Err = KeyError;

    /// Reads what a person writes: `uuid-…`, `serial-…` with the serial number as it is, `mac-…` with or without
    /// colons, or `default`.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let form = || KeyError::Form(text.chars().take(80).collect());
        if text == "default" {
            return Ok(Self::Default);
        }
        let (kind, value) = text.split_once('-').ok_or_else(form)?;
        match kind {
            "uuid" => value.parse().map_err(|_| form()).and_then(Self::uuid),
            "serial" => Self::serial(value),
            "mac" => mac(value).map(Self::Mac).ok_or_else(form),
            _ => Err(form()),
        }
    }
}

impl HostKey {
    /// A machine by its UUID.
    ///
    /// # Errors
    /// It is one that many machines share.
    pub fn uuid(uuid: Uuid) -> Result<Self, KeyError> {
        if NO_UUIDS.contains(&uuid.as_u128()) {
            return Err(KeyError::Placeholder(format!("the UUID {uuid}")));
        }
        Ok(Self::Uuid(uuid))
    }

    /// A machine by its serial number; white space at its ends does not count.
    ///
    /// # Errors
    /// It is empty, too long, or one that many machines share.
    pub fn serial(serial: &str) -> Result<Self, KeyError> {
        let serial = serial.trim();
        if serial.is_empty() || serial.len() > MAX_SERIAL {
            return Err(KeyError::Form(format!("serial-{}", serial.chars().take(80).collect::<String>())));
        }
        if NO_SERIALS.contains(&serial.to_ascii_lowercase().as_str()) {
            return Err(KeyError::Placeholder(format!("the serial number {serial:?}")));
        }
        Ok(Self::Serial(serial.to_owned()))
    }

    /// Name of the host config among the repository's targets.
    #[must_use]
    pub fn target(&self) -> String {
        format!("host-{self}.json")
    }

    /// What is known of a machine that is known by this key alone.
    #[must_use]
    pub fn identity(&self) -> Identity {
        match self {
            Self::Uuid(uuid) => Identity { uuid: Some(uuid.to_string()), ..Identity::default() },
            Self::Serial(serial) => Identity { serial: Some(serial.clone()), ..Identity::default() },
            Self::Mac(mac) => Identity { macs: vec![with_colons(*mac)], ..Identity::default() },
            Self::Default => Identity::default(),
        }
    }
}

fn with_colons(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Six bytes in hexadecimal, with colons or dashes between them or without.
fn mac(text: &str) -> Option<[u8; 6]> {
    let digits: String = text.to_ascii_lowercase().chars().filter(|c| !":-".contains(*c)).collect();
    let bytes: [u8; 6] = crate::digest::from_hex(&digits)?.try_into().ok()?;
    (bytes != [0; 6] && bytes != [0xff; 6]).then_some(bytes)
}

/// What a machine says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// SMBIOS system UUID, as text.
    pub uuid: Option<String>,
    /// SMBIOS system serial number.
    pub serial: Option<String>,
    /// Addresses of the Ethernet ports, as text.
    pub macs: Vec<String>,
    /// SMBIOS manufacturer; groups may go by it, no host config of a machine's own does.
    pub vendor: Option<String>,
    /// SMBIOS product name.
    pub product: Option<String>,
}

impl Identity {
    /// The keys its host config may have, the most particular first. What firmware has made up names no machine and is
    /// left out.
    #[must_use]
    pub fn keys(&self) -> Vec<HostKey> {
        let uuid = self.uuid.as_deref().and_then(|text| HostKey::uuid(text.trim().parse().ok()?).ok());
        let serial = self.serial.as_deref().and_then(|text| HostKey::serial(text).ok());
        let macs = self.macs.iter().filter_map(|text| mac(text.trim()).map(HostKey::Mac));
        uuid.into_iter().chain(serial).chain(macs).chain([HostKey::Default]).collect()
    }

    /// The lowest address of its Ethernet ports, with colons: the same whatever the kernel calls the ports.
    #[must_use]
    pub fn lowest_mac(&self) -> Option<String> {
        self.macs.iter().filter_map(|text| mac(text.trim())).min().map(with_colons)
    }
}
