//! The cases, one file a kind.

mod connections;
mod fresh;
mod growth;
mod levels;
mod links;
mod reimage;
mod repair;
mod resume;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::cli::Options;
use crate::lab::Lab;
use crate::{room, stop};

/// A kind of case, as `--cases` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// A blank disk on tmpfs: `fresh` (uncompressed erofs), `fresh-lz4`.
    Fresh,
    /// A blank part of the real disk, page cache dropped: `fresh-disk`.
    FreshDisk,
    /// `reimage-upgrade`.
    ReimageUpgrade,
    /// `reimage-5pct`.
    #[value(name = "reimage-5pct")]
    ReimageRuns,
    /// `reimage-5pct-scattered`.
    #[value(name = "reimage-5pct-scattered")]
    ReimageScattered,
    /// `reinstall`.
    Reinstall,
    /// `repair-1`, `repair-100`, `repair-10000`.
    Repair,
    /// `resume-10`, `resume-50`, `resume-90`.
    Resume,
    /// `size-0.25`, `size-1`, `size-4`, `size-16`, `size-4-twice`.
    Size,
    /// `link-10`, `link-100`, `link-1000`, `link-50ms-1pct`, `link-50ms-1pct-small`.
    Link,
    /// `connections-N`, `connections-N-50ms-1pct`.
    Connections,
    /// `level-N`, `level-N-link`.
    Levels,
}

/// Measures what was asked for.
///
/// # Errors
/// The first thing that fails: then what was measured before is in the result all the same.
pub fn run(options: Options) -> Result<()> {
    stop::watch()?;
    // With smaller images, or without some cases or tools, much less will do.
    if options.is_all() && options.size >= 1 << 31 {
        room::check(&options.out)?;
    }
    let cases = if options.cases.is_empty() { Case::value_variants().to_vec() } else { options.cases.clone() };
    let lab = Lab::open(options)?;
    for case in cases {
        let name = case.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        stop::check()?;
        eprintln!("==> {name}");
        case.run(&lab).with_context(|| format!("measuring {name}"))?;
    }
    println!("written to {}", lab.options.out.join("result.json").display());
    Ok(())
}

impl Case {
    fn run(self, lab: &Lab) -> Result<()> {
        match self {
            Self::Fresh => fresh::on_tmpfs(lab),
            Self::FreshDisk => fresh::on_the_real_disk(lab),
            Self::ReimageUpgrade => reimage::upgrade(lab),
            Self::ReimageRuns => reimage::runs(lab),
            Self::ReimageScattered => reimage::scattered(lab),
            Self::Reinstall => reimage::reinstall(lab),
            Self::Repair => repair::all(lab),
            Self::Resume => resume::all(lab),
            Self::Size => growth::all(lab),
            Self::Link => links::all(lab),
            Self::Connections => connections::all(lab),
            Self::Levels => levels::all(lab),
        }
    }
}
