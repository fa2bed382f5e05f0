//! Discovery documents: which groups, versions and resources are served.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::Kind;

/// `/api`: APIVersions. `address` is the server's own, e.g. `10.0.0.1:6443`.
pub fn api_versions(address: &str) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]})
}

/// `/apis`: APIGroupList.
pub fn api_group_list(kinds: &[Arc<Kind>]) -> Value {
    let _ = kinds;
    Value::Null
}

/// `/apis/GROUP`: APIGroup; `None` if nothing is served there.
pub fn api_group(kinds: &[Arc<Kind>], group: &str) -> Option<Value> {
    let _ = (kinds, group);
    None
}

/// `/api/v1`, `/apis/GROUP/VERSION`: APIResourceList; `None` if nothing is served there.
pub fn api_resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let _ = (kinds, group, version);
    None
}

/// Aggregated discovery of `/api` (`core`) or `/apis`, as apidiscovery.k8s.io/`version` (`v2` or `v2beta1`).
pub fn aggregated(kinds: &[Arc<Kind>], core: bool, version: &str) -> Value {
    let _ = (kinds, core, version);
    Value::Null
}
