//! An SNTP packet: 48 bytes (RFC 5905 section 7.3), read for one thing, the time that the server says.
//!
//! Needs the standard library alone, so that the fuzz target can include it.

use std::fmt;

/// Bytes of a packet without extensions.
pub const SIZE: usize = 48;
/// Seconds from the first one that NTP counts (1900) to the first of Unix time (1970).
const TO_1970: i64 = 2_208_988_800;
/// The first byte of what we send: no warning, version 4, mode 3 (client).
const CLIENT: u8 = 0x23;
/// Mode of a server's answer.
const SERVER: u8 = 4;
/// Leap indicator of a clock that is not synchronised.
const ALARM: u8 = 3;
/// Stratum from which on a clock is not synchronised.
const UNSYNCHRONISED: u8 = 16;

/// Why a packet says no time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is no answer to the question that was asked: too short, of another mode or version, or with another question's
    /// mark. It may be forged and counts for nothing; the answer may still come.
    NotOurs,
    /// The server's own clock is not synchronised.
    Unsynchronised,
    /// A kiss-o'-death: the server does not want to be asked, and says why in four letters (RFC 5905 section 7.4).
    Kiss([u8; 4]),
    /// Its time is zero, which means unknown.
    NoTime,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs => f.write_str("no answer to our question"),
            Self::Unsynchronised => f.write_str("its clock is not synchronised"),
            Self::Kiss(code) => write!(f, "it does not want to be asked ({})", code.escape_ascii()),
            Self::NoTime => f.write_str("it does not know the time"),
        }
    }
}

impl std::error::Error for Problem {}

/// The question, with `mark` where a client's own time would stand: a random number, which tells nobody what our clock shows
/// and which only a server that got it can send back.
#[must_use]
pub fn question(mark: u64) -> [u8; SIZE] {
    let mut packet = [0; SIZE];
    packet[0] = CLIENT;
    packet[40..].copy_from_slice(&mark.to_be_bytes());
    packet
}

/// The time at which the server sent its answer to the question with `mark`: milliseconds since 1970. Of the times that the
/// 32 bits of seconds may mean (they begin anew in 2036) it is the one within 68 years of `near`, seconds since 1970.
///
/// # Errors
/// Why there is none.
pub fn read(packet: &[u8], mark: u64, near: i64) -> Result<i64, Problem> {
    let packet: &[u8; SIZE] = packet.first_chunk().ok_or(Problem::NotOurs)?;
    let [first, stratum, ..] = *packet;
    let (leap, version, mode) = (first >> 6, (first >> 3) & 7, first & 7);
    let origin = be64(packet, 24);
    if mode != SERVER || !(3..=4).contains(&version) || origin != mark {
        return Err(Problem::NotOurs);
    }
    match stratum {
        0 => return Err(Problem::Kiss([packet[12], packet[13], packet[14], packet[15]])),
        UNSYNCHRONISED.. => return Err(Problem::Unsynchronised),
        _ if leap == ALARM => return Err(Problem::Unsynchronised),
        _ => {}
    }
    match be64(packet, 40) {
        0 => Err(Problem::NoTime),
        sent => Ok(milliseconds(sent, near)),
    }
}

/// The 64 bits at `at`, first byte first; zero beyond the packet's end.
fn be64(packet: &[u8; SIZE], at: usize) -> u64 {
    let bytes = packet.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().map_or(0, u64::from_be_bytes)
}

/// An NTP timestamp (32 bits of seconds, 32 of their fraction) as milliseconds since 1970.
fn milliseconds(timestamp: u64, near: i64) -> i64 {
    const ERA: i64 = 1 << 32;
    let (seconds, fraction) = (timestamp >> 32, timestamp & 0xffff_ffff);
    let seconds = i64::try_from(seconds).unwrap_or_default();
    // How far the seconds are from `near`, modulo an era, between half an era before it and half an era after.
    let away = (seconds - TO_1970 - near.rem_euclid(ERA) + ERA / 2).rem_euclid(ERA) - ERA / 2;
    let milliseconds = i64::try_from((fraction * 1000) >> 32).unwrap_or_default();
    near.saturating_add(away).saturating_mul(1000).saturating_add(milliseconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-11-26 12:00:00 UTC.
    const NOON: i64 = 1_795_694_400;
    const MARK: u64 = 0x0123_4567_89ab_cdef;

    /// An answer laid out by hand after figure 8 of RFC 5905: stratum 2 of 10.0.0.9, poll 6, precision 2⁻²⁴.
    fn answer(first: u8, stratum: u8, sent: u64) -> Vec<u8> {
        let mut packet = vec![first, stratum, 6, 0xe8];
        // Root delay 1/64 s and root dispersion 1/32 s, in 16.16 bits.
        packet.extend([0, 0, 4, 0, 0, 0, 8, 0, 10, 0, 0, 9]);
        for timestamp in [sent.wrapping_sub(9 << 32), MARK, sent.wrapping_sub(1 << 20), sent] {
            packet.extend(timestamp.to_be_bytes());
        }
        packet
    }

    /// The NTP timestamp of a Unix time.
    fn timestamp(seconds: i64, fraction: u32) -> u64 {
        let seconds = (seconds + TO_1970).rem_euclid(1 << 32);
        u64::try_from(seconds).unwrap() << 32 | u64::from(fraction)
    }

    #[test]
    fn a_question_is_a_clients_and_says_nothing_but_its_mark() {
        let packet = question(MARK);
        assert_eq!(packet[0], 0x23);
        assert_eq!(packet[1..40], [0; 39]);
        assert_eq!(packet[40..], [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef]);
    }

    #[test]
    fn an_answer_says_the_time_to_a_millisecond() {
        // 2026-11-26 12:00:00.25 UTC is 0xeeb29dc0.40000000 of NTP.
        assert_eq!(timestamp(NOON, 1 << 30), 0xeeb2_9dc0_4000_0000);
        let packet = answer(0x24, 2, 0xeeb2_9dc0_4000_0000);
        assert_eq!(packet.len(), SIZE);
        assert_eq!(read(&packet, MARK, NOON), Ok(NOON * 1000 + 250));
        // Version 3, a leap second to come, and an extension behind.
        let mut longer = answer(0x5c, 15, timestamp(NOON, 0));
        longer.extend([0; 20]);
        assert_eq!(read(&longer, MARK, NOON), Ok(NOON * 1000));
    }

    #[test]
    fn what_is_no_answer_to_the_question_counts_for_nothing() {
        let good = answer(0x24, 2, timestamp(NOON, 0));
        assert_eq!(read(&good, MARK ^ 1, NOON), Err(Problem::NotOurs), "another question's");
        assert_eq!(read(&good[..47], MARK, NOON), Err(Problem::NotOurs), "too short");
        for first in [0x23, 0x25, 0x22, 0x14, 0x2c] {
            assert_eq!(read(&answer(first, 2, timestamp(NOON, 0)), MARK, NOON), Err(Problem::NotOurs), "{first:x}");
        }
    }

    #[test]
    fn a_server_that_does_not_know_says_so() {
        let read = |packet: &[u8]| read(packet, MARK, NOON).unwrap_err();
        assert_eq!(read(&answer(0xe4, 2, timestamp(NOON, 0))), Problem::Unsynchronised);
        assert_eq!(read(&answer(0x24, 16, timestamp(NOON, 0))), Problem::Unsynchronised);
        assert_eq!(read(&answer(0x24, 2, 0)), Problem::NoTime);
        let mut kiss = answer(0xe4, 0, 0);
        kiss[12..16].copy_from_slice(b"RATE");
        assert_eq!(read(&kiss), Problem::Kiss(*b"RATE"));
        assert_eq!(read(&kiss).to_string(), "it does not want to be asked (RATE)");
        kiss[12..16].copy_from_slice(b"\x1b[2J");
        assert_eq!(read(&kiss).to_string(), "it does not want to be asked (\\x1b[2J)");
    }

    #[test]
    fn seconds_that_begin_anew_in_2036_are_read() {
        // RFC 5905 figure 4: the first second of era 1 is 2036-02-07 06:28:16 UTC.
        const ERA_1: i64 = 2_085_978_496;
        let packet = |seconds: u64| answer(0x24, 2, seconds << 32 | 1);
        for near in [NOON, ERA_1 - 1, ERA_1, ERA_1 + 1_000_000_000] {
            assert_eq!(read(&packet(5), MARK, near), Ok((ERA_1 + 5) * 1000), "{near}");
            assert_eq!(read(&packet(0xffff_ffff), MARK, near), Ok((ERA_1 - 1) * 1000), "{near}");
        }
    }

    proptest! {
        #[test]
        fn any_time_near_is_read(near in 0_i64..10_000_000_000, away in -2_147_483_648_i64..=2_147_483_647, fraction: u32) {
            let time = near + away;
            let sent = timestamp(time, fraction);
            prop_assume!(sent != 0);
            let expected = time * 1000 + i64::try_from((u64::from(fraction) * 1000) >> 32).unwrap();
            prop_assert_eq!(read(&answer(0x24, 2, sent), MARK, near), Ok(expected));
        }

        #[test]
        fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..80), mark: u64, near: i64) {
            let _any = read(&bytes, mark, near);
            let mut ours = bytes;
            if ours.len() >= SIZE {
                ours[0] = 0x24;
                ours[24..32].copy_from_slice(&mark.to_be_bytes());
                prop_assert_ne!(read(&ours, mark, near), Err(Problem::NotOurs));
            }
        }
    }
}
