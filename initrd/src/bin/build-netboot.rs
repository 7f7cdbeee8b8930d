//! Makes a netboot image from the command line and prints what takes how many bytes.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use metalstrap_initrd::{BootTools, Kernel, NetbootOptions, netboot};

/// Makes the netboot UKI of a site and prints the sizes of its parts.
#[derive(Debug, Parser)]
struct Arguments {
    /// Tree of an unpacked kernel package (scripts/fetch-kernels makes out/kernels/generic and out/kernels/cloud)
    #[arg(long)]
    kernel: PathBuf,
    /// The static installer
    #[arg(long)]
    installer: PathBuf,
    /// The site config
    #[arg(long)]
    site: PathBuf,
    /// Seconds of Unix time that the installer's clock starts from
    #[arg(long, env = "SOURCE_DATE_EPOCH")]
    build_time: u64,
    /// Tree of ukify and the EFI stub
    #[arg(long, default_value = "out/boot-tools")]
    tools: PathBuf,
    /// Goes behind the standard kernel command line
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    cmdline: String,
    /// Where finished archives are kept
    #[arg(long, default_value = "out/cache/initrd")]
    cache: PathBuf,
    /// The UKI
    #[arg(long)]
    output: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let site = std::fs::read(&arguments.site).with_context(|| format!("reading {}", arguments.site.display()))?;
    let sizes = netboot(&NetbootOptions {
        kernel: Kernel::find(&arguments.kernel)?,
        installer: arguments.installer,
        site,
        build_time: arguments.build_time,
        tools: BootTools::find(&arguments.tools)?,
        cmdline_extra: arguments.cmdline,
        extra_files: Vec::new(),
        cache: Some(arguments.cache),
        output: arguments.output,
    })?;
    print!("{sizes}");
    Ok(())
}
