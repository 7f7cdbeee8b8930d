//! With a software TPM.

use tss_esapi::constants::PropertyTag;
use tss_esapi::handles::AuthHandle;

use super::*;
use crate::tpm::swtpm::Swtpm;
use crate::tpm::{Tpm as _, TssTpm};

const INDEX: u32 = 0x01a0_6d73;
const SOMEBODY_ELSES: &str = "somebody else has defined it, for something else: it is left alone";

fn authorised<T>(tpm: &mut TssTpm, command: impl FnOnce(&mut Context) -> tss_esapi::Result<T>) -> T {
    tpm.context.execute_with_session(Some(AuthSession::Password), command).unwrap()
}

fn define(tpm: &mut TssTpm, public: NvPublic) {
    authorised(tpm, |context| context.nv_define_space(Provision::Owner, None, public));
}

/// Failed authorisations that count for the lockout.
fn counted(tpm: &mut TssTpm) -> u32 {
    tpm.context.get_tpm_property(PropertyTag::LockoutCounter).unwrap().unwrap()
}

#[test]
fn what_is_written_is_there_for_the_next_connection_until_the_tpm_is_cleared() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    // One that is behind it in the list is another.
    tpm.nv_write(INDEX + 1, b"another").unwrap();
    assert_eq!(tpm.nv_read(INDEX, 4).unwrap(), Content::Undefined);
    tpm.nv_write(INDEX, b"once").unwrap();
    assert_eq!(tpm.nv_read(INDEX, 4).unwrap(), Content::Bytes(b"once".to_vec()));
    tpm.nv_write(INDEX, b"more").unwrap();
    drop(tpm);

    let mut tpm = swtpm.connect();
    assert_eq!(tpm.nv_read(INDEX, 4).unwrap(), Content::Bytes(b"more".to_vec()));
    authorised(&mut tpm, |context| context.clear(AuthHandle::Lockout));
    drop(tpm);
    assert_eq!(swtpm.connect().nv_read(INDEX, 4).unwrap(), Content::Undefined);
}

#[test]
fn an_index_that_a_cut_left_without_content_is_written() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    define(&mut tpm, public(INDEX, 4, false).unwrap());
    assert_eq!(tpm.nv_read(INDEX, 4).unwrap(), Content::Unwritten);
    tpm.nv_write(INDEX, b"once").unwrap();
    assert_eq!(tpm.nv_read(INDEX, 4).unwrap(), Content::Bytes(b"once".to_vec()));
}

#[test]
fn an_index_that_somebody_else_has_defined_is_neither_read_nor_written() {
    let ours = || NvIndexAttributesBuilder::new().with_owner_write(true).with_owner_read(true).with_auth_read(true);
    let others = [
        (5, ours().with_no_da(true)),
        (4, ours()),
        (4, ours().with_no_da(true).with_auth_write(true)),
        (4, NvIndexAttributesBuilder::new().with_owner_write(true).with_owner_read(true).with_no_da(true)),
    ];
    for (size, attributes) in others {
        let swtpm = Swtpm::start();
        let mut tpm = swtpm.connect();
        let other = NvPublicBuilder::new()
            .with_nv_index(NvIndexTpmHandle::new(INDEX).unwrap())
            .with_index_name_algorithm(HashingAlgorithm::Sha256)
            .with_index_attributes(attributes.build().unwrap())
            .with_data_area_size(size)
            .build()
            .unwrap();
        define(&mut tpm, other);
        let [read, write] = [tpm.nv_read(INDEX, 4).map(drop), tpm.nv_write(INDEX, b"once")];
        let expected = format!("reading NV index 0x01a06d73 of the TPM: {SOMEBODY_ELSES}");
        assert_eq!(format!("{:#}", read.unwrap_err()), expected);
        let expected = format!("writing NV index 0x01a06d73 of the TPM: {SOMEBODY_ELSES}");
        assert_eq!(format!("{:#}", write.unwrap_err()), expected);
        let handle = tpm.context.tr_from_tpm_public(NvIndexTpmHandle::new(INDEX).unwrap().into()).unwrap();
        let (found, _) = tpm.context.nv_read_public(handle.into()).unwrap();
        assert_eq!((found.data_size(), found.attributes().written()), (size, false), "it is as it was");
        assert_eq!(counted(&mut tpm), 0);
    }
}

#[test]
fn an_owner_with_a_password_has_the_index_read_and_not_written_and_that_brings_no_lockout_nearer() {
    let swtpm = Swtpm::start();
    swtpm.connect().nv_write(INDEX, b"once").unwrap();
    swtpm.set_owner_password();
    let mut tpm = swtpm.connect();
    for (index, bytes) in [(INDEX, b"more"), (INDEX + 1, b"none")] {
        let expected = format!(
            "writing NV index {index:#010x} of the TPM: authorization failure without DA implications (associated with session \
             number 1): Response code value: 0x9a2"
        );
        assert_eq!(format!("{:#}", tpm.nv_write(index, bytes).unwrap_err()), expected);
    }
    assert_eq!(tpm.nv_read(INDEX, 4).unwrap(), Content::Bytes(b"once".to_vec()));
    assert_eq!(tpm.nv_read(INDEX + 1, 4).unwrap(), Content::Undefined);
    assert_eq!(counted(&mut tpm), 0);
}

#[test]
fn a_tpm_without_room_says_so() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let mut index = INDEX;
    for size in [1024, 128, 16, 1] {
        while tpm.nv_write(index + 1, &vec![7; size]).is_ok() {
            index += 1;
        }
    }
    assert!(index > INDEX);
    let text = format!("{:#}", tpm.nv_write(INDEX, &[7; 128]).unwrap_err());
    let expected =
        "writing NV index 0x01a06d73 of the TPM: insufficient space for NV allocation: Response code value: 0x14b";
    assert_eq!(text, expected);
    assert_eq!(tpm.nv_read(INDEX, 128).unwrap(), Content::Undefined);
}
