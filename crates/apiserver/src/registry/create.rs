//! POST: a new object.

use std::sync::Arc;

use api::{Object, Status, Value};
use serde_json::json;
use store::Expect;

use super::{Context, Missed};
use crate::ApiServer;
use crate::admission::{self, Operation, Progress, Review};
use crate::query::WriteOptions;

/// How often a generated name is drawn again when it is taken.
const GENERATE_ATTEMPTS: usize = 8;

/// The longest base of a generated name, so that the whole fits a label.
const MAX_BASE: usize = 63 - 5;

impl ApiServer {
    /// Creates the object `value`, which is in the requested version and has passed the decoder.
    pub async fn create(
        &self,
        cx: &mut Context,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        self.check_namespace(cx, &mut value)?;
        if crate::crd::is_ending(self, &cx.kind) {
            let mut refused = Status::method_not_supported(&cx.gvr(), "create");
            refused.message = "create not allowed while custom resource definition is terminating".into();
            return Err(refused);
        }
        if !api::meta::resource_version(&value).is_empty() && api::meta::resource_version(&value) != "0" {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        cx.kind.to_storage(&mut value)?;
        let base = api::meta::generate_name(&value).to_owned();
        if !api::meta::name(&value).is_empty() || base.is_empty() {
            return self.create_named(cx, value, options).await;
        }
        let cut = base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|i| *i <= MAX_BASE).last();
        let mut taken = String::new();
        for _ in 0..GENERATE_ATTEMPTS {
            let mut object = value.clone();
            let name = format!("{}{}", &base[..cut.unwrap_or(0)], base::rng::suffix(5));
            api::meta::of_mut(&mut object).insert("name".into(), json!(name));
            match self.create_named(cx, object, options).await {
                Err(status) if status.reason == "AlreadyExists" => taken = name,
                answer => return answer,
            }
        }
        Err(Status::no_name_left(&cx.gvr(), &taken))
    }

    async fn create_named(
        &self,
        cx: &mut Context,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let name = api::meta::name(&object).to_owned();
        {
            let meta = api::meta::of_mut(&mut object);
            for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
                meta.shift_remove(field);
            }
            meta.insert("uid".into(), json!(base::rng::uuid()));
            meta.insert("creationTimestamp".into(), json!(api::meta::time(base::clock::now())));
        }
        cx.kind.default(&mut object);
        cx.kind.prepare_create(&mut object);
        let gvr = cx.kind.gvr();
        let namespace = cx.namespace().to_owned();
        let (kind, user) = (cx.kind.clone(), cx.user.clone());
        let mut warnings = Vec::new();
        let (version, converter) = (cx.version, cx.converter.clone());
        let mut review = Review {
            server: self,
            user: &user,
            kind: &kind,
            gvr: &gvr,
            version,
            converter: converter.as_deref(),
            subresource: "",
            operation: Operation::Create,
            namespace: &namespace,
            name: &name,
            object: &mut object,
            old: None,
            dry_run: options.dry_run,
            options: options.document("CreateOptions"),
            warnings: &mut warnings,
            progress: Progress::default(),
        };
        // Whether there is such a namespace comes before everything else that could be wrong.
        admission::mutate(&self.admission, &mut review).await?;
        let held = self.allocate(cx, review.object, None).await?;
        let mut errors = kind.validate_create(review.object);
        errors.append(kind.validate_sent(&kind.versions[version], self.options.release, review.object, None));
        if !errors.is_empty() {
            return Err(Status::invalid(&cx.kind.gvk(), &name, &errors));
        }
        self.check_escalation(&user, &kind, &namespace, review.object, None)?;
        // What exists is refused before anything is counted against a quota.
        if self.cache.kind(&kind.group, &kind.plural).get(&cx.key_of(&name)).is_some() {
            self.cache.caught_up().await.map_err(super::store_failure)?;
            if self.cache.kind(&kind.group, &kind.plural).get(&cx.key_of(&name)).is_some() {
                return Err(Status::already_exists(&cx.gvr(), &name));
            }
        }
        let charges = admission::validate(&self.admission, &mut review).await?;
        cx.warnings.append(&mut warnings);
        cx.warnings.extend(kind.warnings(&object, None));
        let written = self.write_new(cx, &name, object, options).await;
        let object = charges.settle(self, &namespace, written).await?;
        if held.is_some() && !options.dry_run {
            self.cache.wait_for(object.revision()).await;
        }
        Ok(object)
    }

    async fn write_new(
        &self,
        cx: &mut Context,
        name: &str,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        if !options.applied {
            let writer = api::patch::apply::Writer {
                manager: cx.manager(options),
                now: base::clock::now(),
                subresource: "",
                api_version: &cx.version().api_version(),
                has_status: cx.version().subresource("status").is_some(),
            };
            super::versions::track(cx, None, &mut object, writer).await?;
        }
        if options.dry_run {
            return Ok(Object::from_value(object));
        }
        self.put(cx, name, object, Expect::Absent).await.map_err(|missed| match missed {
            Missed::Conflict(_) => Status::already_exists(&cx.gvr(), name),
            Missed::Failed(status) => status,
        })
    }

    /// The object's namespace is the path's, or is left to it.
    pub(super) fn check_namespace(&self, cx: &Context, value: &mut Value) -> Result<(), Status> {
        let given = api::meta::namespace(value).to_owned();
        if !cx.kind.namespaced {
            if !given.is_empty() {
                if cx.info.namespace.is_empty() || cx.kind.plural == "namespaces" {
                    api::meta::of_mut(value).shift_remove("namespace");
                } else {
                    return Err(Status::bad_request("namespace is not allowed on this type"));
                }
            }
            return Ok(());
        }
        if cx.info.namespace.is_empty() {
            return Err(Status::bad_request("an empty namespace may not be set during creation"));
        }
        if !given.is_empty() && given != cx.info.namespace {
            return Err(other_namespace());
        }
        api::meta::of_mut(value).insert("namespace".into(), json!(cx.info.namespace));
        Ok(())
    }
}

/// The object is not of the namespace that the path names.
pub(super) fn other_namespace() -> Status {
    Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    )
}
