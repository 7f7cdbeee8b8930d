//! `metalstrap site`: writes a site config.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use metalstrap_installer::access::Access;
use metalstrap_release::digest::Digest;
use metalstrap_release::site::Site;
use serde_json::{Value, json};
use url::Url;

use crate::keys::{Keys, ROOT, read_root_value};
use crate::output;

/// Where Debian, and most others, have the CAs that they trust.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Prints the site config of a repository, which `metalstrap netboot --site` takes: whom to believe and where to look.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap site --repository-url https://repo.example/os --keys keys --ca ca.pem > site.json
It prints the site config as one line of JSON.")]
pub struct Args {
    /// HTTPS URL of the repository, as machines see it
    #[arg(long, value_name = "URL", required_unless_present = "repository_from_network")]
    repository_url: Option<String>,
    /// Machines learn where the repository is where they boot: by their command line, SMBIOS, the URL they booted from,
    /// DHCP, or a labelled medium
    #[arg(long, conflicts_with = "repository_url")]
    repository_from_network: bool,
    /// HTTPS URL of a further directory that payloads may come from, laid out like the repository; may be repeated
    #[arg(long = "mirror", value_name = "URL")]
    mirrors: Vec<String>,
    /// Connections at once over which payloads are fetched [default: 8]
    #[arg(long, value_name = "NUMBER")]
    connections: Option<u8>,
    /// Directory of the keys, whose root.json is to be trusted
    #[arg(long, value_name = "DIR", required_unless_present = "root", conflicts_with = "root")]
    keys: Option<PathBuf>,
    /// Root metadata to be trusted, as `metadata/1.root.json` of the repository
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
    /// PEM certificates of the CAs that the servers are checked against
    #[arg(long, value_name = "FILE", required_unless_present_any = ["system_cas", "pins"])]
    ca: Option<PathBuf>,
    /// The CAs that this system trusts now, beside those of --ca
    #[arg(long)]
    system_cas: bool,
    /// SHA-256 of a public key (DER, hexadecimal) that a server's certificate may be for; may be repeated [default: any]. Without
    /// --ca and --system-cas, certificates for these keys need no CA
    #[arg(long = "pin", value_name = "SHA256")]
    pins: Vec<Digest>,
    /// PEM certificates that the image shows to servers that ask for one
    #[arg(long, value_name = "FILE", requires = "client_key")]
    client_certificate: Option<PathBuf>,
    /// The private key for it (PEM): whoever reads the image has it
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    client_key: Option<PathBuf>,
    /// `http://host:port`, `https://host:port` or `https://name@host:port` of a proxy through which servers are reached
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
    /// File whose first line is the password for the name in --proxy: whoever reads the image has it
    #[arg(long, value_name = "FILE", requires = "proxy")]
    proxy_password: Option<PathBuf>,
    /// Name, address or network that is reached without the proxy; may be repeated
    #[arg(long, value_name = "HOST", requires = "proxy")]
    no_proxy: Vec<String>,
    /// Permits mirrors with http:// URLs
    #[arg(long)]
    plain_mirrors: bool,
    /// HTTPS URL that events are posted to
    #[arg(long, value_name = "URL")]
    report_url: Option<String>,
    /// Seconds after which a failed installation reboots [default: it holds for a person]
    #[arg(long, value_name = "SECONDS")]
    reboot_on_failure_after: Option<u32>,
    /// Seconds of Unix time before which no machine's clock is right [default: now]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    clock_floor: Option<u64>,
    /// NTP server, by name or address, that counts before those that the network names; may be repeated
    #[arg(long = "time-server", value_name = "HOST")]
    time_servers: Vec<String>,
    /// No medium may set anything, whoever plugs it in
    #[arg(long)]
    ignore_media: bool,
    /// Machines that are left by a reboot instead of kexec, as JSON: `{"vendor": "…", "product": "…", "pci": "15b3:1017"}`, with
    /// one member or more; may be repeated
    #[arg(long = "kexec-deny", value_name = "JSON", value_parser = object)]
    kexec_deny: Vec<Value>,
    /// Console that shows progress besides the kernel's, as `ttyS1` or `ttyS1,57600`; may be repeated
    #[arg(long = "console", value_name = "NAME")]
    consoles: Vec<String>,
    /// Seconds to wait for a network [default: 180]
    #[arg(long, value_name = "SECONDS")]
    network_timeout: Option<u32>,
    /// Failed attempts in a row after which a server is given up [default: 8]
    #[arg(long, value_name = "NUMBER")]
    attempts: Option<u32>,
}

impl Args {
    /// Prints the site config.
    ///
    /// # Errors
    /// When it is none that the installer takes.
    pub fn run(self) -> Result<()> {
        let keys = self.keys.map(|keys| Keys(keys).path(ROOT));
        let path = self.root.or(keys).context("choosing the root metadata")?;
        let (root, _) = read_root_value(&path)?;
        let mut ca = self.ca.as_deref().map_or_else(|| Ok(String::new()), read)?;
        if self.system_cas {
            ca.push_str(&read(Path::new(SYSTEM_CAS))?);
        }
        let client = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => Some(json!({"certificate": read(certificate)?, "key": read(key)?})),
            _ => None,
        };
        let proxy = self.proxy.map(|url| with_password(url, self.proxy_password.as_deref())).transpose()?;
        let now = self.clock_floor.map_or_else(|| crate::clock::now().map(i64::unsigned_abs), Ok)?;
        let mut site = json!({"format": 1, "root": root, "clock_floor": now});
        let pins: Vec<String> = self.pins.iter().map(ToString::to_string).collect();
        let options: [(&str, Option<Value>); 17] = [
            ("ca", (!ca.is_empty()).then(|| Value::from(ca))),
            ("repository", self.repository_url.filter(|_| !self.repository_from_network).map(Value::from)),
            ("mirrors", list(self.mirrors)),
            ("pins", list(pins)),
            ("client", client),
            ("proxy", proxy.map(Value::from)),
            ("no_proxy", list(self.no_proxy)),
            ("plain_mirrors", self.plain_mirrors.then_some(Value::Bool(true))),
            ("retry", self.attempts.map(|attempts| json!({"attempts": attempts}))),
            ("connections", self.connections.map(Value::from)),
            ("report_url", self.report_url.map(Value::from)),
            ("reboot_on_failure_after", self.reboot_on_failure_after.map(Value::from)),
            ("time_servers", (!self.time_servers.is_empty()).then(|| Value::from(self.time_servers))),
            ("consoles", list(self.consoles)),
            ("ignore_media", self.ignore_media.then_some(Value::Bool(true))),
            ("kexec_deny", (!self.kexec_deny.is_empty()).then(|| Value::from(self.kexec_deny))),
            ("network_timeout", self.network_timeout.map(Value::from)),
        ];
        if let Value::Object(fields) = &mut site {
            fields.extend(options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        }
        let parsed = Site::parse(site.to_string().as_bytes()).context("checking the site config")?;
        // What only the installer looks into: certificates and keys.
        Access::of_site(&parsed).context("checking the site config")?;
        output::print(&site)
    }
}

/// A JSON object; what is in it is checked with the whole.
fn object(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(text).map(Value::Object)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// The proxy's URL with the password in a file, if there is one.
fn with_password(url: String, password: Option<&Path>) -> Result<String> {
    let Some(path) = password else { return Ok(url) };
    // A URL's other characters are encoded where they are set.
    let text = read(path)?.replace('%', "%25");
    let mut whole = Url::parse(&url).context("reading --proxy")?;
    if whole.set_password(text.lines().next()).is_err() {
        bail!("reading --proxy: it names no host");
    }
    Ok(whole.into())
}

/// A list that is not empty.
fn list(values: Vec<String>) -> Option<Value> {
    (!values.is_empty()).then(|| Value::from(values))
}
