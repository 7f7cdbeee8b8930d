//! The images that are installed, and their payloads for each kind of peer; all are kept between runs.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::payload::CompressOptions;
use metalstrap_release::verity::BLOCK;

use crate::programs::{bash, run};
use crate::{changes, generate, stop, tree, upgrade};

/// Times and ids in file systems are the same in every build.
const EROFS: [&str; 3] = ["-T0", "-U00000000-0000-4000-8000-6d657461626e", "--all-root"];

/// An image of a file system, in a directory of its own.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it is called in the repository.
    pub name: String,
    /// Where it and its payloads lie.
    pub dir: PathBuf,
    /// Its bytes.
    pub size: u64,
}

/// How an image is made.
#[derive(Debug, Clone)]
pub enum Recipe {
    /// erofs of this machine's files, so many bytes of them; compressed with lz4 or not.
    Files { size: u64, lz4: bool },
    /// The demo OS, before or after an upgrade of packages.
    Demo { new: bool },
    /// Another image with changed blocks.
    Changed { of: Image, places: Vec<Range<u64>> },
    /// Generated; what is behind the first `unique` bytes is the same once more.
    Mix { size: u64, unique: u64 },
}

/// What peers fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One zstd frame.
    Zstd,
    /// gzip.
    Gzip,
    /// A map of the image's blocks with checksums.
    Bmap,
    /// casync's index and its chunks.
    Casync,
}

/// The level that `metalstrap publish` uses, for all.
pub fn level() -> i32 {
    CompressOptions::default().level
}

impl Image {
    /// Makes the image `name` below `dir`, or takes the one that was made by the same recipe before.
    ///
    /// # Errors
    /// A program that is missing or fails; no room.
    pub fn make(dir: &Path, name: &str, recipe: &Recipe) -> Result<Self> {
        let dir = dir.join(name);
        let root = dir.join("root.raw");
        let shown = match recipe {
            Recipe::Changed { of, places } => format!("{} of {} with {} places", of.size, of.name, places.len()),
            other => format!("{other:?}"),
        };
        let stamp = dir.join("recipe");
        if fs::read_to_string(&stamp).ok().as_deref() != Some(&shown) {
            eprintln!("==> making the image {name}: {shown}");
            drop(fs::remove_dir_all(&dir));
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
            recipe.make(&root)?;
            fs::write(&stamp, shown).with_context(|| format!("writing {}", stamp.display()))?;
        }
        let size = fs::metadata(&root).with_context(|| format!("reading {}", root.display()))?.len();
        Ok(Self { name: name.to_owned(), dir, size })
    }

    /// The image itself.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root.raw")
    }

    /// Blocks of the image.
    pub fn blocks(&self) -> u64 {
        self.size / BLOCK
    }

    /// The name of the file that peers fetch.
    pub fn file(form: Form) -> String {
        match form {
            Form::Zstd => format!("root.raw.l{}.zst", level()),
            Form::Gzip => "root.raw.gz".to_owned(),
            Form::Bmap => "root.bmap".to_owned(),
            Form::Casync => "root.caibx".to_owned(),
        }
    }

    /// Makes what peers fetch, if it is not there.
    ///
    /// # Errors
    /// A program that is missing or fails; no room.
    pub fn provide(&self, form: Form) -> Result<PathBuf> {
        let (root, to) = (self.root(), self.dir.join(Self::file(form)));
        if to.exists() {
            return Ok(to);
        }
        eprintln!("==> making {} of the image {}", Self::file(form), self.name);
        let new = self.dir.join("new");
        match form {
            Form::Zstd => bash("zstd -q -f -T0 -\"$3\" \"$1\" -o \"$2\"", [root.as_os_str(), new.as_os_str(), level().to_string().as_ref()])?,
            Form::Gzip => bash("pigz -n -c \"$1\" >\"$2\"", [&root, &new])?,
            Form::Bmap => run("bmaptool", ["create".as_ref(), root.as_os_str(), "-o".as_ref(), new.as_os_str()])?,
            // The name of the store is what casync looks for beside the index by itself.
            Form::Casync => bash(
                "casync make --store=\"$(dirname \"$1\")/default.castr\" \"$(dirname \"$1\")/new.caibx\" \"$1\" >/dev/null
                mv \"$(dirname \"$1\")/new.caibx\" \"$2\"",
                [&root, &new],
            )?,
        }
        fs::rename(&new, &to).with_context(|| format!("naming {}", to.display()))?;
        Ok(to)
    }
}

impl Recipe {
    fn make(&self, root: &Path) -> Result<()> {
        match self {
            Self::Files { size, lz4 } => {
                let staged = root.with_extension("tree");
                tree::collect(&staged, *size)?;
                stop::check()?;
                let options = EROFS.into_iter().chain(lz4.then_some("-zlz4hc,9")).map(AsRef::as_ref);
                run("mkfs.erofs", options.chain([root.as_os_str(), staged.as_os_str()]))?;
                fs::remove_dir_all(&staged).with_context(|| format!("removing {}", staged.display()))
            }
            Self::Demo { new } => {
                let kept = root.ancestors().nth(3).context("finding the directory of all images")?.join("releases");
                let changed = upgrade::releases(&kept)?;
                eprintln!("==> the upgrade of the demo OS: {}", changed.trim().replace('\n', "; "));
                copy(&kept.join(if *new { "new.raw" } else { "old.raw" }), root)
            }
            Self::Changed { of, places } => {
                copy(&of.root(), root)?;
                changes::change(root, of.blocks(), places)
            }
            Self::Mix { size, unique } => generate::image(root, size / BLOCK, unique / BLOCK),
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).map(drop).with_context(|| format!("copying {} to {}", from.display(), to.display()))
}
