//! Secure Boot's keys in a fresh variable store of OVMF.
//!
//! The store is a firmware volume (UEFI PI 1.8, volume 3, 3.2.1) that holds a variable store with authenticated
//! variables (EDK2, MdeModulePkg/Include/Guid/VariableFormat.h). A platform key takes the firmware out of setup mode, so
//! that it switches Secure Boot on by itself at its first start.

use anyhow::{Context as _, Result, ensure};

/// `gEfiAuthenticatedVariableGuid`.
const STORE: [u8; 16] = guid(0xaaf3_2c78, 0x947b, 0x439a, 0xa180_2e14_4ec3_7792);
/// `EFI_GLOBAL_VARIABLE`: vendor of PK and KEK (UEFI 2.10, 3.3).
const GLOBAL: [u8; 16] = guid(0x8be4_df61, 0x93ca, 0x11d2, 0xaa0d_00e0_9803_2b8c);
/// `EFI_IMAGE_SECURITY_DATABASE_GUID`: vendor of db (UEFI 2.10, 32.6.1).
const DATABASE: [u8; 16] = guid(0xd719_b2cb, 0x3d3a, 0x4596, 0xa3bc_dad0_0e67_656f);
/// `EFI_CERT_X509_GUID` (UEFI 2.10, 32.4.1).
const X509: [u8; 16] = guid(0xa5c0_59a1, 0x94e4, 0x4aa7, 0x87b5_ab15_5c2b_f072);
/// Whoever enrolled the certificates: any UUID.
const OWNER: [u8; 16] = guid(0x5f1b_1a5c, 0x3f0a, 0x4c1e, 0x9d27_6d65_7461_6c73);
/// NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS, TIME_BASED_AUTHENTICATED_WRITE_ACCESS.
const ATTRIBUTES: u32 = 0x27;
/// Of the time stamp, an EFI_TIME: the year 2000, January the 1st. A later write needs a later one.
const TIME: [u8; 16] = [0xd0, 0x07, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Bytes of VARIABLE_STORE_HEADER and of AUTHENTICATED_VARIABLE_HEADER.
const STORE_HEADER: usize = 28;
const VARIABLE_HEADER: usize = 60;

/// A GUID as it lies in memory: the first three numbers little-endian.
const fn guid(first: u32, second: u16, third: u16, rest: u64) -> [u8; 16] {
    let ([a, b, c, d], [e, f], [g, h]) = (first.to_le_bytes(), second.to_le_bytes(), third.to_le_bytes());
    let [i, j, k, l, m, n, o, p] = rest.to_be_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

/// The variable store `template` with `certificate` (DER) as PK and as the only entry of KEK and db.
///
/// # Errors
/// When `template` is no empty store of this form.
pub(crate) fn enrol(mut template: Vec<u8>, certificate: &[u8]) -> Result<Vec<u8>> {
    let number = |at: usize| template.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
    ensure!(template.get(40..44) == Some(b"_FVH".as_slice()), "the firmware's variables are no firmware volume");
    let store = usize::from(number(48).context("the firmware's variables have no header")?);
    let variables = store + STORE_HEADER;
    ensure!(
        template.get(store..store + STORE.len()) == Some(STORE.as_slice()),
        "the firmware's variables are no store of authenticated variables"
    );
    let list = signature_list(certificate)?;
    let mut added = Vec::new();
    for (name, vendor) in [("PK", GLOBAL), ("KEK", GLOBAL), ("db", DATABASE)] {
        added.extend(variable(name, vendor, &list)?);
        // Variables begin at multiples of 4.
        added.resize(added.len().next_multiple_of(4), 0xff);
    }
    let place =
        template.get_mut(variables..variables + added.len()).context("the firmware's variables are too small")?;
    ensure!(place.iter().all(|byte| *byte == 0xff), "the firmware's variables are not empty");
    place.copy_from_slice(&added);
    Ok(template)
}

/// EFI_SIGNATURE_LIST with one certificate.
fn signature_list(certificate: &[u8]) -> Result<Vec<u8>> {
    let entry = u32::try_from(OWNER.len() + certificate.len()).context("the certificate is too large")?;
    let whole = entry.checked_add(28).context("the certificate is too large")?;
    let sizes = [whole, 0, entry].map(u32::to_le_bytes).concat();
    Ok([&X509, sizes.as_slice(), &OWNER, certificate].concat())
}

/// AUTHENTICATED_VARIABLE_HEADER, name and content of a variable.
fn variable(name: &str, vendor: [u8; 16], content: &[u8]) -> Result<Vec<u8>> {
    const START: [u8; 2] = [0xaa, 0x55];
    const ADDED: u8 = 0x3f;
    let name: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).map(u32::to_le_bytes).context("the variable is too large");
    let mut header = Vec::with_capacity(VARIABLE_HEADER);
    header.extend([START[0], START[1], ADDED, 0]);
    header.extend(ATTRIBUTES.to_le_bytes());
    // Monotonic count, which time-based authentication leaves alone; time; index of a key that it does not use.
    header.extend(0_u64.to_le_bytes());
    header.extend(TIME);
    header.extend(0_u32.to_le_bytes());
    header.extend(size(&name)?);
    header.extend(size(content)?);
    header.extend(vendor);
    Ok([header.as_slice(), &name, content].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An empty store: headers as in Debian's OVMF_VARS_4M.fd.
    fn empty(bytes: usize) -> Vec<u8> {
        let mut store = vec![0xff; bytes];
        store[..STORE_HEADER + 72].fill(0);
        store[40..44].copy_from_slice(b"_FVH");
        store[48] = 72;
        store[72..88].copy_from_slice(&STORE);
        store
    }

    #[test]
    fn three_variables_follow_the_headers() {
        let made = enrol(empty(1024), b"CERT!").unwrap();
        assert_eq!(&made[..100], &empty(100)[..]);
        let starts: Vec<usize> =
            (0..made.len() - 1).filter(|at| made[*at..].starts_with(&[0xaa, 0x55, 0x3f])).collect();
        // 60 bytes of header, the name in UTF-16 with its NUL, 28 + 16 + 5 of content, up to a multiple of 4.
        assert_eq!(starts, [100, 100 + 116, 100 + 116 + 120]);
        let first = &made[100..216];
        assert_eq!(&first[4..8], &[0x27, 0, 0, 0]);
        assert_eq!(&first[36..44], &[6, 0, 0, 0, 49, 0, 0, 0]);
        assert_eq!(&first[44..60], &GLOBAL);
        assert_eq!(&first[60..66], b"P\0K\0\0\0");
        assert_eq!(&first[66..82], &X509);
        assert_eq!(&first[82..94], &[49, 0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0]);
        assert_eq!(&first[94..115], [OWNER.as_slice(), b"CERT!"].concat());
        assert!(made[100 + 116 + 120 + 116..].iter().all(|byte| *byte == 0xff));
    }

    #[test]
    fn a_store_that_is_none_or_not_empty_is_refused() {
        let refusal = |store: Vec<u8>| enrol(store, b"CERT!").unwrap_err().to_string();
        assert_eq!(refusal(vec![0; 64]), "the firmware's variables are no firmware volume");
        assert_eq!(refusal(empty(300)), "the firmware's variables are too small");
        let mut other = empty(1024);
        other[72] = 0;
        assert_eq!(refusal(other), "the firmware's variables are no store of authenticated variables");
        assert_eq!(refusal(enrol(empty(1024), b"A").unwrap()), "the firmware's variables are not empty");
    }
}
