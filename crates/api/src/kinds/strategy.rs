//! The rules that differ from kind to kind.

use std::borrow::Cow;

use serde_json::Value;

use crate::Release;
use crate::field::ErrorList;

/// Rules of one kind, on objects of its storage version. Everything is optional: what all kinds have in common (metadata, status
/// and generation rules) is done for every kind by [`crate::Kind`], which calls these.
pub trait Strategy: Send + Sync + 'static {
    /// Sets what was left out.
    fn default(&self, obj: &mut Value) {
        let _ = obj;
    }

    /// Clears what a creator may not set.
    fn prepare_create(&self, obj: &mut Value) {
        let _ = obj;
    }

    /// The status of a new object, where it is a subresource: the fields that are never left out, as they are before anything
    /// has been said. Custom resources have none.
    fn no_status(&self) -> Value {
        Value::Object(serde_json::Map::new())
    }

    /// Carries over from `old` what an update may not change.
    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let _ = (new, old);
    }

    /// Carries over from `old` what a change of the status may not take away.
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        let _ = (new, old);
    }

    /// What is wrong with a new object.
    fn validate(&self, obj: &Value) -> ErrorList {
        let _ = obj;
        ErrorList::new()
    }

    /// What is wrong with a new object, beyond what [`Strategy::validate`] says of every object.
    fn validate_create(&self, obj: &Value) -> ErrorList {
        let _ = obj;
        ErrorList::new()
    }

    /// What is wrong with an object that is sent in this version (`batch/v1beta1`), where another version takes it. `old` is what it
    /// changes.
    fn validate_sent(
        &self,
        api_version: &str,
        release: Release,
        new: &Value,
        old: Option<&Value>,
    ) -> ErrorList {
        let _ = (api_version, release, new, old);
        ErrorList::new()
    }

    /// What is wrong with an object that is changed, by itself: what [`Strategy::validate`] says of it, unless it may stay as
    /// it was.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let _ = old;
        self.validate(new)
    }

    /// What is wrong with a change, beyond what [`Strategy::validate_changed`] says of the new object: fields that are immutable.
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let _ = (new, old);
        ErrorList::new()
    }

    /// What is wrong with a change of the status.
    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let _ = (new, old);
        ErrorList::new()
    }

    /// The part of the object that `subresource` changes, if that is one which changes nothing else.
    fn part(&self, subresource: &str) -> Option<Part> {
        let _ = subresource;
        None
    }

    /// The seconds that a deletion of the object leaves it to end; `asked` is what the client wants.
    fn grace(&self, obj: &Value, asked: Option<i64>) -> i64 {
        let _ = (obj, asked);
        0
    }

    /// Changes an object whose deletion begins, at the time `now`: it may be held by a finalizer until something is cleared away.
    fn prepare_delete(&self, obj: &mut Value, now: &str) {
        let _ = (obj, now);
    }

    /// Does what the object owns stay when it is deleted through this version (`batch/v1`) and nobody says what is to become of
    /// it? So it was before there was garbage collection, and clients of those versions may count on it.
    fn orphans(&self, api_version: &str) -> bool {
        let _ = api_version;
        false
    }

    /// Does the garbage collector look after the object? If not, nobody would take its finalizers away again.
    fn is_collected(&self) -> bool {
        true
    }

    /// Is the generation raised when something other than metadata and status changes?
    fn has_generation(&self) -> bool {
        false
    }

    /// The maps of the metadata whose change raises the generation, too.
    fn raising_metadata(&self) -> &[&str] {
        &[]
    }

    /// May a creator give the status (a kubelet registers its node together with it), though `status` is a subresource?
    fn keeps_status_on_create(&self) -> bool {
        false
    }

    /// Why a name is none for this kind; empty if it is good. `prefix`: it is a generateName.
    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::validate::dns_subdomain_name(name, prefix)
    }

    /// Warnings for whoever creates or changes the object.
    fn warnings(&self, obj: &Value) -> Vec<String> {
        let _ = obj;
        Vec::new()
    }

    /// Warnings for whoever changes the object, if not those of what it is then.
    fn warnings_of_change(&self, new: &Value, old: &Value) -> Vec<String> {
        let _ = old;
        self.warnings(new)
    }

    /// Fields that field selectors may name, beside `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        &[]
    }

    /// The storage version's name of a field that field selectors may call otherwise in another version.
    fn field_alias(&self, field: &str) -> Option<&'static str> {
        let _ = field;
        None
    }

    /// May a PUT create an object that is not there?
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// May a PUT leave `metadata.resourceVersion` out?
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Paths of the replicas in spec, the replicas in status and the selector, for the `scale` subresource.
    fn scale_paths(&self) -> Option<ScalePaths> {
        None
    }
}

/// A part of an object that has a subresource of its own.
#[derive(Clone, Copy)]
pub struct Part {
    /// Takes the part out of the object that was sent, and puts it into what will be stored.
    pub put: fn(sent: &Value, into: &mut Value),
    /// What is wrong with such a change, beyond what [`Strategy::validate`] says of the new object.
    pub validate: fn(new: &Value, old: &Value) -> ErrorList,
}

/// Dotted paths for the `scale` subresource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// e.g. `spec.replicas`
    pub spec_replicas: Cow<'static, str>,
    /// e.g. `status.replicas`
    pub status_replicas: Cow<'static, str>,
    /// e.g. `spec.selector`; a LabelSelector object, a map of labels, or the text of a selector.
    pub selector: Option<Cow<'static, str>>,
}

/// The strategy of a kind without rules of its own.
pub struct Generic;

impl Strategy for Generic {}
