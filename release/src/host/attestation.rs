//! To whom a machine attests itself.

use serde::{Deserialize, Serialize};
use url::Url;

/// A verifier, and what follows from its verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// An https URL without a slash at its end. The verifier takes what the machine says at `/introduction` and `/evidence` below
    /// it, by POST, and is reached and believed as the repository's server is.
    pub url: String,
    /// What follows where the machine is not accepted.
    #[serde(default)]
    pub policy: AttestationPolicy,
}

/// What follows where a machine is not accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AttestationPolicy {
    /// The run fails, and the installed OS is not started by it.
    #[default]
    Required,
    /// It is told, and the run goes on. A machine that the verifier refuses gets no secrets of it.
    IfPossible,
}

impl Attestation {
    /// Whether its URL can be one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let url = Url::parse(&self.url).ok();
        let is_https = |url: &Url| url.scheme() == "https" && url.has_host() && self.url.starts_with("https://");
        let Some(url) = url.filter(is_https) else { return Err(format!("is {:?}, not an https:// URL", self.url)) };
        if !url.username().is_empty() || url.password().is_some() {
            return Err("holds a user name or password".to_owned());
        }
        if self.url.ends_with('/') || url.query().is_some() || url.fragment().is_some() {
            return Err(format!("is {:?}, with a slash at its end, a query or a fragment", self.url));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Host;
    use super::*;

    fn host(attestation: serde_json::Value) -> Result<Host, String> {
        let release = json!({"name": "debian", "version": "1"});
        let host = json!({"format": 1, "release": release, "attestation": attestation});
        Host::parse(host.to_string().as_bytes()).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn who_asks_for_it_means_it() {
        let of = |attestation| host(attestation).unwrap().attestation.unwrap();
        let url = "https://verifier.example.com:8443/attest";
        assert_eq!(of(json!({"url": url})), Attestation { url: url.to_owned(), policy: AttestationPolicy::Required });
        assert_eq!(of(json!({"url": url, "policy": "if-possible"})).policy, AttestationPolicy::IfPossible);
    }

    #[test]
    fn a_url_that_is_none_is_refused() {
        let refusal = |url: &str| host(json!({"url": url})).unwrap_err();
        for wrong in ["http://a", "https://", "https:a", "a", ""] {
            assert_eq!(refusal(wrong), format!("the host config's attestation.url is {wrong:?}, not an https:// URL"));
        }
        for wrong in ["https://a@b", "https://a:b@c"] {
            assert_eq!(refusal(wrong), "the host config's attestation.url holds a user name or password");
        }
        for wrong in ["https://a/", "https://a/b/", "https://a?b", "https://a/b#c"] {
            let text = format!("is {wrong:?}, with a slash at its end, a query or a fragment");
            assert_eq!(refusal(wrong), format!("the host config's attestation.url {text}"));
        }
        let text = host(json!({"url": "https://a", "required": true})).unwrap_err();
        assert!(text.starts_with("the host config is not valid: unknown field `required`"), "{text}");
    }
}
