//! The few fields of an object that everybody asks for.

use serde::Deserialize;
use serde_json::Value;

use crate::{Error, Key, Result};

/// The few fields that caches and selectors ask every object for, kept without decoding the rest.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    pub(super) api_version: Box<str>,
    pub(super) kind: Box<str>,
    pub(super) name: Box<str>,
    pub(super) namespace: Box<str>,
    pub(super) uid: Box<str>,
    pub(super) revision: u64,
    pub(super) labels: Labels,
    pub(super) deleting: bool,
}

impl Head {
    /// That an object is not of the type it was to be read as.
    pub(super) fn unlike(&self, why: &dyn std::fmt::Display) -> Error {
        Error::Invalid(format!("{} {}: {why}", self.kind, Key::new(&*self.namespace, &*self.name)))
    }

    pub(super) fn parse(json: &[u8]) -> Result<Head> {
        #[derive(Deserialize)]
        struct Outer<'a> {
            #[serde(borrow, default, rename = "apiVersion")]
            api_version: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            kind: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            metadata: Meta<'a>,
        }
        #[derive(Deserialize, Default)]
        struct Meta<'a> {
            #[serde(borrow, default)]
            name: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            namespace: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            uid: std::borrow::Cow<'a, str>,
            #[serde(borrow, default, rename = "resourceVersion")]
            revision: std::borrow::Cow<'a, str>,
            #[serde(default)]
            labels: Option<std::collections::BTreeMap<Box<str>, Option<Box<str>>>>,
            #[serde(default, rename = "deletionTimestamp")]
            deleted: Option<serde::de::IgnoredAny>,
        }
        let outer: Outer<'_> =
            serde_json::from_slice(json).map_err(|e| Error::Malformed(format!("not an API object: {e}")))?;
        let m = outer.metadata;
        let labels = m.labels.unwrap_or_default().into_iter().map(|(k, v)| (k, v.unwrap_or_default()));
        Ok(Head {
            api_version: outer.api_version.into(),
            kind: outer.kind.into(),
            name: m.name.into(),
            namespace: m.namespace.into(),
            uid: m.uid.into(),
            revision: m.revision.parse().unwrap_or(0),
            labels: Labels(labels.collect()),
            deleting: m.deleted.is_some(),
        })
    }

    pub(super) fn of(value: &Value) -> Head {
        let metadata = &value["metadata"];
        let text = |v: &Value| -> Box<str> { v.as_str().unwrap_or_default().into() };
        let mut labels: Vec<(Box<str>, Box<str>)> = metadata["labels"]
            .as_object()
            .map(|m| m.iter().map(|(k, v)| (k.as_str().into(), text(v))).collect())
            .unwrap_or_default();
        labels.sort();
        Head {
            api_version: text(&value["apiVersion"]),
            kind: text(&value["kind"]),
            name: text(&metadata["name"]),
            namespace: text(&metadata["namespace"]),
            uid: text(&metadata["uid"]),
            revision: metadata["resourceVersion"].as_str().and_then(|s| s.parse().ok()).unwrap_or(0),
            labels: Labels(labels.into()),
            deleting: !metadata["deletionTimestamp"].is_null(),
        }
    }
}

/// An object's labels, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.0.get(at).map(|(_, v)| &**v)
    }

    /// All labels by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}
