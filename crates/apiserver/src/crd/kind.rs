//! The kind that a definition makes: its versions with their schemas, its subresources, columns and rules.

use std::sync::Arc;

use api::jsonpath::JsonPath;
use api::kinds::crd::Structural;
use api::kinds::{Conversion, Subresource, Version, VersionSchema};
use api::meta::text;
use api::table::{Columns, PathColumn};
use api::{Gvk, Kind, Value};
use serde_json::json;

use super::{list, words};

/// The rules of a custom kind.
struct Rules {
    schema: Option<Arc<Structural>>,
    scale: Option<api::kinds::ScalePaths>,
    selectable: Vec<std::borrow::Cow<'static, str>>,
}

impl Rules {
    fn rules(&self, new: &Value, old: Option<&Value>) -> api::ErrorList {
        self.schema.as_ref().map(|s| s.validate_rules(new, old)).unwrap_or_default()
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
        if let Some(schema) = &self.schema {
            schema.fill_in(obj);
        }
    }

    fn validate(&self, obj: &Value) -> api::ErrorList {
        self.schema.as_ref().map(|s| s.validate(obj)).unwrap_or_default()
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> api::ErrorList {
        self.schema.as_ref().map(|s| s.validate_change(new, old)).unwrap_or_default()
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
        let mut errors = self.validate_changed(new, old);
        errors.append(self.rules(new, Some(old)));
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

/// The kind that a definition makes, as it is stored.
pub(super) fn kind_of(crd: &Value) -> Option<Kind> {
    let storage = list(crd, "/spec/versions").find(|v| v.get("storage") == Some(&json!(true)))?;
    kind_in(crd, text(storage, "/name"), &schemas(crd))
}

/// The compiled schemas of all versions, in their order.
pub(super) fn schemas(crd: &Value) -> Vec<VersionSchema> {
    list(crd, "/spec/versions").map(|version| schema_of(crd, version)).collect()
}

/// The kind that a definition makes, as if `version` were the one in which it is stored.
pub(super) fn kind_in(crd: &Value, version: &str, schemas: &[VersionSchema]) -> Option<Kind> {
    let group = text(crd, "/spec/group").to_owned();
    let names = crd.pointer("/spec/names")?;
    let plural = text(names, "/plural").to_owned();
    let at = list(crd, "/spec/versions").find(|v| text(v, "/name") == version)?;
    let versions: Vec<Version> = list(crd, "/spec/versions")
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
                "" => format!("{group}/{name} {} is deprecated", text(names, "/kind")),
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
    let columns = list(at, "/additionalPrinterColumns").map(|c| {
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
    let selectable = list(at, "/selectableFields")
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

fn schema_of(crd: &Value, version: &Value) -> VersionSchema {
    let Some(schema) = version.pointer("/schema/openAPIV3Schema") else { return VersionSchema::Any };
    let path = api::Path::new("spec").child("versions").key(text(version, "/name"));
    match Structural::compile(schema, &path.child("schema").child("openAPIV3Schema")) {
        Ok(compiled) => VersionSchema::Structural(Arc::new(compiled)),
        // Refused when the definition is written; one that got past that is served as it is.
        Err(errors) => {
            tracing::warn!(
                definition = api::meta::name(crd),
                error = errors.message(),
                "the schema cannot be used: until it is mended, objects are neither pruned, defaulted nor validated by it"
            );
            VersionSchema::Any
        }
    }
}
