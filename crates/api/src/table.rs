//! Tables: what `kubectl get` prints.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::{Kind, Version};
use crate::{Object, meta};

/// Head of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its title.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, ...
    pub kind: &'static str,
    /// OpenAPI format; `name` marks the name column.
    pub format: &'static str,
    /// What it shows.
    pub description: &'static str,
    /// 0: always shown; more: with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A text column.
    pub const fn text(name: &'static str) -> Column {
        Column { name, kind: "string", format: "", description: "", priority: 0 }
    }

    /// The name column.
    pub const fn name() -> Column {
        Column { name: "Name", kind: "string", format: "name", description: "Name of the object", priority: 0 }
    }

    /// An integer column.
    pub const fn int(name: &'static str) -> Column {
        Column { name, kind: "integer", format: "", description: "", priority: 0 }
    }

    /// Shown with `-o wide` only.
    pub const fn wide(mut self) -> Column {
        self.priority = 1;
        self
    }
}

/// A column of a custom resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathColumn {
    /// Its title.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// OpenAPI format.
    pub format: String,
    /// What it shows.
    pub description: String,
    /// 0: always shown.
    pub priority: i32,
    /// JSONPath of the cell, e.g. `.spec.replicas`.
    pub path: String,
}

/// The columns of a kind.
#[derive(Clone)]
pub enum Columns {
    /// Name and creation time.
    Default,
    /// By code.
    Coded {
        /// Heads.
        columns: &'static [Column],
        /// The cells of an object (storage version) at a time.
        cells: fn(&Value, Timestamp) -> Vec<Value>,
    },
    /// By JSONPath, after the name.
    Paths(Arc<[PathColumn]>),
}

/// What a row carries beside its cells (`includeObject`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Include {
    /// Nothing.
    None,
    /// The metadata.
    #[default]
    Metadata,
    /// The object.
    Object,
}

impl Include {
    /// Of the query parameter.
    pub fn parse(text: &str) -> Option<Include> {
        match text {
            "" | "Metadata" => Some(Include::Metadata),
            "None" => Some(Include::None),
            "Object" => Some(Include::Object),
            _ => None,
        }
    }
}

/// The Table of some objects (storage version), to be sent as meta.k8s.io/`meta_version` (`v1` or `v1beta1`). `list_meta` is the
/// list's metadata (resourceVersion, continue, ...). Column heads are left out where `headers` is false (watch events
/// after the first).
pub fn table(
    kind: &Kind,
    version: &Version,
    items: &[Arc<Object>],
    list_meta: Value,
    include: Include,
    headers: bool,
    now: Timestamp,
    meta_version: &str,
) -> Value {
    let _ = (kind, version, items, include, headers, now);
    json!({"kind": "Table", "apiVersion": format!("meta.k8s.io/{meta_version}"), "metadata": list_meta, "columnDefinitions": [], "rows": []})
}

/// The PartialObjectMetadata of an object.
pub fn partial_metadata(obj: &Value, meta_version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{meta_version}"), "metadata": meta::of(obj)})
}
