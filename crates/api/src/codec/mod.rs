//! Wire formats: JSON (strict and lenient), YAML, Kubernetes protobuf.

mod check;
pub mod json;
pub mod protobuf;
pub(crate) mod wire;
pub mod yaml;

use serde_json::Value;

use crate::Status;
use crate::kinds::{Kind, Version};
use crate::schema::Schema;

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaType {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl MediaType {
    /// Of a Content-Type header (parameters are ignored); an absent one means JSON.
    pub fn of(content_type: &str) -> Option<MediaType> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            "" | "application/json" => Some(MediaType::Json),
            "application/yaml" | "text/yaml" | "application/x-yaml" => Some(MediaType::Yaml),
            "application/vnd.kubernetes.protobuf" => Some(MediaType::Protobuf),
            _ => None,
        }
    }

    /// The media type's name.
    pub fn as_str(self) -> &'static str {
        match self {
            MediaType::Json => "application/json",
            MediaType::Yaml => "application/yaml",
            MediaType::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// `fieldValidation` of a write: what happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, with a warning.
    #[default]
    Warn,
    /// They are an error.
    Strict,
}

impl FieldValidation {
    /// Of the query parameter; empty means the default, Warn.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Ignore" => Some(FieldValidation::Ignore),
            "Strict" => Some(FieldValidation::Strict),
            _ => None,
        }
    }

    /// The query parameter's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldValidation::Ignore => "Ignore",
            FieldValidation::Warn => "Warn",
            FieldValidation::Strict => "Strict",
        }
    }

    /// What is to be warned of, of fields that should not be there, or why they are refused.
    pub fn judge(self, problems: Vec<String>) -> Result<Vec<String>, String> {
        match self {
            FieldValidation::Strict if !problems.is_empty() => {
                Err(format!("strict decoding error: {}", problems.join(", ")))
            }
            FieldValidation::Warn => Ok(problems),
            _ => Ok(Vec::new()),
        }
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The object; unknown fields are gone, `apiVersion` and `kind` are set.
    pub value: Value,
    /// What is to be sent in Warning headers.
    pub warnings: Vec<String>,
}

/// Decodes the body of a write of `kind` in `version`. The object's own `apiVersion` and `kind`, if given, must be
/// those. Objects whose type carries no data beyond the schema lose fields that the schema lacks.
pub fn decode(
    bytes: &[u8],
    media: MediaType,
    kind: &Kind,
    version: &Version,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    decode_as(bytes, media, &version.api_version(), &kind.kind, version.schema(), validation)
}

/// As [`decode`], of any type: a subresource's (`Scale`, `Binding`, `Eviction`) or `DeleteOptions`.
pub fn decode_as(
    bytes: &[u8],
    media: MediaType,
    api_version: &str,
    kind: &str,
    schema: Schema<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    let (value, duplicates) = match media {
        MediaType::Json => json::parse(bytes).map_err(|why| unreadable(api_version, kind, &why))?,
        MediaType::Yaml => yaml::parse(bytes)?,
        MediaType::Protobuf => (protobuf::decode(bytes, schema)?, Vec::new()),
    };
    let problems = duplicates.iter().map(|f| duplicate(f)).collect();
    finish(value, problems, api_version, kind, schema, validation, check::fit)
        .map_err(|unfit| unfit.status(api_version, kind))
}

/// Checks a value that is already decoded against the schema, as [`decode`] does.
pub fn check(
    value: Value,
    api_version: &str,
    kind: &str,
    schema: Schema<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    finish(value, Vec::new(), api_version, kind, schema, validation, check::fit)
        .map_err(|unfit| unfit.status(api_version, kind))
}

/// As [`check`], of the result of a patch in which there are these problems already. An error says why alone.
pub fn check_patched(
    value: Value,
    problems: Vec<String>,
    api_version: &str,
    kind: &str,
    schema: Schema<'_>,
    validation: FieldValidation,
) -> Result<Decoded, String> {
    finish(value, problems, api_version, kind, schema, validation, check::fit).map_err(Unfit::why)
}

/// As [`check`], of a configuration to apply: its zero values stay, because they are somebody's. What the object becomes has
/// to be [`prune`]d.
pub fn check_applied(
    value: Value,
    api_version: &str,
    kind: &str,
    schema: Schema<'_>,
    validation: FieldValidation,
) -> Result<Decoded, Status> {
    finish(value, Vec::new(), api_version, kind, schema, validation, check::fit_applied)
        .map_err(|unfit| unfit.status(api_version, kind))
}

/// Takes out of a value what the schema does not have, and says what the first of that was, as paths; and what says nothing,
/// without a word.
pub fn prune(value: &mut Value, schema: Schema<'_>) -> Vec<String> {
    // `apiVersion` and `kind` are fields of every schema; what is of a wrong type is for validation to refuse.
    let mut unknown = Vec::new();
    let _ = check::fit_stored(value, schema, &mut unknown);
    unknown
}

/// As [`prune`], of everything that goes.
pub(crate) fn unsaid(value: &mut Value, schema: Schema<'_>) -> Vec<String> {
    check::unsaid(value, schema)
}

/// As [`prune`]; says whether every value is of the type that the schema wants.
pub(crate) fn fits(value: &mut Value, schema: Schema<'_>) -> bool {
    check::fit(value, schema, &mut Vec::new()).is_ok()
}

/// The texts that upstream's request decoder answers with.
fn unreadable(api_version: &str, kind: &str, why: &str) -> Status {
    let (_, version) = crate::names::split_api_version(api_version);
    Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
}

type Fit = fn(&mut Value, Schema<'_>, &mut Vec<String>) -> Result<(), String>;

/// Why a value is not of a type.
enum Unfit {
    /// It says itself that it is of another one.
    Other(String),
    /// It cannot be.
    Unreadable(String),
}

impl Unfit {
    fn why(self) -> String {
        let (Unfit::Other(why) | Unfit::Unreadable(why)) = self;
        why
    }

    fn status(self, api_version: &str, kind: &str) -> Status {
        match self {
            Unfit::Other(why) => Status::bad_request(why),
            Unfit::Unreadable(why) => unreadable(api_version, kind, &why),
        }
    }
}

fn finish(
    mut value: Value,
    mut problems: Vec<String>,
    api_version: &str,
    kind: &str,
    schema: Schema<'_>,
    validation: FieldValidation,
    fit: Fit,
) -> Result<Decoded, Unfit> {
    let Value::Object(map) = &mut value else {
        let what = match value {
            Value::Array(_) => "array",
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "bool",
            _ => "null",
        };
        return Err(Unfit::Unreadable(format!("json: cannot unmarshal {what} into Go value of type {kind}")));
    };
    // Options objects are the same in every group and version; but that it is such an object is not to be doubted.
    let options = kind.ends_with("Options");
    for (field, want, what) in [("apiVersion", api_version, "API version"), ("kind", kind, "kind")] {
        match map.get(field) {
            Some(Value::String(is)) if is == want || is.is_empty() || options && field == "apiVersion" => {}
            None | Some(Value::Null) => {}
            Some(Value::String(is)) => {
                return Err(Unfit::Other(format!(
                    "the {what} in the data ({is}) does not match the expected {what} ({want})"
                )));
            }
            Some(_) => {
                return Err(Unfit::Unreadable(format!(
                    "json: cannot unmarshal non-string into Go struct field {kind}.{field} of type string"
                )));
            }
        }
    }
    let mut unknown = Vec::new();
    fit(&mut value, schema, &mut unknown).map_err(Unfit::Unreadable)?;
    let map = crate::meta::as_map(&mut value);
    map.insert("apiVersion".to_owned(), Value::String(api_version.to_owned()));
    map.insert("kind".to_owned(), Value::String(kind.to_owned()));
    problems.extend(unknown.iter().map(|f| format!("unknown field \"{f}\"")));
    problems.truncate(json::MAX_PROBLEMS);
    let warnings = validation.judge(problems).map_err(Unfit::Unreadable)?;
    Ok(Decoded { value, warnings })
}

/// What is said of a field that occurs twice.
pub fn duplicate(field: &str) -> String {
    format!("duplicate field \"{field}\"")
}

/// Encodes a value. Protobuf needs the schema; where it has no protobuf form the answer is a 406.
pub fn encode(value: &Value, media: MediaType, schema: Schema<'_>) -> Result<Vec<u8>, Status> {
    match media {
        MediaType::Json => Ok(crate::object::encode(value)),
        MediaType::Yaml => yaml::encode(value),
        MediaType::Protobuf => protobuf::encode(value, schema),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;
    use serde_json::json;

    fn pod(body: Value, validation: FieldValidation) -> Result<Decoded, Status> {
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        decode(&crate::object::encode(&body), MediaType::Json, kind, kind.storage().unwrap(), validation)
    }

    #[test]
    fn options_are_of_any_version_but_of_their_kind() {
        let read = |body: &[u8]| {
            decode_as(body, MediaType::Json, "v1", "DeleteOptions", Schema::Any, FieldValidation::Ignore)
        };
        for body in
            [r#"{}"#, r#"{"kind":"","apiVersion":""}"#, r#"{"kind":"DeleteOptions","apiVersion":"apps/v1"}"#]
        {
            assert_eq!(read(body.as_bytes()).unwrap().value["kind"], "DeleteOptions", "{body}");
        }
        assert_eq!(read(br#"{"kind":"Pod","apiVersion":"v1"}"#).unwrap_err().code, 400);
    }

    #[test]
    fn what_go_leaves_out_is_not_there() {
        let spec = json!({
            "hostNetwork": false, "hostPID": false, "nodeSelector": {}, "tolerations": [], "nodeName": "",
            "hostUsers": false, "terminationGracePeriodSeconds": 0, "shareProcessNamespace": false,
            "securityContext": {"runAsUser": 0, "supplementalGroups": []},
            "containers": [{"name": "", "image": "", "stdin": false, "env": [], "ports": [{"containerPort": 0, "hostPort": 0}],
                "resources": {"limits": {}}, "securityContext": {"privileged": false},
                "livenessProbe": {"initialDelaySeconds": 0, "terminationGracePeriodSeconds": 0}}],
            "volumes": [{"name": "a", "emptyDir": {"medium": ""}}, {"name": "b", "projected": {"sources": []}}]
        });
        let body = json!({"metadata": {"name": "a", "labels": {}, "annotations": {"a": ""}}, "spec": spec});
        let want = json!({
            "hostUsers": false, "terminationGracePeriodSeconds": 0, "shareProcessNamespace": false,
            "securityContext": {"runAsUser": 0},
            "containers": [{"name": "", "ports": [{"containerPort": 0}],
                "resources": {}, "securityContext": {"privileged": false},
                "livenessProbe": {"terminationGracePeriodSeconds": 0}}],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "projected": {"sources": []}}]
        });
        let decoded = pod(body.clone(), FieldValidation::Strict).unwrap();
        assert_eq!(decoded.warnings.len(), 0);
        assert_eq!(decoded.value["spec"], want);
        assert_eq!(decoded.value["metadata"], json!({"name": "a", "annotations": {"a": ""}}));
        // What Go sends by protobuf has a number for every field.
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        let version = kind.storage().unwrap();
        let sent = encode(&body, MediaType::Protobuf, version.schema()).unwrap();
        let decoded = decode(&sent, MediaType::Protobuf, kind, version, FieldValidation::Strict).unwrap();
        assert_eq!(decoded.value["spec"]["hostUsers"], false);
        assert_eq!(decoded.value["spec"]["hostNetwork"], Value::Null);
        assert_eq!(decoded.value["spec"]["containers"][0]["stdin"], Value::Null);
        // Whoever applies owns what is said.
        let applied = check_applied(body, "v1", "Pod", version.schema(), FieldValidation::Strict).unwrap();
        assert_eq!(applied.value["spec"]["hostNetwork"], false);
    }

    #[test]
    fn unknown_and_duplicate_fields() {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containerz": [], "containers": [{"imag": "a"}]}});
        let text = pod(body.clone(), FieldValidation::Strict).unwrap_err().message;
        assert_eq!(
            text,
            "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \"spec.containerz\", \
             unknown field \"spec.containers[0].imag\""
        );
        let loose = pod(body, FieldValidation::Warn).unwrap();
        assert_eq!(loose.warnings.len(), 2);
        assert_eq!(loose.value["spec"], json!({"containers": [{}]}));
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        let body = br#"{"metadata":{"name":"a","name":"b"}}"#;
        let version = kind.storage().unwrap();
        let text = decode(body, MediaType::Json, kind, version, FieldValidation::Strict).unwrap_err().message;
        assert!(text.ends_with("strict decoding error: duplicate field \"metadata.name\""), "{text}");
        let yaml =
            b"metadata: {name: a}\nspec: {terminationGracePeriodSeconds: 5, nodeSelector: {a: 'true'}}\n";
        let decoded = decode(yaml, MediaType::Yaml, kind, version, FieldValidation::Strict).unwrap();
        assert_eq!(
            decoded.value["spec"],
            json!({"terminationGracePeriodSeconds": 5, "nodeSelector": {"a": "true"}})
        );
    }

    #[test]
    fn line_breaks_in_base64_are_passed_over() {
        let kind = kinds::by_gvr(&gvr::SECRETS).unwrap();
        let secret = |data: &str| {
            let body = crate::object::encode(&json!({"metadata": {"name": "a"}, "data": {"key": data}}));
            decode(&body, MediaType::Json, kind, kind.storage().unwrap(), FieldValidation::Strict)
        };
        assert_eq!(secret("aGVs\r\nbG8=\n").unwrap().value["data"]["key"], "aGVsbG8=");
        assert!(secret("aGVs bG8=").unwrap_err().message.contains("illegal base64 data at input byte 4"));
    }

    #[test]
    fn any_number_of_fields_too_much_takes_no_longer_than_it_must() {
        let many: crate::Map = (0..200_000).map(|i| (format!("x{i}"), json!(null))).collect();
        let decoded = pod(json!({"metadata": {"name": "a"}, "spec": many}), FieldValidation::Warn).unwrap();
        assert_eq!((decoded.value["spec"].clone(), decoded.warnings.len()), (json!({}), json::MAX_PROBLEMS));
        // Below a long name each of them has a long path.
        let many: crate::Map = (0..200_000).map(|i| (format!("x{i}"), json!(null))).collect();
        let schema = json!({"properties": {"n".repeat(1 << 20): many}});
        let kind = kinds::by_gvr(&gvr::CUSTOM_RESOURCE_DEFINITIONS).unwrap();
        let body = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]}});
        let body = crate::object::encode(&body);
        let version = kind.storage().unwrap();
        let decoded = decode(&body, MediaType::Json, kind, version, FieldValidation::Warn).unwrap();
        assert_eq!(decoded.warnings.len(), 1, "of so long a path one is told");
    }

    #[test]
    fn types_are_checked_in_go_s_words() {
        for (spec, want) in [
            (
                json!({"containers": "x"}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"containers": [{"ports": [{"containerPort": "80"}]}]}),
                "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
            ),
            (
                json!({"nodeSelector": {"a": 1}}),
                "json: cannot unmarshal number into Go struct field PodSpec.spec.nodeSelector.a of type string",
            ),
            (
                json!({"overhead": {"cpu": "1x"}}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
        ] {
            let text = pod(json!({"spec": spec}), FieldValidation::Strict).unwrap_err().message;
            assert_eq!(text, format!("Pod in version \"v1\" cannot be handled as a Pod: {want}"));
        }
        assert!(pod(json!([]), FieldValidation::Warn).is_err());
        assert!(pod(json!({"kind": "Service"}), FieldValidation::Warn).is_err());
    }

    #[test]
    fn values_take_their_canonical_form() {
        let body = json!({"metadata": {"creationTimestamp": null, "deletionTimestamp": "2020-01-01T01:00:00+01:00"},
            "spec": {"overhead": {"cpu": 0.5, "memory": "1024Mi"}, "nodeSelector": {"a": null}}});
        let value = pod(body, FieldValidation::Strict).unwrap().value;
        assert_eq!(value["metadata"], json!({"deletionTimestamp": "2020-01-01T00:00:00Z"}));
        assert_eq!(
            value["spec"],
            json!({"overhead": {"cpu": "500m", "memory": "1Gi"}, "nodeSelector": {"a": ""}})
        );
        assert_eq!((value["kind"].as_str(), value["apiVersion"].as_str()), (Some("Pod"), Some("v1")));
    }
}
