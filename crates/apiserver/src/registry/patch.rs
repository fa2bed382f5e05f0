//! PATCH: JSON patch, merge patch, strategic merge patch, server-side apply.

use std::sync::Arc;

use api::codec::duplicate;
use api::kinds::Version;
use api::patch::Writer;
use api::patch::apply::apply;
use api::schema::{Schema, TypeId};
use api::{Gvk, Kind, Object, Status, Value};
use async_trait::async_trait;

use super::update::{Change, check_name};
use super::versions::Views;
use super::{Context, Modify, value_in};
use crate::ApiServer;
use crate::conversion::Converter;
use crate::query::WriteOptions;

/// The most operations a JSON patch may have, as upstream.
const MAX_OPERATIONS: usize = 10_000;

/// A decoded patch.
#[derive(Debug, Clone)]
pub enum PatchBody {
    /// RFC 6902
    Json(Value),
    /// RFC 7386
    Merge(Value),
    /// By the schema's merge keys.
    Strategic(Value),
    /// Server-side apply.
    Apply(Value),
}

const MEDIA_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

impl PatchBody {
    /// Decodes a patch by its media type. The second part of the answer is what [`api::codec::FieldValidation::judge`] is to judge: fields
    /// of the patch that occur twice.
    pub fn parse(content_type: &str, body: &[u8], custom: bool) -> Result<(Self, Vec<String>), Status> {
        let told = |duplicates: Vec<String>, prefix: &str| {
            duplicates.iter().map(|f| format!("{prefix}{}", duplicate(f))).collect()
        };
        let json = |of: fn(Value) -> Self, prefix: &str| {
            let (patch, duplicates) = api::codec::json::parse(body)
                .map_err(|why| Status::bad_request(format!("error decoding patch: {why}")))?;
            Ok((of(patch), told(duplicates, prefix)))
        };
        match content_type.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => {
                let (patch, problems) = json(Self::Json, "json patch ")?;
                match &patch {
                    Self::Json(Value::Array(ops)) if ops.len() > MAX_OPERATIONS => {
                        Err(Status::too_large(format!(
                            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                            ops.len()
                        )))
                    }
                    _ => Ok((patch, problems)),
                }
            }
            "application/merge-patch+json" => match json(Self::Merge, "")? {
                (Self::Merge(patch), _) if !patch.is_object() => Err(Status::bad_request(
                    "error decoding patch: a merge patch of an object must be an object itself",
                )),
                patch => Ok(patch),
            },
            "application/strategic-merge-patch+json" if !custom => json(Self::Strategic, ""),
            "application/apply-patch+yaml" => {
                let (config, duplicates) = api::codec::yaml::parse(body)?;
                Ok((Self::Apply(config), told(duplicates, "")))
            }
            _ => {
                let known = MEDIA_TYPES.into_iter().filter(|m| !custom || !m.contains("strategic"));
                Err(Status::unsupported_media_type(&known.collect::<Vec<_>>()))
            }
        }
    }

    /// What a patch makes of an object is none, for this reason. Upstream's form of it lets `kubectl edit` offer the editor again.
    fn unfit(&self, why: String) -> Status {
        let shown = match self {
            Self::Strategic(patch) => go(patch),
            Self::Json(patch) | Self::Merge(patch) | Self::Apply(patch) => patch.to_string(),
        };
        let mut errors = api::ErrorList::new();
        errors.invalid_str(&api::Path::new("patch"), &shown, why);
        Status::invalid(&api::Gvk::new("", "", ""), "", &errors)
    }

    /// Applies the patch to an object or subresource; not for server-side apply.
    fn onto(&self, target: &Value, schema: Schema<'_>) -> Result<Value, Status> {
        match self {
            Self::Json(patch) => api::patch::json_patch(target, patch),
            Self::Merge(patch) => {
                let mut out = target.clone();
                api::patch::merge_patch(&mut out, patch);
                Ok(out)
            }
            Self::Strategic(patch) => api::patch::strategic_merge(target, patch, schema),
            Self::Apply(_) => Err(Status::bad_request("server-side apply is not possible here")),
        }
    }
}

/// A value as Go prints it.
fn go(value: &Value) -> String {
    let all = |items: Vec<String>| items.join(" ");
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(s) => s.clone(),
        Value::Array(list) => format!("[{}]", all(list.iter().map(go).collect())),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            format!("map[{}]", all(entries.into_iter().map(|(k, v)| format!("{k}:{}", go(v))).collect()))
        }
        scalar => scalar.to_string(),
    }
}

/// A configuration that is applied.
struct Applied<'a> {
    kind: &'a Kind,
    /// That of the request, and of the configuration.
    version: &'a Version,
    converter: Option<&'a Converter>,
    config: &'a Value,
    /// The resourceVersion that the object must have, if that is not empty.
    wanted: &'a str,
    writer: Writer<'a>,
    force: bool,
}

impl Applied<'_> {
    /// The object with the configuration applied, in the version of the request.
    async fn made(&self, live: Option<&Value>) -> Result<Value, Status> {
        let mut views = Views::new(self.kind, self.converter);
        let step = |views: &Views<'_>| apply(live, self.config, views, self.writer, self.force);
        let mut made = views.settle(step).await?;
        api::codec::prune(&mut made, self.version.schema());
        Ok(made)
    }
}

#[async_trait]
impl Change for Applied<'_> {
    async fn make(&mut self, old: &Arc<Object>) -> Result<Value, Status> {
        let gvr = self.version.gvr(self.kind);
        if !self.wanted.is_empty() && self.wanted != old.revision().to_string() {
            return Err(Status::modified(&gvr, old.name()));
        }
        let mut new = if self.kind.custom || self.kind.is_storage(self.version) {
            self.made(Some(old.value())).await?
        } else {
            let mut new = self.made(Some(&value_in(self.kind, self.version, old))).await?;
            self.kind.to_storage(&mut new)?;
            self.kind.keep_unsaid(self.version, old.value(), &mut new);
            new
        };
        self.kind.default(&mut new);
        Ok(new)
    }
}

impl ApiServer {
    /// Patches the object the path names, through `subresource` if that is not empty, by a patch in which there are these
    /// `problems`. Says whether it was created.
    pub async fn patch(
        &self,
        cx: &mut Context,
        (patch, problems): (PatchBody, Vec<String>),
        subresource: &str,
        options: &WriteOptions,
    ) -> Result<(Arc<Object>, bool), Status> {
        options.check_patch(matches!(patch, PatchBody::Apply(_)))?;
        if let PatchBody::Apply(config) = patch {
            let warnings = options.validation.judge(problems);
            let strict = |why| Status::bad_request(format!("error strict decoding patch: {why}"));
            cx.warnings.extend(warnings.map_err(strict)?);
            return self.apply(cx, config, subresource, options).await;
        }
        let kind = cx.kind.clone();
        let at = cx.version;
        let name = cx.info.name.clone();
        let gvr = cx.gvr();
        let mut warnings = Vec::new();
        let mut change = |old: &Arc<Object>| {
            let version = &kind.versions[at];
            let base = value_in(&kind, version, old);
            let patched = patch.onto(&base, version.schema())?;
            let decoded = api::codec::check_patched(
                patched,
                problems.clone(),
                &version.api_version(),
                &kind.kind,
                version.schema(),
                options.validation,
            )
            .map_err(|why| patch.unfit(why))?;
            warnings = decoded.warnings;
            let mut new = decoded.value;
            check_identity(&new, old, &gvr)?;
            kind.to_storage(&mut new)?;
            kind.keep_unsaid(version, old.value(), &mut new);
            kind.default(&mut new);
            Ok(new)
        };
        let modify = Modify { name: &name, subresource, options, applied: false, checked: true };
        let object = self.modify(cx, &modify, &mut change).await?;
        cx.warnings.append(&mut warnings);
        Ok((object, false))
    }

    async fn apply(
        &self,
        cx: &mut Context,
        config: Value,
        subresource: &str,
        options: &WriteOptions,
    ) -> Result<(Arc<Object>, bool), Status> {
        let kind = cx.kind.clone();
        let version = &kind.versions[cx.version];
        let api_version = version.api_version();
        check_type(&config, &api_version, &kind.kind)?;
        let schema = version.schema();
        api::patch::apply::check(&config, schema)?;
        let decoded =
            api::codec::check_applied(config, &api_version, &kind.kind, schema, options.validation)?;
        let mut config = decoded.value;
        cx.warnings.extend(decoded.warnings);
        let name = cx.info.name.clone();
        // What there is has a name, whether or not the configuration says it.
        if !api::meta::name(&config).is_empty() {
            check_name(&config, &name)?;
        }
        if !api::meta::of(&config).get("managedFields").is_none_or(Value::is_null) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        self.check_namespace(cx, &mut config)?;
        let wanted = api::meta::resource_version(&config).to_owned();
        let writer = Writer {
            manager: &options.manager,
            now: base::clock::now(),
            subresource,
            api_version: &api_version,
            has_status: version.subresource("status").is_some(),
        };
        let converter = cx.converter.clone();
        let mut change = Applied {
            kind: &kind,
            version,
            converter: converter.as_deref(),
            config: &config,
            wanted: &wanted,
            writer,
            force: options.force == Some(true),
        };
        let modify = Modify { name: &name, subresource, options, applied: true, checked: true };
        // Two appliers may race to create the object: whoever loses applies to what the other made.
        for _ in 0..4 {
            match self.modify(cx, &modify, &mut change).await {
                Err(status) if status.code == 404 && subresource.is_empty() => {}
                answer => return Ok((answer?, false)),
            }
            let uid = api::meta::uid(&config);
            if !uid.is_empty() {
                let why = format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                );
                return Err(Status::conflict(&cx.gvr(), &name, &why));
            }
            check_name(&config, &name)?;
            self.require_create(cx)?;
            let mut new = change.made(None).await?;
            api::meta::of_mut(&mut new).shift_remove("resourceVersion");
            let creating = WriteOptions { applied: true, ..options.clone() };
            match self.create(cx, new, &creating).await {
                Err(status) if status.reason == "AlreadyExists" => {}
                answer => return Ok((answer?, true)),
            }
        }
        Err(Status::modified(&cx.gvr(), &name))
    }

    /// Patches a subresource that is a document of its own (Scale), not by server-side apply: `read` makes it of the object,
    /// `write` puts it back.
    pub async fn patch_document(
        &self,
        cx: &mut Context,
        (patch, problems): (&PatchBody, Vec<String>),
        how: &Modify<'_>,
        gvk: &Gvk,
        read: impl Fn(&Object) -> Result<Value, Status> + Send + Sync,
        write: impl Fn(&Value, &mut Value) -> Result<(), Status> + Send + Sync,
    ) -> Result<Arc<Object>, Status> {
        let schema = TypeId::of_gvk(&gvk.group, &gvk.version, &gvk.kind).map_or(Schema::Any, TypeId::schema);
        let (api_version, validation) = (gvk.api_version(), how.options.validation);
        let mut warnings = Vec::new();
        let mut change = |old: &Arc<Object>| {
            let patched = patch.onto(&read(old)?, schema)?;
            let problems = problems.clone();
            let decoded =
                api::codec::check_patched(patched, problems, &api_version, &gvk.kind, schema, validation)
                    .map_err(|why| patch.unfit(why))?;
            warnings = decoded.warnings;
            let mut new = old.value().clone();
            write(&decoded.value, &mut new)?;
            Ok(new)
        };
        let object = self.modify(cx, how, &mut change).await?;
        cx.warnings.append(&mut warnings);
        Ok(object)
    }
}

/// A configuration says of what kind and version it is: its fields would be somebody's in a version that was only guessed.
fn check_type(config: &Value, api_version: &str, kind: &str) -> Result<(), Status> {
    let said = |field: &str| config.get(field).and_then(Value::as_str).unwrap_or_default();
    let (given, given_kind) = (said("apiVersion"), said("kind"));
    if !config.is_object() || (given, given_kind) == (api_version, kind) {
        return Ok(());
    }
    let (group, version) = api::names::split_api_version(given);
    Err(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={given_kind}")))
}

/// A patch changes neither name nor namespace, and its resourceVersion, if it sets one, must be the current one.
fn check_identity(new: &Value, old: &Object, gvr: &api::Gvr) -> Result<(), Status> {
    let (namespace, is) = (api::meta::namespace(new), old.namespace());
    // Whoever takes the namespace out means this one; that of an object which is in none is dropped.
    if !namespace.is_empty() && !is.is_empty() && namespace != is {
        return Err(super::create::other_namespace());
    }
    check_name(new, old.name())?;
    let revision = api::meta::resource_version(new);
    if !revision.is_empty() && revision != old.revision().to_string() {
        return Err(Status::modified(gvr, old.name()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_that_occur_twice_are_told() {
        for (media, body, problem) in [
            ("merge-patch+json", r#"{"a":{"b":1,"b":2}}"#, "duplicate field \"a.b\""),
            ("strategic-merge-patch+json", r#"{"a":{"b":1,"b":2}}"#, "duplicate field \"a.b\""),
            ("json-patch+json", r#"[{"op":"add","op":"remove"}]"#, "json patch duplicate field \"[0].op\""),
            ("apply-patch+yaml", "a:\n  b: 1\n  b: 2\n", "duplicate field \"a.b\""),
        ] {
            let media = format!("application/{media}");
            assert_eq!(PatchBody::parse(&media, body.as_bytes(), false).unwrap().1, [problem], "{media}");
        }
    }

    #[test]
    fn what_cannot_be_made_is_said_as_upstream_does() {
        let patch = json!({"spec": {"b": ["x", 1, null, true], "a": {}}});
        for (patch, shown) in [
            (PatchBody::Strategic(patch.clone()), "map[spec:map[a:map[] b:[x 1 <nil> true]]]"),
            (PatchBody::Merge(json!({"a": 1})), "{\\\"a\\\":1}"),
        ] {
            let status = patch.unfit("why".into());
            assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
            assert_eq!(status.message, format!(" \"\" is invalid: patch: Invalid value: \"{shown}\": why"));
            assert_eq!(status.details.unwrap().causes[0].field, "patch");
        }
    }
}
