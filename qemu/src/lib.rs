//! A machine for tests and demos: firmware, TPM, disks, a network of its own with DHCP, DNS, HTTP boot and an HTTPS
//! repository, and a serial console that can be waited on. It works for root and for an ordinary user.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use metalstrap_qemu::{Disk, Lab, Machine, RunDir, Swtpm, minutes};
//!
//! let run = RunDir::new("demo")?;
//! let lab = Lab::new(run.path())?;
//! lab.serve_repository("out/demo/repository".as_ref())?;
//! lab.serve_netboot("out/netboot.efi".as_ref())?;
//! let tpm = Swtpm::manufacture(&run.path().join("tpm"), true)?;
//! let mut vm = Machine::builder("demo")
//!     .memory(1024)
//!     .disk(Disk::nvme(4 << 30).serial("DEMO1"))
//!     .tpm(&tpm)
//!     .firmware_http_boot()
//!     .start(&lab)?;
//! vm.serial().wait_for("login:", minutes(5))?;
//! vm.power_off()?;
//! run.passed()
//! # }
//! ```
//!
//! # Nothing outlives the test
//! Every process of a lab lives in the PID namespace of its [`Namespace`]. The first process of that namespace reads a
//! pipe whose other end only the test process holds: when that process ends, for whatever reason, SIGKILL included, the
//! pipe closes, the first process ends, and the kernel kills the rest.

mod accelerator;
mod arguments;
mod builder;
mod certificates;
mod disk;
mod dnsmasq;
mod endpoint;
mod enrolment;
mod firmware;
mod follow;
mod lab;
mod line;
mod machine;
mod namespace;
mod nginx;
mod process;
mod qmp;
mod requirements;
mod run;
mod serial;
mod socket;
mod swtpm;
mod tool;
mod wait;

pub use accelerator::Accelerator;
pub use builder::{Boot, Builder};
pub use certificates::{Authority, Issued, Validity};
pub use disk::Disk;
pub use dnsmasq::Network;
pub use endpoint::Endpoint;
pub use follow::Follow;
pub use lab::{GATEWAY, GATEWAY_V6, Lab, NAME};
pub use line::{Event, Line};
pub use machine::{Exit, Machine};
pub use namespace::Namespace;
pub use nginx::Request;
pub use requirements::{Missing, Requirements};
pub use run::RunDir;
pub use serial::Serial;
pub use swtpm::Swtpm;
pub use tool::find as find_tool;
pub use wait::{minutes, seconds, until};
