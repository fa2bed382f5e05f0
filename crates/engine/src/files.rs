//! The three files that every container gets: hostname, hosts and resolv.conf.

use std::net::IpAddr;

use crate::error::{Error, Result};
use crate::model::HostConfig;

/// The address of the name server in containers of user networks.
pub(crate) const EMBEDDED: &str = "127.0.0.11";

/// The name servers and options of a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolv {
    pub servers: Vec<String>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Resolv {
    pub(crate) fn parse(text: &str) -> Resolv {
        let mut out = Resolv::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let rest = |words: std::str::SplitWhitespace<'_>| words.map(str::to_owned).collect::<Vec<_>>();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => out.search = rest(words),
                Some("options") => out.options.extend(rest(words)),
                _ => {}
            }
        }
        out
    }

    /// This machine's, without servers on its loopback, which a container cannot reach.
    pub(crate) fn of_host() -> Resolv {
        let read = |path| std::fs::read_to_string(path).map(|t| Resolv::parse(&t)).unwrap_or_default();
        let mut host = read("/etc/resolv.conf");
        if host.servers.iter().any(|s| s == "127.0.0.53") {
            host = read("/run/systemd/resolve/resolv.conf");
        }
        host.servers.retain(|s| s.parse::<IpAddr>().is_ok_and(|a| !a.is_loopback()));
        host
    }

    /// What `--dns`, `--dns-search` and `--dns-option` replace.
    pub(crate) fn with(mut self, host: &HostConfig) -> Resolv {
        if !host.dns.is_empty() {
            self.servers.clone_from(&host.dns);
        }
        if !host.dns_search.is_empty() {
            self.search = host.dns_search.iter().filter(|s| *s != ".").cloned().collect();
        }
        if !host.dns_options.is_empty() {
            self.options.clone_from(&host.dns_options);
        }
        self
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        for server in &self.servers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.search.is_empty() {
            out.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        if !self.options.is_empty() {
            out.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        out
    }
}

/// The text of resolv.conf in a container; `embedded` for one with a user network.
pub(crate) fn resolv(host: &HostConfig, embedded: bool) -> String {
    let mut resolv = Resolv::of_host().with(host);
    if embedded {
        resolv.servers = vec![EMBEDDED.to_owned()];
        if !resolv.options.iter().any(|o| o.starts_with("ndots")) {
            resolv.options.push("ndots:0".into());
        }
    }
    resolv.text()
}

/// The names that a container has in its own hosts file.
pub(crate) fn own_names(config: &crate::model::Config) -> Vec<String> {
    if config.domainname.is_empty() {
        return vec![config.hostname.clone()];
    }
    vec![format!("{}.{}", config.hostname, config.domainname), config.hostname.clone()]
}

/// One line of hosts: an address and its names.
pub(crate) type Line = (String, Vec<String>);

/// The text of hosts.
pub(crate) fn hosts(lines: &[Line]) -> String {
    let mut out = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
                   ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n"
        .to_owned();
    for (address, names) in lines {
        out.push_str(&format!("{address}\t{}\n", names.join(" ")));
    }
    out
}

/// Writes a file into a container's folder in place: it may be bind-mounted in a running container, which keeps
/// seeing the same file. It belongs to the container's root.
pub(crate) fn write(
    dir: &std::path::Path,
    name: &str,
    text: &str,
    ids: Option<&sys::userns::IdMaps>,
) -> Result<()> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(Error::io(path.display()))?;
    crate::userns::give(&path, ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let parsed =
            Resolv::parse("# c\nnameserver 10.0.0.1\nsearch a b\noptions ndots:2\nnameserver 127.0.0.1\n");
        assert_eq!(parsed.servers, ["10.0.0.1", "127.0.0.1"]);
        let host =
            HostConfig { dns: vec!["1.1.1.1".into()], dns_search: vec![".".into()], ..HostConfig::default() };
        assert_eq!(parsed.with(&host).text(), "nameserver 1.1.1.1\noptions ndots:2\n");
        assert!(resolv(&HostConfig::default(), true).starts_with("nameserver 127.0.0.11\n"));
        let text = hosts(&[("172.17.0.2".into(), vec!["web".into(), "abc".into()])]);
        assert!(text.ends_with("172.17.0.2\tweb abc\n"));
    }
}
