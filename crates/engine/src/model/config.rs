//! `Config`: what of a container can be part of an image.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use super::{HostConfig, Map, NetworkingConfig, Set, Words, is_default, null_default, nullable};

/// The body of `POST /containers/create`.
#[derive(Debug, Clone, Default)]
pub struct CreateBody {
    /// The container's own configuration, inlined in the body.
    pub config: Config,
    /// What it gets of the host.
    pub host_config: HostConfig,
    /// The runtime's name, where old clients put it.
    pub runtime: String,
    /// The networks it is to be connected to.
    pub networking_config: NetworkingConfig,
    /// A read-only mount does not make what is mounted below it read-only; so it was before API 1.44.
    pub read_only_top: bool,
}

impl<'de> Deserialize<'de> for CreateBody {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        struct Beside {
            host_config: HostConfig,
            runtime: String,
            networking_config: NetworkingConfig,
        }
        // One object has the fields of both; each takes its own.
        let whole = Value::deserialize(d)?;
        let bad = <D::Error as serde::de::Error>::custom::<String>;
        let Beside { host_config, runtime, networking_config } =
            super::decode::fields(whole.clone()).map_err(bad)?;
        let config = super::decode::fields(whole).map_err(bad)?;
        Ok(CreateBody { config, host_config, runtime, networking_config, read_only_top: false })
    }
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    pub image: String,
    #[serde(deserialize_with = "null_default", serialize_with = "nullable")]
    pub volumes: Set,
    pub working_dir: String,
    pub entrypoint: Option<Words>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_disabled: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
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
