//! The drive behind a disk as a seam: the commands that are neither reads nor writes. Tests replay what drives have
//! answered.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::time::Duration;

use crate::disk::Disk;
use crate::sys;

pub use crate::sys::Transfer;

/// An NVMe admin command (NVM Express base specification 2.0, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NvmeCommand {
    /// Opcode.
    pub opcode: u8,
    /// Number of the namespace; 0xffffffff for all.
    pub namespace: u32,
    /// Command dwords 10 to 15.
    pub words: [u32; 6],
    /// How long the drive may take.
    pub timeout: Duration,
}

/// An ATA command that moves one sector of 512 bytes or none (ACS-4, section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtaCommand {
    /// Its code.
    pub code: u8,
    /// Which way the sector goes.
    pub transfer: Transfer,
    /// How long the drive may take.
    pub timeout: Duration,
}

/// A drive that takes commands.
pub trait Drive: Send + Sync + std::fmt::Debug {
    /// Sends an NVMe admin command; the drive fills `data`. Returns the status field of its completion: 0 is success.
    ///
    /// # Errors
    /// The command did not reach the drive, or the drive did not end it.
    fn nvme(&self, command: &NvmeCommand, data: &mut [u8]) -> io::Result<u16>;

    /// Sends an ATA command with 512 bytes of `data`, or none.
    ///
    /// # Errors
    /// The command did not reach the drive, or the drive ended it with an error.
    fn ata(&self, command: &AtaCommand, data: &mut [u8]) -> io::Result<()>;

    /// Lets time pass between two looks at a drive, which does not say by itself how far it is.
    fn wait(&self, time: Duration);
}

/// A drive of this machine, by the ioctls of its block device.
#[derive(Debug)]
pub struct KernelDrive(File);

impl KernelDrive {
    /// The drive behind `disk`; `None` where there is none.
    ///
    /// # Errors
    /// It is no longer the disk that was opened.
    pub fn of(disk: &dyn Disk) -> io::Result<Option<Box<dyn Drive>>> {
        Ok(disk.control()?.map(|file| Box::new(Self(file)) as _))
    }
}

impl Drive for KernelDrive {
    fn nvme(&self, command: &NvmeCommand, data: &mut [u8]) -> io::Result<u16> {
        let NvmeCommand { opcode, namespace, words, timeout } = *command;
        sys::nvme_admin(self.0.as_fd(), opcode, namespace, words, data, timeout)
    }

    fn ata(&self, command: &AtaCommand, data: &mut [u8]) -> io::Result<()> {
        let answer = sys::scsi(self.0.as_fd(), &pass_through(command), command.transfer, data, command.timeout)?;
        match failure(&answer) {
            None => Ok(()),
            Some(text) => Err(io::Error::other(text)),
        }
    }

    fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// The SCSI command that carries an ATA command: ATA PASS-THROUGH (16) of SAT-4, section 12.2.2.
fn pass_through(command: &AtaCommand) -> [u8; 16] {
    // Protocol (non-data, PIO in, PIO out) in bits 4:1; then transfer length in the sector count field, in blocks, with
    // the direction in bit 3.
    let (protocol, flags, sectors) = match command.transfer {
        Transfer::None => (3, 0x00, 0),
        Transfer::In => (4, 0x0e, 1),
        Transfer::Out => (5, 0x06, 1),
    };
    [0x85, protocol << 1, flags, 0, 0, 0, sectors, 0, 0, 0, 0, 0, 0, 0, command.code, 0]
}

/// Why a command failed; `None` if it did not. An ATA status and error come in a descriptor of the sense data
/// (SAT-4, section 12.2.7).
fn failure(answer: &sys::ScsiAnswer) -> Option<String> {
    if answer.host != 0 {
        return Some(format!("the host adapter gave up with status {:#x}", answer.host));
    }
    if answer.status == 0 {
        return None;
    }
    let byte = |n: usize| answer.sense.get(n).copied();
    // Descriptor format, with the descriptor "ATA status return" first.
    if byte(0).map(|code| code & 0x7f) == Some(0x72) && byte(8) == Some(0x09) {
        let (error, status) = (byte(11).unwrap_or(0), byte(21).unwrap_or(0));
        // Bit 0 is ERR, bit 5 device fault.
        if status & 0x21 != 0 {
            return Some(format!("the drive said status {status:#04x}, error {error:#04x}"));
        }
        // No sense or recovered: it only tells the registers.
        if byte(1).is_some_and(|key| key & 0xf <= 1) {
            return None;
        }
    }
    let key = if byte(0).map(|code| code & 0x7f) == Some(0x72) { byte(1) } else { byte(2) };
    Some(format!("SCSI status {:#x}, sense key {:#x}", answer.status, key.unwrap_or(0) & 0xf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ScsiAnswer;

    #[test]
    fn ata_commands_travel_as_sat_has_them() {
        let command = |code, transfer| AtaCommand { code, transfer, timeout: Duration::from_secs(1) };
        let identify = pass_through(&command(0xec, Transfer::In));
        assert_eq!(identify, [0x85, 0x08, 0x0e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xec, 0]);
        let password = pass_through(&command(0xf1, Transfer::Out));
        assert_eq!(password, [0x85, 0x0a, 0x06, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xf1, 0]);
        let prepare = pass_through(&command(0xf3, Transfer::None));
        assert_eq!(prepare, [0x85, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf3, 0]);
    }

    #[test]
    fn an_answer_says_whether_the_drive_did_it() {
        let answer = |status, host, sense: &[u8]| failure(&ScsiAnswer { status, host, sense: sense.to_vec() });
        assert_eq!(answer(0, 0, &[]), None);
        assert_eq!(answer(0, 3, &[]).as_deref(), Some("the host adapter gave up with status 0x3"));
        let mut aborted = vec![0; 22];
        aborted[..2].copy_from_slice(&[0x72, 0x0b]);
        aborted[7..10].copy_from_slice(&[14, 0x09, 12]);
        (aborted[11], aborted[21]) = (0x04, 0x51);
        assert_eq!(answer(2, 0, &aborted).as_deref(), Some("the drive said status 0x51, error 0x04"));
        aborted[21] = 0x50;
        assert_eq!(answer(2, 0, &aborted).as_deref(), Some("SCSI status 0x2, sense key 0xb"));
        aborted[1] = 0x01;
        assert_eq!(answer(2, 0, &aborted), None);
        let fixed = [0x70, 0, 0x05, 0, 0, 0, 0, 10];
        assert_eq!(answer(2, 0, &fixed).as_deref(), Some("SCSI status 0x2, sense key 0x5"));
        assert_eq!(answer(2, 0, &[]).as_deref(), Some("SCSI status 0x2, sense key 0x0"));
    }
}
