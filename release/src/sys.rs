//! The only file of this crate with `unsafe`: asking the processor what it can do, and then doing it.
#![allow(unsafe_code, reason = "functions for one kind of processor may be called once it is known to be that kind")]

use crate::verity::Block;

/// The SHA-256 digests of `salt` followed by each of two blocks, if the processor has instructions that make both at once
/// faster than one after the other.
#[must_use]
pub(crate) fn salted_pair(salt: &[u8], blocks: [&Block; 2]) -> Option<[[u8; 32]; 2]> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1") {
        // SAFETY: the processor has every feature that the function is compiled for, as was just asked; it has no other
        // condition.
        return Some(unsafe { crate::digest::pair::salted(salt, blocks) });
    }
    let _ = (salt, blocks);
    None
}
