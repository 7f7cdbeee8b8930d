use super::replay::{data, done, error};
use super::*;

const IDENTIFY: &str = "ec within 1 min";

/// Identification with words 82, 83, 85, 89, 90 and 128 as given.
fn identification(words: [(usize, u16); 6]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    for (n, word) in words {
        bytes[n * 2..n * 2 + 2].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A drive of a server: its security may be used, 2 and 6 minutes; `status` is word 128.
fn drive_with(status: u16) -> Vec<u8> {
    identification([(82, 0x746b), (83, 0x7d69), (85, 0x7469), (89, 0x0001), (90, 0x8003), (128, status)])
}

fn choose(disk: &dyn Disk, answer: Vec<u8>) -> (Replay, Result<Eraser>) {
    let drive = Replay::nothing();
    drive.answers(IDENTIFY, data(answer));
    let eraser = Eraser::choose(disk, &facts("sata"), Erase::Secure, &opener(drive.clone()));
    (drive, eraser)
}

fn methods(answer: Vec<u8>) -> Vec<String> {
    let (_, eraser) = choose(&Memory::new(SIZE, 512), answer);
    eraser.unwrap().methods.iter().map(ToString::to_string).collect()
}

fn refusal(answer: Vec<u8>) -> String {
    let drive = Replay::nothing();
    drive.answers(IDENTIFY, data(answer));
    refused(&Memory::new(SIZE, 512), &facts("sata"), Erase::Secure, &opener(drive))
}

#[test]
fn a_drive_is_erased_by_its_security_only_where_that_can_end_well() {
    assert_eq!(methods(drive_with(0x0021)), ["ata-enhanced", "ata"]);
    assert_eq!(methods(drive_with(0x0001)), ["ata"]);
    let frozen = "the firmware has frozen the drive's security commands: take the drive's power away and give it back";
    assert_eq!(refusal(drive_with(0x0029)), frozen);
    // No password is tried then.
    assert_eq!(refusal(drive_with(0x002f)), frozen);
    let counted = "the drive has seen too many wrong passwords: take its power away and give it back";
    assert_eq!(refusal(drive_with(0x0031)), counted);
    assert_eq!(refusal(drive_with(0x0037)), counted);
    assert_eq!(refusal(drive_with(0x0000)), "the drive has no security commands");
    // QEMU's disk: words 82 and 83 count, and have no security.
    let qemu = identification([(82, 0x4021), (83, 0x7400), (85, 0x4021), (89, 0), (90, 0), (128, 0)]);
    assert_eq!(refusal(qemu), "the drive has no security commands");
    assert_eq!(refusal(vec![0; 512]), "the drive has no security commands");
    // A SAS drive takes no ATA command.
    let drive = Replay::nothing();
    drive.answers(IDENTIFY, error("SCSI status 0x2, sense key 0x5"));
    let text = refused(&Memory::new(SIZE, 512), &facts("sas"), Erase::Secure, &opener(drive));
    assert_eq!(text, "asking disk0 (serial S1) what it can: SCSI status 0x2, sense key 0x5");
}

#[test]
fn the_erasure_is_prepared_and_has_the_time_that_the_drive_wants() {
    let disk = used();
    let (drive, eraser) = choose(disk.as_ref(), drive_with(0x0021));
    drive.answers("f1 within 1 min 0000metalstrap", done(|| ()));
    drive.answers("f3 within 1 min", done(|| ()));
    let erased = Arc::clone(&disk);
    // Twice the 6 minutes of word 90, and an hour.
    drive.answers("f4 within 72 min 0200metalstrap", done(move || erased.write_zeroes(0, SIZE).unwrap()));
    let receipt = erase(&eraser.unwrap(), disk.as_ref()).result.unwrap();
    drive.is_over();
    assert_eq!((receipt.method, receipt.checked.zeroes), (Method::AtaEnhanced, 256));
    let words = json!({"word_82": "0x746b", "word_85": "0x7469", "word_128": "0x0021"});
    assert_eq!(receipt.abilities, words);
}

#[test]
fn a_failed_erasure_leaves_no_password_and_the_next_method_is_tried() {
    let disk = used();
    let (drive, eraser) = choose(disk.as_ref(), drive_with(0x0021));
    let eraser = eraser.unwrap();
    drive.answers("f1 within 1 min 0000metalstrap", done(|| ()));
    drive.answers("f3 within 1 min", done(|| ()));
    drive.answers("f4 within 72 min 0200metalstrap", error("the drive said status 0x51, error 0x04"));
    drive.answers("f6 within 1 min 0000metalstrap", done(|| ()));
    drive.answers("f1 within 1 min 0000metalstrap", error("the drive said status 0x51, error 0x04"));
    let error_text = format!("{:#}", erase(&eraser, disk.as_ref()).result.unwrap_err());
    drive.is_over();
    let text = "memory does nothing of what it says that it can: ata-enhanced: the erasure failed: the drive said status \
                0x51, error 0x04; ata: the password was refused: the drive said status 0x51, error 0x04";
    assert_eq!(error_text, text);

    // A drive that keeps the password is told of, and nothing more is done to it.
    drive.answers("f1 within 1 min 0000metalstrap", done(|| ()));
    drive.answers("f3 within 1 min", error("gone"));
    drive.answers("f6 within 1 min 0000metalstrap", error("gone too"));
    let failed = erase(&eraser, disk.as_ref()).result.unwrap_err();
    drive.is_over();
    let text = "erasing memory by ata-enhanced: the erasure failed: gone; the drive keeps the user password \"metalstrap\": \
                gone too";
    assert_eq!((code_of(&failed), format!("{failed:#}").as_str()), (Code::EraseFailed, text));
}

/// A drive that cannot be read, as an erasure finds it that the power has interrupted.
fn unlock(drive: &Replay) -> Result<bool> {
    crate::erase::unlock(&Memory::new(SIZE, 512), &facts("sata"), &opener(drive.clone()))
}

#[test]
fn a_drive_that_an_interrupted_erasure_has_locked_is_unlocked_and_erased() {
    let drive = Replay::nothing();
    drive.answers(IDENTIFY, data(drive_with(0x0027)));
    drive.answers("f2 within 1 min 0000metalstrap", done(|| ()));
    drive.answers("f6 within 1 min 0000metalstrap", done(|| ()));
    drive.answers(IDENTIFY, data(drive_with(0x0021)));
    assert!(unlock(&drive).unwrap());
    drive.is_over();

    let disk = used();
    drive.answers(IDENTIFY, data(drive_with(0x0021)));
    let eraser = Eraser::choose(disk.as_ref(), &facts("sata"), Erase::Secure, &opener(drive.clone())).unwrap();
    drive.answers("f1 within 1 min 0000metalstrap", done(|| ()));
    drive.answers("f3 within 1 min", done(|| ()));
    let erased = Arc::clone(&disk);
    drive.answers("f4 within 72 min 0200metalstrap", done(move || erased.write_zeroes(0, SIZE).unwrap()));
    assert_eq!(erase(&eraser, disk.as_ref()).result.unwrap().method, Method::AtaEnhanced);
    drive.is_over();
}

#[test]
fn a_drive_with_the_password_of_an_interrupted_erasure_that_kept_its_power_is_erased() {
    let drive = Replay::nothing();
    drive.answers(IDENTIFY, data(drive_with(0x0023)));
    drive.answers("f6 within 1 min 0000metalstrap", done(|| ()));
    drive.answers(IDENTIFY, data(drive_with(0x0021)));
    let disk = Memory::new(SIZE, 512);
    let eraser = Eraser::choose(&disk, &facts("sata"), Erase::Secure, &opener(drive.clone())).unwrap();
    drive.is_over();
    assert_eq!(eraser.methods, [Method::AtaEnhanced, Method::AtaErase]);
}

#[test]
fn somebody_elses_password_is_guessed_at_once_and_never_again() {
    const WRONG: &str = "the drive said status 0x51, error 0x04";
    let text = "disk disk0 (serial S1) cannot be erased as \"erase\" in the host config wants: the drive";
    let refusal = |result: Result<bool>| {
        let error = result.unwrap_err();
        assert_eq!(code_of(&error), Code::CannotErase);
        format!("{error:#}")
    };
    let drive = Replay::nothing();
    drive.answers(IDENTIFY, data(drive_with(0x0027)));
    drive.answers("f2 within 1 min 0000metalstrap", error(WRONG));
    let foreign = format!("{text} is locked by a password, which is not that of an interrupted erasure: {WRONG}");
    assert_eq!(refusal(unlock(&drive)), foreign);
    drive.is_over();
    // None is tried where it would not be heard.
    for (status, reason) in [(0x002f, "the firmware has frozen the drive's"), (0x0037, "the drive has seen too many")] {
        drive.answers(IDENTIFY, data(drive_with(status)));
        let said = refusal(unlock(&drive));
        assert!(said.contains(reason), "{said}");
        drive.is_over();
    }
    drive.answers(IDENTIFY, data(drive_with(0x0027)));
    drive.answers("f2 within 1 min 0000metalstrap", done(|| ()));
    drive.answers("f6 within 1 min 0000metalstrap", error(WRONG));
    let keeps = format!("{text} is locked by a password, which it keeps after it was unlocked with it: {WRONG}");
    assert_eq!(refusal(unlock(&drive)), keeps);
    drive.is_over();

    let disk = Memory::new(SIZE, 512);
    drive.answers(IDENTIFY, data(drive_with(0x0023)));
    drive.answers("f6 within 1 min 0000metalstrap", error(WRONG));
    let said = refused(&disk, &facts("sata"), Erase::Secure, &opener(drive.clone()));
    let foreign = format!("the drive has a password already, which is not that of an interrupted erasure: {WRONG}");
    assert_eq!(said, foreign);
    drive.is_over();
}

#[test]
fn what_is_not_locked_is_left_alone() {
    let drive = Replay::nothing();
    for status in [0x0000, 0x0021, 0x0023] {
        drive.answers(IDENTIFY, data(drive_with(status)));
        assert!(!unlock(&drive).unwrap(), "{status:#x}");
    }
    drive.answers(IDENTIFY, error("SCSI status 0x2, sense key 0x5"));
    assert!(!unlock(&drive).unwrap());
    drive.is_over();
    // No command at all is sent to these.
    for transport in ["nvme", "usb", "virtio", "file"] {
        let open = opener(drive.clone());
        assert!(!crate::erase::unlock(&Memory::new(SIZE, 512), &facts(transport), &open).unwrap(), "{transport}");
    }
}
