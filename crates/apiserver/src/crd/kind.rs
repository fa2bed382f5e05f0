//! The kind that a definition makes: its versions with their schemas, its subresources, columns and rules.

use std::sync::Arc;

use api::jsonpath::JsonPath;
use api::kinds::crd::{Structural, VersionedSchema};
use api::kinds::{Conversion, Subresource, Version, VersionSchema, version_rank};
use api::meta::{items, text};
use api::table::{Columns, PathColumn};
use api::{Gvk, Kind, Value};
use bytes::Bytes;
use serde_json::json;

use super::words;

/// The rules of a custom kind.
struct Rules {
    schema: Option<Arc<VersionedSchema>>,
    scale: Option<api::kinds::ScalePaths>,
    selectable: Vec<std::borrow::Cow<'static, str>>,
}

impl Rules {
    fn schema(&self) -> Option<&Structural> {
        self.schema.as_deref().map(VersionedSchema::compiled)
    }

    /// What the rules say, of what the schema takes.
    fn rules(&self, new: &Value, old: Option<&Value>) -> api::ErrorList {
        let Some(schema) = self.schema().filter(|s| s.has_rules()) else {
            return api::ErrorList::new();
        };
        let faults = old.map_or_else(|| schema.validate(new), |old| schema.validate_change(new, old));
        schema.validate_rules(new, old, &faults)
    }

    /// What is wrong with the numbers that `scale` shows: of the status, and of the `spec`, too.
    fn scaled(&self, obj: &Value, spec: bool) -> api::ErrorList {
        let mut errors = api::ErrorList::new();
        let Some(paths) = &self.scale else { return errors };
        for path in spec.then_some(&paths.spec_replicas).into_iter().chain([&paths.status_replicas]) {
            let Some(value) = path.split('.').try_fold(obj, |value, part| value.get(part)) else { continue };
            let why = match value.as_i64() {
                None => "accessor error: it is no integer".to_owned(),
                Some(n) if n < 0 => "should be a non-negative integer".to_owned(),
                Some(n) if i32::try_from(n).is_err() => {
                    format!("should be less than or equal to {}", i32::MAX)
                }
                Some(_) => continue,
            };
            errors.invalid(&api::Path::new(&format!(".{path}")), value, why);
        }
        errors
    }
}

impl api::Strategy for Rules {
    fn default(&self, obj: &mut Value) {
        if let Some(schema) = self.schema() {
            schema.fill_in(obj);
        }
    }

    fn validate(&self, obj: &Value) -> api::ErrorList {
        self.schema().map(|s| s.validate(obj)).unwrap_or_default()
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> api::ErrorList {
        self.schema().map(|s| s.validate_change(new, old)).unwrap_or_default()
    }

    fn validate_create(&self, obj: &Value) -> api::ErrorList {
        let mut errors = self.rules(obj, None);
        errors.append(self.scaled(obj, true));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> api::ErrorList {
        let mut errors = self.rules(new, Some(old));
        errors.append(self.scaled(new, true));
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> api::ErrorList {
        let mut errors = api::ErrorList::new();
        if let Some(schema) = self.schema() {
            errors = schema.validate_status(new, old);
            let told = schema.validate_rules(new, Some(old), &errors);
            errors.append(told);
        }
        errors.append(self.scaled(new, false));
        errors
    }

    fn scale_paths(&self) -> Option<api::kinds::ScalePaths> {
        self.scale.clone()
    }

    fn selectable_fields(&self) -> &[std::borrow::Cow<'static, str>] {
        &self.selectable
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The kind that a definition makes, as it is stored. `definition`: the same as JSON.
pub(super) fn kind_of(crd: &Value, definition: &Bytes) -> Option<Kind> {
    let storage = items(crd, "/spec/versions").find(|v| v.get("storage") == Some(&json!(true)))?;
    kind_in(crd, text(storage, "/name"), &schemas(crd, definition))
}

/// The schemas of all versions, in their order.
pub(super) fn schemas(crd: &Value, definition: &Bytes) -> Vec<VersionSchema> {
    items(crd, "/spec/versions").map(|version| schema_of(version, definition)).collect()
}

/// The kind that a definition makes, as if `version` were the one in which it is stored.
pub(super) fn kind_in(crd: &Value, version: &str, schemas: &[VersionSchema]) -> Option<Kind> {
    let group = text(crd, "/spec/group").to_owned();
    // Once it is established it is called what it was given, whatever it would like to be called now.
    let given = |names: &&Value| !text(names, "/plural").is_empty() && !text(names, "/kind").is_empty();
    let names = crd.pointer("/status/acceptedNames").filter(given).or(crd.pointer("/spec/names"))?;
    let plural = text(names, "/plural").to_owned();
    let at = items(crd, "/spec/versions").find(|v| text(v, "/name") == version)?;
    let versions: Vec<Version> = items(crd, "/spec/versions")
        .zip(schemas)
        .map(|(v, schema)| {
            let name = text(v, "/name").to_owned();
            let mut subresources = Vec::new();
            if v.pointer("/subresources/status").is_some() {
                subresources.push(Subresource {
                    name: "status".into(),
                    gvk: Gvk::owned(group.clone(), name.clone(), text(names, "/kind")),
                    verbs: vec!["get", "patch", "update"],
                });
            }
            if v.pointer("/subresources/scale").is_some() {
                subresources.push(Subresource {
                    name: "scale".into(),
                    gvk: Gvk::new("autoscaling", "v1", "Scale"),
                    verbs: vec!["get", "patch", "update"],
                });
            }
            let deprecated = v.get("deprecated") == Some(&json!(true));
            let warning = match text(v, "/deprecationWarning") {
                "" => outdated(crd, &name),
                given => given.to_owned(),
            };
            Version {
                group: group.clone(),
                version: name,
                served: v.get("served") == Some(&json!(true)),
                schema: schema.clone(),
                verbs: VERBS.to_vec(),
                subresources,
                conversion: Conversion::Identity,
                deprecation: deprecated.then_some(warning),
            }
        })
        .collect();
    let schema = match versions.iter().find(|v| v.version == version).map(|v| &v.schema) {
        Some(VersionSchema::Structural(s)) => Some(s.clone()),
        _ => None,
    };
    let columns = items(at, "/additionalPrinterColumns").map(|c| {
        Ok(PathColumn {
            name: text(c, "/name").to_owned(),
            kind: text(c, "/type").to_owned(),
            format: text(c, "/format").to_owned(),
            description: text(c, "/description").to_owned(),
            priority: c
                .get("priority")
                .and_then(Value::as_i64)
                .and_then(|p| i32::try_from(p).ok())
                .unwrap_or(0),
            path: JsonPath::parse(text(c, "/jsonPath"))?,
        })
    });
    // As upstream has it, one path that cannot be read costs all of the columns.
    let columns = columns.collect::<api::Result<Vec<PathColumn>>>();
    let mut columns = columns.unwrap_or_else(|error| {
        tracing::warn!(definition = text(crd, "/metadata/name"), %error, "printer columns are left out");
        Vec::new()
    });
    if columns.is_empty() {
        columns.extend(JsonPath::parse(".metadata.creationTimestamp").map(|path| PathColumn {
            name: "Age".into(),
            kind: "date".into(),
            format: String::new(),
            description: "When the object was created.".into(),
            priority: 0,
            path,
        }));
    }
    let scale = at.pointer("/subresources/scale").map(|s| {
        let path = |f: &str| text(s, f).trim_start_matches('.').to_owned();
        let selector = path("/labelSelectorPath");
        api::kinds::ScalePaths {
            spec_replicas: path("/specReplicasPath").into(),
            status_replicas: path("/statusReplicasPath").into(),
            selector: (!selector.is_empty()).then(|| selector.into()),
        }
    });
    let selectable = items(at, "/selectableFields")
        .map(|f| text(f, "/jsonPath").trim_start_matches('.').to_owned().into())
        .collect();
    let singular = match text(names, "/singular") {
        "" => text(names, "/kind").to_lowercase(),
        s => s.to_owned(),
    };
    let list_kind = match text(names, "/listKind") {
        "" => format!("{}List", text(names, "/kind")),
        s => s.to_owned(),
    };
    Some(Kind {
        group,
        version: version.to_owned(),
        kind: text(names, "/kind").to_owned(),
        list_kind,
        plural,
        singular,
        short_names: words(names, "/shortNames"),
        categories: words(names, "/categories"),
        namespaced: text(crd, "/spec/scope") == "Namespaced",
        versions,
        columns: Columns::Paths(columns.into()),
        strategy: Arc::new(Rules { schema, scale, selectable }),
        custom: true,
        template: None,
        answers_deleted: false,
    })
}

/// The warning that a version is deprecated, and which is to be used instead.
fn outdated(crd: &Value, version: &str) -> String {
    let named =
        |version: &str| format!("{}/{version} {}", text(crd, "/spec/group"), text(crd, "/spec/names/kind"));
    let newer = items(crd, "/spec/versions")
        .filter(|v| v.get("served") == Some(&json!(true)) && v.get("deprecated") != Some(&json!(true)))
        .map(|v| text(v, "/name"))
        .filter(|v| version_rank(v) > version_rank(version))
        .max_by_key(|v| version_rank(v));
    let instead = newer.map(|v| format!("; use {}", named(v))).unwrap_or_default();
    format!("{} is deprecated{instead}", named(version))
}

fn schema_of(version: &Value, definition: &Bytes) -> VersionSchema {
    if version.pointer("/schema/openAPIV3Schema").is_none() {
        return VersionSchema::Any;
    }
    // Refused when the definition is written; what got past that is done without.
    let told: fn(&api::ErrorList) = |errors| {
        tracing::warn!(
            error = errors.message(),
            "parts of a definition's schema cannot be used: objects are not validated by these"
        );
    };
    let schema = VersionedSchema::new(definition.clone(), text(version, "/name"), told);
    VersionSchema::Structural(Arc::new(schema))
}
