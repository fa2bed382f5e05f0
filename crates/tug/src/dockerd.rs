//! dockerd's flags beside those that [`crate::daemon::Flags`] has: each says one key of daemon.json, and means what the
//! key means. They are one table, from which clap's arguments and the keys come.

use std::ffi::OsString;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Map, Value};

/// What a flag's value becomes in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    /// `--flag`, `--flag=false`
    Switch,
    /// May be repeated.
    List,
    /// `name=value`, may be repeated.
    Pairs,
    /// `driver=name=value`
    Nested,
    /// `name=path` of a runtime.
    Runtime,
    /// `name=soft[:hard]`
    Limit,
}

use Kind::{Limit, List, Nested, Number, Pairs, Runtime, Switch, Text};

/// Flag, key, kind.
const FLAGS: &[(&str, &str, Kind)] = &[
    ("add-runtime", "runtimes", Runtime),
    ("allow-direct-routing", "allow-direct-routing", Switch),
    ("authorization-plugin", "authorization-plugins", List),
    ("bip6", "bip6", Text),
    ("bridge", "bridge", Text),
    ("bridge-accept-fwmark", "bridge-accept-fwmark", Text),
    ("cdi-spec-dir", "cdi-spec-dirs", List),
    ("cgroup-parent", "cgroup-parent", Text),
    ("containerd", "containerd", Text),
    ("containerd-namespace", "containerd-namespace", Text),
    ("containerd-plugins-namespace", "containerd-plugin-namespace", Text),
    ("cpu-rt-period", "cpu-rt-period", Number),
    ("cpu-rt-runtime", "cpu-rt-runtime", Number),
    ("data-root", "data-root", Text),
    ("debug", "debug", Switch),
    ("default-cgroupns-mode", "default-cgroupns-mode", Text),
    ("default-gateway", "default-gateway", Text),
    ("default-gateway-v6", "default-gateway-v6", Text),
    ("default-ipc-mode", "default-ipc-mode", Text),
    ("default-network-opt", "default-network-opts", Nested),
    ("default-runtime", "default-runtime", Text),
    ("default-shm-size", "default-shm-size", Text),
    ("default-ulimit", "default-ulimits", Limit),
    ("dns", "dns", List),
    ("dns-opt", "dns-opts", List),
    ("dns-search", "dns-search", List),
    ("exec-opt", "exec-opts", List),
    ("exec-root", "exec-root", Text),
    ("experimental", "experimental", Switch),
    ("feature", "features", Pairs),
    ("firewall-backend", "firewall-backend", Text),
    ("fixed-cidr", "fixed-cidr", Text),
    ("fixed-cidr-v6", "fixed-cidr-v6", Text),
    ("group", "group", Text),
    ("host-gateway-ip", "host-gateway-ips", List),
    ("http-proxy", "http-proxy", Text),
    ("https-proxy", "https-proxy", Text),
    ("icc", "icc", Switch),
    ("init", "init", Switch),
    ("init-path", "init-path", Text),
    ("ip", "ip", Text),
    ("ip-forward", "ip-forward", Switch),
    ("ip-forward-no-drop", "ip-forward-no-drop", Switch),
    ("ip-masq", "ip-masq", Switch),
    ("ip6tables", "ip6tables", Switch),
    ("iptables", "iptables", Switch),
    ("ipv6", "ipv6", Switch),
    ("label", "labels", List),
    ("live-restore", "live-restore", Switch),
    ("log-driver", "log-driver", Text),
    ("log-format", "log-format", Text),
    ("log-level", "log-level", Text),
    ("log-opt", "log-opts", Pairs),
    ("max-concurrent-downloads", "max-concurrent-downloads", Number),
    ("max-concurrent-uploads", "max-concurrent-uploads", Number),
    ("max-download-attempts", "max-download-attempts", Number),
    ("mtu", "mtu", Number),
    ("network-control-plane-mtu", "network-control-plane-mtu", Number),
    ("no-new-privileges", "no-new-privileges", Switch),
    ("no-proxy", "no-proxy", Text),
    ("node-generic-resource", "node-generic-resources", List),
    ("oom-score-adjust", "oom-score-adjust", Number),
    ("pidfile", "pidfile", Text),
    ("raw-logs", "raw-logs", Switch),
    ("rootless", "rootless", Switch),
    ("seccomp-profile", "seccomp-profile", Text),
    ("selinux-enabled", "selinux-enabled", Switch),
    ("shutdown-timeout", "shutdown-timeout", Number),
    ("storage-driver", "storage-driver", Text),
    ("storage-opt", "storage-opts", List),
    ("swarm-default-advertise-addr", "swarm-default-advertise-addr", Text),
    ("userland-proxy", "userland-proxy", Switch),
    ("userland-proxy-path", "userland-proxy-path", Text),
    ("userns-remap", "userns-remap", Text),
];

/// What was given, word for word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dockerd {
    given: Vec<(&'static str, String)>,
}

impl Dockerd {
    /// The keys of daemon.json that the flags say; an error names the flag.
    pub fn keys(&self) -> Result<Map<String, Value>, String> {
        let mut keys = Map::new();
        for (flag, text) in &self.given {
            let Some((_, key, kind)) = FLAGS.iter().find(|(name, ..)| name == flag) else { continue };
            let bad = |how: &str| format!("invalid argument {text:?} for --{flag}: it is {how}");
            let pair = || text.split_once('=').filter(|(k, _)| !k.is_empty());
            let mut table = |name: &str, value: Value| {
                let table = keys.entry(*key).or_insert_with(|| Map::new().into());
                if let Value::Object(table) = table {
                    table.insert(name.to_owned(), value);
                }
            };
            match kind {
                Text => drop(keys.insert((*key).to_owned(), text.as_str().into())),
                Number => {
                    let number: i64 = text.parse().map_err(|_| bad("a number"))?;
                    keys.insert((*key).to_owned(), number.into());
                }
                Switch => {
                    let on: bool = text.parse().map_err(|_| bad("true or false"))?;
                    keys.insert((*key).to_owned(), on.into());
                }
                List => {
                    let list = keys.entry(*key).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = list {
                        list.push(text.as_str().into());
                    }
                }
                Pairs => {
                    let (name, value) = pair().ok_or_else(|| bad("NAME=VALUE"))?;
                    table(name, value.into());
                }
                Nested => {
                    let how = || bad("DRIVER=NAME=VALUE");
                    let (driver, rest) = pair().ok_or_else(how)?;
                    let (name, value) = rest.split_once('=').ok_or_else(how)?;
                    let mut options = match keys.get(*key).and_then(|k| k.get(driver)) {
                        Some(Value::Object(options)) => options.clone(),
                        _ => Map::new(),
                    };
                    options.insert(name.to_owned(), value.into());
                    let all = keys.entry(*key).or_insert_with(|| Map::new().into());
                    all[driver] = options.into();
                }
                Runtime => {
                    let (name, path) = pair().ok_or_else(|| bad("NAME=PATH"))?;
                    table(name, serde_json::json!({"path": path}));
                }
                Limit => {
                    let how = || bad("NAME=SOFT[:HARD]");
                    let (name, limits) = pair().ok_or_else(how)?;
                    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
                    let number = |t: &str| t.parse::<i64>().map_err(|_| how());
                    let (soft, hard) = (number(soft)?, number(hard)?);
                    table(name, serde_json::json!({"Name": name, "Soft": soft, "Hard": hard}));
                }
            }
        }
        Ok(keys)
    }

    /// The flags that make another process mean the same.
    pub fn to_arguments(&self) -> impl Iterator<Item = OsString> + '_ {
        self.given.iter().map(|(flag, text)| format!("--{flag}={text}").into())
    }
}

impl clap::FromArgMatches for Dockerd {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Vec::new();
        for (flag, ..) in FLAGS {
            given.extend(matches.get_many::<String>(flag).into_iter().flatten().map(|v| (*flag, v.clone())));
        }
        Ok(Dockerd { given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Dockerd {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, (flag, key, kind)| {
            let mut arg = Arg::new(*flag).long(*flag).hide_short_help(true).help_heading("dockerd's flags");
            arg = arg.help(format!("The key {key} of daemon.json"));
            arg = match kind {
                Text | Number => arg.action(ArgAction::Set),
                Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
                _ => arg.action(ArgAction::Append),
            };
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        dockerd: Dockerd,
    }

    fn given(line: &str) -> Dockerd {
        <Only as clap::Parser>::try_parse_from(line.split_whitespace()).unwrap().dockerd
    }

    #[test]
    fn flags_say_what_keys_say() {
        let line = "tug --userns-remap default --ipv6 --icc=false --mtu 1400 --label a=1 --label b=2 --log-opt max-size=1m \
                    --default-network-opt bridge=com.docker.network.driver.mtu=9000 --add-runtime crun=/usr/bin/crun \
                    --default-ulimit nofile=64:128";
        let flags = given(line);
        let keys = Value::Object(flags.keys().unwrap());
        assert_eq!(
            keys,
            serde_json::json!({
                "userns-remap": "default", "ipv6": true, "icc": false, "mtu": 1400, "labels": ["a=1", "b=2"],
                "log-opts": {"max-size": "1m"},
                "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "9000"}},
                "runtimes": {"crun": {"path": "/usr/bin/crun"}},
                "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 64, "Hard": 128}},
            })
        );
        let again: Vec<String> = flags.to_arguments().map(|a| a.into_string().unwrap()).collect();
        let again = given(&format!("tug {}", again.join(" ")));
        assert_eq!(again.keys(), flags.keys());
    }

    #[test]
    fn every_flag_has_a_key() {
        for (flag, key, _) in FLAGS {
            let text = serde_json::json!({*key: null}).to_string();
            engine::Settings::parse(&text).unwrap_or_else(|e| panic!("--{flag}: {e}"));
        }
    }

    #[test]
    fn bad_values_name_the_flag() {
        for (line, flag) in [
            ("tug --mtu many", "--mtu"),
            ("tug --icc=perhaps", "--icc"),
            ("tug --log-opt x", "--log-opt"),
            ("tug --default-ulimit nofile=a", "--default-ulimit"),
        ] {
            assert!(given(line).keys().unwrap_err().contains(flag), "{line}");
        }
    }
}
