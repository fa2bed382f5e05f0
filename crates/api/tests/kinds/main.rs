//! What is wrong with objects of the built-in kinds, in upstream's words, and what they get by default: a table for each
//! concern, in a module for each group of kinds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod apps;
mod autoscaling;
mod config;
mod endpoints;
mod flow;
mod jobs;
mod network;
mod nodes;
mod policy;
mod resource;
mod services;
mod storage;
mod volumes;

use api::patch::merge_patch;
use api::{Kind, Value, codec, kinds};
use serde_json::json;

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    kinds::by_storage(api_version, kind).unwrap()
}

fn merged(base: &Value, patch: &Value) -> Value {
    let mut object = base.clone();
    merge_patch(&mut object, patch);
    object
}

/// An object as it is sent.
fn sent(kind: &Kind, object: &Value) -> Value {
    let mut object = object.clone();
    codec::prune(&mut object, kind.schema());
    kind.default(&mut object);
    object
}

/// An object as it is made.
fn made(kind: &Kind, object: &Value) -> Value {
    let mut object = sent(kind, object);
    kind.prepare_create(&mut object);
    object
}

/// An object as it is once changed.
fn changed(kind: &Kind, old: &Value, patch: &Value, subresource: &str) -> Value {
    let mut new = sent(kind, &merged(old, patch));
    kind.prepare_update(&mut new, old, subresource);
    new
}

/// The errors, each without the prefix that most have.
fn texts(errors: api::field::ErrorList, prefix: &str) -> Vec<String> {
    let short = |text: String| text.strip_prefix(prefix).map_or(text.clone(), str::to_owned);
    errors.into_iter().map(|e| short(e.to_string())).collect()
}

type Table<'a> = &'a [(Value, &'a [&'a str])];

/// Checks a table of patches: what is wrong with what they make of the base, each below `prefix`.
#[track_caller]
fn creates(kind: &Kind, base: &Value, prefix: &str, table: Table<'_>) {
    for (patch, want) in table {
        let object = made(kind, &merged(base, patch));
        assert_eq!(texts(kind.validate_create(&object), prefix), *want, "{patch}");
    }
}

/// The same, of changes to what the base makes.
#[track_caller]
fn updates(kind: &Kind, base: &Value, subresource: &str, prefix: &str, table: Table<'_>) {
    let old = made(kind, base);
    changes(kind, &old, subresource, prefix, table);
}

/// The same, of changes to what is there, however it got so.
#[track_caller]
fn changes(kind: &Kind, old: &Value, subresource: &str, prefix: &str, table: Table<'_>) {
    for (patch, want) in table {
        let new = changed(kind, old, patch, subresource);
        assert_eq!(texts(kind.validate_update(&new, old, subresource), prefix), *want, "{patch}");
    }
}
