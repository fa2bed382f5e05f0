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
    whole(columns, items.into_iter().map(|o| row(kind, version, &o, options)).collect(), options)
}

fn whole(columns: Vec<Value>, rows: Vec<Value>, options: &Options) -> Value {
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

/// The columns of a Scale.
const SCALE: [Column; 4] =
    [Column::text("Name"), Column::int("Desired"), Column::int("Available"), Column::text("Age")];

/// The Table of a Scale, whatever it is of.
pub fn scale_table(scale: &Value, options: &Options) -> Value {
    let replicas = |part: &str| scale[part]["replicas"].as_i64().unwrap_or(0);
    let age = age_cell(scale, options.now);
    let cells = json!([meta::name(scale), replicas("spec"), replicas("status"), age]);
    let mut row = json!({"cells": cells});
    match options.include {
        Include::None => {}
        Include::Metadata => row["object"] = partial_metadata(scale, &options.meta_version),
        Include::Object => row["object"] = scale.clone(),
    }
    let columns = if options.headers { SCALE.iter().map(head).collect() } else { Vec::new() };
    whole(columns, vec![row], options)
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
    if let Some(ended) = ended(kind, value) {
        row["conditions"] = ended;
    }
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

/// What a row says of a pod that has ended: clients may leave it out.
fn ended(kind: &Kind, value: &Value) -> Option<Value> {
    if !kind.group.is_empty() || kind.plural != "pods" {
        return None;
    }
    let (reason, message) = match value["status"]["phase"].as_str()? {
        reason @ "Succeeded" => (reason, "The pod has completed successfully."),
        reason @ "Failed" => (reason, "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::Gvr;

    fn rows(gvr: &Gvr, value: Value) -> Value {
        let kind = kinds::by_gvr(gvr).unwrap();
        let options = Options {
            list_meta: json!({}),
            include: Include::None,
            headers: true,
            now: "2024-01-01T01:00:00Z".parse().unwrap(),
            meta_version: "v1".to_owned(),
        };
        table(kind, kind.storage().unwrap(), [Object::from_value(value)], &options)
    }

    #[test]
    fn each_kind_has_the_columns_that_upstream_prints() {
        for (group, plural, object, heads, cells) in [
            (
                "admissionregistration.k8s.io",
                "validatingadmissionpolicies",
                json!({"spec": {"validations": [{}, {}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}}),
                "Name Validations ParamKind Age",
                json!(["a", 2, "v1/ConfigMap", "60m"]),
            ),
            (
                "admissionregistration.k8s.io",
                "mutatingadmissionpolicies",
                json!({"spec": {"mutations": [{}]}}),
                "Name Mutations ParamKind Age",
                json!(["a", 1, "<unset>", "60m"]),
            ),
            (
                "admissionregistration.k8s.io",
                "validatingadmissionpolicybindings",
                json!({"spec": {"policyName": "p", "paramRef": {"name": "x", "namespace": "n"}}}),
                "Name PolicyName ParamRef Age",
                json!(["a", "p", "n/x", "60m"]),
            ),
            (
                "admissionregistration.k8s.io",
                "mutatingadmissionpolicybindings",
                json!({"spec": {"policyName": "p", "paramRef": {"name": "x"}}}),
                "Name PolicyName ParamRef Age",
                json!(["a", "p", "*/x", "60m"]),
            ),
            (
                "certificates.k8s.io",
                "clustertrustbundles",
                json!({"spec": {"signerName": "example.com/s"}}),
                "Name SignerName",
                json!(["a", "example.com/s"]),
            ),
            (
                "coordination.k8s.io",
                "leasecandidates",
                json!({"spec": {"leaseName": "l", "binaryVersion": "1.36.0", "emulationVersion": "1.35.0"}}),
                "Name LeaseName BinaryVersion EmulationVersion Age",
                json!(["a", "l", "1.36.0", "1.35.0", "60m"]),
            ),
            (
                "storage.k8s.io",
                "csistoragecapacities",
                json!({"storageClassName": "fast", "capacity": "1Gi"}),
                "Name StorageClassName Capacity",
                json!(["a", "fast", "1Gi"]),
            ),
            ("resource.k8s.io", "deviceclasses", json!({}), "Name Age", json!(["a", "60m"])),
            ("resource.k8s.io", "resourceclaimtemplates", json!({}), "Name Age", json!(["a", "60m"])),
            (
                "internal.apiserver.k8s.io",
                "storageversions",
                json!({"status": {"storageVersions": [{"apiServerID": "s", "encodingVersion": "v1"}]}}),
                "Name CommonEncodingVersion StorageVersions Age",
                json!(["a", "<unset>", "s=v1", "60m"]),
            ),
            (
                "discovery.k8s.io",
                "endpointslices",
                json!({"addressType": "IPv4", "ports": [{"name": "web"}, {"port": 80, "name": "b"}, {}]}),
                "Name AddressType Ports Endpoints Age",
                json!(["a", "IPv4", "web,80,*", "<unset>", "60m"]),
            ),
        ] {
            let kind = kinds::all().iter().find(|k| k.group == group && k.plural == plural).unwrap();
            let mut object = object;
            object["metadata"] = json!({"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"});
            let table = rows(&kind.gvr(), object);
            let shown: Vec<&str> = table["columnDefinitions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| c["name"].as_str().unwrap())
                .collect();
            assert_eq!(shown.join(" "), heads, "{plural}");
            assert_eq!(table["rows"][0]["cells"], cells, "{plural}");
        }
    }

    #[test]
    fn a_pod_that_has_ended_says_so_beside_its_cells() {
        for (phase, message) in [
            ("Running", None),
            ("Succeeded", Some("The pod has completed successfully.")),
            ("Failed", Some("The pod failed.")),
        ] {
            let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "status": {"phase": phase}});
            let row = &rows(&crate::names::gvr::PODS, pod)["rows"][0];
            let want = message.map_or(Value::Null, |message| {
                json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}])
            });
            assert_eq!(row["conditions"], want, "{phase}");
        }
    }
}
