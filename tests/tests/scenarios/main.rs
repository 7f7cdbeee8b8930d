//! Scenarios in virtual machines: one claim or attack per file, named by it.
//!
//! The written budget of machine starts: 2 for the Debian target (network and disk), 2 for the tiny target (the same),
//! 1 each for the five refusals and deaths. They need what `make images` builds.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's allow-in-tests leaves out helpers of tests")]

mod a_disk_that_is_too_small_is_refused;
mod a_flipped_bit_in_a_data_frame_is_refused;
mod a_killed_installer_is_reported;
mod a_payload_is_nearly_as_small_as_one_frame;
mod debian_is_installed_and_boots_from_its_disk;
mod half_a_gibibyte_is_enough;
