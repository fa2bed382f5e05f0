//! The files of a pod that tell names: /etc/hosts and /etc/resolv.conf. Pure.

use std::net::IpAddr;

use crate::view::Pod;

/// The name servers that glibc looks at; more are cut off with a warning.
const MAX_NAMESERVERS: usize = 3;

/// /etc/resolv.conf by the pod's `dnsPolicy` and `dnsConfig`; `host` is the machine's.
pub fn resolv_conf(pod: &Pod, domain: &str, dns: Option<IpAddr>, host: &str) -> String {
    let spec = &pod.spec;
    let machine = parse(host);
    let cluster_first = match spec.dns_policy.as_str() {
        "ClusterFirstWithHostNet" => true,
        "Default" | "None" => false,
        _ => !spec.host_network,
    };
    let mut conf = match (spec.dns_policy.as_str(), cluster_first, dns) {
        ("None", ..) => Conf::default(),
        (_, true, Some(dns)) => Conf {
            nameservers: vec![dns.to_string()],
            searches: [format!("{}.svc.{domain}", pod.namespace), format!("svc.{domain}"), domain.to_owned()]
                .into_iter()
                .chain(machine.searches)
                .collect(),
            options: vec![("ndots".into(), Some("5".into()))],
        },
        _ => machine,
    };
    let extra = &spec.dns_config;
    conf.nameservers.extend(extra.nameservers.iter().cloned());
    conf.searches.extend(extra.searches.iter().cloned());
    for option in &extra.options {
        match conf.options.iter_mut().find(|(name, _)| *name == option.name) {
            Some((_, value)) => value.clone_from(&option.value),
            None => conf.options.push((option.name.clone(), option.value.clone())),
        }
    }
    conf.print()
}

#[derive(Default)]
struct Conf {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<(String, Option<String>)>,
}

impl Conf {
    fn print(mut self) -> String {
        let dedup = |list: &mut Vec<String>| {
            let mut seen = std::collections::BTreeSet::new();
            list.retain(|entry| seen.insert(entry.clone()));
        };
        dedup(&mut self.nameservers);
        dedup(&mut self.searches);
        self.nameservers.truncate(MAX_NAMESERVERS);
        let mut out = String::new();
        if !self.searches.is_empty() {
            out.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            out.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            let options: Vec<String> = self
                .options
                .iter()
                .map(|(name, value)| match value.as_deref() {
                    Some(value) if !value.is_empty() => format!("{name}:{value}"),
                    _ => name.clone(),
                })
                .collect();
            out.push_str(&format!("options {}\n", options.join(" ")));
        }
        out
    }
}

fn parse(text: &str) -> Conf {
    let mut conf = Conf::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => conf.nameservers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                conf.searches = words.filter(|w| *w != ".").map(str::to_owned).collect();
            }
            Some("options") => {
                for word in words {
                    let (name, value) =
                        word.split_once(':').map_or((word, None), |(n, v)| (n, Some(v.to_owned())));
                    conf.options.push((name.to_owned(), value));
                }
            }
            _ => {}
        }
    }
    conf
}

/// /etc/hosts. `host` is the machine's file, which pods of the machine's network get.
pub fn hosts(pod: &Pod, domain: &str, ips: &[IpAddr], host: &str) -> String {
    let mut out = if pod.spec.host_network {
        format!("# Kubernetes-managed hosts file (host network).\n{}", host.trim_end())
    } else {
        let mut out = "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters"
            .to_owned();
        let name = pod.hostname();
        let names = match pod.spec.subdomain.as_str() {
            "" => name,
            sub => format!("{name}.{sub}.{}.svc.{domain}\t{name}", pod.namespace),
        };
        for ip in ips {
            out.push_str(&format!("\n{ip}\t{names}"));
        }
        out
    };
    out.push('\n');
    if !pod.spec.host_aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            out.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::view::tests::pod;

    const HOST: &str = "# x\nnameserver 8.8.8.8\nsearch corp.example\noptions edns0 ndots:2\n";

    #[test]
    fn policies() {
        let dns = Some("10.96.0.10".parse().unwrap());
        let cluster = "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\nnameserver 10.96.0.10\noptions ndots:5\n";
        let host = "search corp.example\nnameserver 8.8.8.8\noptions edns0 ndots:2\n";
        let table = [
            (json!({"dnsPolicy": "ClusterFirst"}), cluster),
            (json!({}), cluster),
            (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), host),
            (json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), cluster),
            (json!({"dnsPolicy": "Default"}), host),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a"],
                    "options": [{"name": "ndots", "value": "1"}, {"name": "rotate"}]}}),
                "search a\nnameserver 1.1.1.1\noptions ndots:1 rotate\n",
            ),
            (
                json!({"dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "ndots", "value": "9"}]}}),
                "search corp.example\nnameserver 8.8.8.8\noptions edns0 ndots:9\n",
            ),
        ];
        for (spec, want) in table {
            assert_eq!(resolv_conf(&pod(spec.clone()), "cluster.local", dns, HOST), want, "{spec}");
        }
        assert_eq!(resolv_conf(&pod(json!({})), "cluster.local", None, HOST), host);
    }

    #[test]
    fn hosts_files() {
        let ips = ["10.244.0.5".parse().unwrap()];
        let p = pod(json!({"subdomain": "web", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}));
        let text = hosts(&p, "cluster.local", &ips, "");
        assert!(text.contains("\n10.244.0.5\tp.web.ns.svc.cluster.local\tp\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"));
        let text = hosts(&pod(json!({"hostNetwork": true})), "d", &ips, "127.0.0.1 localhost\n");
        assert_eq!(text, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n");
    }
}
