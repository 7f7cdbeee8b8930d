//! Any set of writes, from several threads, with any of them failing, against the plainest model.

use std::thread;

use proptest::prelude::*;

use super::*;

const SECTORS: u64 = 256;

/// Neighbouring pieces of the disk, in any order: (first sector, sectors, fails, is zeroes).
fn pieces() -> impl Strategy<Value = Vec<(u64, u64, bool, bool)>> {
    let piece = (1_u64..24, prop::bool::weighted(0.7), prop::bool::weighted(0.02), prop::bool::weighted(0.2));
    prop::collection::vec(piece, 1..32)
        .prop_map(|lengths| {
            let mut next = 0;
            let mut pieces = Vec::new();
            for (sectors, written, fails, zeroes) in lengths {
                let end = (next + sectors).min(SECTORS);
                if written && next < end {
                    pieces.push((next, end - next, fails, zeroes));
                }
                next = end;
            }
            pieces
        })
        .prop_shuffle()
}

/// What a piece holds: bytes that tell the pieces apart.
fn content((start, sectors, _, zeroes): (u64, u64, bool, bool)) -> Vec<u8> {
    let byte = if zeroes { 0 } else { u8::try_from(start % 254).unwrap() + 1 };
    vec![byte; usize::try_from(sectors * 512).unwrap()]
}

proptest! {
    #[test]
    fn a_failing_write_is_reported_and_else_the_disk_is_as_asked(
        pieces in pieces(), depth in 1_usize..9, threads in 1_usize..5,
    ) {
        let memory = Arc::new(Memory::new(SECTORS * 512, 512));
        memory.write_at(0, &vec![0xff; usize::try_from(SECTORS * 512).unwrap()]).unwrap();
        let failing: Vec<_> = pieces.iter().filter(|piece| piece.2).map(|piece| piece.0 * 512).collect();
        let judge = {
            let failing = failing.clone();
            move |operation| match operation {
                Operation::Write(offset, _) if failing.contains(&offset) => Some(io::Error::from_raw_os_error(libc::EIO)),
                _ => None,
            }
        };
        let writer = Writer::start(all(Arc::new(Faulty::new(memory.clone(), judge))), depth).unwrap();
        let errors: Vec<String> = thread::scope(|scope| {
            let share = |first: usize| pieces.iter().skip(first).step_by(threads);
            let write = |piece: (u64, u64, bool, bool)| match piece.3 {
                true => writer.write_zeroes(piece.0 * 512, piece.1 * 512),
                false => {
                    let bytes = content(piece);
                    let mut buffer = Buffer::new(bytes.len());
                    buffer.copy_from_slice(&bytes);
                    writer.write(piece.0 * 512, buffer)
                }
            };
            let work = |first| move || share(first).filter_map(|piece| write(*piece).err()).map(text).collect::<Vec<_>>();
            let workers: Vec<_> = (0..threads).map(|first| scope.spawn(work(first))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        let drained = writer.drain().map_err(text);
        let completed = writer.completed();
        let ended = writer.drain().map_err(text);

        prop_assert_eq!(&drained, &ended);
        let mut found = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        memory.read_at(0, &mut found).unwrap();
        let is_written = |piece: (u64, u64, bool, bool)| {
            let start = usize::try_from(piece.0 * 512).unwrap();
            let bytes = content(piece);
            found[start..start + bytes.len()] == bytes
        };
        let is_untouched = |start: u64, sectors: u64| {
            let range = usize::try_from(start * 512).unwrap()..usize::try_from((start + sectors) * 512).unwrap();
            found[range].iter().all(|byte| *byte == 0xff)
        };
        let written: u64 = pieces.iter().filter(|piece| is_written(**piece)).map(|piece| piece.1 * 512).sum();
        prop_assert_eq!(completed, written);
        for piece in &pieces {
            prop_assert!(is_written(*piece) || is_untouched(piece.0, piece.1), "{:?} is half written", piece);
            prop_assert!(!piece.2 || is_untouched(piece.0, piece.1));
        }
        if failing.is_empty() {
            prop_assert_eq!(ended, Ok(()));
            prop_assert_eq!(errors, Vec::<String>::new());
            prop_assert!(pieces.iter().all(|piece| is_written(*piece)));
        } else {
            let error = ended.unwrap_err();
            let texts: Vec<_> = pieces.iter().filter(|piece| piece.2).map(|(start, sectors, ..)| {
                let (start, end) = (start * 512, (start + sectors) * 512);
                format!("writing bytes {start} to {end} of memory: Input/output error (os error 5)")
            }).collect();
            prop_assert!(texts.contains(&error), "{}", error);
            prop_assert!(errors.iter().all(|other| *other == error), "every caller gets the first error");
        }
    }
}

#[test]
fn after_a_failure_nothing_more_is_written() {
    let recording = Arc::new(Recording::memory(1 << 20, 512));
    let judge = |operation| (operation == Operation::Write(512, 512)).then(|| io::Error::other("worn out"));
    let writer = Writer::start(all(Arc::new(Faulty::new(recording.clone(), judge))), 1).unwrap();
    writer.write(0, filled(512, 1)).unwrap();
    writer.write(512, filled(512, 2)).unwrap();
    let expected = "writing bytes 512 to 1024 of memory: worn out";
    assert_eq!(text(writer.drain().unwrap_err()), expected);
    let error = writer.write(1024, filled(512, 3)).unwrap_err();
    assert_eq!((error.kind(), text(error)), (io::ErrorKind::Other, expected.to_owned()));
    assert_eq!(recording.take(), [Recorded::Write { offset: 0, bytes: vec![1; 512] }]);
}
