//! The tools that are measured, and their command lines: each at its best, and each with the same durable end.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::image::{Form, Image};
use crate::programs;

/// A tool. The names of its values are those in result.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Tool {
    /// This project's installer as it is: checks before it writes, and reads back.
    Metalstrap,
    /// The same without reading back.
    MetalstrapNoReadBack,
    /// Fedora CoreOS's installer with a zstd image. Its check of a signature is off: it would cost it more time.
    CoreosInstallerZst,
    /// The same with a gzip image.
    CoreosInstallerGz,
    /// A pipeline without any check.
    CurlZstdDd,
    /// The same, and the SHA-256 of what was written, known at the end.
    CurlZstdShaDd,
    /// systemd's, with a gzip image (252 knows no zstd) and without a check.
    SystemdPull,
    /// Yocto's, which checks the ranges of its map.
    Bmaptool,
    /// Content-addressed chunks.
    Casync,
    /// curl with several ranges at once into files, then `zstd | dd`.
    CurlParallel,
    /// What the disk takes.
    LimitDd,
    /// What one core decompresses.
    LimitZstd,
    /// What one core hashes.
    LimitSha256,
}

/// What a command line is made of.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// `install` or `repair`, for metalstrap.
    pub verb: &'a str,
    /// The server.
    pub url: &'a str,
    /// Site config.
    pub site: &'a Path,
    /// What to write.
    pub image: &'a Image,
    /// Where to.
    pub device: &'a Path,
    /// What is at hand.
    pub seed: Option<&'a Path>,
    /// A directory for what the tool needs to write.
    pub dir: &'a Path,
    /// The server's CA.
    pub ca: &'a Path,
    /// The installer.
    pub installer: &'a Path,
    /// coreos-installer.
    pub coreos: &'a Path,
    /// Connections.
    pub connections: u64,
}

const PIPE: &str =
    r#"curl -sSf "$url" | zstd -dc | dd of="$device" bs=4M iflag=fullblock oflag=direct conv=fsync status=none"#;
const SHA: &str = r#"mkfifo "$dir/copy"; openssl dgst -sha256 <"$dir/copy" >"$dir/sum" & sum=$!
curl -sSf "$url" | zstd -dc | tee "$dir/copy" | dd of="$device" bs=4M iflag=fullblock oflag=direct conv=fsync status=none
wait "$sum""#;
const PARALLEL: &str = r#"size=$(curl -sSfI "$url" | tr -d '\r' | awk 'tolower($1) == "content-length:" {print $2}')
part=$(((size + connections - 1) / connections)) jobs=() files=()
for ((from = 0; from < size; from += part)); do
    files+=("$dir/part-$from")
    curl -sSf -r "$from-$((from + part - 1))" -o "$dir/part-$from" "$url" & jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
cat "${files[@]}" | zstd -dc | dd of="$device" bs=4M iflag=fullblock oflag=direct conv=fsync status=none"#;
/// casync does not flush.
const CASYNC: &str = r#"casync extract ${seed:+--seed="$seed"} --store="$store" "$url" "$device" && sync "$device""#;

impl Tool {
    /// All that install.
    pub const INSTALLERS: [Self; 9] = [
        Self::Metalstrap,
        Self::MetalstrapNoReadBack,
        Self::CoreosInstallerZst,
        Self::CurlZstdDd,
        Self::CurlZstdShaDd,
        Self::CoreosInstallerGz,
        Self::SystemdPull,
        Self::Bmaptool,
        Self::Casync,
    ];
    /// What bounds every tool.
    pub const LIMITS: [Self; 3] = [Self::LimitDd, Self::LimitZstd, Self::LimitSha256];

    /// As in result.json.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// The installer of this project.
    pub fn is_metalstrap(self) -> bool {
        matches!(self, Self::Metalstrap | Self::MetalstrapNoReadBack)
    }

    /// coreos-installer.
    pub fn is_coreos(self) -> bool {
        matches!(self, Self::CoreosInstallerZst | Self::CoreosInstallerGz)
    }

    /// Whether it writes the disk.
    pub fn writes(self) -> bool {
        !matches!(self, Self::LimitZstd | Self::LimitSha256)
    }

    /// What it fetches.
    pub fn form(self) -> Option<Form> {
        match self {
            Self::Metalstrap | Self::MetalstrapNoReadBack | Self::LimitDd | Self::LimitSha256 => None,
            Self::CoreosInstallerGz | Self::SystemdPull => Some(Form::Gzip),
            Self::Casync => Some(Form::Casync),
            _ => Some(Form::Zstd),
        }
    }

    /// Makes what it fetches.
    ///
    /// # Errors
    /// A program that fails; no room.
    pub fn provide(self, image: &Image) -> Result<()> {
        if self == Self::Bmaptool {
            image.provide(Form::Bmap)?;
        }
        self.form().map_or(Ok(()), |form| image.provide(form).map(drop))
    }

    /// Why it cannot be run here.
    pub fn absent(self, installer: &Path, coreos: &Path) -> Option<String> {
        let missing = |name: &str| {
            programs::find(name).is_none().then(|| format!("{name} is not installed: run scripts/bench-peers"))
        };
        match self {
            Self::Metalstrap => None,
            Self::MetalstrapNoReadBack => knows(installer, "install", "--no-read-back"),
            Self::CoreosInstallerZst | Self::CoreosInstallerGz => {
                (!coreos.is_file()).then(|| format!("{} is not there: run scripts/bench-peers", coreos.display()))
            }
            Self::SystemdPull => missing("systemd-pull").or_else(|| missing("pigz")),
            Self::Bmaptool => missing("bmaptool"),
            Self::Casync => missing("casync"),
            Self::CurlZstdDd | Self::CurlZstdShaDd | Self::CurlParallel => missing("curl").or_else(|| missing("zstd")),
            Self::LimitDd => None,
            Self::LimitZstd => missing("zstd"),
            Self::LimitSha256 => missing("openssl"),
        }
    }

    /// Its command line.
    ///
    /// # Errors
    /// A path that is no text.
    pub fn command(self, order: &Order<'_>) -> Result<Vec<OsString>> {
        let Order { device, image, .. } = *order;
        let of = |form: Form| format!("{}/images/{}/{}", order.url, image.name, Image::file(form));
        let (root, zst) = (image.root(), image.dir.join(Image::file(Form::Zstd)));
        Ok(match self {
            Self::Metalstrap => order.metalstrap(&[]),
            Self::MetalstrapNoReadBack => order.metalstrap(&["--no-read-back"]),
            Self::CoreosInstallerZst => order.coreos(&of(Form::Zstd)),
            Self::CoreosInstallerGz => order.coreos(&of(Form::Gzip)),
            Self::CurlZstdDd => order.script(PIPE, &of(Form::Zstd))?,
            Self::CurlZstdShaDd => order.script(SHA, &of(Form::Zstd))?,
            Self::CurlParallel => order.script(PARALLEL, &of(Form::Zstd))?,
            Self::Casync => order.script(CASYNC, &of(Form::Casync))?,
            Self::SystemdPull => {
                let words = ["/lib/systemd/systemd-pull", "raw", "--direct", "--verify=no", &of(Form::Gzip)];
                words.map(OsString::from).into_iter().chain([device.into()]).collect()
            }
            Self::Bmaptool => {
                let words = ["bmaptool", "copy", "--bmap", &of(Form::Bmap), &of(Form::Zstd)];
                words.map(OsString::from).into_iter().chain([device.into()]).collect()
            }
            Self::LimitDd => {
                let files = [assigned("if", &root), assigned("of", device)];
                ["dd", "bs=4M", "oflag=direct", "conv=fsync", "status=none"]
                    .map(Into::into)
                    .into_iter()
                    .chain(files)
                    .collect()
            }
            Self::LimitZstd => vec!["zstd".into(), "-dqf".into(), "-o".into(), "/dev/null".into(), zst.into()],
            Self::LimitSha256 => vec!["openssl".into(), "dgst".into(), "-sha256".into(), root.into()],
        })
    }
}

impl Order<'_> {
    fn metalstrap(&self, options: &[&str]) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec![self.installer.into(), self.verb.into(), "--site".into(), self.site.into()];
        words.extend(["--disk".into(), self.device.into(), "--json".into()]);
        words.extend(["--host".into(), format!("serial-{}", self.image.name).into()]);
        words.extend(["--remembered".into(), self.dir.join("remembered").into()]);
        words.extend(options.iter().map(Into::into));
        words
    }

    fn coreos(&self, url: &str) -> Vec<OsString> {
        let words = ["install", "--insecure", "--preserve-on-error", "--image-url", url];
        let program = OsString::from(self.coreos);
        [program].into_iter().chain(words.map(Into::into)).chain([self.device.into()]).collect()
    }

    fn script(&self, body: &str, url: &str) -> Result<Vec<OsString>> {
        let store = format!("{}/default.castr", url.rsplit_once('/').context("a URL without a path")?.0);
        let connections = self.connections.to_string();
        let values: [(&str, &OsStr); 6] = [
            ("url", url.as_ref()),
            ("device", self.device.as_os_str()),
            ("dir", self.dir.as_os_str()),
            ("store", store.as_ref()),
            ("seed", self.seed.map(Path::as_os_str).unwrap_or_default()),
            ("connections", connections.as_ref()),
        ];
        // curl takes its CA from this variable.
        let ca = assigned("CURL_CA_BUNDLE", self.ca);
        let environment = values.iter().map(|(name, value)| assigned(name, Path::new(value))).chain([ca]);
        let words = ["bash", "-euo", "pipefail", "-c", body].map(OsString::from);
        Ok([OsString::from("env")].into_iter().chain(environment).chain(words).collect())
    }
}

fn assigned(name: &str, value: &Path) -> OsString {
    let mut word = OsString::from(format!("{name}="));
    word.push(value);
    word
}

/// Why the verb of the installer does not take an option.
pub fn knows(installer: &Path, verb: &str, option: &str) -> Option<String> {
    match programs::output(installer, [verb, "--help"]) {
        Ok(help) if help.contains(option) => None,
        _ => Some(format!("this metalstrap-installer has no `{verb} {option}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_named_as_in_the_result() {
        let names = Tool::value_variants().iter().map(|tool| tool.name()).collect::<Vec<_>>().join(" ");
        let expected = "metalstrap metalstrap-no-read-back coreos-installer-zst coreos-installer-gz curl-zstd-dd \
                        curl-zstd-sha-dd systemd-pull bmaptool casync curl-parallel limit-dd limit-zstd limit-sha256";
        assert_eq!(names, expected);
    }
}
