//! The log drivers, as one table: whatever the engine says of a driver (which there are, which options they take, how a
//! container's log is written, whether it can be read) it asks here. A new driver is one file beside this one and one
//! line in [`TABLE`].
//!
//! A driver either has a file that the shim writes and anybody reads, or sends. One that sends runs in a process of its
//! own ([`super::sender`]), and its entries are also kept in a file of the `local` form, so that they can be read here
//! (`cache-disabled` switches that off).

mod fluentd;
mod gelf;
mod journald;
mod json_file;
mod local;
mod net;
mod none;
mod syslog;
mod tag;
mod values;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use async_trait::async_trait;
use futures::future::BoxFuture;

use super::entry::Entry;
use crate::{LogSpec, LoggedContainer, RemoteLog};
pub use values::{binary_size, decimal_size};

/// A driver's options, as the API has them.
pub type Options = BTreeMap<String, String>;

/// What is wrong with a tag's template.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_tag(template: &str) -> Result<(), String> {
    tag::check(template)
}

/// One driver.
struct Driver {
    name: &'static str,
    /// The options that it takes beyond [`EVERY`] and [`ATTRIBUTES`].
    options: &'static [&'static str],
    /// What is wrong with the options' values, in Docker's words.
    check: fn(&Options) -> Result<(), String>,
    kind: Kind,
}

enum Kind {
    /// Logs nowhere and takes any option.
    Nothing,
    /// Writes a file: its place and its form.
    File(fn(&Options, &Asked<'_>, Options) -> Result<LogSpec, String>),
    /// Sends.
    Sent {
        connect: Connect,
        /// Bytes that wait at most instead of the container, if the driver's own options say so.
        buffer: fn(&Options) -> Option<u64>,
    },
}

/// Makes a sender that is ready to send. An error keeps the container from starting, as with Docker.
type Connect = fn(RemoteLog) -> BoxFuture<'static, io::Result<Box<dyn Sender>>>;

/// Sends entries; asked for one after another.
#[async_trait]
pub(crate) trait Sender: Send {
    /// Sends one entry. An error means that it is lost; whether it is tried again before is the driver's business.
    async fn send(&mut self, entry: Entry) -> io::Result<()>;
}

/// Every driver, by name.
const TABLE: &[&Driver] = &[
    &fluentd::DRIVER,
    &gelf::DRIVER,
    &journald::DRIVER,
    &json_file::DRIVER,
    &local::DRIVER,
    &none::DRIVER,
    &syslog::DRIVER,
];

/// Options that every driver takes: those of the buffer and of the copy that can be read.
const EVERY: &[&str] =
    &["mode", "max-buffer-size", "cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"];
/// Options that say what of the container goes into each entry.
const ATTRIBUTES: &[&str] = &["env", "env-regex", "labels", "labels-regex", "tag"];
/// How many bytes wait for a driver in non-blocking mode, if nothing is said.
const BUFFER: u64 = 1 << 20;

/// What a log is made for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// What messages say about the container.
    pub container: &'a LoggedContainer,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its environment, `NAME=value`.
    pub env: &'a [String],
    /// The folder that is the container's own.
    pub folder: &'a Path,
}

/// The names of the drivers that log somewhere, sorted.
pub fn names() -> Vec<&'static str> {
    TABLE.iter().filter(|d| !matches!(d.kind, Kind::Nothing)).map(|d| d.name).collect()
}

fn find(name: &str) -> Result<&'static Driver, String> {
    let driver = TABLE.iter().find(|d| d.name == name).copied();
    driver.ok_or_else(|| format!("logger: no log driver named '{name}' is registered"))
}

/// Checks a driver's name and options; the error is in Docker's words.
pub fn validate(name: &str, options: &Options) -> Result<(), String> {
    let driver = find(name)?;
    if matches!(driver.kind, Kind::Nothing) {
        return Ok(());
    }
    let mode = options.get("mode").map_or("", String::as_str);
    if !matches!(mode, "" | "blocking" | "non-blocking") {
        return Err(format!("logger: logging mode not supported: {mode}"));
    }
    if let Some(size) = options.get("max-buffer-size") {
        if mode != "non-blocking" {
            return Err("logger: max-buffer-size option is only supported with 'mode=non-blocking'".into());
        }
        binary_size(size).map_err(|e| format!("error parsing option max-buffer-size: {e}"))?;
    }
    if let Some(text) = options.get("cache-disabled").filter(|t| !t.is_empty()) {
        values::boolean(text).map_err(|_| format!("invalid value for option cache-disabled: {text}"))?;
    }
    for key in options.keys() {
        if ![EVERY, ATTRIBUTES, driver.options].iter().any(|known| known.contains(&key.as_str())) {
            return Err(format!("unknown log opt '{key}' for {name} log driver"));
        }
    }
    for key in ["labels-regex", "env-regex"] {
        if let Some(pattern) = options.get(key) {
            regex::Regex::new(pattern).map_err(|e| format!("invalid log opt {key}: {e}"))?;
        }
    }
    if let Some(template) = options.get("tag") {
        tag::check(template)?;
    }
    local::file(&cache_options(options), Path::new(""), BTreeMap::new())?;
    (driver.check)(options)
}

/// What the shim shall do for a container.
pub fn spec(name: &str, options: &Options, asked: &Asked<'_>) -> Result<LogSpec, String> {
    let driver = find(name)?;
    let attributes = attributes(options, asked)?;
    match driver.kind {
        Kind::Nothing => Ok(LogSpec::None),
        Kind::File(file) => {
            let mut attributes = attributes;
            if let Some(template) = options.get("tag").filter(|t| !t.is_empty()) {
                attributes.insert("tag".into(), tag::render(template, asked)?);
            }
            file(options, asked, attributes)
        }
        Kind::Sent { buffer, .. } => {
            let template = options.get("tag").filter(|t| !t.is_empty());
            let cached = match options.get("cache-disabled").filter(|t| !t.is_empty()) {
                Some(text) => !values::boolean(text)?,
                None => true,
            };
            let cache = asked.folder.join("container-cached.log");
            let cache =
                cached.then(|| local::file(&cache_options(options), &cache, BTreeMap::new())).transpose()?;
            let buffer = if options.get("mode").is_some_and(|mode| mode == "non-blocking") {
                let size = options.get("max-buffer-size").map(|size| binary_size(size)).transpose()?;
                Some(size.unwrap_or(BUFFER))
            } else {
                buffer(options)
            };
            Ok(LogSpec::Remote(Box::new(RemoteLog {
                driver: name.into(),
                options: options.clone(),
                tag: tag::render(template.map_or("{{.ID}}", String::as_str), asked)?,
                attributes,
                container: asked.container.clone(),
                cache,
                buffer,
            })))
        }
    }
}

/// Connects the driver of a log that is sent.
pub(crate) fn connect(log: RemoteLog) -> BoxFuture<'static, io::Result<Box<dyn Sender>>> {
    match find(&log.driver).map(|d| &d.kind) {
        Ok(Kind::Sent { connect, .. }) => connect(log),
        Ok(_) => Box::pin(std::future::ready(Err(io::Error::other("this log driver does not send")))),
        Err(e) => Box::pin(std::future::ready(Err(io::Error::other(e)))),
    }
}

/// The options of the copy that can be read: `cache-max-size` is its `max-size`.
fn cache_options(options: &Options) -> Options {
    options.iter().filter_map(|(k, v)| Some((k.strip_prefix("cache-")?.to_owned(), v.clone()))).collect()
}

/// The container's labels and variables that the options ask for.
fn attributes(options: &Options, asked: &Asked<'_>) -> Result<Options, String> {
    let env: BTreeMap<String, String> = asked
        .env
        .iter()
        .filter_map(|e| e.split_once('='))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let mut out = Options::new();
    for (list, pattern, from) in [("labels", "labels-regex", asked.labels), ("env", "env-regex", &env)] {
        for name in options.get(list).map_or("", String::as_str).split(',') {
            if let Some(value) = from.get(name) {
                out.insert(name.to_owned(), value.clone());
            }
        }
        if let Some(pattern) = options.get(pattern).filter(|p| !p.is_empty()) {
            let pattern = regex::Regex::new(pattern).map_err(|e| format!("invalid log opt: {e}"))?;
            out.extend(from.iter().filter(|(k, _)| pattern.is_match(k)).map(|(k, v)| (k.clone(), v.clone())));
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        text.split_whitespace()
            .map(|o| o.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn refusals_are_dockers() {
        let refused = |name: &str, text: &str| validate(name, &options(text)).unwrap_err();
        for (name, text, why) in [
            ("splunk", "", "logger: no log driver named 'splunk' is registered"),
            ("json-file", "x=1", "unknown log opt 'x' for json-file log driver"),
            ("syslog", "max-size=1m", "unknown log opt 'max-size' for syslog log driver"),
            ("local", "mode=fast", "logger: logging mode not supported: fast"),
            (
                "json-file",
                "max-buffer-size=1m",
                "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
            ),
            ("json-file", "max-file=0 max-size=1m", "max-file cannot be less than 1"),
            ("json-file", "max-size=0", "max-size must be a positive number"),
            (
                "json-file",
                "compress=true max-size=1m",
                "compress cannot be true when max-file is less than 2 or max-size is not set",
            ),
            ("syslog", "syslog-address=http://x", "unsupported scheme: 'http'"),
            ("syslog", "syslog-facility=24", "invalid syslog facility"),
            ("syslog", "syslog-format=x", "Invalid syslog format"),
            ("gelf", "", "gelf-address is a required parameter"),
            ("gelf", "gelf-address=udp://h", "gelf: please provide gelf-address as proto://host:port"),
            (
                "gelf",
                "gelf-address=tcp://h:1 gelf-compression-type=gzip",
                "compression is only supported on UDP",
            ),
        ] {
            assert_eq!(refused(name, text), why);
        }
        assert!(refused("fluentd", "fluentd-address=unix://").contains("path is empty"));
        assert!(
            refused("fluentd", "fluentd-async-reconnect-interval=1ms")
                .contains("must be between 100ms and 10s")
        );
        assert!(validate("none", &options("anything=1")).is_ok());
        for (name, text) in [
            ("json-file", "max-size=10m max-file=3 compress=true labels=a env=b tag={{.Name}}/{{.ID}}"),
            ("local", "max-size=1k max-file=2 compress=false"),
            ("syslog", "syslog-address=tcp+tls://h:1 syslog-facility=local7 syslog-format=rfc5424micro"),
            ("gelf", "gelf-address=udp://h:1 gelf-compression-type=zlib gelf-compression-level=9"),
            ("fluentd", "fluentd-address=tls://h:1 fluentd-async=true fluentd-buffer-limit=1m"),
            ("journald", "mode=non-blocking max-buffer-size=4m cache-disabled=true"),
        ] {
            validate(name, &options(text)).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn what_a_container_gets() {
        let container =
            LoggedContainer { id: "0123456789abcdef".into(), name: "web".into(), ..Default::default() };
        let labels = options("team=a tier=b x=c");
        let env = ["HOME=/root".to_owned(), "PORT=80".to_owned()];
        let asked = Asked { container: &container, labels: &labels, env: &env, folder: Path::new("/c") };
        let LogSpec::JsonFile(file) =
            spec("json-file", &options("labels=x,none labels-regex=^t env=PORT tag={{.Name}}"), &asked)
                .unwrap()
        else {
            panic!("a json file")
        };
        assert_eq!(file.attributes, options("team=a tier=b x=c PORT=80 tag=web"));
        assert_eq!(
            (file.path.to_str(), file.max_size, file.max_files),
            (Some("/c/0123456789abcdef-json.log"), Some(10_000_000), 5)
        );
        let LogSpec::Remote(log) = spec("syslog", &options("mode=non-blocking"), &asked).unwrap() else {
            panic!("sent")
        };
        assert_eq!((log.tag.as_str(), log.buffer), ("0123456789ab", Some(1 << 20)));
        assert_eq!(log.cache.unwrap().path.to_str(), Some("/c/container-cached.log"));
        let LogSpec::Remote(log) = spec("syslog", &options("cache-disabled=true"), &asked).unwrap() else {
            panic!("sent")
        };
        assert_eq!((log.cache, log.buffer), (None, None));
    }
}
