//! The kinds of the API: which there are, what they are called, and the rules each of them has.
//!
//! Groups, versions, scope, verbs, subresources and types come from `tables/resources.txt`. What is particular to a kind (short
//! names, categories, printer columns, its [`Strategy`], conversions) is declared in one [`Decl`] in one file of this
//! folder. Custom resources build the same [`Kind`] at run time.
//!
//! Leaves to `apiserver`: storing, admission, authorization, and what needs cluster state (cluster IPs, node ports, tokens).

mod admission;
mod apiservices;
mod autoscaling;
mod certificates;
mod common;
mod config;
pub mod crd;
mod daemonset;
mod definition;
mod deployment;
mod endpoints;
mod event;
mod flow;
mod job;
mod network;
mod node;
mod pod;
mod podspec;
mod policy;
mod rbac;
mod registry;
mod replicas;
mod resource;
mod rules;
mod runtime;
mod service;
mod storage;
mod strategy;
mod volumes;
mod webhook;

pub use definition::{Approval, CLEANUP};
pub use job::check_schedule;
pub use podspec::qos_class;

pub use registry::{all, by_gvk, by_gvr, by_storage, version_rank};
pub use strategy::{Generic, Part, ScalePaths, Strategy};

use std::sync::Arc;

use serde_json::Value;

use crate::field::ErrorList;
use crate::names::{self, Gvk, Gvr};
use crate::schema::{Schema, TypeId};
use crate::table::Columns;
use crate::{Release, Status, meta, selector};

/// A kind of object, with all that is known about it.
pub struct Kind {
    /// Group under which it is stored, `""` for core.
    pub group: String,
    /// Version in which it is stored.
    pub version: String,
    /// Kind, e.g. `Deployment`.
    pub kind: String,
    /// Kind of its lists, e.g. `DeploymentList`.
    pub list_kind: String,
    /// Resource name, e.g. `deployments`.
    pub plural: String,
    /// Singular resource name, e.g. `deployment`.
    pub singular: String,
    /// e.g. `deploy`.
    pub short_names: Vec<String>,
    /// e.g. `all`.
    pub categories: Vec<String>,
    /// Do its objects live in namespaces?
    pub namespaced: bool,
    /// Every group and version it is served in; the storage version is one of them.
    pub versions: Vec<Version>,
    /// Its table.
    pub columns: Columns,
    /// Its rules.
    pub strategy: Arc<dyn Strategy>,
    /// Was it made by a CustomResourceDefinition?
    pub custom: bool,
    /// Where the template of the pods is that its objects make, as a JSON pointer.
    pub template: Option<&'static str>,
    /// Does a deletion answer with the object instead of a Status?
    pub answers_deleted: bool,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kind({})", self.gvk())
    }
}

/// A kind as it is served in one version of one group.
pub struct Version {
    /// Group, usually the kind's.
    pub group: String,
    /// Version, e.g. `v1`.
    pub version: String,
    /// Is it served? (A version of a CRD may be stored and not served.)
    pub served: bool,
    /// Type of its objects.
    pub schema: VersionSchema,
    /// Verbs of the resource itself, sorted.
    pub verbs: Vec<&'static str>,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Between this version and the storage version.
    pub conversion: Conversion,
    /// A warning sent with every answer, for deprecated versions.
    pub deprecation: Option<String>,
}

/// The type of a version's objects.
#[derive(Clone)]
pub enum VersionSchema {
    /// A type of the table.
    Table(TypeId),
    /// A CRD's.
    Structural(Arc<crd::VersionedSchema>),
    /// Unknown: anything goes.
    Any,
}

impl VersionSchema {
    /// As a handle.
    pub fn schema(&self) -> Schema<'_> {
        match self {
            VersionSchema::Table(t) => t.schema(),
            VersionSchema::Structural(s) => Schema::Custom(s.compiled()),
            VersionSchema::Any => Schema::Any,
        }
    }

    /// The type that its protobuf form follows, if it has one: known without compiling anything.
    pub fn proto(&self) -> Option<TypeId> {
        match self {
            VersionSchema::Table(t) => Some(*t).filter(|t| t.has_proto()),
            VersionSchema::Structural(_) | VersionSchema::Any => None,
        }
    }
}

/// A subresource, e.g. `status`.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Its name.
    pub name: String,
    /// The kind that it takes and gives, e.g. autoscaling/v1 Scale.
    pub gvk: Gvk,
    /// Its verbs, sorted.
    pub verbs: Vec<&'static str>,
}

/// How a version's objects become the storage version's and back. `apiVersion` is set by the caller.
#[derive(Clone, Copy)]
pub enum Conversion {
    /// The shapes are equal.
    Identity,
    /// By functions that edit in place.
    Functions {
        /// To the storage version.
        to_storage: fn(&mut Value),
        /// From the storage version.
        from_storage: fn(&mut Value),
    },
}

impl Version {
    /// Its group, version and the kind's name.
    pub fn gvk(&self, kind: &Kind) -> Gvk {
        Gvk::owned(self.group.as_str(), self.version.as_str(), kind.kind.as_str())
    }

    /// Its group, version and resource name.
    pub fn gvr(&self, kind: &Kind) -> Gvr {
        Gvr::owned(self.group.as_str(), self.version.as_str(), kind.plural.as_str())
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        names::api_version(&self.group, &self.version)
    }

    /// The schema of its objects.
    pub fn schema(&self) -> Schema<'_> {
        self.schema.schema()
    }

    /// A subresource.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Is the verb served on the resource itself?
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

impl Kind {
    /// Group, storage version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::owned(self.group.as_str(), self.version.as_str(), self.kind.as_str())
    }

    /// Group, storage version and resource name.
    pub fn gvr(&self) -> Gvr {
        Gvr::owned(self.group.as_str(), self.version.as_str(), self.plural.as_str())
    }

    /// `v1` or `apps/v1` of the storage version.
    pub fn api_version(&self) -> String {
        names::api_version(&self.group, &self.version)
    }

    /// The version served as `group`/`version`.
    pub fn served(&self, group: &str, version: &str) -> Option<&Version> {
        self.versions.iter().find(|v| v.group == group && v.version == version)
    }

    /// The storage version.
    pub fn storage(&self) -> Option<&Version> {
        self.served(&self.group, &self.version)
    }

    /// The schema of stored objects.
    pub fn schema(&self) -> Schema<'_> {
        self.storage().map(Version::schema).unwrap_or(Schema::Any)
    }

    /// Are its objects kept? Reviews and bindings are only answered.
    pub fn is_stored(&self) -> bool {
        self.versions.iter().any(|v| v.has_verb("get") && v.has_verb("create"))
    }

    /// Has it a subresource of this name in its storage version?
    pub fn has_subresource(&self, name: &str) -> bool {
        self.storage().is_some_and(|v| v.subresource(name).is_some())
    }

    /// Converts an object from the version it says it is of into the storage version.
    pub fn to_storage(&self, obj: &mut Value) -> Result<(), Status> {
        let from = obj["apiVersion"].as_str().unwrap_or_default().to_owned();
        let (group, version) = names::split_api_version(&from);
        let version = self.served(group, version).ok_or_else(|| {
            Status::bad_request(format!("no kind \"{}\" is registered for version \"{from}\"", self.kind))
        })?;
        if let Conversion::Functions { to_storage, .. } = version.conversion {
            to_storage(obj);
        }
        if !self.custom && !self.is_storage(version) {
            crate::codec::prune(obj, self.schema());
        }
        meta::as_map(obj).insert("apiVersion".to_owned(), Value::String(self.api_version()));
        Ok(())
    }

    /// Converts an object of the storage version into `to`.
    pub fn from_storage(&self, obj: &mut Value, to: &Version) {
        if let Conversion::Functions { from_storage, .. } = to.conversion {
            from_storage(obj);
        }
        if !self.custom && !self.is_storage(to) {
            crate::codec::prune(obj, to.schema());
        }
        meta::as_map(obj).insert("apiVersion".to_owned(), Value::String(to.api_version()));
    }

    /// Gives `new` what `old` has and `through` cannot say, so that a change made in an older version takes nothing away
    /// that it does not know of. Both are of the storage version. What lies in lists goes with its item.
    pub fn keep_unsaid(&self, through: &Version, old: &Value, new: &mut Value) {
        if self.custom || self.is_storage(through) {
            return;
        }
        let mut shown = old.clone();
        if let Conversion::Functions { from_storage, .. } = through.conversion {
            from_storage(&mut shown);
        }
        for path in crate::codec::unsaid(&mut shown, through.schema()) {
            if path.contains('[') {
                continue;
            }
            let mut parts: Vec<&str> = path.split('.').collect();
            let Some(last) = parts.pop() else { continue };
            let found = parts.iter().try_fold(old, |v, part| v.get(*part));
            let Some(value) = found.and_then(|v| v.get(last)).cloned() else { continue };
            let mut at = Some(&mut *new);
            for part in &parts {
                at = at.and_then(|v| v.get_mut(*part));
            }
            if let Some(map) = at.and_then(Value::as_object_mut) {
                map.entry(last.to_owned()).or_insert(value);
            }
        }
    }

    /// What an object says of pods: of a pod itself, of another kind its template. With metadata and spec.
    pub fn pod_of<'a>(&self, obj: &'a Value) -> Option<&'a Value> {
        match self.template {
            Some(pointer) => obj.pointer(pointer),
            None => (self.group.is_empty() && self.plural == "pods").then_some(obj),
        }
    }

    /// May stored bytes be sent for this version as they are?
    pub fn is_storage(&self, version: &Version) -> bool {
        version.group == self.group && version.version == self.version
    }

    /// Sets what was left out, in an object of the storage version.
    pub fn default(&self, obj: &mut Value) {
        self.strategy.default(obj);
    }

    /// Brings a new object (storage version) into the state in which it may be created: no status where that is a
    /// subresource, generation 1. Name, namespace, uid and timestamps are the caller's.
    pub fn prepare_create(&self, obj: &mut Value) {
        rules::prepare_create(self, obj);
    }

    /// Carries over from `old` what an update through `subresource` (`""` is the object itself) may not change, and raises
    /// the generation if the spec changed.
    pub fn prepare_update(&self, new: &mut Value, old: &Value, subresource: &str) {
        rules::prepare_update(self, new, old, subresource);
    }

    /// What is wrong with a new object (storage version, defaulted).
    pub fn validate_create(&self, obj: &Value) -> ErrorList {
        rules::validate_create(self, obj)
    }

    /// What is wrong with an update through `subresource` (`""` is the object itself).
    pub fn validate_update(&self, new: &Value, old: &Value, subresource: &str) -> ErrorList {
        rules::validate_update(self, new, old, subresource)
    }

    /// What is wrong with a new object, or a changed one, that is sent in this version, where another version takes it.
    pub fn validate_sent(
        &self,
        version: &Version,
        release: Release,
        new: &Value,
        old: Option<&Value>,
    ) -> ErrorList {
        self.strategy.validate_sent(&version.api_version(), release, new, old)
    }

    /// Warnings for whoever creates the object, or changes `old` into it.
    pub fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        rules::warnings(self, new, old)
    }

    /// Reads a field selector; one on fields that the kind does not support is refused. The result speaks of the storage
    /// version's fields.
    pub fn field_selector(&self, text: &str) -> Result<selector::Field, Status> {
        let selector = selector::Field::parse(text)?.renamed(|f| self.strategy.field_alias(f));
        let known = self.strategy.selectable_fields();
        for (field, _, _) in selector.terms() {
            let general = field == "metadata.name" || (field == "metadata.namespace" && self.namespaced);
            if general || known.iter().any(|f| f == field) {
                continue;
            }
            // Upstream says it one way where a kind has fields of its own, and another where it has none.
            return Err(Status::bad_request(if self.custom || !known.is_empty() {
                format!("field label not supported: {field}")
            } else {
                format!(
                    "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                )
            }));
        }
        Ok(selector)
    }

    /// The Scale of an object (storage version), for its `scale` subresource.
    pub fn scale_of(&self, obj: &Value) -> Option<Value> {
        rules::scale_of(self, obj)
    }

    /// Writes a Scale's `spec.replicas` into an object (storage version).
    pub fn set_scale(&self, obj: &mut Value, replicas: i64) {
        rules::set_scale(self, obj, replicas);
    }
}

/// All declarations of this folder.
fn decls() -> Vec<&'static registry::Decl> {
    let groups: &[&'static [registry::Decl]] = &[
        admission::DECLS,
        apiservices::DECLS,
        autoscaling::DECLS,
        certificates::DECLS,
        config::DECLS,
        daemonset::DECLS,
        definition::DECLS,
        deployment::DECLS,
        endpoints::DECLS,
        event::DECLS,
        flow::DECLS,
        job::DECLS,
        network::DECLS,
        node::DECLS,
        pod::DECLS,
        policy::DECLS,
        rbac::DECLS,
        replicas::DECLS,
        resource::DECLS,
        runtime::DECLS,
        service::DECLS,
        storage::DECLS,
        volumes::DECLS,
        webhook::DECLS,
    ];
    groups.iter().flat_map(|g| g.iter()).collect()
}
