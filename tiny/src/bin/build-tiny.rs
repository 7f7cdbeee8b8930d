//! Makes the tiny target: `root.raw`, `root.verity.raw` and `tiny.efi`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use metalstrap_initrd::{BootTools, Kernel};
use metalstrap_tiny::image::{TinyOptions, tiny};

/// Makes the tiny target, an OS of one static program, and prints its root hash.
#[derive(Debug, Parser)]
struct Arguments {
    /// Tree of an unpacked kernel package (scripts/fetch-kernels makes out/kernels/cloud)
    #[arg(long)]
    kernel: PathBuf,
    /// The static metalstrap-tiny-init
    #[arg(long)]
    init: PathBuf,
    /// Tree of ukify and the EFI stub
    #[arg(long, default_value = "out/boot-tools")]
    tools: PathBuf,
    /// MiB of the root image
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=65536))]
    mebibytes: u64,
    /// Another seed gives another image
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Goes behind the standard kernel command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    cmdline: String,
    /// Directory that the files are written to
    #[arg(long)]
    out: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let made = tiny(&TinyOptions {
        kernel: Kernel::find(&arguments.kernel)?,
        init: arguments.init,
        tools: BootTools::find(&arguments.tools)?,
        mebibytes: arguments.mebibytes,
        seed: arguments.seed,
        cmdline_extra: arguments.cmdline,
        extra_files: Vec::new(),
        out: arguments.out,
    })?;
    println!("root hash {}, UKI of {} bytes", made.root_hash, made.uki);
    Ok(())
}
