//! What sysfs says of an NVMe namespace beyond what every disk has.

use std::path::Path;

use serde::Serialize;

use crate::disk::sysfs_text;

/// An NVMe namespace, as its driver tells it (drivers/nvme/host/sysfs.c).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NvmeFacts {
    /// Number of the namespace.
    pub namespace: u32,
    /// How the controller is reached: `pcie`, `tcp`, `rdma`, `fc`.
    pub transport: Option<String>,
    /// Name of the NVM subsystem.
    pub subsystem_nqn: Option<String>,
    /// Number of the controller in it.
    pub controller_id: Option<u32>,
    /// EUI-64 of the namespace.
    pub eui: Option<String>,
    /// NGUID of the namespace.
    pub nguid: Option<String>,
    /// Bytes of metadata beside each sector.
    pub metadata_bytes: Option<u32>,
}

/// The facts of the namespace whose sysfs directory is `block`; `None` for another disk.
pub(super) fn facts(block: &Path, name: &str) -> Option<NvmeFacts> {
    let text = |attribute: &str| sysfs_text(&block.join(attribute));
    let number = |attribute: &str| text(attribute)?.parse().ok();
    let namespace = number("nsid").filter(|_| name.starts_with("nvme"))?;
    Some(NvmeFacts {
        namespace,
        transport: text("device/transport"),
        subsystem_nqn: text("device/subsysnqn"),
        controller_id: number("device/cntlid"),
        eui: text("eui"),
        nguid: text("nguid"),
        metadata_bytes: number("metadata_bytes"),
    })
}
