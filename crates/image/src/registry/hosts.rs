//! Where a repository can be had: the registry itself, its mirrors, over TLS or without, and whom to trust there.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::error::{Error, Result};
use crate::http::{Client, Tls};
use crate::reference::{DEFAULT_DOMAIN, Reference};

/// What the instance's configuration says about registries.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// Hosts (with port) or ranges of addresses that may be spoken to without TLS or with any certificate. Loopback
    /// ones always may.
    pub insecure: Vec<String>,
    /// Mirrors of the default registry, as `https://host`, tried first.
    pub mirrors: Vec<String>,
    /// The folder in which `HOST:PORT/*.crt` are authorities for that host, and `*.cert` with `*.key` what to show it.
    pub certificates: PathBuf,
    /// How long a registry may say nothing before it counts as gone.
    pub patience: Duration,
    /// Layers that are downloaded at once, by all pulls together.
    pub downloads: usize,
    /// Layers that are uploaded at once, by all pushes together.
    pub uploads: usize,
    /// How often something is tried before it has failed.
    pub attempts: u32,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            insecure: Vec::new(),
            mirrors: Vec::new(),
            certificates: "/etc/docker/certs.d".into(),
            patience: Duration::from_secs(60),
            downloads: 3,
            uploads: 5,
            attempts: 5,
        }
    }
}

impl RegistryConfig {
    /// Whether a host may be spoken to without TLS or with any certificate.
    pub fn is_insecure(&self, host: &str) -> bool {
        let name = host
            .rsplit_once(':')
            .filter(|(_, p)| p.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(n, _)| n);
        let ip: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        name == "localhost"
            || ip.is_some_and(|ip| ip.is_loopback())
            || self.insecure.iter().any(|i| {
                let range = i.parse::<IpNet>();
                i == host || i == name || ip.is_some_and(|ip| range.is_ok_and(|r| r.contains(&ip)))
            })
    }
}

/// One registry that may have a repository.
#[derive(Clone)]
pub(super) struct Host {
    /// Ways to speak to it, best first.
    pub bases: Vec<String>,
    /// A copy of the one that was meant: the user's credentials are not for it.
    pub mirror: bool,
    pub client: Client,
    /// Redirects may lead away from TLS.
    pub insecure: bool,
}

/// The registries that may have a repository, in the order to ask them.
pub(super) fn hosts(reference: &Reference, push: bool, config: &RegistryConfig) -> Result<Vec<Host>> {
    let mut all = Vec::new();
    if !push && reference.domain == DEFAULT_DOMAIN {
        for mirror in &config.mirrors {
            let base = mirror.trim_end_matches('/').to_string();
            let (scheme, rest) = base.split_once("://").ok_or_else(|| {
                Error::Invalid(format!("registry mirror {mirror:?} is no URL: write https://host"))
            })?;
            let host = rest.split('/').next().unwrap_or(rest).to_string();
            let insecure = scheme == "http" || config.is_insecure(&host);
            let client = Client::with(trust(&host, insecure, config)?)?;
            all.push(Host { bases: vec![base], mirror: true, client, insecure });
        }
    }
    let host = match reference.domain.as_str() {
        DEFAULT_DOMAIN => "registry-1.docker.io",
        other => other,
    };
    let insecure = config.is_insecure(host);
    let mut bases = vec![format!("https://{host}")];
    if insecure {
        bases.push(format!("http://{host}"));
    }
    let client = Client::with(trust(host, insecure, config)?)?;
    all.push(Host { bases, mirror: false, client, insecure });
    Ok(all)
}

/// Whom to trust at a host, by the files in the folder of its name.
fn trust(host: &str, insecure: bool, config: &RegistryConfig) -> Result<Tls> {
    let mut tls = Tls { insecure, ..Tls::default() };
    let dir = config.certificates.join(host);
    let mut files: Vec<PathBuf> = match std::fs::read_dir(&dir) {
        Ok(entries) => entries.filter_map(|e| e.ok().map(|e| e.path())).collect(),
        // Most hosts have none.
        Err(_) => return Ok(tls),
    };
    files.sort();
    for path in files {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.trust_file(&path)?,
            Some("cert") => tls.identity_files(&path, &path.with_extension("key"))?,
            _ => {}
        }
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn insecure_hosts() {
        let config = RegistryConfig {
            insecure: vec!["reg:5000".into(), "10.1.0.0/16".into()],
            ..RegistryConfig::default()
        };
        for (host, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.9:1", true),
            ("[::1]:5000", true),
            ("reg:5000", true),
            ("reg", false),
            ("10.1.2.3:80", true),
            ("10.2.2.3:80", false),
            ("example.com", false),
        ] {
            assert_eq!(config.is_insecure(host), want, "{host}");
        }
    }

    #[test]
    fn mirrors_come_first_and_only_for_reading() {
        let config = RegistryConfig { mirrors: vec!["http://m:1/x/".into()], ..RegistryConfig::default() };
        let r = crate::reference::parse("app").unwrap();
        let bases = |push| -> Vec<String> {
            hosts(&r, push, &config).unwrap().into_iter().flat_map(|h| h.bases).collect()
        };
        assert_eq!(bases(false), ["http://m:1/x", "https://registry-1.docker.io"]);
        assert_eq!(bases(true), ["https://registry-1.docker.io"]);
        let other = crate::reference::parse("host:1/app").unwrap();
        assert_eq!(hosts(&other, false, &config).unwrap().len(), 1);
        let bad = RegistryConfig { mirrors: vec!["m".into()], ..RegistryConfig::default() };
        assert!(hosts(&r, false, &bad).is_err());
    }

    #[test]
    fn certificates_of_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let config = RegistryConfig { certificates: dir.path().into(), ..RegistryConfig::default() };
        assert!(trust("h:1", false, &config).unwrap().authorities.is_empty());
        std::fs::create_dir(dir.path().join("h:1")).unwrap();
        std::fs::write(dir.path().join("h:1/client.cert"), "").unwrap();
        let e = trust("h:1", false, &config).err().unwrap().to_string();
        assert!(e.contains("h:1/client.key"), "{e}");
    }
}
