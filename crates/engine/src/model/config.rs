//! `Config`: what of a container can be part of an image.

use serde::{Deserialize, Serialize};

use super::{HostConfig, Map, NetworkingConfig, Set, Words, is_default, null_default, nullable};

/// The body of `POST /containers/create`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct CreateBody {
    /// The container's own configuration, inlined in the body.
    #[serde(flatten)]
    pub config: Config,
    /// What it gets of the host.
    pub host_config: HostConfig,
    /// The runtime's name, where old clients put it.
    pub runtime: String,
    /// The networks it is to be connected to.
    pub networking_config: NetworkingConfig,
}

/// A container's configuration (`Config` of an inspect document).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)] // each field is the API's of that name
pub struct Config {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub exposed_ports: Set,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    #[serde(deserialize_with = "null_default")]
    pub env: Vec<String>,
    pub cmd: Words,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    pub args_escaped: Option<bool>,
    pub image: String,
    #[serde(deserialize_with = "null_default", serialize_with = "nullable")]
    pub volumes: Set,
    pub working_dir: String,
    pub entrypoint: Words,
    pub network_disabled: Option<bool>,
    pub mac_address: Option<String>,
    #[serde(deserialize_with = "null_default", serialize_with = "nullable")]
    pub on_build: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    pub labels: Map,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub shell: Vec<String>,
}

/// How to find out whether a container does its work. Times are nanoseconds; 0 means inherited or default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
#[allow(missing_docs)]
pub struct HealthConfig {
    /// `[]` inherit, `["NONE"]` off, `["CMD", args...]`, `["CMD-SHELL", command]`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "is_default")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub retries: i64,
}
