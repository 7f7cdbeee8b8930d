//! SHA-256 of two blocks at once, with the processor's SHA instructions.
//!
//! A round has to wait for the one before, and the instruction for two rounds takes about twice as long as the processor
//! takes to begin the next one (<https://uops.info>, `SHA256RNDS2`): a second message between them is nearly free.
//! Algorithm: FIPS 180-4, section 6.2; use of the instructions: Intel SDM volume 2, `SHA256RNDS2`, `SHA256MSG1`,
//! `SHA256MSG2`. The same idea is in fs/verity of Linux.

use std::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::verity::{BLOCK_SIZE, Block};

/// Bytes of what the hash takes at a time.
const CHUNK: usize = 64;

/// FIPS 180-4, section 5.3.3.
const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// FIPS 180-4, section 4.2.2, four rounds a row.
#[rustfmt::skip]
const K: [[u32; 4]; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5], [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3], [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc], [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7], [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13], [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3], [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5], [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208], [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// The state of one hash, as the instructions want it.
#[derive(Clone, Copy)]
struct State {
    abef: __m128i,
    cdgh: __m128i,
}

/// The digests of `salt` followed by each of two blocks.
#[target_feature(enable = "sha,ssse3,sse4.1")]
pub(crate) fn salted(salt: &[u8], blocks: [&Block; 2]) -> [[u8; 32]; 2] {
    let length = salt.len() + BLOCK_SIZE;
    // A one bit and eight bytes for the length follow.
    let chunks = (length + 9).div_ceil(CHUNK);
    let [a, b, c, d, e, f, g, h] = START;
    let start = State { abef: vector([f, e, b, a]), cdgh: vector([h, g, d, c]) };
    let mut states = [start; 2];
    for number in 0..chunks {
        let at = number * CHUNK;
        let is_last = number + 1 == chunks;
        states = compress(states, blocks.map(|block| chunk(salt, block, at, is_last)));
    }
    [bytes(states[0]), bytes(states[1])]
}

/// The bytes of the padded message from `at` on.
#[inline(always)]
fn chunk(salt: &[u8], block: &Block, at: usize, is_last: bool) -> [u8; CHUNK] {
    let inside = at.checked_sub(salt.len()).and_then(|from| block.get(from..)?.first_chunk());
    if let Some(inside) = inside {
        return *inside;
    }
    let mut chunk = [0; CHUNK];
    let mut next = at;
    let mut rest = chunk.as_mut_slice();
    for part in [salt.get(next..).unwrap_or_default(), block.as_slice()] {
        // Of the block, what lies behind the salt and what came of it before.
        let skip = if part.len() == BLOCK_SIZE { next.saturating_sub(salt.len()).min(BLOCK_SIZE) } else { 0 };
        let part = part.get(skip..).unwrap_or_default();
        let length = part.len().min(rest.len());
        let (now, later) = rest.split_at_mut(length);
        now.copy_from_slice(part.get(..length).unwrap_or_default());
        (rest, next) = (later, next + length);
    }
    if next == salt.len() + BLOCK_SIZE
        && let Some(byte) = rest.first_mut()
    {
        *byte = 0x80;
    }
    if is_last && let Some(bits) = chunk.last_chunk_mut() {
        *bits = u64::try_from((salt.len() + BLOCK_SIZE) * 8).unwrap_or_default().to_be_bytes();
    }
    chunk
}

#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn compress(states: [State; 2], chunks: [[u8; CHUNK]; 2]) -> [State; 2] {
    let [mut a, mut b] = states;
    let [[mut a0, mut a1, mut a2, mut a3], [mut b0, mut b1, mut b2, mut b3]] = chunks.map(|chunk| words(&chunk));
    let mut constants = K.into_iter();
    /// Four rounds of both.
    macro_rules! rounds {
        ($wa:ident, $wb:ident) => {
            let k = vector(constants.next().unwrap_or_default());
            let (ma, mb) = (_mm_add_epi32($wa, k), _mm_add_epi32($wb, k));
            a.cdgh = _mm_sha256rnds2_epu32(a.cdgh, a.abef, ma);
            b.cdgh = _mm_sha256rnds2_epu32(b.cdgh, b.abef, mb);
            a.abef = _mm_sha256rnds2_epu32(a.abef, a.cdgh, _mm_shuffle_epi32::<0x0e>(ma));
            b.abef = _mm_sha256rnds2_epu32(b.abef, b.cdgh, _mm_shuffle_epi32::<0x0e>(mb));
        };
    }
    /// The same, and then the four words that come sixteen rounds later in their place.
    macro_rules! rounds_and_words {
        ($a0:ident $a1:ident $a2:ident $a3:ident, $b0:ident $b1:ident $b2:ident $b3:ident) => {
            rounds!($a0, $b0);
            $a0 = _mm_add_epi32(_mm_sha256msg1_epu32($a0, $a1), _mm_alignr_epi8::<4>($a3, $a2));
            $b0 = _mm_add_epi32(_mm_sha256msg1_epu32($b0, $b1), _mm_alignr_epi8::<4>($b3, $b2));
            $a0 = _mm_sha256msg2_epu32($a0, $a3);
            $b0 = _mm_sha256msg2_epu32($b0, $b3);
        };
    }
    macro_rules! sixteen {
        ($one:ident) => {
            $one!(a0 a1 a2 a3, b0 b1 b2 b3);
            $one!(a1 a2 a3 a0, b1 b2 b3 b0);
            $one!(a2 a3 a0 a1, b2 b3 b0 b1);
            $one!(a3 a0 a1 a2, b3 b0 b1 b2);
        };
    }
    sixteen!(rounds_and_words);
    sixteen!(rounds_and_words);
    sixteen!(rounds_and_words);
    rounds!(a0, b0);
    rounds!(a1, b1);
    rounds!(a2, b2);
    rounds!(a3, b3);
    let sum = |old: State, new: State| State {
        abef: _mm_add_epi32(old.abef, new.abef),
        cdgh: _mm_add_epi32(old.cdgh, new.cdgh),
    };
    [sum(states[0], a), sum(states[1], b)]
}

/// Sixteen words, big-endian, four a vector.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn words(chunk: &[u8; CHUNK]) -> [__m128i; 4] {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut parts = chunk.as_chunks::<16>().0.iter();
    [(); 4].map(|()| {
        let part = parts.next().map_or(0, |part| u128::from_le_bytes(*part));
        let half =
            |shift: u32| i64::from_le_bytes((part >> shift).to_le_bytes().first_chunk().copied().unwrap_or_default());
        _mm_shuffle_epi8(_mm_set_epi64x(half(64), half(0)), swap)
    })
}

/// Four words, the first one in the lowest place.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn vector(words: [u32; 4]) -> __m128i {
    let [a, b, c, d] = words.map(u32::cast_signed);
    _mm_set_epi32(d, c, b, a)
}

/// The digest that a state is.
#[target_feature(enable = "sha,ssse3,sse4.1")]
#[inline]
fn bytes(state: State) -> [u8; 32] {
    let State { abef, cdgh } = state;
    let words = [
        _mm_extract_epi32::<3>(abef),
        _mm_extract_epi32::<2>(abef),
        _mm_extract_epi32::<3>(cdgh),
        _mm_extract_epi32::<2>(cdgh),
        _mm_extract_epi32::<1>(abef),
        _mm_extract_epi32::<0>(abef),
        _mm_extract_epi32::<1>(cdgh),
        _mm_extract_epi32::<0>(cdgh),
    ];
    let mut digest = [0; 32];
    for (place, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_be_bytes();
    }
    digest
}
