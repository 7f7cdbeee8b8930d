//! The network that the machine is in, after the site config in its netboot UKI.

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_initrd::embedded;
use metalstrap_qemu::{Endpoint, Lab, Requirements};
use serde_json::Value;
use url::Url;

use super::Args;
use super::logs::Logs;

impl Args {
    /// Where the site config in the netboot UKI says that the repository is.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let site = embedded::site_config(&self.netboot)?;
        let endpoint = repository_url(&site).and_then(|url| endpoint(&url));
        let endpoint = endpoint.with_context(|| format!("reading the site config in {}", self.netboot.display()))?;
        match (&self.repository, &self.tls_certificate, &self.tls_key) {
            (Some(directory), Some(certificate), Some(key)) => {
                ensure!(directory.is_dir(), "the repository {} is no directory", directory.display());
                for file in [certificate, key] {
                    ensure!(file.is_file(), "{} is no file", file.display());
                }
                Ok(endpoint.certificate(certificate, key))
            }
            // Nothing is served, so that the address is the network's business.
            _ => Ok(Endpoint::default()),
        }
    }

    /// Looks for what the run needs on this host, and starts the network and what is served in it.
    pub fn lab(&self, endpoint: Endpoint, logs: &Logs) -> Result<Lab> {
        let network = self.network();
        Requirements { network, tpm: self.has_tpm(), secure_boot: self.secure_boot.is_some() }.check()?;
        let lab = Lab::with_endpoint(logs.path(), network, endpoint)?;
        if let Some(repository) = &self.repository {
            lab.serve_repository(repository)?;
            if network.has_http_boot() {
                lab.serve_netboot(&self.netboot)?;
            }
        }
        Ok(lab)
    }
}

/// The field `repository`; the rest of the site config is the installer's business.
fn repository_url(site: &[u8]) -> Result<Url> {
    let site: Value = serde_json::from_slice(site).context("parsing it")?;
    let url = site.get("repository").and_then(Value::as_str).context("it has no text `repository`")?;
    Url::parse(url).with_context(|| format!("its `repository` is no URL: {url:?}"))
}

fn endpoint(url: &Url) -> Result<Endpoint> {
    if url.scheme() != "https" {
        bail!("its `repository` is {url}, which is not https");
    }
    // An IPv6 address has brackets in a URL.
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    Endpoint::new(host, url.port_or_known_default().unwrap_or(443), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(site: &str) -> Result<String> {
        repository_url(site.as_bytes()).and_then(|url| endpoint(&url)).map(|endpoint| endpoint.url())
    }

    #[test]
    fn the_endpoint_is_what_the_site_config_names() {
        let site = r#"{"format": 1, "repository": "https://Images.example.com/os/stable", "new": {}}"#;
        assert_eq!(of(site).unwrap(), "https://images.example.com:443/os/stable/");
        assert_eq!(of(r#"{"repository": "https://[fd00::1]:8443/"}"#).unwrap(), "https://[fd00::1]:8443/");
        assert_eq!(of(r#"{"repository": "https://10.0.2.2:8443"}"#).unwrap(), "https://10.0.2.2:8443/");
    }

    #[test]
    fn what_is_wrong_with_it_is_said() {
        let refusal = |site| format!("{:#}", of(site).unwrap_err());
        assert_eq!(refusal(r#"{"repository": 1}"#), "it has no text `repository`");
        assert_eq!(
            refusal(r#"{"repository": "repo.test"}"#),
            "its `repository` is no URL: \"repo.test\": relative URL without a base"
        );
        assert_eq!(
            refusal(r#"{"repository": "http://repo.test/x"}"#),
            "its `repository` is http://repo.test/x, which is not https"
        );
    }
}
