use super::replay::{data, done, error, status};
use super::*;

/// The words of an NVMe drive that decide.
#[derive(Debug, Clone, Copy)]
struct Words {
    oacs: u16,
    sanicap: u32,
    fna: u8,
    flbas: u8,
    dps: u8,
    active: &'static [u32],
    allocated: &'static [u32],
}

/// As reported of an SK hynix PC801 (linux-nvme/nvme-cli#2710): Format NVM, block erase, "no deallocate" inhibited.
const PC801: Words =
    Words { oacs: 0x0017, sanicap: 0x2000_0002, fna: 0, flbas: 0, dps: 0, active: &[1], allocated: &[] };
/// A drive with everything, and namespace management.
const SERVER: Words =
    Words { oacs: 0x005f, sanicap: 0xa000_0003, fna: 0x04, flbas: 0x01, dps: 0, active: &[1], allocated: &[1] };
/// QEMU's: Format NVM, no sanitize, no cryptographic erase.
const QEMU: Words = Words { oacs: 0x002a, sanicap: 0, fna: 0, flbas: 0, dps: 0, active: &[1], allocated: &[1] };

fn list(numbers: &[u32]) -> Vec<u8> {
    let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    bytes.resize(4096, 0);
    bytes
}

impl Words {
    /// The drive answers what it is asked before it is chosen how to erase it.
    fn identify(self, drive: &Replay) {
        let mut controller = vec![0; 4096];
        controller[256..258].copy_from_slice(&self.oacs.to_le_bytes());
        controller[328..332].copy_from_slice(&self.sanicap.to_le_bytes());
        controller[524] = self.fna;
        let mut namespace = vec![0; 4096];
        (namespace[26], namespace[29]) = (self.flbas, self.dps);
        drive.answers("06 namespace 0 word 1", data(controller));
        drive.answers("06 namespace 1 word 0", data(namespace));
        drive.answers("06 namespace 0 word 2", data(list(self.active)));
        if self.oacs & 8 != 0 {
            drive.answers("06 namespace 0 word 10", data(list(self.allocated)));
        }
    }

    fn choose(self, disk: &dyn Disk) -> (Replay, Result<Eraser>) {
        let drive = Replay::nothing();
        self.identify(&drive);
        let eraser = Eraser::choose(disk, &facts("nvme"), Erase::Secure, &opener(drive.clone()));
        drive.is_over();
        (drive, eraser)
    }

    fn methods(self) -> Vec<String> {
        let (_, eraser) = self.choose(&Memory::new(SIZE, 512));
        eraser.unwrap().methods.iter().map(ToString::to_string).collect()
    }

    fn refused(self) -> String {
        let drive = Replay::nothing();
        self.identify(&drive);
        refused(&Memory::new(SIZE, 512), &facts("nvme"), Erase::Secure, &opener(drive))
    }
}

/// The sanitize status log page.
fn log(progress: u16, state: u16, action: u32, seconds: u32) -> Vec<u8> {
    let mut page = vec![0; 512];
    page[..2].copy_from_slice(&progress.to_le_bytes());
    // With "global data erased" (bit 8), as drives have it that were sanitized before.
    page[2..4].copy_from_slice(&(state | 0x100).to_le_bytes());
    // With "allow unrestricted sanitize exit".
    page[4..8].copy_from_slice(&(action | 8).to_le_bytes());
    page[12..16].copy_from_slice(&seconds.to_le_bytes());
    page[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    page
}

const LOG: &str = "02 namespace ffffffff word 7f0081";

/// What another key makes of a disk.
fn scramble(disk: &Memory) {
    let mut piece = vec![0; 1 << 20];
    for start in (0..disk.size()).step_by(1 << 20) {
        disk.read_at(start, &mut piece).unwrap();
        for (n, byte) in piece.iter_mut().enumerate() {
            *byte ^= [0x5a, 0x11, 0xc3][n % 3];
        }
        disk.write_at(start, &piece).unwrap();
    }
}

fn is_erased(disk: &Arc<Memory>) -> impl FnOnce() + Send + 'static {
    let disk = Arc::clone(disk);
    move || disk.write_zeroes(0, SIZE).unwrap()
}

#[test]
fn the_best_that_the_drive_can_is_chosen() {
    assert_eq!(PC801.methods(), ["nvme-sanitize-block", "nvme-format-user-data"]);
    let all = ["nvme-sanitize-crypto", "nvme-sanitize-block", "nvme-format-crypto", "nvme-format-user-data"];
    assert_eq!(SERVER.methods(), all);
    assert_eq!(QEMU.methods(), ["nvme-format-user-data"]);
    assert_eq!(Words { oacs: 0, ..SERVER }.methods(), all[..2]);
    assert_eq!(Words { sanicap: 4, oacs: 0, ..SERVER }.refused(), "the drive knows neither sanitize nor format");
}

#[test]
fn nothing_is_chosen_that_takes_another_namespace_along() {
    let shared = Words { active: &[1, 2], allocated: &[1, 2, 5], ..SERVER };
    assert_eq!(shared.methods(), ["nvme-format-crypto", "nvme-format-user-data"]);
    // One that is attached to no controller is somebody's all the same.
    assert_eq!(Words { active: &[1], allocated: &[1, 3], ..SERVER }.methods().len(), 2);
    for fna in [5, 6, 7] {
        let text = "the drive erases only all of its namespaces, and has others than 1: 2, 5";
        assert_eq!(Words { fna, ..shared }.refused(), text, "{fna}");
        assert_eq!(Words { fna, active: &[1], allocated: &[1], ..shared }.methods().len(), 4, "{fna}");
    }
}

#[test]
fn a_sanitize_operation_is_followed_to_its_end() {
    let disk = used();
    let (drive, eraser) = PC801.choose(disk.as_ref());
    drive.answers("84 namespace 0 word a", status(0));
    drive.answers(LOG, data(log(0, 2, 2, 120)));
    drive.answers(LOG, data(log(3000, 2, 2, 120)));
    drive.answers(LOG, data(log(32768, 2, 2, 120)));
    let page = log(65535, 1, 2, 120);
    let erases = is_erased(&disk);
    drive.answers(
        LOG,
        Box::new(move |to| {
            erases();
            to.copy_from_slice(&page);
            Ok(0)
        }),
    );
    let erased = erase(&eraser.unwrap(), disk.as_ref());
    drive.is_over();
    let mut fields = Value::Object(erased.result.unwrap().fields(&facts("nvme")).unwrap());
    assert!(fields["seconds"].take().as_f64().is_some());
    let expected = json!({
        "disk": {"wwid": null, "serial": "S1", "model": null, "size": SIZE},
        "firmware": "F1",
        "method": "nvme-sanitize-block",
        "abilities": {"oacs": "0x0017", "sanicap": "0x20000002", "fna": "0x00", "other_namespaces": []},
        "refused": [],
        "seconds": null,
        "samples": {"blocks": 256, "zeroes": 256, "changed": 0},
    });
    assert_eq!(fields, expected);
    let progress = |percent: u32, left: u32| ("progress".to_owned(), json!({"percent": percent, "seconds_left": left}));
    assert_eq!(erased.events, [progress(0, 120), progress(50, 60)]);
}

#[test]
fn a_new_key_leaves_noise_and_a_disk_that_looks_blank() {
    let disk = used();
    let (drive, eraser) = SERVER.choose(disk.as_ref());
    let scrambled = Arc::clone(&disk);
    drive.answers("84 namespace 0 word c", done(move || scramble(&scrambled)));
    drive.answers(LOG, data(log(65535, 4, 4, 0)));
    let receipt = erase(&eraser.unwrap(), disk.as_ref()).result.unwrap();
    let expected = (Method::SanitizeCrypto, Checked { blocks: 256, zeroes: 0, changed: 256 });
    assert_eq!((receipt.method, receipt.checked), expected);
    assert_eq!(crate::inventory::inspect(disk.as_ref()).unwrap(), Contents::Blank);
}

#[test]
fn a_method_that_the_drive_refuses_gives_way_to_the_next_and_is_told() {
    let disk = used();
    let (drive, eraser) = SERVER.choose(disk.as_ref());
    drive.answers("84 namespace 0 word c", status(0x4002));
    drive.answers("84 namespace 0 word a", status(0x2015));
    // Layout 1 stays, with secure erase 2.
    drive.answers("80 namespace 1 word 401", status(0x410a));
    drive.answers("80 namespace 1 word 201", done(is_erased(&disk)));
    let erased = erase(&eraser.unwrap(), disk.as_ref());
    let receipt = erased.result.unwrap();
    let refused = [
        "nvme-sanitize-crypto: sanitize ended with status 0x4002 (invalid field)",
        "nvme-sanitize-block: sanitize ended with status 0x2015 (operation denied)",
        "nvme-format-crypto: format ended with status 0x410a (invalid format)",
    ];
    assert_eq!((receipt.method, receipt.refused), (Method::FormatUserData, refused.map(ToOwned::to_owned).to_vec()));
    assert_eq!(erased.events, refused.map(|text| ("warning".to_owned(), json!({"message": text}))));

    let (drive, eraser) = QEMU.choose(disk.as_ref());
    drive.answers("80 namespace 1 word 200", status(0x4001));
    let error = erase(&eraser.unwrap(), disk.as_ref()).result.unwrap_err();
    let text = "memory does nothing of what it says that it can: nvme-format-user-data: format ended with status 0x4001 \
                (invalid opcode)";
    assert_eq!((code_of(&error), format!("{error:#}").as_str()), (Code::EraseFailed, text));
}

#[test]
fn a_format_keeps_layout_metadata_and_protection() {
    // Layout 0x13 with metadata in the data, protection 3 at the start.
    let words = Words { sanicap: 0, flbas: 0x33, dps: 0x0b, fna: 0, ..SERVER };
    let disk = used();
    let (drive, eraser) = words.choose(disk.as_ref());
    drive.answers("80 namespace 1 word 1373", done(is_erased(&disk)));
    erase(&eraser.unwrap(), disk.as_ref()).result.unwrap();
}

/// The drive was told to sanitize itself by erasing its blocks, and this is what its log shows then.
fn sanitize_error(answers: impl FnOnce(&Replay)) -> String {
    let disk = used();
    let (drive, eraser) = PC801.choose(disk.as_ref());
    drive.answers("84 namespace 0 word a", status(0));
    answers(&drive);
    let error = erase(&eraser.unwrap(), disk.as_ref()).result.unwrap_err();
    drive.is_over();
    assert_eq!(code_of(&error), Code::EraseFailed);
    format!("{error:#}")
}

#[test]
fn a_sanitize_operation_that_fails_is_left_and_nothing_else_is_tried() {
    let failed = |exit: u16| {
        sanitize_error(move |drive| {
            drive.answers(LOG, data(log(100, 3, 2, 0)));
            drive.answers("84 namespace 0 word 1", status(exit));
        })
    };
    let text = "erasing memory by nvme-sanitize-block: sanitize failed (state 3); the drive";
    assert_eq!(failed(0), format!("{text} takes commands again"));
    assert_eq!(failed(0x1c), format!("{text} takes no commands until one succeeds"));
    // The log of another operation is no success of this one.
    let other = sanitize_error(|drive| drive.answers(LOG, data(log(65535, 1, 4, 0))));
    let text = "the drive tells of another sanitize operation than the one it was given";
    assert_eq!(other, format!("erasing memory by nvme-sanitize-block: {text}"));
    let silent = sanitize_error(|drive| drive.answers(LOG, status(0x4009)));
    let text = "asked for the sanitize status, it said status 0x4009";
    assert_eq!(silent, format!("erasing memory by nvme-sanitize-block: {text}"));
    let lost = sanitize_error(|drive| drive.answers(LOG, error("no answer")));
    assert_eq!(lost, "erasing memory by nvme-sanitize-block: no answer");
}

/// Lesson 22 of the field: a format without erasure was called an erasure, cryptographic erase was sent to drives that have
/// none, and nobody looked whether anything was erased.
#[test]
fn lesson_22_only_what_the_drive_can_is_sent_never_a_format_that_erases_nothing_and_success_is_what_samples_show() {
    for oacs in [0, 2, 0x0a] {
        for sanicap in 0..8 {
            for fna in 0..8 {
                let words = Words { oacs, sanicap, fna, ..SERVER };
                let drive = Replay::nothing();
                words.identify(&drive);
                let disk = Memory::new(SIZE, 512);
                let chosen = Eraser::choose(&disk, &facts("nvme"), Erase::Secure, &opener(drive));
                let Ok(eraser) = chosen else {
                    assert!(sanicap & 3 == 0 && oacs & 2 == 0, "{words:?}");
                    continue;
                };
                let has = |method| eraser.methods.contains(&method);
                assert_eq!(has(Method::SanitizeCrypto), sanicap & 1 != 0, "{words:?}");
                assert_eq!(has(Method::SanitizeBlock), sanicap & 2 != 0, "{words:?}");
                assert_eq!(has(Method::FormatCrypto), oacs & 2 != 0 && fna & 4 != 0, "{words:?}");
                assert_eq!(has(Method::FormatUserData), oacs & 2 != 0, "{words:?}");
            }
        }
    }
    // Each format carries its erasure in bits 11:9, and one that says "success" and erases nothing is a failure.
    for (fna, method, word) in
        [(4, "nvme-format-crypto", "80 namespace 1 word 400"), (0, "nvme-format-user-data", "80 namespace 1 word 200")]
    {
        let disk = used();
        let (drive, eraser) = Words { fna, ..QEMU }.choose(disk.as_ref());
        drive.answers(word, status(0));
        let error = erase(&eraser.unwrap(), disk.as_ref()).result.unwrap_err();
        drive.is_over();
        let text = format!(
            "memory is not erased by {method}: 256 of 256 blocks that were looked at still hold what they held, the first \
             at byte 0"
        );
        assert_eq!((code_of(&error), format!("{error:#}")), (Code::EraseFailed, text));
    }
}
