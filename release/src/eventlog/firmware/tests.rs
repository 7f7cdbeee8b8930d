//! Logs made by hand, byte for byte as the specification has them, and logs that lie.

use proptest::prelude::*;

use super::*;
use crate::digest::to_hex;

/// Vendors as they lie in a log: `EFI_GLOBAL_VARIABLE`, `EFI_IMAGE_SECURITY_DATABASE`.
pub(crate) const GLOBAL: &[u8; 16] = b"\x61\xdf\xe4\x8b\xca\x93\xd2\x11\xaa\x0d\x00\xe0\x98\x03\x2b\x8c";
const SECURITY: &[u8; 16] = b"\xcb\xb2\x19\xd7\x3a\x3d\x96\x45\xa3\xbc\xda\xd0\x0e\x67\x65\x6f";
/// Algorithms and bytes of their digests.
pub(crate) const SHA1_SHA256: [(u16, u16); 2] = [(0x4, 20), (0xb, 32)];

/// An event that is to be written.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) pcr: u32,
    pub(crate) kind: Kind,
    pub(crate) digests: Vec<(u16, Vec<u8>)>,
    pub(crate) data: Vec<u8>,
}

impl Made {
    /// One of `bytes` that were measured into the banks of SHA-1 and SHA-256.
    pub(crate) fn of(pcr: u32, kind: Kind, bytes: &[u8], data: &[u8]) -> Self {
        let digests = [(0x4, Bank::Sha1), (0xb, Bank::Sha256)].map(|(id, bank)| (id, bank.digest(bytes).digest));
        Self { pcr, kind, digests: digests.to_vec(), data: data.to_vec() }
    }

    /// One that measures nothing.
    pub(crate) fn no_action(data: &[u8]) -> Self {
        let digests = vec![(0x4, vec![0; 20]), (0xb, vec![0; 32])];
        Self { pcr: 0, kind: Kind::NO_ACTION, digests, data: data.to_vec() }
    }
}

fn with_size(data: &[u8]) -> Vec<u8> {
    [u32::try_from(data.len()).unwrap().to_le_bytes().as_slice(), data].concat()
}

/// A log of the old form; the first digest of each event counts.
pub(crate) fn old(events: &[Made]) -> Vec<u8> {
    let bytes = |event: &Made| {
        let head = [event.pcr.to_le_bytes(), event.kind.0.to_le_bytes()].concat();
        [head, event.digests[0].1.clone(), with_size(&event.data)].concat()
    };
    events.iter().flat_map(bytes).collect()
}

/// The data of the first event of a crypto-agile log.
fn spec_id(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    algorithms.iter().for_each(|(id, size)| data.extend([id.to_le_bytes(), size.to_le_bytes()].concat()));
    data.push(0);
    data
}

/// A crypto-agile log.
pub(crate) fn agile(algorithms: &[(u16, u16)], events: &[Made]) -> Vec<u8> {
    let mut bytes = old(&[Made::no_action(&spec_id(algorithms))]);
    for event in events {
        bytes.extend([event.pcr.to_le_bytes(), event.kind.0.to_le_bytes()].concat());
        bytes.extend(u32::try_from(event.digests.len()).unwrap().to_le_bytes());
        event.digests.iter().for_each(|(id, digest)| bytes.extend([id.to_le_bytes().as_slice(), digest].concat()));
        bytes.extend(with_size(&event.data));
    }
    bytes
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// `UEFI_VARIABLE_DATA`.
pub(crate) fn variable(vendor: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let sizes = [name.len() as u64, value.len() as u64].map(u64::to_le_bytes).concat();
    [vendor.as_slice(), &sizes, &utf16(name), value].concat()
}

/// An event about a variable as firmware logs it.
pub(crate) fn config(vendor: &[u8; 16], name: &str, value: &[u8]) -> Made {
    let data = variable(vendor, name, value);
    Made::of(7, Kind::EFI_VARIABLE_DRIVER_CONFIG, &data, &data)
}

/// `UEFI_IMAGE_LOAD_EVENT` with this device path.
pub(crate) fn image(path: &[u8]) -> Vec<u8> {
    let numbers = [0x7dcf_6018, 171_464, 0, path.len() as u64].map(u64::to_le_bytes).concat();
    [numbers.as_slice(), path].concat()
}

/// A device path of a disk's partition, without its numbers, and of a file on it.
pub(crate) fn file_path(file: &str) -> Vec<u8> {
    let name = utf16(&format!("{file}\0"));
    let length = u16::try_from(4 + name.len()).unwrap().to_le_bytes();
    [b"\x04\x01\x08\x00\0\0\0\0\x04\x04".as_slice(), &length, &name, b"\x7f\xff\x04\x00"].concat()
}

fn refusal(bytes: &[u8]) -> String {
    parse(bytes).unwrap_err().to_string()
}

#[test]
fn a_crypto_agile_log_has_what_was_written() {
    let sm3 = (0x12, vec![9; 32]);
    let mut first = Made::of(4, Kind::EFI_ACTION, b"Calling EFI Application", b"Calling EFI Application");
    // In another order than the algorithms.
    first.digests = vec![sm3.clone(), first.digests[1].clone(), first.digests[0].clone()];
    let mut second = Made::of(0xffff_ffff, Kind(0x8000_1234), b"", b"");
    second.digests.clear();
    let log = parse(&agile(&[(0x4, 20), (0xb, 32), (0x12, 32)], &[first.clone(), second])).unwrap();
    let algorithm = |id, size| Algorithm { id, size };
    assert_eq!(log.algorithms, [algorithm(0x4, 20), algorithm(0xb, 32), algorithm(0x12, 32)]);
    assert_eq!(
        log.algorithms.iter().map(|found| found.bank()).collect::<Vec<_>>(),
        [Some(Bank::Sha1), Some(Bank::Sha256), None]
    );
    let [spec, action, strange] = log.events.as_slice() else { panic!("{log:?}") };
    assert_eq!((spec.pcr, spec.kind, spec.extends()), (0, Kind::NO_ACTION, false));
    assert_eq!(spec.digests, [BankDigest { bank: Bank::Sha1, digest: vec![0; 20] }]);
    assert_eq!((action.pcr, action.kind, action.extends()), (4, Kind::EFI_ACTION, true));
    assert_eq!(action.digest(Bank::Sha1), Some(first.digests[2].1.as_slice()));
    assert_eq!(action.digest(Bank::Sha256), Some(first.digests[1].1.as_slice()));
    assert_eq!(action.digest(Bank::Sha384), None);
    assert_eq!(action.others, [OtherDigest { algorithm: 0x12, digest: sm3.1 }]);
    assert_eq!(action.data, b"Calling EFI Application");
    assert!(action.is_of(b"Calling EFI Application") && !action.is_of(b"Calling"));
    assert_eq!((strange.pcr, strange.kind.to_string().as_str()), (u32::MAX, "0x80001234"));
    assert!(strange.digests.is_empty() && !strange.is_of(b""), "no digest proves nothing");
}

#[test]
fn without_a_spec_id_event_all_events_have_the_old_form() {
    let version = Made::of(0, Kind::S_CRTM_VERSION, b"1", b"1");
    // That of TPM 1.2 (TCG EFI Platform Specification).
    let spec = Made::no_action(b"Spec ID Event02\0\0\0\0\0\x02\x01\0\x02\0");
    for events in [vec![version.clone()], vec![spec, version]] {
        let log = parse(&old(&events)).unwrap();
        assert_eq!(log.algorithms, [Algorithm { id: 4, size: 20 }]);
        assert_eq!(log.events.len(), events.len());
        let last = log.events.last().unwrap();
        assert_eq!((last.pcr, last.kind.name()), (0, Some("EV_S_CRTM_VERSION")));
        assert_eq!(last.digests, [Bank::Sha1.digest(b"1")]);
    }
    assert_eq!(parse(b"").unwrap(), FirmwareLog { algorithms: sha1(), events: Vec::new() });
}

#[test]
fn what_is_cut_off_is_refused() {
    let log = agile(&SHA1_SHA256, &[Made::of(7, Kind::SEPARATOR, &[0; 4], &[0; 4])]);
    assert_eq!(log.len(), 69 + 76);
    for (length, event, problem) in [
        (2, "0, at byte 0,", "has only 2 of the 4 bytes of its PCR"),
        (6, "0, at byte 0,", "has only 2 of the 4 bytes of its type"),
        (27, "0, at byte 0,", "has only 19 of the 20 bytes of its digest"),
        (30, "0, at byte 0,", "has only 2 of the 4 bytes of its size of data"),
        (40, "0, at byte 0,", "has only 8 of the 37 bytes of its data"),
        (69 + 10, "1, at byte 69,", "has only 2 of the 4 bytes of its number of digests"),
        (69 + 13, "1, at byte 69,", "has only 1 of the 2 bytes of its digest's algorithm"),
        (69 + 20, "1, at byte 69,", "has only 6 of the 20 bytes of its digest"),
        (69 + 75, "1, at byte 69,", "has only 3 of the 4 bytes of its data"),
    ] {
        assert_eq!(refusal(&log[..length]), format!("the firmware event log's event {event} {problem}"));
    }
}

#[test]
fn numbers_that_lie_are_refused() {
    let log = agile(&SHA1_SHA256, &[Made::of(7, Kind::SEPARATOR, &[0; 4], &[0; 4])]);
    let lies: [(usize, &[u8], &str, &str); 14] = [
        (28, &[0xff; 4], "0, at byte 0,", "has only 113 of the 4294967295 bytes of its data"),
        (28, &[20, 0], "0, at byte 0,", "has only 20 of the 24 bytes of its Spec ID header"),
        (56, &[0], "0, at byte 0,", "names no algorithm"),
        (56, &[3], "0, at byte 0,", "has only 1 of the 2 bytes of its algorithm"),
        (56, &[0xff; 4], "0, at byte 0,", "names 4294967295 algorithms, more than the 16 allowed"),
        (64, &[4], "0, at byte 0,", "names algorithm 0x0004 twice"),
        (66, &[20], "0, at byte 0,", "says that a digest of sha256 has 20 bytes"),
        (64, &[0x99, 0, 0], "0, at byte 0,", "says that a digest of algorithm 0x0099 has 0 bytes, not 1 to 64"),
        (64, &[0x99, 0, 65], "0, at byte 0,", "says that a digest of algorithm 0x0099 has 65 bytes, not 1 to 64"),
        (77, &[3], "1, at byte 69,", "has 3 digests, but the log names 2 algorithms"),
        (77, &[0xff; 4], "1, at byte 69,", "has 4294967295 digests, but the log names 2 algorithms"),
        (81, &[0x99], "1, at byte 69,", "has a digest of algorithm 0x0099, which the log does not name"),
        (103, &[4], "1, at byte 69,", "has two digests of algorithm 0x0004"),
        (137, &[0xff; 4], "1, at byte 69,", "has only 4 of the 4294967295 bytes of its data"),
    ];
    for (offset, field, event, problem) in lies {
        let mut bytes = log.clone();
        bytes[offset..offset + field.len()].copy_from_slice(field);
        assert_eq!(refusal(&bytes), format!("the firmware event log's event {event} {problem}"));
    }
}

#[test]
fn a_log_without_end_is_refused() {
    let (event, many) = (old(&[Made::of(0, Kind::POST_CODE, b"", b"")]), MAX_EVENTS);
    assert_eq!(parse(&event.repeat(many)).unwrap().events.len(), many);
    assert_eq!(refusal(&event.repeat(many + 1)), "the firmware event log has more than 16384 events");
    let long = vec![0; MAX_BYTES + 1];
    assert_eq!(refusal(&long), "the firmware event log has 4194305 bytes, more than the 4194304 allowed");
}

/// Each digest is looked for among the algorithms, and among those before it: ever so many would keep the reader for minutes.
#[test]
fn algorithms_and_digests_without_end_are_refused_before_one_is_read() {
    let named = |count: u16| (0x100..0x100 + count).map(|id| (id, 64)).collect::<Vec<(u16, u16)>>();
    let event = |count| {
        let digests = named(count).into_iter().map(|(id, size)| (id, vec![7; size.into()])).collect();
        Made { digests, ..Made::of(7, Kind::SEPARATOR, b"", b"") }
    };
    let most = parse(&agile(&named(16), &[event(16)])).unwrap();
    assert_eq!((most.algorithms.len(), most.events[1].others.len()), (16, 16));
    for count in [17, 0xfe00] {
        let mut log = agile(&named(count), &[]);
        log.resize(MAX_BYTES, 0);
        let problem = format!("names {count} algorithms, more than the 16 allowed");
        assert_eq!(refusal(&log), format!("the firmware event log's event 0, at byte 0, {problem}"));
    }
    let mut log = agile(&named(16), &[]);
    let before = log.len();
    log.extend([7, Kind::SEPARATOR.0, 1 << 20].map(u32::to_le_bytes).concat());
    log.resize(MAX_BYTES, 0);
    let problem = "has 1048576 digests, but the log names 16 algorithms";
    assert_eq!(refusal(&log), format!("the firmware event log's event 1, at byte {before}, {problem}"));
}

#[test]
fn pcr_0_begins_with_the_locality() {
    let parse = |events: &[Made]| parse(&agile(&SHA1_SHA256, events));
    let locality = |locality| Made::no_action(&[b"StartupLocality\0".as_slice(), &[locality]].concat());
    let start = |events: &[Made]| {
        let log = parse(events).unwrap();
        (log.startup_locality(), log.pcr0_start())
    };
    let hcrtm = Made::of(0, Kind::EFI_HCRTM_EVENT, b"HCRTM", b"HCRTM");
    assert_eq!(start(&[]), (None, 0));
    assert_eq!(start(&[locality(3)]), (Some(3), 3));
    assert_eq!(start(std::slice::from_ref(&hcrtm)), (None, 4));
    assert_eq!(start(&[locality(4), hcrtm]), (Some(4), 4));
    let elsewhere = Made { pcr: 1, ..locality(3) };
    let cut_off = Made::no_action(b"StartupLocality\0");
    let measured = Made { kind: Kind::POST_CODE, ..locality(3) };
    assert_eq!(start(&[elsewhere, cut_off, measured]), (None, 0));
    assert_eq!(
        parse(&[locality(3), locality(3)]).unwrap_err().to_string(),
        "the firmware event log's event 2, at byte 158, is a second StartupLocality"
    );
}

#[test]
fn a_variable_is_what_was_measured() {
    let log = |events: &[Made]| parse(&agile(&SHA1_SHA256, events)).unwrap();
    let with = log(&[config(GLOBAL, "SecureBoot", &[1]), config(SECURITY, "dbx", b"hashes")]);
    let found: Vec<_> = with.secure_boot_variables().collect();
    let [secure_boot, dbx] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((secure_boot.name.as_str(), secure_boot.data), ("SecureBoot", b"\x01".as_slice()));
    assert_eq!(secure_boot.vendor.to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
    assert_eq!((dbx.name.as_str(), dbx.data), ("dbx", b"hashes".as_slice()));
    assert_eq!(dbx.vendor.to_string(), "d719b2cb-3d3a-4596-a3bc-dad00e67656f");
    // As every log has it of a machine with Secure Boot, and of an OVMF without.
    let digest = |log: &FirmwareLog| to_hex(log.events[1].digest(Bank::Sha256).unwrap());
    assert_eq!(digest(&with), "ccfc4bb32888a345bc8aeadaba552b627d99348c767681ab3141f5b01e40a40e");
    let without = log(&[config(GLOBAL, "SecureBoot", &[])]);
    assert_eq!(digest(&without), "ce9ce386b52e099f3019e512a0d6062d6b560efe4ff3e5661c7525e2f9c263df");
    assert_eq!([with.secure_boot(), without.secure_boot()], [Some(true), Some(false)]);

    let (on, off) = (config(GLOBAL, "SecureBoot", &[1]), config(GLOBAL, "SecureBoot", &[0]));
    let says = |events: &[Made]| log(events).secure_boot();
    assert_eq!([says(&[on.clone(), on.clone()]), says(std::slice::from_ref(&off))], [Some(true), Some(false)]);
    assert_eq!([says(&[]), says(&[on.clone(), off.clone()])], [None; 2], "nothing, or two things");
    assert_eq!(says(&[Made { data: on.data.clone(), ..off }]), None, "the digest is that of another value");
    assert_eq!(says(&[Made { pcr: 1, ..on.clone() }]), None, "it is in another PCR");
    assert_eq!([says(&[config(SECURITY, "SecureBoot", &[1])]), says(&[config(GLOBAL, "SecureBoot", &[2])])], [None; 2]);
    let longer = [on.data.as_slice(), &[1]].concat();
    assert_eq!(says(&[Made::of(7, on.kind, &longer, &longer)]), None, "there is more than the variable");
    let mut shorter = on.data;
    shorter[16] = 0xff;
    assert_eq!(says(&[Made::of(7, on.kind, &shorter, &shorter)]), None, "its name ends behind it");
}

#[test]
fn loaded_programs_are_found() {
    let application = |path: &[u8]| {
        let data = image(path);
        Made::of(4, Kind::EFI_BOOT_SERVICES_APPLICATION, b"program", &data)
    };
    let url = b"\x03\x18\x15\x00https://a/net.efi\x7f\xff\x04\x00";
    let driver = Made { pcr: 2, kind: Kind::EFI_BOOT_SERVICES_DRIVER, ..application(&file_path("\\driver.efi")) };
    let action = Made { kind: Kind::EFI_ACTION, ..application(&file_path("\\no.efi")) };
    let events =
        [driver, application(&file_path("\\EFI\\BOOT\\BOOTX64.EFI")), action, application(url), application(b"")];
    let log = parse(&agile(&SHA1_SHA256, &events)).unwrap();
    let found: Vec<_> = log.applications().map(|event| (event.image(), event.is_of(b"program"))).collect();
    let path = |path: &str| (Some(path.to_owned()), true);
    assert_eq!(found, [path("\\EFI\\BOOT\\BOOTX64.EFI"), path("https://a/net.efi"), (None, true)]);
    let images: Vec<_> = log.events.iter().map(Event::image).collect();
    assert_eq!(images[1].as_deref(), Some("\\driver.efi"));
    assert_eq!(images[3], None, "it is of no program");
    let endless = parse(&agile(&SHA1_SHA256, &[application(b"\x04\x04\x00\x00")])).unwrap();
    assert_eq!(endless.events[1].image(), None);
}

/// systemd-stub, `src/boot/measure.c`: UTF-16 with a NUL, under a tag or without.
#[test]
fn what_the_stub_says_is_read() {
    let text = |data: &[u8]| {
        let log = parse(&agile(&SHA1_SHA256, &[Made::of(11, Kind::IPL, b".linux\0", data)])).unwrap();
        assert!(log.events[1].is_of(b".linux\0"));
        log.events[1].text()
    };
    assert_eq!(text(&utf16(".linux\0")).as_deref(), Some(".linux"));
    assert_eq!([text(&utf16(".linux")), text(b"\0"), text(b"a\0\0"), text(&utf16("a\0b\0"))], [None, None, None, None]);
    let tagged = |kind, data: &[u8]| {
        let log = parse(&agile(&SHA1_SHA256, &[Made::of(12, kind, b"", data)])).unwrap();
        log.events[1].tagged().map(|tagged| (tagged.id, tagged.data.to_vec()))
    };
    let data = [0x8f3b_22ec_u32.to_le_bytes().to_vec(), with_size(b"Linux initrd\0")].concat();
    assert_eq!(tagged(Kind::EVENT_TAG, &data), Some((0x8f3b_22ec, b"Linux initrd\0".to_vec())));
    assert_eq!([tagged(Kind::IPL, &data), tagged(Kind::EVENT_TAG, &data[..20])], [None, None]);
}

fn made() -> impl Strategy<Value = Made> {
    let digests = (prop::collection::vec(any::<u8>(), 20), prop::collection::vec(any::<u8>(), 32));
    (any::<u32>(), any::<u32>(), digests, prop::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(pcr, kind, (sha1, sha256), data)| Made {
            pcr,
            kind: Kind(kind),
            digests: vec![(0x4, sha1), (0xb, sha256)],
            data,
        },
    )
}

proptest! {
    #[test]
    fn any_event_reads_as_it_was_written(events in prop::collection::vec(made(), 0..8)) {
        let log = parse(&agile(&SHA1_SHA256, &events)).unwrap();
        let mut found = Vec::new();
        for event in &log.events[1..] {
            let digests = event.digests.iter().map(|digest| (digest.bank.id(), digest.digest.clone())).collect();
            found.push(Made { pcr: event.pcr, kind: event.kind, digests, data: event.data.clone() });
        }
        prop_assert_eq!(agile(&SHA1_SHA256, &found), agile(&SHA1_SHA256, &events));
    }

    #[test]
    fn any_damage_never_panics(
        damage in prop::collection::vec((0_usize..400, any::<u8>()), 0..8),
        length in prop_oneof![Just(328_usize), 0_usize..400],
    ) {
        let path = image(&file_path("\\a.efi"));
        let program = Made::of(4, Kind::EFI_BOOT_SERVICES_APPLICATION, b"", &path);
        let mut bytes = agile(&SHA1_SHA256, &[program, config(GLOBAL, "SecureBoot", &[1])]);
        bytes.resize(400, 0);
        damage.iter().for_each(|(offset, byte)| bytes[*offset] = *byte);
        if let Ok(log) = parse(&bytes[..length]) {
            let size = |event: &Event| event.data.len() + event.digests.iter().map(|digest| digest.digest.len()).sum::<usize>();
            prop_assert!(log.events.iter().map(size).sum::<usize>() <= length);
            log.events.iter().for_each(|event| drop((event.image(), event.variable(), event.text(), event.tagged())));
        }
    }
}
