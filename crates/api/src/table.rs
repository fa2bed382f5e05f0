//! Tables: what `kubectl get` prints.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::jsonpath::JsonPath;
use crate::kinds::{Kind, Version};
use crate::{Object, duration, meta};

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
        Column {
            name: "Name",
            kind: "string",
            format: "name",
            description: "Name of the object",
            priority: 0,
        }
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
    /// Where the cell is, e.g. `.spec.replicas`.
    pub path: JsonPath,
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

/// How a table is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The list's metadata (resourceVersion, continue, ...).
    pub list_meta: Value,
    /// What rows carry.
    pub include: Include,
    /// Are the column heads given? Watch events after the first leave them out.
    pub headers: bool,
    /// The time of the request, for ages.
    pub now: Timestamp,
    /// `v1` or `v1beta1` of meta.k8s.io.
    pub meta_version: String,
}

/// The Table of some objects (storage version), asked for in `version`.
pub fn table(
    kind: &Kind,
    version: &Version,
    items: impl IntoIterator<Item = Arc<Object>>,
    options: &Options,
) -> Value {
    let columns: Vec<Value> = if !options.headers {
        Vec::new()
    } else {
        match &kind.columns {
            Columns::Coded { columns, .. } => columns.iter().map(head).collect(),
            Columns::Default => [Column::name(), CREATED].iter().map(head).collect(),
            Columns::Paths(paths) => std::iter::once(head(&Column::name()))
                .chain(paths.iter().map(|p| {
                    json!({"name": p.name, "type": p.kind, "format": p.format, "description": p.description, "priority": p.priority})
                }))
                .collect(),
        }
    };
    let rows: Vec<Value> = items.into_iter().map(|o| row(kind, version, &o, options)).collect();
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{}", options.meta_version),
        "metadata": options.list_meta,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

const CREATED: Column = Column {
    name: "Created At",
    kind: "date",
    format: "",
    description: "CreationTimestamp is a timestamp representing the server time when this object was created.",
    priority: 0,
};

fn head(c: &Column) -> Value {
    json!({"name": c.name, "type": c.kind, "format": c.format, "description": c.description, "priority": c.priority})
}

fn row(kind: &Kind, version: &Version, object: &Object, options: &Options) -> Value {
    let value = object.value();
    let cells = match &kind.columns {
        Columns::Coded { cells, .. } => cells(value, options.now),
        Columns::Default => vec![json!(object.name()), meta::of(value)["creationTimestamp"].clone()],
        Columns::Paths(paths) => std::iter::once(json!(object.name()))
            .chain(paths.iter().map(|p| path_cell(p, value, options.now)))
            .collect(),
    };
    let mut row = json!({"cells": cells});
    match options.include {
        Include::None => {}
        Include::Metadata => row["object"] = partial_metadata(value, &options.meta_version),
        Include::Object => {
            let mut whole = value.clone();
            if !kind.is_storage(version) {
                kind.from_storage(&mut whole, version);
            }
            row["object"] = whole;
        }
    }
    row
}

fn path_cell(column: &PathColumn, value: &Value, now: Timestamp) -> Value {
    let Some(found) = column.path.find(value).first().copied() else { return Value::Null };
    match (column.kind.as_str(), found) {
        ("integer", Value::Number(n)) => n.as_i64().map_or(Value::Null, Value::from),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => found.clone(),
        ("date", Value::String(s)) => match s.parse() {
            Ok(then) => json!(duration::age(Some(then), now)),
            Err(_) => json!("<invalid>"),
        },
        ("string", Value::String(_)) => found.clone(),
        ("string", other) => json!(other.to_string()),
        _ => Value::Null,
    }
}

/// The PartialObjectMetadata of an object.
pub fn partial_metadata(obj: &Value, meta_version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{meta_version}"),
        "metadata": meta::of(obj),
    })
}

/// The AGE cell of an object.
pub fn age_cell(obj: &Value, now: Timestamp) -> Value {
    json!(duration::age(meta::created(obj), now))
}
