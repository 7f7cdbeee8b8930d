//! Scenarios in virtual machines: one claim or attack per file, named by it.
//!
//! The written budget of machine starts (docs/testing.md has the whole): 2 for the Debian target (network and disk), 2 for
//! the tiny target (the same), 1 each for seven refusals and three deaths, 2 for a cut, 8 for releases beside each
//! other, 3 for an OS that updates itself, 1 for what holds a disk, 1 for erasing, 3 for buses, 2 for settings and secrets, 1 for a
//! stick, 6 for Secure Boot, 2 for a kexec that hangs, 1 for an installer that does, 2 for a watchdog that is taken over, 4 for what
//! is measured: 50. They need what `make images` and `scripts/fetch-workbench` build.
//!
//! They start in the order of their names; the longest have the first of them, so that others run beside each to its end.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "clippy's allow-in-tests leaves out helpers of tests"
)]

mod a_boot_opens_a_volume_by_what_was_measured;
mod a_disk_that_is_too_small_is_refused;
mod a_drive_is_erased_by_its_own_command;
mod a_flipped_bit_in_a_data_frame_is_refused;
mod a_healthy_system_takes_over_the_watchdog;
mod a_hung_installer_is_rebooted;
mod a_kexec_that_hangs_becomes_a_boot_from_the_disk;
mod a_killed_installer_is_reported;
mod a_machine_cut_while_writing_goes_on_where_it_was;
mod a_machine_without_the_tpm_that_it_must_have_is_refused;
mod a_network_without_dhcp_is_told;
mod a_payload_is_nearly_as_small_as_one_frame;
mod a_server_of_another_name_is_refused;
mod a_setting_or_secret_reaches_every_boot_of_the_os;
mod a_usb_stick_leads_a_machine_to_its_repository;
mod an_error_with_a_backtrace_is_told_too;
mod an_installed_system_updates_itself;
mod another_release_goes_beside_the_one_that_works;
mod debian_is_installed_and_boots_from_its_disk;
mod every_bus_and_sector_size_is_installed_to;
mod expired_metadata_is_refused;
mod half_a_gibibyte_is_enough;
mod keys_are_enrolled_and_what_they_signed_is_installed;
mod metadata_signed_by_an_unknown_key_is_refused;
mod what_holds_a_disk_is_taken_down_before_it_is_wiped;
