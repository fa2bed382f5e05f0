//! Walks every kind in every version and wire format through the server: created, read in each version, patched, listed,
//! watched, printed, deleted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::collections::HashMap;

use api::codec::{self, FieldValidation, MediaType};
use api::kinds::{self, Version};
use api::{Kind, Value};
use common::{Answer, Cluster};
use http::Method;
use serde_json::json;

const SAMPLES: &str = include_str!("samples.json");

/// Kinds to which the server adds on their way in what only it knows (taints, addresses, selectors, who asked), so that what
/// is read is more than what was written; they have tests of their own.
const ADDED_TO: &[&str] = &[
    "certificatesigningrequests",
    "jobs",
    "mutatingwebhookconfigurations",
    "nodes",
    "pods",
    "prioritylevelconfigurations",
    "services",
    "validatingwebhookconfigurations",
];

fn has_protobuf(version: &Version) -> bool {
    version.schema().type_id().is_some_and(|t| t.has_proto())
}

/// One object of each kind, in its storage version, under a name of its own.
struct Samples(HashMap<String, Value>);

impl Samples {
    fn read() -> Self {
        Self(serde_json::from_str(SAMPLES).unwrap())
    }

    fn of(&self, kind: &Kind, n: usize) -> Option<Value> {
        let sample = self.0.get(&format!("{}/{}", kind.group, kind.plural));
        let sample = sample.unwrap_or_else(|| panic!("samples.json has no {kind:?}"));
        if sample.get("skip").is_some() {
            return None;
        }
        let letters: String = n.to_string().bytes().map(|d| char::from(b'a' + d - b'0')).collect();
        let text = sample.to_string().replace("PLURAL", &format!("walks{letters}"));
        let text = text.replace("\"IP\"", &format!("\"10.96.{}.{}\"", 100 + n / 250, 1 + n % 250));
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["apiVersion"] = json!(kind.api_version());
        value["kind"] = json!(kind.kind);
        if value["metadata"]["name"].is_null() {
            value["metadata"]["name"] = json!(format!("walk-{n}"));
        }
        Some(value)
    }
}

fn path(kind: &Kind, version: &Version, rest: &str) -> String {
    let namespace = kind.namespaced.then_some("default");
    format!("{}{rest}", version.gvr(kind).path(namespace))
}

/// What is the same of an object in all of its versions, once both are in the storage version.
fn canonical(kind: &Kind, value: &Value) -> Value {
    let mut value = value.clone();
    kind.to_storage(&mut value).unwrap();
    kind.default(&mut value);
    let map = value.as_object_mut().unwrap();
    map.remove("metadata");
    map.remove("status");
    map.retain(|_, v| !v.is_null());
    if matches!(kind.plural.as_str(), "customresourcedefinitions" | "apiservices") {
        map.remove("spec");
    }
    if kind.plural == "ipaddresses" {
        map.remove("metadata");
    }
    value
}

struct Walk {
    cluster: Cluster,
    samples: Samples,
    wrong: Vec<String>,
    n: usize,
}

impl Walk {
    fn check(&mut self, at: &str, ok: bool, why: impl FnOnce() -> String) -> bool {
        if !ok {
            self.wrong.push(format!("{at}: {}", why()));
        }
        ok
    }

    /// Reads an answer in the format that was asked for.
    fn decoded(&mut self, at: &str, a: &Answer, media: MediaType, kind: &Kind, v: &Version) -> Option<Value> {
        let sent = a.header("content-type").to_owned();
        let ok = a.code < 300 && sent == media.as_str();
        let shown = String::from_utf8_lossy(a.response.body()).chars().take(400).collect::<String>();
        if !self.check(at, ok, || format!("{} {sent}: {shown}", a.code)) {
            return None;
        }
        match codec::decode(a.response.body(), media, kind, v, FieldValidation::Strict) {
            Ok(d) => Some(d.value),
            Err(e) => {
                self.wrong.push(format!("{at}: the answer does not decode: {}", e.message));
                None
            }
        }
    }

    async fn version(&mut self, kind: &Kind, version: &Version, media: MediaType) {
        let Some(sample) = self.samples.of(kind, self.n) else { return };
        self.n += 1;
        let at = format!("{} {}", version.gvk(kind), media.as_str());
        let mut body = sample.clone();
        kind.from_storage(&mut body, version);
        let name = api::meta::name(&body).to_owned();
        let Ok(bytes) = codec::encode(&body, media, version.schema()) else {
            self.wrong.push(format!("{at}: no such form"));
            return;
        };
        let kinds = [("content-type", media.as_str()), ("accept", media.as_str())];
        let strict = path(kind, version, "?fieldValidation=Strict");
        let made = self.cluster.call(Method::POST, &strict, &kinds, bytes).await;
        let Some(made) = self.decoded(&format!("{at} create"), &made, media, kind, version) else { return };
        let wanted = canonical(kind, &sample);
        let found = canonical(kind, &made);
        self.check(&format!("{at} create"), wanted == found, || format!("\n  {wanted}\n  {found}"));

        // A version without a protobuf form is answered in JSON.
        let readable = |v: &&Version| media != MediaType::Protobuf || has_protobuf(v);
        for other in kind.versions.iter().filter(readable) {
            let at = format!("{at} read as {}", other.api_version());
            let read =
                self.cluster.call(Method::GET, &path(kind, other, &format!("/{name}")), &kinds, "").await;
            if let Some(read) = self.decoded(&at, &read, media, kind, other) {
                let found = canonical(kind, &read);
                self.check(&at, found == wanted, || format!("\n  {wanted}\n  {found}"));
            }
        }

        let one = path(kind, version, &format!("/{name}"));
        for patch in ["merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"] {
            let at = format!("{at} {patch}");
            let label = patch.replace('+', ".");
            let mut change = json!({"metadata": {"labels": {"patched": label}}});
            if patch.starts_with("apply") {
                change["apiVersion"] = json!(version.api_version());
                change["kind"] = json!(kind.kind);
            }
            let force = if patch.starts_with("apply") { "&force=true" } else { "" };
            let url = format!("{one}?fieldManager=walk{force}");
            let answer = self.cluster.patch(&url, patch, change).await;
            let ok = answer.code == 200 && answer.value["metadata"]["labels"]["patched"] == label.as_str();
            self.check(&at, ok, || format!("{} {}", answer.code, answer.value));
        }

        let query = format!("?fieldSelector=metadata.name%3D{name}");
        let list = self.cluster.get(&path(kind, version, &query)).await;
        let ok = list.code == 200
            && list.value["kind"] == format!("{}List", kind.kind)
            && list.value["apiVersion"] == version.api_version()
            && list.value["items"].as_array().is_some_and(|i| i.len() == 1);
        self.check(&format!("{at} list"), ok, || format!("{} {}", list.code, list.value));
        let listed = self.cluster.call(Method::GET, &path(kind, version, &query), &kinds, "").await;
        let ok = listed.code == 200 && listed.header("content-type") == media.as_str();
        self.check(&format!("{at} list"), ok, || {
            format!("{} {}", listed.code, listed.header("content-type"))
        });

        for form in ["Table", "PartialObjectMetadata", "PartialObjectMetadataList"] {
            let accept = format!("application/json;as={form};v=v1;g=meta.k8s.io");
            let url = if form.ends_with("List") { path(kind, version, &query) } else { one.clone() };
            let answer = self.cluster.call(Method::GET, &url, &[("accept", &accept)], "").await;
            let mut ok = answer.code == 200 && answer.value["kind"] == form;
            if form == "Table" {
                let columns = answer.value["columnDefinitions"].as_array().map_or(0, Vec::len);
                let cells = answer.value["rows"][0]["cells"].as_array().map_or(0, Vec::len);
                ok &= columns > 0 && columns == cells;
            }
            self.check(&format!("{at} {form}"), ok, || format!("{} {}", answer.code, answer.value));
        }

        if media != MediaType::Json || !kind.is_storage(version) {
            let gone = self.cluster.delete(&one).await;
            self.check(&format!("{at} delete"), gone.code == 200, || gone.value.to_string());
            return;
        }
        let revision = list.value["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        let gone = self.cluster.delete(&format!("{one}?gracePeriodSeconds=0")).await;
        let finalized =
            !gone.value["metadata"]["finalizers"].is_null() || !gone.value["spec"]["finalizers"].is_null();
        self.check(&format!("{at} delete"), gone.code == 200, || gone.value.to_string());
        let watch = format!("{query}&watch=true&timeoutSeconds=1&resourceVersion={revision}");
        let watched = self.cluster.get(&path(kind, version, &watch)).await;
        let first = String::from_utf8_lossy(watched.response.body()).lines().next().unwrap_or("").to_owned();
        let event: Value = serde_json::from_str(&first).unwrap_or_default();
        let word = if finalized { "MODIFIED" } else { "DELETED" };
        let ok = event["type"] == word && event["object"]["apiVersion"] == version.api_version();
        self.check(&format!("{at} watch"), ok, || format!("{word}? {} {first}", watched.code));
    }
}

#[tokio::test]
async fn every_kind_in_every_version_and_format() {
    let cluster = Cluster::start().await;
    let mut walk = Walk { cluster, samples: Samples::read(), wrong: Vec::new(), n: 0 };
    for kind in kinds::all().iter().filter(|k| k.is_stored() && !ADDED_TO.contains(&k.plural.as_str())) {
        for version in &kind.versions {
            for media in [MediaType::Json, MediaType::Yaml, MediaType::Protobuf] {
                if media != MediaType::Protobuf || has_protobuf(version) {
                    walk.version(kind, version, media).await;
                }
            }
        }
    }
    assert!(walk.n > 250, "only {} walks", walk.n);
    assert!(walk.wrong.is_empty(), "{} wrong of {}:\n{}", walk.wrong.len(), walk.n, walk.wrong.join("\n"));
}
