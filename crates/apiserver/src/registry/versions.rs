//! Objects in the versions that the managers of their fields speak, for server-side apply.

use api::kinds::Version;
use api::patch::Writer;
use api::patch::apply::{Stop, Versions};
use api::schema::Schema;
use api::{Kind, Status, Value};

use super::Context;
use crate::conversion::Converter;
use crate::query::WriteOptions;

/// What is known of one write's objects in other versions. Built-in kinds convert at once; custom ones may have to ask their
/// webhook, which is done between two attempts at the same step.
pub(super) struct Views<'a> {
    kind: &'a Kind,
    converter: Option<&'a Converter>,
    /// An object, a version, and what it is there.
    made: Vec<(Value, String, Value)>,
    /// Whether conversions fail, so that other versions are taken to be as they were.
    blind: bool,
}

impl<'a> Views<'a> {
    pub fn new(kind: &'a Kind, converter: Option<&'a Converter>) -> Self {
        Self { kind, converter, made: Vec::new(), blind: false }
    }

    fn version(&self, api_version: &str) -> Option<&'a Version> {
        let (group, version) = api::names::split_api_version(api_version);
        self.kind.served(group, version)
    }

    fn known(&self, object: &Value, to: &str) -> Result<Option<Value>, Status> {
        if object.get("apiVersion").and_then(Value::as_str) == Some(to) {
            return Ok(Some(object.clone()));
        }
        let Some(converter) = self.converter else {
            let mut value = object.clone();
            self.kind.to_storage(&mut value)?;
            if let Some(version) = self.version(to).filter(|v| !self.kind.is_storage(v)) {
                self.kind.from_storage(&mut value, version);
            }
            return Ok(Some(value));
        };
        if let Some(value) = converter.by_name(object, to) {
            return Ok(Some(value));
        }
        Ok(self.made.iter().find(|(o, v, _)| v == to && o == object).map(|(_, _, made)| made.clone()))
    }

    /// Takes a step, as often as it takes until all that it needs is known.
    pub async fn settle<T>(&mut self, mut step: impl FnMut(&Self) -> Result<T, Stop>) -> Result<T, Status> {
        loop {
            let (objects, to) = match step(self) {
                Ok(done) => return Ok(done),
                Err(Stop::Refused(status)) => return Err(*status),
                Err(Stop::Convert { objects, to }) => (objects, to),
            };
            let converter = self.converter.ok_or_else(|| Status::internal("nothing converts this kind"))?;
            let made = converter.values(&objects, &to).await?;
            self.made.extend(objects.into_iter().zip(made).map(|(object, made)| (object, to.clone(), made)));
        }
    }
}

impl Versions for Views<'_> {
    fn schema(&self, api_version: &str) -> Option<Schema<'_>> {
        self.version(api_version).map(Version::schema)
    }

    fn convert(&self, objects: &[&Value], to: &str) -> Result<Vec<Value>, Stop> {
        if self.blind {
            return Ok(vec![Value::Null; objects.len()]);
        }
        let mut out = Vec::with_capacity(objects.len());
        let mut missing = Vec::new();
        for object in objects {
            match self.known(object, to)? {
                Some(value) => out.push(value),
                None => missing.push((*object).clone()),
            }
        }
        if missing.is_empty() { Ok(out) } else { Err(Stop::Convert { objects: missing, to: to.to_owned() }) }
    }
}

/// Notes who owns what in an object that is about to be written (as the registry works on it: built-in kinds in their storage
/// version, custom ones in that of the request).
pub(super) async fn track(
    cx: &Context,
    old: Option<&Value>,
    new: &mut Value,
    subresource: &str,
    options: &WriteOptions,
) -> Result<(), Status> {
    let api_version = cx.version().api_version();
    let writer = Writer {
        manager: cx.manager(options),
        now: base::clock::now(),
        subresource,
        api_version: &api_version,
        has_status: cx.version().subresource("status").is_some(),
    };
    let mut views = Views::new(&cx.kind, cx.converter.as_deref());
    let version = cx.version();
    if cx.kind.custom || cx.kind.is_storage(version) {
        let mut step = |views: &Views<'_>| api::patch::apply::track_update(old, new, views, writer);
        let Err(status) = views.settle(&mut step).await else { return Ok(()) };
        // A write that needs no conversion itself does not fail by one; what the others own is left to them.
        tracing::warn!(kind = cx.kind.kind, name = cx.info.name, error = %status.message,
            "managed fields of other versions are not followed up");
        views.blind = true;
        return views.settle(step).await;
    }
    // A manager's fields are those of the version it speaks.
    let shown = |value: &Value| {
        let mut value = value.clone();
        cx.kind.from_storage(&mut value, version);
        value
    };
    let (old, mut seen) = (old.map(shown), shown(new));
    views.settle(|views| api::patch::apply::track_update(old.as_ref(), &mut seen, views, writer)).await?;
    let meta = api::meta::of_mut(new);
    match api::meta::of(&seen).get("managedFields") {
        Some(fields) => meta.insert("managedFields".to_owned(), fields.clone()),
        None => meta.shift_remove("managedFields"),
    };
    Ok(())
}
