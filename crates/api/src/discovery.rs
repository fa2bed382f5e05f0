//! Discovery documents: which groups, versions and resources are served.
//!
//! All are made from a slice of kinds, so that custom resources appear as the built-in ones do.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::kinds::{Version, version_rank};
use crate::names::api_version;
use crate::{Kind, Map};

/// The group of APIServices themselves: it comes first and has none.
const OWN: &str = "apiregistration.k8s.io";

/// The priorities of upstream's groups, by which its aggregator lists them; kubectl takes the first group that has a resource
/// of the name it was given.
const GROUPS: [(&str, i64); 24] = [
    ("", 18000),
    (OWN, 20000),
    ("apps", 17800),
    ("events.k8s.io", 17750),
    ("authentication.k8s.io", 17700),
    ("authorization.k8s.io", 17600),
    ("autoscaling", 17500),
    ("batch", 17400),
    ("certificates.k8s.io", 17300),
    ("networking.k8s.io", 17200),
    ("extensions", 17150),
    ("policy", 17100),
    ("rbac.authorization.k8s.io", 17000),
    ("storage.k8s.io", 16800),
    ("admissionregistration.k8s.io", 16700),
    ("apiextensions.k8s.io", 16700),
    ("scheduling.k8s.io", 16600),
    ("coordination.k8s.io", 16500),
    ("node.k8s.io", 16300),
    ("discovery.k8s.io", 16200),
    ("flowcontrol.apiserver.k8s.io", 16100),
    ("internal.apiserver.k8s.io", 16000),
    ("resource.k8s.io", 15900),
    ("storagemigration.k8s.io", 15800),
];
/// What those of custom resources have.
const CUSTOM: (i64, i64) = (1000, 100);

/// The priority of a group, and of a version within it, if no APIService says otherwise.
pub fn priority(group: &str, version: &str) -> (i64, i64) {
    let Some((_, of_group)) = GROUPS.iter().find(|(name, _)| *name == group) else { return CUSTOM };
    let of_version = match (group, version) {
        ("", _) | ("autoscaling", "v2beta2") | ("extensions", _) => 1,
        ("autoscaling", "v2") => 30,
        ("events.k8s.io", "v1beta1") => 5,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        ("flowcontrol.apiserver.k8s.io", "v1beta3") => 18,
        ("coordination.k8s.io", "v1beta1") => 13,
        ("flowcontrol.apiserver.k8s.io", "v1beta1")
        | ("admissionregistration.k8s.io" | "discovery.k8s.io" | "rbac.authorization.k8s.io", "v1beta1")
        | ("coordination.k8s.io", "v1alpha2") => 12,
        ("flowcontrol.apiserver.k8s.io" | "admissionregistration.k8s.io", "v1alpha1")
        | ("rbac.authorization.k8s.io", "v1alpha1")
        | ("internal.apiserver.k8s.io" | "resource.k8s.io" | "storagemigration.k8s.io", "v1alpha1")
        | ("resource.k8s.io", "v1alpha3") => 9,
        ("flowcontrol.apiserver.k8s.io", "v1beta2") => 15,
        _ => match version_rank(version).0 {
            3 => 15,
            2 => 9,
            _ => 1,
        },
    };
    (*of_group, of_version)
}

/// Whether the versions of a group have APIServices.
pub fn is_registered(group: &str) -> bool {
    group != OWN
}

/// `/api`: APIVersions. `address` is the server's own, e.g. `10.0.0.1:6443`.
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// Served groups other than core in discovery's order, with their versions from best to worst.
pub fn groups(kinds: &[Arc<Kind>]) -> Vec<(String, Vec<String>)> {
    let mut groups: BTreeMap<(Reverse<i64>, &str), Vec<&str>> = BTreeMap::new();
    for version in kinds.iter().flat_map(|k| &k.versions).filter(|v| v.served && !v.group.is_empty()) {
        let (place, _) = priority(&version.group, &version.version);
        let versions = groups.entry((Reverse(place), &version.group)).or_default();
        if !versions.contains(&version.version.as_str()) {
            versions.push(&version.version);
        }
    }
    groups
        .into_iter()
        .map(|((_, group), mut versions)| {
            versions.sort_by_key(|v| Reverse((priority(group, v).1, version_rank(v))));
            (group.to_owned(), versions.into_iter().map(str::to_owned).collect())
        })
        .collect()
}

fn group_value(group: &str, versions: &[String]) -> Value {
    let entry = |v: &String| json!({"groupVersion": api_version(group, v), "version": v});
    let list: Vec<Value> = versions.iter().map(entry).collect();
    json!({"name": group, "preferredVersion": list.first(), "versions": list})
}

/// `/apis`: APIGroupList.
pub fn api_group_list(kinds: &[Arc<Kind>]) -> Value {
    let groups: Vec<Value> = groups(kinds).iter().map(|(g, v)| group_value(g, v)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`: APIGroup; `None` if nothing is served there.
pub fn api_group(kinds: &[Arc<Kind>], group: &str) -> Option<Value> {
    let (_, versions) = groups(kinds).into_iter().find(|(g, _)| g == group)?;
    let mut value = group_value(group, &versions);
    value["kind"] = json!("APIGroup");
    value["apiVersion"] = json!("v1");
    Some(value)
}

/// A kind that is also served in another group has its short names in its own only: kubectl warns of a name that several
/// groups have.
fn has_short_names(kind: &Kind, version: &Version) -> bool {
    !kind.short_names.is_empty() && kind.group == version.group
}

/// The kinds served in a group and version, with that version.
fn served<'a>(
    kinds: &'a [Arc<Kind>],
    group: &'a str,
    version: &'a str,
) -> impl Iterator<Item = (&'a Arc<Kind>, &'a Version)> {
    kinds.iter().filter_map(move |k| k.served(group, version).filter(|v| v.served).map(|v| (k, v)))
}

/// What tells clients that the version in which a kind is stored has become another. It means nothing else.
fn storage_version_hash(kind: &Kind) -> String {
    let stored = format!("{}/{}/{}", kind.group, kind.version, kind.kind);
    STANDARD.encode(&Sha256::digest(stored)[..8])
}

/// `/api/v1`, `/apis/GROUP/VERSION`: APIResourceList; `None` if nothing is served there.
pub fn api_resource_list(kinds: &[Arc<Kind>], group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for (kind, v) in served(kinds, group, version) {
        let mut row = Map::new();
        row.insert("name".to_owned(), json!(kind.plural));
        row.insert("singularName".to_owned(), json!(kind.singular));
        row.insert("namespaced".to_owned(), json!(kind.namespaced));
        row.insert("kind".to_owned(), json!(kind.kind));
        row.insert("verbs".to_owned(), json!(v.verbs));
        if has_short_names(kind, v) {
            row.insert("shortNames".to_owned(), json!(kind.short_names));
        }
        if !kind.categories.is_empty() {
            row.insert("categories".to_owned(), json!(kind.categories));
        }
        if kind.is_stored() {
            row.insert("storageVersionHash".to_owned(), json!(storage_version_hash(kind)));
        }
        resources.push(Value::Object(row));
        for sub in &v.subresources {
            let mut row = Map::new();
            row.insert("name".to_owned(), json!(format!("{}/{}", kind.plural, sub.name)));
            row.insert("singularName".to_owned(), json!(""));
            row.insert("namespaced".to_owned(), json!(kind.namespaced));
            if sub.gvk.group != group || sub.gvk.version != version {
                row.insert("group".to_owned(), json!(sub.gvk.group));
                row.insert("version".to_owned(), json!(sub.gvk.version));
            }
            row.insert("kind".to_owned(), json!(sub.gvk.kind));
            row.insert("verbs".to_owned(), json!(sub.verbs));
            resources.push(Value::Object(row));
        }
    }
    if resources.is_empty() {
        return None;
    }
    resources.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": resources,
    }))
}

/// Aggregated discovery of `/api` (`core`) or `/apis`, as apidiscovery.k8s.io/`version` (`v2` or `v2beta1`).
pub fn aggregated(kinds: &[Arc<Kind>], core: bool, version: &str) -> Value {
    let groups = if core { vec![(String::new(), vec!["v1".to_owned()])] } else { groups(kinds) };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| {
                    let resources: Vec<Value> =
                        served(kinds, group, v).map(|(k, v)| resource(k, v)).collect();
                    json!({"version": v, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.is_empty() { json!({}) } else { json!({"name": group}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {},
        "items": items,
    })
}

fn resource(kind: &Kind, version: &Version) -> Value {
    let mut row = Map::new();
    row.insert("resource".to_owned(), json!(kind.plural));
    row.insert(
        "responseKind".to_owned(),
        json!({"group": version.group, "version": version.version, "kind": kind.kind}),
    );
    row.insert("scope".to_owned(), json!(if kind.namespaced { "Namespaced" } else { "Cluster" }));
    row.insert("singularResource".to_owned(), json!(kind.singular));
    row.insert("verbs".to_owned(), json!(version.verbs));
    if has_short_names(kind, version) {
        row.insert("shortNames".to_owned(), json!(kind.short_names));
    }
    if !kind.categories.is_empty() {
        row.insert("categories".to_owned(), json!(kind.categories));
    }
    if !version.subresources.is_empty() {
        let subs: Vec<Value> = version
            .subresources
            .iter()
            .map(|s| {
                json!({
                    "subresource": s.name,
                    "responseKind": {"group": s.gvk.group, "version": s.gvk.version, "kind": s.gvk.kind},
                    "verbs": s.verbs,
                })
            })
            .collect();
        row.insert("subresources".to_owned(), json!(subs));
    }
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn documents_name_what_is_served() {
        let all = kinds::all();
        let core = api_resource_list(all, "", "v1").unwrap();
        let find = |list: &Value, name: &str| {
            list["resources"].as_array().unwrap().iter().find(|r| r["name"] == name).cloned().unwrap()
        };
        assert_eq!(find(&core, "pods")["shortNames"], json!(["po"]));
        let eviction = find(&core, "pods/eviction");
        assert_eq!((&eviction["group"], &eviction["kind"]), (&json!("policy"), &json!("Eviction")));
        let beta = api_resource_list(all, "batch", "v1beta1").unwrap();
        assert_eq!(find(&beta, "cronjobs")["kind"], "CronJob");
        assert_eq!(
            find(&api_resource_list(all, "apps", "v1").unwrap(), "deployments/scale")["kind"],
            "Scale"
        );
        // Those of upstream's servers.
        for (group, version, name, hash) in [
            ("", "v1", "pods", json!("xPOwRZ+Yhw8=")),
            ("apps", "v1", "deployments", json!("8aSe+NMegvE=")),
            ("", "v1", "events", json!("r2yiGXH7wu8=")),
            ("events.k8s.io", "v1", "events", json!("r2yiGXH7wu8=")),
            ("apps", "v1", "deployments/scale", Value::Null),
            ("", "v1", "componentstatuses", Value::Null),
            ("authentication.k8s.io", "v1", "tokenreviews", Value::Null),
        ] {
            let list = api_resource_list(all, group, version).unwrap();
            assert_eq!(find(&list, name)["storageVersionHash"], hash, "{name}");
        }
        assert!(api_resource_list(all, "apps", "v9").is_none());
        assert_eq!(api_group(all, "autoscaling").unwrap()["preferredVersion"]["version"], "v2");
        let names: Vec<String> = groups(all).into_iter().map(|(g, _)| g).collect();
        let place = |g: &str| names.iter().position(|n| n == g).unwrap();
        assert!(place("networking.k8s.io") < place("extensions"));
        assert_eq!((place(OWN), place("apps")), (0, 1));
        let autoscaling = groups(all).into_iter().find(|(g, _)| g == "autoscaling").unwrap().1;
        assert!(autoscaling.starts_with(&["v2".to_owned(), "v1".to_owned()]), "{autoscaling:?}");
        let list = aggregated(all, true, "v2");
        assert_eq!(list["items"][0]["versions"][0]["freshness"], "Current");
        assert_eq!(aggregated(all, false, "v2beta1")["items"].as_array().unwrap().len(), names.len());
    }
}
