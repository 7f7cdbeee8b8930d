//! Types of events.

use std::fmt;

/// An event's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub u32);

macro_rules! kinds {
    ($($name:ident = $value:literal),+ $(,)?) => {
        impl Kind {
            $(
                #[doc = concat!("`EV_", stringify!($name), "`.")]
                pub const $name: Self = Self($value);
            )+

            /// Its name in the specification; `None` for one that is not known here.
            #[must_use]
            pub fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some(concat!("EV_", stringify!($name))),)+
                    _ => None,
                }
            }
        }
    };
}

kinds! {
    PREBOOT_CERT = 0x0,
    POST_CODE = 0x1,
    UNUSED = 0x2,
    NO_ACTION = 0x3,
    SEPARATOR = 0x4,
    ACTION = 0x5,
    EVENT_TAG = 0x6,
    S_CRTM_CONTENTS = 0x7,
    S_CRTM_VERSION = 0x8,
    CPU_MICROCODE = 0x9,
    PLATFORM_CONFIG_FLAGS = 0xa,
    TABLE_OF_DEVICES = 0xb,
    COMPACT_HASH = 0xc,
    IPL = 0xd,
    IPL_PARTITION_DATA = 0xe,
    NONHOST_CODE = 0xf,
    NONHOST_CONFIG = 0x10,
    NONHOST_INFO = 0x11,
    OMIT_BOOT_DEVICE_EVENTS = 0x12,
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001,
    EFI_VARIABLE_BOOT = 0x8000_0002,
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003,
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004,
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005,
    EFI_GPT_EVENT = 0x8000_0006,
    EFI_ACTION = 0x8000_0007,
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008,
    EFI_HANDOFF_TABLES = 0x8000_0009,
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a,
    EFI_HANDOFF_TABLES2 = 0x8000_000b,
    EFI_VARIABLE_BOOT2 = 0x8000_000c,
    EFI_HCRTM_EVENT = 0x8000_0010,
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0,
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1,
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}
