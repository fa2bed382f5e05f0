//! The few fields of Service and EndpointSlice that routing depends on.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// A Service (core/v1), cut down.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// `metadata`
    pub metadata: Metadata,
    /// `spec`
    pub spec: ServiceSpec,
    /// `status`
    pub status: ServiceStatus,
}

/// The part of `metadata` that matters here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Metadata {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// `spec` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)] // the API's own fields
pub struct ServiceSpec {
    pub r#type: String,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub session_affinity: String,
    pub session_affinity_config: Value,
    pub internal_traffic_policy: String,
    pub external_traffic_policy: String,
    pub load_balancer_source_ranges: Vec<String>,
}

/// One port of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub node_port: u16,
}

/// `status` of a Service.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct ServiceStatus {
    pub load_balancer: LoadBalancer,
}

/// `status.loadBalancer`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct LoadBalancer {
    pub ingress: Vec<Ingress>,
}

/// One address of a load balancer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Ingress {
    pub ip: String,
    pub ip_mode: String,
}

/// An EndpointSlice (discovery.k8s.io/v1), cut down.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Slice {
    pub metadata: Metadata,
    pub address_type: String,
    pub endpoints: Vec<Endpoint>,
    pub ports: Option<Vec<SlicePort>>,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub conditions: Conditions,
    pub node_name: Option<String>,
}

/// An endpoint's conditions; a missing one means what the API says it does.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct Conditions {
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
}

/// One port of a slice.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
#[allow(missing_docs)]
pub struct SlicePort {
    pub name: Option<String>,
    pub protocol: Option<String>,
    pub port: Option<u16>,
}

const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

impl Service {
    /// The Service's own addresses; none for headless ones, for ExternalName, and where another proxy is asked for.
    pub fn addresses(&self) -> Vec<IpAddr> {
        if self.spec.r#type == "ExternalName" || self.metadata.labels.contains_key(PROXY_NAME) {
            return Vec::new();
        }
        let all = if self.spec.cluster_ips.is_empty() {
            std::slice::from_ref(&self.spec.cluster_ip)
        } else {
            &self.spec.cluster_ips[..]
        };
        all.iter().filter_map(|ip| ip.parse().ok()).collect()
    }

    /// How long a client stays with an endpoint, in seconds; `None` without session affinity.
    pub fn affinity(&self) -> Option<u64> {
        let seconds = self.spec.session_affinity_config.pointer("/clientIP/timeoutSeconds");
        (self.spec.session_affinity == "ClientIP").then(|| seconds.and_then(Value::as_u64).unwrap_or(10800))
    }
}
