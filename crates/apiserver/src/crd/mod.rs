//! CustomResourceDefinitions: makes kinds of them, says in their status whether they are served, and clears away their objects
//! when they go.
//!
//! Driven by the cache's events of definitions; level-triggered: each pass looks at all definitions as they are.

mod kind;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use api::kinds::crd::Structural;
use api::kinds::{Approval, CLEANUP};
use api::meta::text;
use api::object::Encoded;
use api::{Kind, Object, Status, Value};
use kind::{kind_in, kind_of, schemas};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::callback::ca_bundle;
use crate::conversion::Converter;
use crate::registry::{Context, DeleteOptions, Own, store_failure};
use crate::resource::{Custom, Kinds};
use crate::user::UserInfo;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

fn list<'a>(v: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    v.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn words(v: &Value, pointer: &str) -> Vec<String> {
    list(v, pointer).filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// What a creator of a definition may leave out.
pub fn prepare(crd: &mut Value) {
    let kind = text(crd, "/spec/names/kind").to_owned();
    let spec = api::meta::child(crd, "spec");
    spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
    let names = api::meta::entry(spec, "names");
    names.entry("singular").or_insert_with(|| json!(kind.to_lowercase()));
    names.entry("listKind").or_insert_with(|| json!(format!("{kind}List")));
    let storage: Vec<Value> = list(crd, "/spec/versions")
        .filter(|v| v.get("storage") == Some(&json!(true)))
        .map(|v| v["name"].clone())
        .collect();
    let status = api::meta::child(crd, "status");
    let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(stored) = stored.as_array_mut() {
        for v in storage {
            if !stored.contains(&v) {
                stored.push(v);
            }
        }
    }
}

/// Why the webhook that converts the objects of a definition could not be believed whatever it showed.
fn unreadable_bundle(crd: &Value) -> Option<String> {
    ca_bundle(crd.pointer("/spec/conversion/webhook/clientConfig")?).err()
}

/// What is wrong with the authorities that the webhook of a definition is to be believed by. Where nobody could be believed
/// before either it is not refused; until it is mended such a definition is not served.
pub fn check_bundle(new: &Value, old: &Value) -> api::ErrorList {
    let mut errors = api::ErrorList::new();
    if let Some(why) = unreadable_bundle(new).filter(|_| unreadable_bundle(old).is_none()) {
        let path = api::Path::new("spec").child("conversion").child("webhookClientConfig").child("caBundle");
        errors.invalid(&path, &new["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"], why);
    }
    errors
}

/// What is wrong with the schemas of a definition. Those that are as they were in `old` were taken once, and stay.
pub fn check_schemas(crd: &Value, old: Option<&Value>) -> api::ErrorList {
    const SCHEMA: &str = "/schema/openAPIV3Schema";
    let mut errors = api::ErrorList::new();
    let mut schemas = Vec::new();
    for (i, version) in list(crd, "/spec/versions").enumerate() {
        let path = api::Path::new("spec").child("versions").index(i).child("schema").child("openAPIV3Schema");
        let before = old.and_then(|o| list(o, "/spec/versions").find(|v| v["name"] == version["name"]));
        if before.is_some_and(|b| b.pointer(SCHEMA) == version.pointer(SCHEMA)) {
            continue;
        }
        let status = version.pointer("/subresources/status").is_some_and(|s| !s.is_null());
        match version.pointer(SCHEMA) {
            Some(schema) => schemas.push((schema, path, status)),
            None => errors.required(&path, ""),
        }
    }
    // Only what came through v1beta1 says so: its schemas need not be structural.
    let lenient = crd.pointer("/spec/preserveUnknownFields") == Some(&json!(true));
    errors.append(Structural::check_all(schemas, lenient));
    errors
}

/// The kinds that a definition makes, each as if another of its versions were the one that is stored.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_kinds(crd: &Value) -> Vec<Kind> {
    let schemas = schemas(crd);
    list(crd, "/spec/versions").filter_map(|v| kind_in(crd, text(v, "/name"), &schemas)).collect()
}

/// The names that the other kinds of a definition's group have: of resources, and of kinds.
#[derive(Default)]
struct Taken {
    resources: HashSet<String>,
    kinds: HashSet<String>,
}

impl Taken {
    fn by_others(crd: &Value, others: &[Arc<Object>]) -> Self {
        let (group, own) = (text(crd, "/spec/group"), api::meta::name(crd));
        let mut taken = Self::default();
        for k in api::kinds::all().iter().filter(|k| k.group == group) {
            taken.resources.extend([k.plural.clone(), k.singular.clone()]);
            taken.resources.extend(k.short_names.iter().cloned());
            taken.kinds.extend([k.kind.clone(), k.list_kind.clone()]);
        }
        // A definition's name ends in its group: those of other groups need not be decoded to be told apart.
        let beside = |o: &&Arc<Object>| o.name().split_once('.').is_some_and(|(_, g)| g == group);
        for o in others.iter().filter(beside).filter(|o| o.name() != own) {
            let names = o.value().pointer("/status/acceptedNames").unwrap_or(&Value::Null);
            taken.resources.extend(["/plural", "/singular"].map(|f| text(names, f).to_owned()));
            taken.resources.extend(words(names, "/shortNames"));
            taken.kinds.extend(["/kind", "/listKind"].map(|f| text(names, f).to_owned()));
        }
        taken.resources.remove("");
        taken.kinds.remove("");
        taken
    }
}

/// The names of a definition that can be had, and why the others cannot: another kind of the group has them. What it has
/// been given it keeps.
fn accept(crd: &Value, others: &[Arc<Object>]) -> (Value, Option<(&'static str, String)>) {
    let taken = Taken::by_others(crd, others);
    let wanted = crd.pointer("/spec/names").cloned().unwrap_or(Value::Null);
    let before = crd.pointer("/status/acceptedNames").cloned().unwrap_or(Value::Null);
    let mut accepted = wanted.clone();
    let mut conflict = None;
    for (field, reason, used) in [
        ("plural", "PluralConflict", &taken.resources),
        ("singular", "SingularConflict", &taken.resources),
        ("shortNames", "ShortNamesConflict", &taken.resources),
        ("kind", "KindConflict", &taken.kinds),
        ("listKind", "ListKindConflict", &taken.kinds),
    ] {
        let named = |v: &Value| match &v[field] {
            Value::String(one) => vec![one.clone()],
            list => {
                list.as_array().into_iter().flatten().filter_map(|n| n.as_str().map(str::to_owned)).collect()
            }
        };
        let own = named(&before);
        let Some(name) = named(&wanted).into_iter().find(|n| used.contains(n) && !own.contains(n)) else {
            continue;
        };
        conflict = Some((reason, format!("\"{name}\" is already in use")));
        match before.get(field) {
            Some(kept) => accepted[field] = kept.clone(),
            // These two are never missing.
            None if matches!(field, "plural" | "kind") => accepted[field] = json!(""),
            None => {
                if let Some(map) = accepted.as_object_mut() {
                    map.shift_remove(field);
                }
            }
        }
    }
    (accepted, conflict)
}

fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    list(crd, "/status/conditions").find(|c| text(c, "/type") == kind)
}

fn is_true(crd: &Value, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|c| text(c, "/status") == "True")
}

fn set_condition(crd: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let now = api::meta::time(base::clock::now());
    let conditions = api::meta::child(crd, "status").entry("conditions").or_insert(Value::Null);
    if conditions.is_null() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        api::meta::set_condition(list, kind, status, reason, message, &now);
    }
}

fn remove_condition(crd: &mut Value, kind: &str) {
    if condition(crd, kind).is_some()
        && let Some(list) = crd.pointer_mut("/status/conditions").and_then(Value::as_array_mut)
    {
        list.retain(|c| text(c, "/type") != kind);
    }
}

/// Why the schemas of a definition are not structural: those of old definitions, which keep what they do not name, need not
/// be.
fn structure(crd: &Value) -> Option<String> {
    let mut errors = api::ErrorList::new();
    if crd.pointer("/spec/preserveUnknownFields") == Some(&json!(true)) {
        let path = api::Path::new("spec").child("preserveUnknownFields");
        errors.invalid(&path, &json!(true), "must be false");
    }
    for (i, version) in list(crd, "/spec/versions").enumerate() {
        let path = api::Path::new("spec").child("versions").index(i).child("schema").child("openAPIV3Schema");
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
            errors.append(Structural::violations(schema, &path));
        }
    }
    (!errors.is_empty()).then(|| errors.message())
}

/// What [`structure`] says of each definition, by UID and generation: every schema is compiled for it, and every change of any
/// definition asks it of all of them.
#[derive(Default)]
struct Structures(Mutex<HashMap<String, (i64, Option<String>)>>);

impl Structures {
    fn of(&self, crd: &Value) -> Option<String> {
        let (uid, generation) = (api::meta::uid(crd), api::meta::generation(crd));
        if let Some((_, known)) = self.0.lock().get(uid).filter(|(of, _)| *of == generation) {
            return known.clone();
        }
        let found = structure(crd);
        self.0.lock().insert(uid.to_owned(), (generation, found.clone()));
        found
    }

    fn keep_only(&self, crds: &[Arc<Object>]) {
        self.0.lock().retain(|uid, _| crds.iter().any(|c| c.uid() == uid));
    }
}

/// The definition as its status should be, or nothing if it is. `structure` is why its schemas are not structural.
fn decide(crd: &Value, others: &[Arc<Object>], structure: Option<String>) -> Option<Value> {
    let mut new = crd.clone();
    let (names, conflict) = accept(crd, others);
    api::meta::child(&mut new, "status").insert("acceptedNames".into(), names);
    match conflict {
        None => {
            set_condition(&mut new, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            let unreadable = unreadable_bundle(crd).filter(|_| !is_true(crd, "Established"));
            let (status, reason, message) = match &unreadable {
                None => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
                Some(why) => ("False", "InvalidCABundle", why.as_str()),
            };
            set_condition(&mut new, "Established", status, reason, message);
        }
        Some((reason, message)) => {
            set_condition(&mut new, "NamesAccepted", "False", reason, &message);
            if !is_true(crd, "Established") {
                set_condition(&mut new, "Established", "False", "NotAccepted", "not all names are accepted");
            }
        }
    }
    let policy = "KubernetesAPIApprovalPolicyConformant";
    match Approval::of(crd) {
        None => remove_condition(&mut new, policy),
        Some((approval, message)) => {
            let (status, reason) = match approval {
                Approval::Approved => ("True", "ApprovedAnnotation"),
                Approval::Bypassed => ("False", "UnapprovedAnnotation"),
                Approval::Missing => ("False", "MissingAnnotation"),
                Approval::Invalid => ("False", "InvalidAnnotation"),
            };
            set_condition(&mut new, policy, status, reason, &message);
        }
    }
    match structure {
        None => remove_condition(&mut new, "NonStructuralSchema"),
        Some(why) => set_condition(&mut new, "NonStructuralSchema", "True", "Violations", &why),
    }
    let storage: Vec<Value> = list(crd, "/spec/versions")
        .filter(|v| v.get("storage") == Some(&json!(true)))
        .map(|v| v["name"].clone())
        .collect();
    let stored = api::meta::child(&mut new, "status").entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(stored) = stored.as_array_mut() {
        for v in storage {
            if !stored.contains(&v) {
                stored.push(v);
            }
        }
    }
    (&new != crd).then_some(new)
}

/// Follows the definitions until `shutdown`. The first pass is made before this returns, so that a server which starts
/// serves what it served before.
pub async fn start(server: Arc<ApiServer>, shutdown: CancellationToken) {
    let kind = server.cache.kind(GROUP, PLURAL);
    let (_, mut watcher) = server.cache.list_and_watch(kind.clone(), "");
    serve(&server, &kind.all(""));
    tokio::spawn(async move {
        let mut clearing: HashMap<String, tokio::task::JoinHandle<()>> = HashMap::new();
        let structures = Structures::default();
        loop {
            let all = kind.all("");
            structures.keep_only(&all);
            serve(&server, &all);
            clearing.retain(|_, task| !task.is_finished());
            for crd in &all {
                // What the one before was given is taken.
                if let Err(status) = settle(&server, crd, &kind.all(""), &structures).await {
                    tracing::warn!(crd = crd.name(), error = %status.message, "definition's status not written");
                }
                let held = api::meta::finalizers(crd.value()).any(|f| f == CLEANUP);
                if crd.is_deleting() && held && !clearing.contains_key(crd.uid()) {
                    let task = tokio::spawn(clear(server.clone(), crd.clone(), shutdown.clone()));
                    clearing.insert(crd.uid().to_owned(), task);
                }
            }
            drop(all); // or all definitions stay decoded until one changes
            tokio::select! {
                () = shutdown.cancelled() => return,
                events = watcher.next() => if events.is_err() {
                    (_, watcher) = server.cache.list_and_watch(kind.clone(), "");
                },
            }
        }
    });
}

/// The kind of a definition in each of its versions, and what converts between them.
fn custom_of(server: &Arc<ApiServer>, crd: &Value) -> Option<Custom> {
    let storage = list(crd, "/spec/versions").find(|v| v.get("storage") == Some(&json!(true)))?;
    let schemas = schemas(crd);
    let names = list(crd, "/spec/versions").map(|v| text(v, "/name"));
    let versions: HashMap<String, Arc<Kind>> =
        names.filter_map(|name| Some((name.to_owned(), Arc::new(kind_in(crd, name, &schemas)?)))).collect();
    let stored = versions.get(text(storage, "/name"))?.clone();
    let schemas = stored.versions.iter().map(|v| (v.api_version(), v.schema.clone())).collect();
    let converter = Converter::new(Arc::downgrade(server), crd, stored.api_version(), schemas);
    let converter = Arc::new(converter);
    Some(Custom { stored, versions, converter })
}

/// Puts the kinds of all established definitions beside the built-in ones.
fn serve(server: &Arc<ApiServer>, crds: &[Arc<Object>]) {
    let before = server.kinds.load();
    let mut all = api::kinds::all().to_vec();
    let mut stops = HashMap::new();
    let mut custom = HashMap::new();
    let mut kept_ones = HashSet::new();
    let mut generations = Vec::new();
    for crd in crds.iter().filter(|c| is_true(c.value(), "Established")) {
        // It changes with what is specified, and with the names that are given to it.
        let names = crd.value().pointer("/status/acceptedNames").unwrap_or(&Value::Null);
        let generation = (format!("{} {names}", crd.uid()), api::meta::generation(crd.value()));
        let name = crd.name().to_owned();
        // A kind whose definition has not changed is the same kind: watches go on.
        let kept = before.custom.get(&name).filter(|_| before.generations.contains(&generation)).cloned();
        let stop = before.stops.get(&name).filter(|_| kept.is_some()).cloned();
        let Some(made) = kept.or_else(|| custom_of(server, crd.value()).map(Arc::new)) else { continue };
        if stop.is_some() {
            kept_ones.insert(name.clone());
        }
        all.push(made.stored.clone());
        custom.insert(name.clone(), made);
        stops.insert(name, stop.unwrap_or_else(|| server.shutdown.child_token()));
        generations.push(generation);
    }
    if generations == before.generations && before.all.len() == all.len() {
        return;
    }
    // Whoever watches a kind that is another one now starts over, as with upstream.
    for (name, stop) in &before.stops {
        if !kept_ones.contains(name) {
            stop.cancel();
        }
    }
    let mut kinds = Kinds::new(all);
    kinds.custom = custom;
    kinds.stops = stops;
    kinds.generations = generations;
    server.kinds.store(Arc::new(kinds));
    server.documents.clear();
}

async fn settle(
    server: &Arc<ApiServer>,
    crd: &Arc<Object>,
    all: &[Arc<Object>],
    structures: &Structures,
) -> Result<(), Status> {
    if crd.is_deleting() || decide(crd.value(), all, structures.of(crd.value())).is_none() {
        return Ok(());
    }
    let change = |old: &Value| decide(old, all, structures.of(old)).unwrap_or_else(|| old.clone());
    write(server, crd.name(), "status", &change).await?;
    server.cache.caught_up().await.map_err(store_failure)
}

/// Changes a definition through a subresource.
async fn write(
    server: &ApiServer,
    name: &str,
    subresource: &str,
    change: &(dyn Fn(&Value) -> Value + Sync),
) -> Result<(), Status> {
    let own = Own { resource: (GROUP, PLURAL), namespace: "", name, subresource, dry_run: false };
    server.modify_own(&own, &mut |old: &Arc<Object>| Ok(change(old.value()))).await
}

/// Whether the definition of a custom kind is being deleted: nothing new of the kind may come then, or the end of it would
/// never come.
pub fn is_ending(server: &ApiServer, kind: &Kind) -> bool {
    let name = format!("{}.{}", kind.plural, kind.group);
    kind.custom && server.cache.kind(GROUP, PLURAL).get(&name).is_some_and(|crd| crd.is_deleting())
}

/// How long a failure waits to be tried again. What failed does not say when it would succeed.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// Deletes a definition's objects, waits until they are gone, and lets the definition go; whatever fails is tried again.
async fn clear(server: Arc<ApiServer>, crd: Arc<Object>, shutdown: CancellationToken) {
    let terminating = |status: &'static str, reason: &'static str, message: String| {
        move |old: &Value| {
            let mut new = old.clone();
            set_condition(&mut new, "Terminating", status, reason, &message);
            new
        }
    };
    let kind = kind_of(crd.value()).map(Arc::new);
    let mut said = "";
    while let Some(kind) = &kind {
        let cache = server.cache.kind(&kind.group, &kind.plural);
        let (snapshot, mut watcher) = server.cache.list_and_watch(cache, "");
        if snapshot.items.is_empty() {
            break;
        }
        let failed = empty(&server, kind, snapshot.items).await.err();
        let (reason, message) = match &failed {
            None => ("InstanceDeletionInProgress", "CustomResource deletion is in progress".to_owned()),
            Some(status) => {
                tracing::warn!(crd = crd.name(), error = %status.message, "a definition's objects are not cleared yet");
                ("InstanceDeletionFailed", format!("could not issue all deletes: {}", status.message))
            }
        };
        let mut again = failed.is_some();
        if said != reason {
            match write(&server, crd.name(), "status", &terminating("True", reason, message)).await {
                Ok(()) => said = reason,
                Err(_) => again = true,
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            // What goes, and what comes nevertheless.
            _ = watcher.next() => {}
            () = tokio::time::sleep(AGAIN), if again => {}
        }
    }
    let ended = terminating("False", "InstanceDeletionCompleted", "removed all instances".into());
    let release = move |old: &Value| {
        let mut new = ended(old);
        api::meta::remove_finalizer(&mut new, CLEANUP);
        new
    };
    while let Err(status) = write(&server, crd.name(), "", &release).await {
        tracing::warn!(crd = crd.name(), error = %status.message, "a definition is not let go yet");
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Deletes objects of a kind that ends, without asking anybody; fails if one cannot be deleted, when all were tried.
async fn empty(server: &ApiServer, kind: &Arc<Kind>, items: Vec<Arc<Encoded>>) -> Result<(), Status> {
    let user = Arc::new(UserInfo::master("system:apiserver"));
    let options = DeleteOptions { unasked: true, ..DeleteOptions::default() };
    let mut failed = Ok(());
    for item in items.iter().filter(|i| !i.is_deleting()) {
        let mut cx = Context::internal(user.clone(), kind.clone(), item.namespace(), item.name());
        match server.delete(&mut cx, item.name(), &options).await {
            Err(status) if status.code != 404 => failed = Err(status),
            _ => {}
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(crd: &Value, others: &[Arc<Object>]) -> Option<Value> {
        decide(crd, others, structure(crd))
    }

    fn crd() -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "foos.example.com", "uid": "u", "generation": 1},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"]},
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "subresources": {"status": {},
                        "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
                    {"name": "v1beta1", "served": false, "storage": false}]}})
    }

    #[test]
    fn names_are_accepted_once() {
        let accepted = decided(&crd(), &[]).unwrap();
        assert!(is_true(&accepted, "Established") && is_true(&accepted, "NamesAccepted"));
        assert_eq!(accepted["status"]["storedVersions"], json!(["v1"]));
        assert!(decided(&accepted, &[]).is_none(), "nothing more to do");
        let mut second = crd();
        second["metadata"]["name"] = json!("bars.example.com");
        second["spec"]["names"]["plural"] = json!("bars");
        let refused = decided(&second, &[Object::from_value(accepted.clone())]).unwrap();
        assert!(!is_true(&refused, "Established"));
        assert_eq!(text(condition(&refused, "NamesAccepted").unwrap(), "/reason"), "KindConflict");
        assert_eq!(refused["status"]["acceptedNames"], json!({"plural": "bars", "kind": ""}));
        // Each of its names has to be free, and what has been accepted stays.
        let first = [Object::from_value(accepted.clone())];
        for (names, reason) in [
            (json!({"plural": "foos", "kind": "Bar"}), "PluralConflict"),
            (json!({"plural": "bars", "kind": "Bar", "singular": "fo"}), "SingularConflict"),
            (json!({"plural": "bars", "kind": "Bar", "shortNames": ["b", "foos"]}), "ShortNamesConflict"),
            (json!({"plural": "fo", "kind": "Bar"}), "PluralConflict"),
            (json!({"plural": "bars", "kind": "Bar", "listKind": "Foo"}), "ListKindConflict"),
        ] {
            second["spec"]["names"] = names.clone();
            let refused = decided(&second, &first).unwrap();
            let why = condition(&refused, "NamesAccepted").unwrap();
            assert_eq!((text(why, "/status"), text(why, "/reason")), ("False", reason), "{names}");
        }
        // Another name that is taken is told in its turn, and is no new refusal.
        second["spec"]["names"] = json!({"plural": "bars", "kind": "Bar", "shortNames": ["fo"]});
        let mut refused = decided(&second, &first).unwrap();
        let long_ago = json!("2020-01-01T00:00:00Z");
        for condition in refused["status"]["conditions"].as_array_mut().unwrap() {
            condition["lastTransitionTime"] = long_ago.clone();
        }
        refused["spec"]["names"]["shortNames"] = json!(["foos"]);
        let again = decided(&refused, &first).unwrap();
        let why = condition(&again, "NamesAccepted").unwrap();
        assert_eq!(text(why, "/message"), "\"foos\" is already in use");
        assert_eq!(why["lastTransitionTime"], long_ago);
        second["spec"]["names"] = json!({"plural": "bars", "kind": "Bar"});
        assert!(is_true(&decided(&second, &first).unwrap(), "Established"));
        let mut grown = accepted;
        grown["spec"]["names"]["shortNames"] = json!(["fo", "ba"]);
        second["status"] = json!({"acceptedNames": {"plural": "bars", "kind": "Bar", "shortNames": ["ba"]}});
        let refused = decided(&grown, &[Object::from_value(second)]).unwrap();
        assert!(is_true(&refused, "Established") && !is_true(&refused, "NamesAccepted"));
        assert_eq!(refused["status"]["acceptedNames"]["shortNames"], json!(["fo"]));
    }

    #[test]
    fn whether_the_community_approved_is_told() {
        let mut own = crd();
        own["spec"]["group"] = json!("x.k8s.io");
        own["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, an experiment"});
        let told = decided(&own, &[]).unwrap();
        let policy = condition(&told, "KubernetesAPIApprovalPolicyConformant").unwrap();
        assert_eq!((text(policy, "/status"), text(policy, "/reason")), ("False", "UnapprovedAnnotation"));
        assert!(decided(&told, &[]).is_none(), "nothing more to do");
        assert!(condition(&decided(&crd(), &[]).unwrap(), "KubernetesAPIApprovalPolicyConformant").is_none());
    }

    #[test]
    fn who_could_not_convert_is_not_served() {
        let mut broken = crd();
        broken["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"clientConfig": {
            "url": "https://a", "caBundle": "Cg=="}, "conversionReviewVersions": ["v1"]}});
        let told = decided(&broken, &[]).unwrap();
        let established = condition(&told, "Established").unwrap();
        assert_eq!(
            (text(established, "/status"), text(established, "/reason")),
            ("False", "InvalidCABundle")
        );
        assert!(decided(&told, &[]).is_none(), "nothing more to do");
        assert!(!check_bundle(&broken, &crd()).is_empty());
        assert!(check_bundle(&broken, &broken).is_empty() && check_bundle(&crd(), &broken).is_empty());
        // What is served goes on being served.
        let mut served = decided(&crd(), &[]).unwrap();
        served["spec"] = broken["spec"].clone();
        assert!(decided(&served, &[]).is_none_or(|told| is_true(&told, "Established")));
        let mut mended = told;
        mended["spec"] = crd()["spec"].clone();
        assert!(is_true(&decided(&mended, &[]).unwrap(), "Established"));
    }

    #[test]
    fn schemas_that_are_not_structural_are_told() {
        let schema = |inner: Value| {
            let mut crd = crd();
            crd["spec"]["versions"][0]["schema"] = json!({"openAPIV3Schema": {"type": "object",
                "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": inner}}});
            decided(&crd, &[]).unwrap()
        };
        let loose = schema(json!({"properties": {"a": {"type": "string"}}}));
        let told = condition(&loose, "NonStructuralSchema").unwrap();
        assert_eq!((text(told, "/status"), text(told, "/reason")), ("True", "Violations"));
        assert_eq!(
            text(told, "/message"),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"
        );
        let mut old = crd();
        old["spec"]["preserveUnknownFields"] = json!(true);
        let told = decided(&old, &[]).unwrap();
        assert_eq!(
            text(condition(&told, "NonStructuralSchema").unwrap(), "/message"),
            "spec.preserveUnknownFields: Invalid value: true: must be false"
        );
        let strict = schema(json!({"type": "object"}));
        assert!(condition(&strict, "NonStructuralSchema").is_none());
        let mut mended = loose;
        mended["spec"] = strict["spec"].clone();
        assert!(condition(&decided(&mended, &[]).unwrap(), "NonStructuralSchema").is_none());
    }

    #[test]
    fn a_kind_is_made() {
        let mut value = crd();
        prepare(&mut value);
        assert_eq!(value["spec"]["names"]["listKind"], "FooList");
        assert!(api::meta::finalizers(&value).next().is_none(), "nothing holds it until it is deleted");
        let kind = kind_of(&value).unwrap();
        assert_eq!((kind.singular.as_str(), kind.version.as_str(), kind.versions.len()), ("foo", "v1", 2));
        assert!(kind.has_subresource("scale") && kind.has_subresource("status"));
        assert!(!kind.versions[1].served);
    }
}
