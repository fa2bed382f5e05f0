//! The image configuration: the OCI document with Docker's additional fields.
//!
//! An image's id is the digest of these bytes, so what was read from elsewhere is kept as it came (`Image::raw_config`)
//! and only what is made here is written with these types.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

/// An image configuration (OCI image-spec `config.md`, Docker Image Specification v1.2).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// `amd64`, `arm64`, ...
    #[serde(default, deserialize_with = "nullable")]
    pub architecture: String,
    /// Such as `v8`.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub variant: String,
    /// `linux`.
    #[serde(default, deserialize_with = "nullable")]
    pub os: String,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub author: String,
    /// Docker's remark of a commit or import.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub comment: String,
    /// The container it was committed from.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub container: String,
    /// What made it.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub docker_version: String,
    /// How to run it.
    #[serde(default, deserialize_with = "nullable")]
    pub config: Config,
    /// What each layer came from, oldest first.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// The layers.
    #[serde(default, deserialize_with = "nullable")]
    pub rootfs: RootFs,
    /// Everything else that the document had.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// One line of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "time")]
    pub created: Option<Timestamp>,
    /// By which command.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub created_by: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub author: String,
    /// A remark.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub comment: String,
    /// Whether this line has no layer of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// How to run an image: the `config` member, which is also what `docker inspect` shows as `Config`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    /// Only in old images.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub hostname: String,
    /// Only in old images.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub domainname: String,
    /// `user`, `uid`, `user:group` or `uid:gid`; empty is root.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub user: String,
    /// `80/tcp` -> `{}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// The program, before `cmd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The default arguments, or the program if there is no entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How to find out whether it is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Only for Windows.
    #[serde(skip_serializing_if = "std::ops::Not::not", deserialize_with = "nullable")]
    pub args_escaped: bool,
    /// Paths that get an anonymous volume.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Empty>,
    /// The working directory; empty is `/`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub working_dir: String,
    /// Instructions for builds that start from this image.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "nullable")]
    pub stop_signal: String,
    /// Seconds between that signal and SIGKILL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// The shell of shell-form instructions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// `{}`: the value of Go's sets in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A health check. Durations are nanoseconds; zero means the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", args...]` or `["CMD-SHELL", command]`; empty inherits.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub test: Vec<String>,
    /// Between two checks.
    #[serde(skip_serializing_if = "zero")]
    pub interval: i64,
    /// Of one check.
    #[serde(skip_serializing_if = "zero")]
    pub timeout: i64,
    /// During which failures do not count.
    #[serde(skip_serializing_if = "zero")]
    pub start_period: i64,
    /// Between two checks during the start period.
    #[serde(skip_serializing_if = "zero")]
    pub start_interval: i64,
    /// Failures in a row until unhealthy.
    #[serde(skip_serializing_if = "zero")]
    pub retries: i64,
}

fn zero(n: &i64) -> bool {
    *n == 0
}

/// Go writes empty slices and maps as null.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// A time that is absent, null, or Go's zero time is no time.
fn time<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(d)?;
    match text.as_deref() {
        None | Some("") | Some("0001-01-01T00:00:00Z") => Ok(None),
        Some(t) => t.parse().map(Some).map_err(serde::de::Error::custom),
    }
}

/// The architecture of this machine in Go's terms, and its variant.
pub fn host_platform() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "x86" => ("386", ""),
        "powerpc64" => ("ppc64le", ""),
        other => (other, ""),
    }
}

/// The most layers of an image.
const MAX_DEPTH: usize = 125;

impl ImageConfig {
    /// Parses a configuration; `what` names it in the error.
    pub fn parse(bytes: &[u8], what: &str) -> crate::Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|e| crate::Error::Corrupt(format!("invalid image configuration {what}: {e}")))
    }

    /// Refuses an image with more layers than Docker takes: a stack of folders as high cannot be mounted everywhere.
    pub fn check_depth(&self) -> crate::Result<()> {
        match self.rootfs.diff_ids.len() {
            0..=MAX_DEPTH => Ok(()),
            _ => Err(crate::Error::Invalid("max depth exceeded".into())),
        }
    }

    /// A configuration for this machine without layers.
    pub fn scratch() -> Self {
        let (architecture, variant) = host_platform();
        Self {
            architecture: architecture.into(),
            variant: variant.into(),
            os: "linux".into(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        let c = ImageConfig::parse(
            br#"{"architecture":"amd64","config":{"Env":null,"Cmd":["sh"],"Volumes":null,"ExposedPorts":{"80/tcp":{}},"OnBuild":null,"Labels":null,"Healthcheck":{"Test":["CMD","true"],"Interval":5000000000}},"created":"2024-05-01T10:00:00.123456789Z","history":[{"created":"0001-01-01T00:00:00Z","created_by":"x","empty_layer":true}],"os":"linux","rootfs":{"type":"layers","diff_ids":null},"moby.buildkit.x":1}"#,
            "t",
        )
        .unwrap();
        assert_eq!(c.config.cmd, Some(vec!["sh".into()]));
        assert_eq!(c.config.healthcheck.as_ref().unwrap().interval, 5_000_000_000);
        assert!(c.history[0].created.is_none() && c.history[0].empty_layer);
        assert_eq!(c.other["moby.buildkit.x"], 1);
        let again = serde_json::to_vec(&c).unwrap();
        assert_eq!(ImageConfig::parse(&again, "t").unwrap(), c);
        let c = ImageConfig::parse(format!("{{\"x\":{}}}", "9".repeat(82)).as_bytes(), "t").unwrap();
        let again = serde_json::to_vec(&c).unwrap();
        assert_eq!(ImageConfig::parse(&again, "t").unwrap(), c, "numbers do not drift");
    }
}
