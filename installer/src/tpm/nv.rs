//! An NV index of the TPM: a few bytes that outlive the machine's disks and its firmware's variables (TCG TPM 2.0 Library,
//! part 3, "Non-volatile Storage").
//!
//! Who has the owner's authorisation may write it, which is empty unless somebody has set it. Everybody may read it, by its own
//! authorisation, which is empty: so it is read where the owner has a password too. Failed authorisations of neither count for the
//! TPM's lockout, and it is read and written while that lasts (`noDA`; the owner never counts).

use anyhow::{Result, bail};
use tss_esapi::Context;
use tss_esapi::attributes::NvIndexAttributesBuilder;
use tss_esapi::constants::CapabilityType;
use tss_esapi::handles::{NvIndexHandle, NvIndexTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::resource_handles::{NvAuth, Provision};
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CapabilityData, MaxNvBuffer, NvPublic, NvPublicBuilder};

use super::cause::cause;

/// What an index holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// There is no such index.
    Undefined,
    /// Nothing was written to it since it was defined.
    Unwritten,
    /// As many bytes as it is defined for.
    Bytes(Vec<u8>),
}

/// Reads the whole index.
pub(super) fn read(context: &mut Context, index: u32, size: u16) -> Result<Content> {
    let handle = match find(context, index, size)? {
        None => return Ok(Content::Undefined),
        Some((_, false)) => return Ok(Content::Unwritten),
        Some((handle, true)) => handle,
    };
    // An empty authorisation value: a password session without password.
    let read = |context: &mut Context| context.nv_read(NvAuth::NvIndex(handle), handle, size, 0);
    let bytes = context.execute_with_session(Some(AuthSession::Password), read).map_err(cause)?;
    Ok(Content::Bytes(bytes.value().to_vec()))
}

/// Writes the whole index in one command, and defines it before where there is none.
pub(super) fn write(context: &mut Context, index: u32, bytes: &[u8]) -> Result<()> {
    let (data, size) = (MaxNvBuffer::try_from(bytes).map_err(cause)?, u16::try_from(bytes.len())?);
    let found = find(context, index, size)?;
    let write = |context: &mut Context| {
        let handle = match found {
            Some((handle, _)) => handle,
            None => context.nv_define_space(Provision::Owner, None, public(index, size, false)?)?,
        };
        context.nv_write(NvAuth::Owner, handle, data, 0)
    };
    context.execute_with_session(Some(AuthSession::Password), write).map_err(cause)
}

/// The index, and whether it was written; `None` where there is none. The context closes the handle when it ends.
fn find(context: &mut Context, index: u32, size: u16) -> Result<Option<(NvIndexHandle, bool)>> {
    let handle = TpmHandle::from(NvIndexTpmHandle::new(index).map_err(cause)?);
    // The first from there on. To ask for an index that is not there would put an error on the consoles.
    let (data, _) = context.get_capability(CapabilityType::Handles, index, 1).map_err(cause)?;
    let CapabilityData::Handles(handles) = data else { bail!("the TPM answered another question") };
    if handles.first() != Some(&handle) {
        return Ok(None);
    }
    let handle = NvIndexHandle::from(context.tr_from_tpm_public(handle).map_err(cause)?);
    let (found, _) = context.nv_read_public(handle).map_err(cause)?;
    let written = found.attributes().written();
    if found != public(index, size, written).map_err(cause)? {
        bail!("somebody else has defined it, for something else: it is left alone");
    }
    Ok(Some((handle, written)))
}

/// An index as it is defined here.
fn public(index: u32, size: u16, written: bool) -> tss_esapi::Result<NvPublic> {
    let attributes = NvIndexAttributesBuilder::new()
        .with_owner_write(true)
        .with_owner_read(true)
        .with_auth_read(true)
        .with_no_da(true)
        .with_written(written);
    NvPublicBuilder::new()
        .with_nv_index(NvIndexTpmHandle::new(index)?)
        .with_index_name_algorithm(HashingAlgorithm::Sha256)
        .with_index_attributes(attributes.build()?)
        .with_data_area_size(size.into())
        .build()
}

#[cfg(test)]
mod tests;
