//! The `scale` subresource: a kind's replicas in a form that is the same for all kinds.

use std::sync::Arc;

use api::schema::{Schema, TypeId};
use api::{Gvk, Object, Status, Value};
use http::{Method, Response, StatusCode};
use serde_json::json;

use crate::ApiServer;
use crate::body::Body;
use crate::query::WriteOptions;
use crate::registry::{Modify, PatchBody, check_name, render_scale};
use crate::resource::Resolved;

impl ApiServer {
    pub(crate) async fn scale(&self, r: &mut Resolved, gvk: &Gvk) -> Result<Response<Body>, Status> {
        let kind = r.cx.kind.clone();
        let name = r.cx.info.name.clone();
        let read = |object: &Object| {
            kind.scale_of(object.value()).ok_or_else(|| {
                Status::bad_request(format!("{} \"{}\" cannot be scaled", kind.plural, object.name()))
            })
        };
        let method = r.call.request.method().clone();
        if method == Method::GET || method == Method::HEAD {
            let object = self.get_object(&r.cx, &name).await?;
            let scale = read(&object)?;
            return render_scale(&r.accept, r.include, &scale);
        }
        let write = |scale: &Value, object: &mut Value| {
            check_name(scale, &name)?;
            let (uid, is) = (api::meta::uid(scale), api::meta::uid(object));
            if !uid.is_empty() && uid != is {
                let why =
                    format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {is}");
                return Err(Status::conflict(&kind.gvr(), &name, &why));
            }
            let wanted = api::meta::resource_version(scale);
            if !wanted.is_empty() && wanted != api::meta::resource_version(object) {
                return Err(Status::modified(&kind.gvr(), &name));
            }
            let replicas = scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
            judge(&name, replicas)?;
            kind.set_scale(object, replicas);
            Ok(())
        };
        let options = r.write_options()?;
        let modify =
            Modify { name: &name, subresource: "scale", options: &options, applied: false, checked: true };
        let object: Arc<Object> = if method == Method::PUT {
            let scale = r.decode_as(gvk, &options).await?;
            let mut change = |old: &Arc<Object>| {
                let mut new = old.value().clone();
                write(&scale, &mut new)?;
                Ok(new)
            };
            self.modify(&mut r.cx, &modify, &mut change).await?
        } else {
            let content_type = r.call.header("content-type").to_owned();
            let body = r.body().await?;
            let (patch, problems) = PatchBody::parse(&content_type, &body, kind.custom)?;
            options.check_patch(matches!(patch, PatchBody::Apply(_)))?;
            if let PatchBody::Apply(scale) = patch {
                return self.apply_scale(r, gvk, (scale, problems), &options).await;
            }
            self.patch_document(&mut r.cx, (&patch, problems), &modify, gvk, read, write).await?
        };
        let scale = read(&object)?;
        r.document(StatusCode::OK, &scale)
    }

    /// Server-side apply of a Scale: of the object itself, of which it states the replicas alone. So they have an owner, and
    /// who else owns them conflicts.
    async fn apply_scale(
        &self,
        r: &mut Resolved,
        gvk: &Gvk,
        (scale, problems): (Value, Vec<String>),
        options: &WriteOptions,
    ) -> Result<Response<Body>, Status> {
        let kind = r.cx.kind.clone();
        let schema = TypeId::of_gvk(&gvk.group, &gvk.version, &gvk.kind).map_or(Schema::Any, TypeId::schema);
        let api_version = gvk.api_version();
        let decoded = api::codec::check_applied(scale, &api_version, &gvk.kind, schema, options.validation)?;
        r.cx.warnings.extend(decoded.warnings);
        let (name, version) = (r.cx.info.name.clone(), r.cx.version().api_version());
        let mut config = json!({"apiVersion": version, "kind": kind.kind, "metadata": {"name": name}});
        for field in ["name", "namespace", "uid", "resourceVersion"] {
            if let Some(value) = api::meta::of(&decoded.value).get(field) {
                api::meta::of_mut(&mut config).insert(field.into(), value.clone());
            }
        }
        if let Some(replicas) = decoded.value.pointer("/spec/replicas").and_then(Value::as_i64) {
            judge(&name, replicas)?;
            kind.set_scale(&mut config, replicas);
        }
        let (object, _) =
            self.patch(&mut r.cx, (PatchBody::Apply(config), problems), "scale", options).await?;
        let scale = kind.scale_of(object.value()).unwrap_or_default();
        r.document(StatusCode::OK, &scale)
    }
}

/// Refuses less than nothing.
fn judge(name: &str, replicas: i64) -> Result<(), Status> {
    if replicas >= 0 {
        return Ok(());
    }
    let mut errors = api::ErrorList::new();
    let path = api::Path::new("spec").child("replicas");
    errors.invalid(&path, &replicas.into(), "must be greater than or equal to 0");
    Err(Status::invalid(&Gvk::new("autoscaling", "v1", "Scale"), name, &errors))
}
