//! Disks that are not taken. Which disk a machine chooses among several is tested in [`crate::target`], mounted and
//! held ones in [`crate::inventory`].

use std::sync::Arc;

use std::fs;

use nix::fcntl::{Flock, FlockArg};

use super::published::good;
use super::trial::{DISK_BYTES, Trial};
use crate::failure::Code;

#[tokio::test]
async fn a_disk_that_is_too_small_is_left_alone() {
    let small = Trial::of(&good()).resize(520 << 20).run().await;
    small.before_the_plan(
        Code::DiskTooSmall,
        "planning the disk: disk PLACE/disk has 545259520 bytes, but the layout needs 549470720: \
             ESP 536870912, 2 slots of 5242880, 1048576 free, 1065472 for partition tables and \
             alignment",
    );
    let odd = Trial::of(&good()).resize(DISK_BYTES + 100).run().await;
    odd.before_the_plan(Code::DiskIo, "locking the disk: PLACE/disk has 671088740 bytes, not whole sectors of 512");
}

#[tokio::test]
async fn a_locked_disk_is_left_alone() {
    let trial = Trial::of(&good());
    let file = fs::File::open(trial.disk()).unwrap();
    let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
    trial
        .run()
        .await
        .before_the_plan(Code::DiskInUse, "locking the disk: disk PLACE/disk is locked by another program");
}

#[tokio::test]
async fn a_disk_that_somebody_writes_to_after_the_plan_is_left_alone() {
    let mut trial = Trial::of(&good());
    trial.before_lock = Arc::new(|path| {
        let label = b"XFSB";
        std::os::unix::fs::FileExt::write_all_at(&fs::File::options().write(true).open(path).unwrap(), label, 0)
            .unwrap();
    });
    let outcome = trial.run().await;
    let failure = outcome.failure();
    assert_eq!(
        (failure.happened.as_str(), failure.code),
        ("locking the disk: disk PLACE/disk has changed since it was looked at", Code::DiskInUse)
    );
    assert_eq!((failure.untouched.as_str(), outcome.log.len()), ("No disk was written to.", 0));
}

#[tokio::test]
async fn a_disk_with_something_on_it_is_left_alone() {
    let trial = Trial::of(&good());
    fs::write(trial.disk(), b"XFSB").unwrap();
    let outcome = trial.resize(DISK_BYTES).run().await;
    let failure = outcome.failure();
    assert_eq!(
        (failure.happened.as_str(), failure.code),
        (
            "planning the disk: disk PLACE/disk holds XFS, and the host config does not permit \
             wiping it (\"existing\": \"wipe\")",
            Code::DiskNotBlank
        )
    );
    assert_eq!((failure.untouched.as_str(), outcome.log.len()), ("No disk was written to.", 0));
}
