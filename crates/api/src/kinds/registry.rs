//! The registry of built-in kinds: the table of resources joined with the declarations of this folder.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use super::strategy::Generic;
use super::{Conversion, Kind, Strategy, Subresource, Version, VersionSchema};
use crate::names::{self, Gvk, Gvr};
use crate::schema::TypeId;
use crate::table::Columns;

const RESOURCES: &str = include_str!("../../tables/resources.txt");

/// What is particular to a kind.
pub(super) struct Decl {
    /// Group in which it is stored.
    pub group: &'static str,
    /// Resource name.
    pub resource: &'static str,
    /// Version in which it is stored; `""` for the best one.
    pub storage: &'static str,
    /// Short names.
    pub short: &'static [&'static str],
    /// Categories.
    pub categories: &'static [&'static str],
    /// Printer columns.
    pub columns: Columns,
    /// Rules.
    pub strategy: fn() -> Arc<dyn Strategy>,
    /// Other groups in which the same objects are served.
    pub also: &'static [&'static str],
    /// Versions whose shape differs from the storage version's.
    pub conversions: &'static [(&'static str, &'static str, Conversion)],
    /// Versions of the past that have the shape of the storage version and are still asked for by older clients.
    pub older: &'static [&'static str],
    /// Where the template of the pods is that its objects make, as a JSON pointer; pods are judged by it.
    pub template: Option<&'static str>,
    /// Does a deletion answer with the object instead of a Status?
    pub answers_deleted: bool,
}

/// A declaration in which nothing is particular.
pub(super) const PLAIN: Decl = Decl {
    group: "",
    resource: "",
    storage: "",
    short: &[],
    categories: &[],
    columns: Columns::Default,
    strategy: || Arc::new(Generic),
    also: &[],
    conversions: &[],
    older: &[],
    template: None,
    answers_deleted: false,
};

struct Registry {
    kinds: Vec<Arc<Kind>>,
    by_gvr: HashMap<Gvr, usize>,
    by_gvk: HashMap<Gvk, usize>,
}

struct Row {
    version: &'static str,
    kind: &'static str,
    namespaced: bool,
    verbs: Vec<&'static str>,
    subresources: Vec<Subresource>,
}

/// Orders versions as discovery does: stable before beta before alpha, newer before older. Greater is better.
pub fn version_rank(version: &str) -> (u8, u32, u32) {
    let rest = version.strip_prefix('v').unwrap_or(version);
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, rest) = rest.split_at(end);
    let major = major.parse().unwrap_or(0);
    if rest.is_empty() {
        (3, major, 0)
    } else if let Some(n) = rest.strip_prefix("beta") {
        (2, major, n.parse().unwrap_or(0))
    } else if let Some(n) = rest.strip_prefix("alpha") {
        (1, major, n.parse().unwrap_or(0))
    } else {
        (0, 0, 0)
    }
}

fn build() -> Registry {
    // (group, resource) -> its versions
    let mut rows: BTreeMap<(&str, &str), Vec<Row>> = BTreeMap::new();
    let mut subresources: Vec<(&str, &str, &str, Subresource)> = Vec::new();
    for line in RESOURCES.lines().filter(|l| !l.starts_with('#')) {
        let words: Vec<&'static str> = line.split(' ').collect();
        let [gv, path, kind, scope, verbs, rest @ ..] = words.as_slice() else { continue };
        let Some((group, version)) = gv.split_once('/') else { continue };
        let verbs: Vec<&'static str> = verbs.split(',').collect();
        match path.split_once('/') {
            None => rows.entry((group, path)).or_default().push(Row {
                version,
                kind,
                namespaced: *scope == "Namespaced",
                verbs,
                subresources: Vec::new(),
            }),
            Some((resource, name)) => {
                let of = rest.first().unwrap_or(gv);
                let (g, v) = of.split_once('/').unwrap_or(("", of));
                let sub = Subresource { name: name.to_owned(), gvk: Gvk::new(g, v, kind), verbs };
                subresources.push((group, version, resource, sub));
            }
        }
    }
    for (group, version, resource, sub) in subresources {
        if let Some(row) =
            rows.get_mut(&(group, resource)).and_then(|rs| rs.iter_mut().find(|r| r.version == version))
        {
            row.subresources.push(sub);
        }
    }
    let decls = super::decls();
    let also: Vec<(&str, &str)> =
        decls.iter().flat_map(|d| d.also.iter().map(move |g| (*g, d.resource))).collect();
    let mut registry = Registry { kinds: Vec::new(), by_gvr: HashMap::new(), by_gvk: HashMap::new() };
    for ((group, resource), versions) in &rows {
        if also.contains(&(group, resource)) {
            continue;
        }
        let plain = &PLAIN;
        let decl =
            decls.iter().find(|d| d.group == *group && d.resource == *resource).copied().unwrap_or(plain);
        let mut served: Vec<(&str, &Row)> = versions.iter().map(|r| (*group, r)).collect();
        for other in decl.also {
            served.extend(rows.get(&(*other, *resource)).into_iter().flatten().map(|r| (*other, r)));
        }
        let Some(first) = versions.iter().max_by_key(|r| version_rank(r.version)) else { continue };
        let storage = if decl.storage.is_empty() { first.version } else { decl.storage };
        let mut list: Vec<Version> = served
            .iter()
            .map(|(group, row)| Version {
                group: (*group).to_owned(),
                version: row.version.to_owned(),
                served: true,
                schema: TypeId::of_gvk(group, row.version, row.kind)
                    .map_or(VersionSchema::Any, VersionSchema::Table),
                verbs: row.verbs.clone(),
                subresources: row.subresources.clone(),
                conversion: decl
                    .conversions
                    .iter()
                    .find(|(g, v, _)| g == group && *v == row.version)
                    .map_or(Conversion::Identity, |(_, _, c)| *c),
                deprecation: deprecation(group, row.version, first.kind),
            })
            .collect();
        list.extend(decl.older.iter().map(|version| Version {
            group: (*group).to_owned(),
            version: (*version).to_owned(),
            served: true,
            schema:
                TypeId::of_gvk(group, storage, first.kind).map_or(VersionSchema::Any, VersionSchema::Table),
            verbs: first.verbs.clone(),
            subresources: first.subresources.clone(),
            conversion: Conversion::Identity,
            deprecation: deprecation(group, version, first.kind),
        }));
        list.sort_by_key(|v| std::cmp::Reverse((v.group == *group, version_rank(&v.version))));
        let at = registry.kinds.len();
        for v in &list {
            let gvr = Gvr::owned(v.group.as_str(), v.version.as_str(), *resource);
            registry.by_gvr.insert(gvr, at);
            registry.by_gvk.insert(Gvk::owned(v.group.as_str(), v.version.as_str(), first.kind), at);
        }
        let words = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        registry.kinds.push(Arc::new(Kind {
            group: (*group).to_owned(),
            version: storage.to_owned(),
            kind: first.kind.to_owned(),
            list_kind: format!("{}List", first.kind),
            plural: (*resource).to_owned(),
            singular: first.kind.to_lowercase(),
            short_names: words(decl.short),
            categories: words(decl.categories),
            namespaced: first.namespaced,
            versions: list,
            columns: decl.columns.clone(),
            strategy: (decl.strategy)(),
            template: decl.template,
            answers_deleted: decl.answers_deleted,
            custom: false,
        }));
    }
    registry
}

/// What is told to whoever uses a version that upstream has given up: since when it is deprecated, when it went, and what to use.
fn deprecation(group: &str, version: &str, kind: &str) -> Option<String> {
    let (since, until, instead) = match (group, version, kind) {
        ("extensions", "v1beta1", "Ingress") => ("1.14", "1.22", "networking.k8s.io/v1"),
        ("networking.k8s.io", "v1beta1", "Ingress" | "IngressClass") => {
            ("1.19", "1.22", "networking.k8s.io/v1")
        }
        ("batch", "v1beta1", _) => ("1.21", "1.25", "batch/v1"),
        ("policy", "v1beta1", "PodDisruptionBudget") => ("1.21", "1.25", "policy/v1"),
        ("policy", "v1beta1", "PodSecurityPolicy") => ("1.21", "1.25", ""),
        ("autoscaling", "v2beta1", _) => ("1.22", "1.25", "autoscaling/v2"),
        ("autoscaling", "v2beta2", _) => ("1.23", "1.26", "autoscaling/v2"),
        ("rbac.authorization.k8s.io", "v1alpha1" | "v1beta1", _) => {
            ("1.17", "1.22", "rbac.authorization.k8s.io/v1")
        }
        ("apiextensions.k8s.io", "v1beta1", _) => ("1.16", "1.22", "apiextensions.k8s.io/v1"),
        ("apiregistration.k8s.io", "v1beta1", _) => ("1.19", "1.22", "apiregistration.k8s.io/v1"),
        (
            "admissionregistration.k8s.io",
            "v1beta1",
            "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration",
        ) => ("1.16", "1.22", "admissionregistration.k8s.io/v1"),
        ("storage.k8s.io", "v1beta1", "CSIDriver" | "CSINode" | "StorageClass" | "VolumeAttachment") => {
            ("1.19", "1.22", "storage.k8s.io/v1")
        }
        ("scheduling.k8s.io", "v1alpha1" | "v1beta1", "PriorityClass") => {
            ("1.14", "1.22", "scheduling.k8s.io/v1")
        }
        ("coordination.k8s.io", "v1beta1", "Lease") => ("1.19", "1.22", "coordination.k8s.io/v1"),
        ("discovery.k8s.io", "v1beta1", _) => ("1.21", "1.25", "discovery.k8s.io/v1"),
        ("events.k8s.io", "v1beta1", _) => ("1.19", "1.25", "events.k8s.io/v1"),
        ("node.k8s.io", "v1alpha1" | "v1beta1", _) => ("1.20", "1.25", "node.k8s.io/v1"),
        ("certificates.k8s.io", "v1beta1", "CertificateSigningRequest") => {
            ("1.19", "1.22", "certificates.k8s.io/v1")
        }
        ("authentication.k8s.io", "v1beta1", "TokenReview") => ("1.19", "1.22", "authentication.k8s.io/v1"),
        ("authorization.k8s.io", "v1beta1", _) => ("1.19", "1.22", "authorization.k8s.io/v1"),
        ("flowcontrol.apiserver.k8s.io", "v1alpha1" | "v1beta1", _) => {
            ("1.23", "1.26", "flowcontrol.apiserver.k8s.io/v1")
        }
        // Endpoints are deprecated in favour of slices; a warning for each would be noise to those who have to read them.
        _ => return None,
    };
    let mut text = format!("{group}/{version} {kind} is deprecated in v{since}+, unavailable in v{until}+");
    if !instead.is_empty() {
        text.push_str(&format!("; use {instead} {kind}"));
    }
    Some(text)
}

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(build)
}

/// Every built-in kind, by group and resource.
pub fn all() -> &'static [Arc<Kind>] {
    &registry().kinds
}

/// The built-in kind served as this resource in this version.
pub fn by_gvr(gvr: &Gvr) -> Option<&'static Arc<Kind>> {
    let r = registry();
    r.by_gvr.get(gvr).and_then(|at| r.kinds.get(*at))
}

/// The built-in kind of this group, version and kind.
pub fn by_gvk(gvk: &Gvk) -> Option<&'static Arc<Kind>> {
    let r = registry();
    r.by_gvk.get(gvk).and_then(|at| r.kinds.get(*at))
}

/// The built-in kind of an `apiVersion` and `kind`.
pub fn by_storage(api_version: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    let (group, version) = names::split_api_version(api_version);
    by_gvk(&Gvk::owned(group, version, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ranked_as_discovery_orders_them() {
        let mut versions = ["v1alpha1", "v1", "v2beta2", "v2", "v1beta1", "v2beta1"];
        versions.sort_by_key(|v| std::cmp::Reverse(version_rank(v)));
        assert_eq!(versions, ["v2", "v1", "v2beta2", "v2beta1", "v1beta1", "v1alpha1"]);
    }

    /// What is said of a resource that there is not would say nothing.
    #[test]
    fn each_declaration_finds_its_rows() {
        let rows: Vec<[&str; 3]> = RESOURCES
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (served, rest) = line.split_once(' ')?;
                let (group, version) = served.split_once('/')?;
                Some([group, version, rest.split_once(' ')?.0])
            })
            .collect();
        let served = |group: &str, version: Option<&str>, resource: &str| {
            rows.iter()
                .any(|[g, v, r]| *g == group && version.is_none_or(|version| *v == version) && *r == resource)
        };
        let mut seen = std::collections::HashSet::new();
        for decl in crate::kinds::decls() {
            let name = format!("{}/{}", decl.group, decl.resource);
            assert!(seen.insert(name.clone()), "{name} is declared twice");
            assert!(served(decl.group, None, decl.resource), "{name} is not served");
            let groups: Vec<&str> = decl.also.iter().copied().chain([decl.group]).collect();
            for group in decl.also {
                assert!(served(group, None, decl.resource), "{name} is not served in {group}");
            }
            for (group, version, _) in decl.conversions {
                assert!(groups.contains(group), "{name} is none of {group}");
                assert!(
                    served(group, Some(version), decl.resource),
                    "{name} is not served in {group}/{version}"
                );
            }
            for version in decl.older {
                assert!(!served(decl.group, Some(version), decl.resource), "{name} has a row for {version}");
                assert!(by_gvr(&Gvr::new(decl.group, version, decl.resource)).is_some(), "{name} {version}");
            }
            if !decl.storage.is_empty() {
                assert!(served(decl.group, Some(decl.storage), decl.resource), "{name} is stored as nothing");
            }
        }
    }

    #[test]
    fn every_kind_has_a_type_and_a_storage_version() {
        assert!(all().len() > 70);
        for kind in all() {
            assert!(kind.storage().is_some(), "{kind:?} has no storage version");
            for v in &kind.versions {
                assert!(matches!(v.schema, VersionSchema::Table(_)), "{} has no type", v.gvk(kind));
            }
        }
        let pods = by_gvr(&names::gvr::PODS).unwrap();
        assert_eq!((pods.kind.as_str(), pods.namespaced), ("Pod", true));
        assert!(pods.has_subresource("ephemeralcontainers") && pods.has_subresource("exec"));
        let ingress = by_gvr(&Gvr::new("extensions", "v1beta1", "ingresses")).unwrap();
        assert_eq!(ingress.gvr(), names::gvr::INGRESSES);
        let events = by_gvr(&Gvr::new("events.k8s.io", "v1", "events")).unwrap();
        assert_eq!(events.gvr(), names::gvr::EVENTS);
    }
}
