//! API aggregation: APIServices whose group and version another server answers for.
//!
//! Requests below `/apis/GROUP/VERSION` go to the service that the APIService names, with the user in headers and our client
//! certificate as proof; its resources appear in discovery. Whether it is available is asked when it or its endpoints
//! change, and from time to time, since a server that stops answering sends no event.

mod order;
mod register;

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use api::meta::text;
use api::object::Encoded;
use api::{Object, Status, Value};
use base::prometheus::{head, quoted};
use futures::StreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use parking_lot::Mutex;
use pki::Trust;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::body::Body;
use crate::cache::{CacheEvent, Change, Watcher, local_key};
use crate::callback::{ca_bundle, fetch};
use crate::pipeline::Call;
use crate::pool::Peer;
use crate::proxy::{IDENTITY, Proof, Target};
use crate::registry::Own;
use crate::user::UserInfo;

const GROUP: &str = "apiregistration.k8s.io";
const PLURAL: &str = "apiservices";
const AVAILABLE: &str = "Available";
/// How often an available service is asked whether it still is.
const CHECK_EVERY: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known about other servers.
#[derive(Default)]
pub struct Remote {
    /// Resource lists by APIService name, of those that are available.
    resources: Mutex<BTreeMap<String, Value>>,
    /// What they say of their types, by APIService name.
    described: Mutex<BTreeMap<String, Described>>,
}

/// What a server says of the types of one group and version.
#[derive(Clone, Default)]
struct Described {
    /// The query of its document in OpenAPI version 3, which changes when that does; nothing if it has none.
    v3: Option<String>,
    /// Its document in version 2, without the paths of other groups.
    v2: Option<Arc<Value>>,
}

impl Remote {
    /// Documents in OpenAPI version 2.
    pub(crate) fn documents(&self) -> Vec<Arc<Value>> {
        self.described.lock().values().filter_map(|d| d.v2.clone()).collect()
    }
}

/// Whether it is somebody else who answers.
fn is_remote(service: &Value) -> bool {
    service.pointer("/spec/service").is_some_and(|s| !s.is_null())
}

/// Headers that say who asks, for a server that trusts our certificate. Whoever cannot be named whole is refused: without
/// the headers the request would be our own.
fn identity_headers(user: &UserInfo) -> Result<HeaderMap, Status> {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| -> Result<(), Status> {
        let refused = || {
            Status::bad_request(format!(
                "{name}: {value:?} cannot be sent in a header: the user cannot be told to the server that answers for this group"
            ))
        };
        let header =
            HeaderName::try_from(format!("{IDENTITY}{}", name.to_lowercase())).map_err(|_| refused())?;
        headers.append(header, HeaderValue::from_bytes(value.as_bytes()).map_err(|_| refused())?);
        Ok(())
    };
    add("user", &user.name)?;
    if !user.uid.is_empty() {
        add("uid", &user.uid)?;
    }
    for group in &user.groups {
        add("group", group)?;
    }
    for (key, values) in &user.extra {
        let key = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC).to_string();
        for value in values {
            add(&format!("extra-{key}"), value)?;
        }
    }
    Ok(headers)
}

/// Whether an APIService is marked as unavailable.
fn is_unavailable(service: &Value) -> bool {
    let conditions = service.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|c| c["type"] == AVAILABLE && c["status"] != "True")
}

impl ApiServer {
    /// The metrics of availability.
    pub(crate) fn render_api_services(&self, out: &mut String) {
        let name = "aggregator_unavailable_apiservice";
        head(
            out,
            name,
            "gauge",
            "Gauge of APIServices which are marked as unavailable broken down by APIService name.",
        );
        for service in self.cache.kind(GROUP, PLURAL).all("") {
            let unavailable = u8::from(is_unavailable(service.value()));
            let _ = writeln!(out, "{name}{{name={}}} {unavailable}", quoted(service.name()));
        }
        let name = "aggregator_unavailable_apiservice_total";
        head(
            out,
            name,
            "counter",
            "Counter of APIServices which are marked as unavailable broken down by APIService name and reason.",
        );
        for ((service, reason), n) in self.metrics.unavailable.lock().iter() {
            let _ = writeln!(out, "{name}{{name={},reason=\"{reason}\"}} {n}", quoted(service));
        }
    }

    fn api_service(&self, group: &str, version: &str) -> Option<Arc<Object>> {
        let found = self.cache.kind(GROUP, PLURAL).get(&format!("{version}.{group}"))?;
        is_remote(found.value()).then_some(found)
    }

    /// Whether another server has said that it has this resource.
    pub(crate) fn serves_remotely(&self, group: &str, version: &str, resource: &str) -> bool {
        let known = self.remote.resources.lock();
        let list = known.get(&format!("{version}.{group}")).and_then(|l| l.get("resources")?.as_array());
        list.into_iter().flatten().any(|r| text(r, "/name") == resource)
    }

    fn peer_of(&self, service: &Value) -> Result<Peer, Status> {
        let port = service.pointer("/spec/service/port").and_then(Value::as_i64).unwrap_or(443).to_string();
        let (ns, name) = (text(service, "/spec/service/namespace"), text(service, "/spec/service/name"));
        let (host, port) = self.endpoint_of(ns, name, Some(&port))?;
        let trust = if service.pointer("/spec/insecureSkipTLSVerify") == Some(&json!(true)) {
            None
        } else {
            let bundle = ca_bundle(&service["spec"]).map_err(Status::unavailable)?;
            Some(bundle.map_or(Trust::System, Trust::Only))
        };
        Ok(Peer { host, port, name: format!("{name}.{ns}.svc"), trust, identified: true })
    }

    /// What keeps the server behind an APIService from being asked at all, as a reason and in words.
    fn unreachable(&self, service: &Value) -> Option<(&'static str, String)> {
        let port = service.pointer("/spec/service/port").and_then(Value::as_i64).unwrap_or(443);
        let (ns, name) = (text(service, "/spec/service/namespace"), text(service, "/spec/service/name"));
        let (key, of) = (local_key(ns, name), format!("service/{name} in \"{ns}\""));
        let Some(found) = self.cache.kind("", "services").get(&key) else {
            return Some(("ServiceNotFound", format!("{of} is not present")));
        };
        if text(found.spec(), "/type") != "ClusterIP" {
            return None; // it may lead out of the cluster
        }
        let all =
            |v: &Value, field: &str| v.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
        let ports = all(found.spec(), "ports");
        let Some(wanted) = ports.iter().find(|p| p["port"] == port) else {
            return Some(("ServicePortError", format!("{of} is not listening on port {port}")));
        };
        let Some(endpoints) = self.cache.kind("", "endpoints").get(&key) else {
            return Some(("EndpointsNotFound", format!("cannot find endpointslices for {of}")));
        };
        let wanted = text(wanted, "/name");
        let ready = |subset: &Value| {
            !all(subset, "addresses").is_empty()
                && all(subset, "ports").iter().any(|p| text(p, "/name") == wanted)
        };
        let some = all(endpoints.value(), "subsets").iter().any(ready);
        (!some).then(|| {
            let why = format!("endpointslices for {of} have no addresses with port name \"{wanted}\"");
            ("MissingEndpoints", why)
        })
    }

    /// Answers a request on a resource that this server does not have: another one may.
    pub(crate) async fn elsewhere(&self, call: Call) -> Result<Response<Body>, Status> {
        let Some(service) = self.api_service(&call.info.group, &call.info.version) else {
            return Err(Status::no_such_path());
        };
        self.pass_on(call, &service).await
    }

    async fn pass_on(&self, call: Call, service: &Object) -> Result<Response<Body>, Status> {
        let path = call.request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
        // Whoever cannot be found is not there at the moment, which does not say that there is no such path.
        let peer = self.peer_of(service.value()).map_err(|status| Status::unavailable(status.message))?;
        let headers = identity_headers(&call.user)?;
        let (host, port) = (peer.host.clone(), peer.port);
        self.forward(call, Target { host, port, proof: Proof::Kept(peer), path, headers }).await
    }

    /// The entries of other servers' documents in the index of OpenAPI version 3.
    pub(crate) fn remote_index(&self) -> Vec<(String, Value)> {
        let described = self.remote.described.lock();
        let services = self.cache.kind(GROUP, PLURAL).all("");
        let entry = |service: &Arc<Object>| {
            let query = described.get(service.name())?.v3.clone()?;
            let v = service.value();
            let path = format!("apis/{}/{}", text(v, "/spec/group"), text(v, "/spec/version"));
            let url = format!("/openapi/v3/{path}{query}");
            Some((path, json!({"serverRelativeURL": url})))
        };
        services.iter().filter_map(entry).collect()
    }

    /// Answers for a document of a group and version that another server describes.
    pub(crate) async fn described_elsewhere(
        &self,
        call: Call,
        group: &str,
        version: &str,
    ) -> Result<Response<Body>, Status> {
        let service = self.api_service(group, version).ok_or_else(Status::no_such_path)?;
        self.pass_on(call, &service).await
    }

    /// The versions that other servers answer for, by group.
    fn remote_versions(&self) -> BTreeMap<String, Vec<String>> {
        let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for service in self.cache.kind(GROUP, PLURAL).all("") {
            let v = service.value();
            if is_remote(v) {
                let version = text(v, "/spec/version").to_owned();
                groups.entry(text(v, "/spec/group").to_owned()).or_default().push(version);
            }
        }
        groups
    }

    /// The groups that other servers answer for, as APIGroups.
    pub(crate) fn remote_groups(&self) -> Vec<Value> {
        let one = |(group, versions): (String, Vec<String>)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|v| json!({"groupVersion": format!("{group}/{v}"), "version": v}))
                .collect();
            json!({"name": group, "preferredVersion": versions[0], "versions": versions})
        };
        self.remote_versions().into_iter().map(one).collect()
    }

    /// The same for aggregated discovery, with the resources each server said it has.
    pub(crate) fn remote_discovery(&self) -> Vec<Value> {
        let known = self.remote.resources.lock().clone();
        let resources = |group: &str, version: &str| -> Option<Vec<Value>> {
            let list = known.get(&format!("{version}.{group}"))?.get("resources")?.as_array()?.clone();
            let (subs, mains): (Vec<Value>, Vec<Value>) =
                list.into_iter().partition(|r| text(r, "/name").contains('/'));
            let kind = |r: &Value| {
                let or = |given: &str, otherwise: &str| {
                    if given.is_empty() { otherwise.to_owned() } else { given.to_owned() }
                };
                json!({"group": or(text(r, "/group"), group), "version": or(text(r, "/version"), version), "kind": text(r, "/kind")})
            };
            let main = |r: &Value| {
                let name = text(r, "/name").to_owned();
                let subresources: Vec<Value> = subs
                    .iter()
                    .filter_map(|s| {
                        let sub = text(s, "/name").strip_prefix(&format!("{name}/"))?;
                        Some(json!({"subresource": sub, "responseKind": kind(s), "verbs": s.get("verbs")}))
                    })
                    .collect();
                let scope = if r.get("namespaced") == Some(&json!(true)) { "Namespaced" } else { "Cluster" };
                let mut out = json!({"resource": name, "responseKind": kind(r), "scope": scope,
                    "singularResource": text(r, "/singularName"), "verbs": r.get("verbs")});
                for field in ["shortNames", "categories"] {
                    if let Some(v) = r.get(field) {
                        out[field] = v.clone();
                    }
                }
                if !subresources.is_empty() {
                    out["subresources"] = json!(subresources);
                }
                out
            };
            Some(mains.iter().map(main).collect())
        };
        let groups = self.remote_versions();
        groups
            .iter()
            .map(|(name, versions)| {
                let versions: Vec<Value> = versions
                    .iter()
                    .map(|version| match resources(name, version) {
                        Some(list) => {
                            json!({"version": version, "resources": list, "freshness": "Current"})
                        }
                        None => json!({"version": version, "freshness": "Stale"}),
                    })
                    .collect();
                json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
            })
            .collect()
    }
}

/// The key of the service behind an APIService.
fn service_of(value: &Value) -> String {
    local_key(text(value, "/spec/service/namespace"), text(value, "/spec/service/name"))
}

fn endpoints_of(event: &CacheEvent) -> String {
    local_key(event.object.namespace(), event.object.name())
}

/// Whether a change of an APIService asks for another look at it: what is only said anew of its availability does not, or one
/// that says something else each time would be asked without end.
fn concerns(event: &CacheEvent) -> bool {
    let Some(before) = event.previous.as_ref().filter(|_| event.change != Change::Deleted) else {
        return true;
    };
    let told = |object: &Arc<Encoded>| {
        let object = object.object();
        let conditions = object.value().pointer("/status/conditions").and_then(Value::as_array);
        let available = conditions.into_iter().flatten().find(|c| c["type"] == AVAILABLE);
        (object.spec().clone(), available.map(|c| c["status"].clone()))
    };
    told(before) != told(&event.object)
}

/// Waits until something changes that matters; false if the watch cannot go on.
async fn changed(watcher: &mut Watcher, matters: impl Fn(&CacheEvent) -> bool) -> bool {
    loop {
        let Ok(events) = watcher.next().await else { return false };
        if events.iter().any(|e| matters(e)) {
            return true;
        }
    }
}

/// Keeps the availability of all APIServices.
pub fn start(server: Arc<ApiServer>, shutdown: CancellationToken) {
    let services = server.cache.kind(GROUP, PLURAL);
    let (_, mut changes) = server.cache.list_and_watch(services.clone(), "");
    let endpoints = server.cache.kind("", "endpoints");
    let (_, mut moves) = server.cache.list_and_watch(endpoints.clone(), "");
    let ways = server.cache.kind("", "services");
    let (_, mut turns) = server.cache.list_and_watch(ways.clone(), "");
    tokio::spawn(async move {
        register::start(&server, shutdown.clone()).await;
        // Documents list other servers' groups, and all in the order that the services say; availability is looked after where
        // it changes.
        let mut known = Vec::new();
        let mut order = order::Priorities::default();
        loop {
            let all = services.all("");
            let gone = |name: &String| !all.iter().any(|s| s.name() == name);
            server.remote.resources.lock().retain(|name, _| !gone(name));
            server.remote.described.lock().retain(|name, _| !gone(name));
            let remote = all.iter().filter(|s| is_remote(s.value()));
            let now: Vec<(String, Value)> = remote.map(|s| (s.uid().to_owned(), s.spec().clone())).collect();
            let (led, ordered) = (now != known, server.priorities());
            if led {
                let elsewhere = now
                    .iter()
                    .map(|(_, spec)| api::names::api_version(text(spec, "/group"), text(spec, "/version")));
                let elsewhere: Arc<HashSet<String>> = Arc::new(elsewhere.collect());
                server.kinds.rcu(|kinds| kinds.with_elsewhere(elsewhere.clone()));
                // Whoever was asked meanwhile was asked where the services led before.
                server.pool.clear();
            }
            if led || ordered != order {
                server.documents.clear();
            }
            (known, order) = (now, ordered);
            let judge = async |service: Arc<Object>| {
                if let Err(status) = check(&server, &service).await {
                    tracing::warn!(service = service.name(), error = %status.message, "availability not written");
                }
            };
            futures::stream::iter(all.clone()).for_each_concurrent(16, judge).await;
            let behind: HashSet<String> =
                all.iter().filter(|s| is_remote(s.value())).map(|s| service_of(s.value())).collect();
            let remote = !behind.is_empty();
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = changed(&mut changes, concerns) => if !changed {
                    (_, changes) = server.cache.list_and_watch(services.clone(), "");
                },
                moved = changed(&mut moves, |e| behind.contains(&endpoints_of(e))), if remote => if !moved {
                    (_, moves) = server.cache.list_and_watch(endpoints.clone(), "");
                },
                turned = changed(&mut turns, |e| behind.contains(&endpoints_of(e))), if remote => if !turned {
                    (_, turns) = server.cache.list_and_watch(ways.clone(), "");
                },
                () = tokio::time::sleep(CHECK_EVERY), if remote => {}
            }
        }
    });
}

/// Asks what the types of a service are, if that has changed. A server need not say.
async fn describe(server: &Arc<ApiServer>, service: &Arc<Object>, peer: &Peer, headers: HeaderMap) {
    let value = service.value();
    let path = format!("apis/{}/{}", text(value, "/spec/group"), text(value, "/spec/version"));
    let ask = async |document: &str| {
        let asked = fetch(&server.pool, peer, document, headers.clone());
        // A server that hangs sends nothing.
        match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(why)) => {
                tracing::debug!(service = service.name(), document, why, "types are not described");
                None
            }
            Err(_) => None,
        }
    };
    let index = ask("/openapi/v3").await.unwrap_or_default();
    let url = index.get("paths").and_then(|p| p.get(&path)?.get("serverRelativeURL")?.as_str());
    let v3 = url.map(|u| u.find('?').map_or("", |at| u.get(at..).unwrap_or("")).to_owned());
    let known = server.remote.described.lock().get(service.name()).map(|d| d.v3.clone());
    if known.as_ref() == Some(&v3) {
        return;
    }
    let mut v2 = ask("/openapi/v2").await;
    let prefix = format!("/{path}/");
    if let Some(paths) = v2.as_mut().and_then(|d| d.get_mut("paths")?.as_object_mut()) {
        paths
            .retain(|p, _| p.starts_with(&prefix) || p.trim_end_matches('/') == prefix.trim_end_matches('/'));
    }
    let described = Described { v3, v2: v2.map(Arc::new) };
    server.remote.described.lock().insert(service.name().to_owned(), described);
    server.documents.clear();
}

async fn check(server: &Arc<ApiServer>, service: &Arc<Object>) -> Result<(), Status> {
    let value = service.value();
    let (group, version) = (text(value, "/spec/group"), text(value, "/spec/version"));
    let (status, reason, message) = if is_remote(value) {
        let path = format!("/apis/{group}/{version}");
        let headers = identity_headers(&UserInfo::master("system:kube-aggregator"))?;
        let missing = server.unreachable(value);
        let asked = async {
            if missing.is_some() {
                return Err(String::new());
            }
            let peer = server.peer_of(value).map_err(|s| s.message)?;
            let list = fetch(&server.pool, &peer, &path, headers.clone()).await?;
            Ok::<_, String>((list, peer))
        };
        // A server that hangs sends nothing.
        let answer = match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err("context deadline exceeded".into()),
        };
        match answer {
            Ok((list, peer)) => {
                describe(server, service, &peer, headers).await;
                let known = server.remote.resources.lock().insert(service.name().to_owned(), list.clone());
                if known.as_ref() != Some(&list) {
                    server.documents.clear();
                }
                ("True", "Passed", "all checks passed".to_owned())
            }
            Err(why) => {
                let known = server.remote.resources.lock().remove(service.name());
                let described = server.remote.described.lock().remove(service.name());
                if known.is_some() || described.is_some() {
                    server.documents.clear();
                }
                let url = format!(
                    "https://{}.{}.svc{path}",
                    text(value, "/spec/service/name"),
                    text(value, "/spec/service/namespace")
                );
                let (reason, why) = missing.unwrap_or_else(|| {
                    ("FailedDiscoveryCheck", format!("failing or missing response from {url}: {why}"))
                });
                ("False", reason, why)
            }
        }
    } else {
        ("True", "Local", "Local APIServices are always available".to_owned())
    };
    if status == "False" && !is_unavailable(value) {
        let of = (service.name().to_owned(), reason);
        *server.metrics.unavailable.lock().entry(of).or_default() += 1;
    }
    let now = api::meta::time(base::clock::now());
    let said = |old: &Value| {
        let mut conditions =
            old.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let changed = api::meta::set_condition(&mut conditions, AVAILABLE, status, reason, &message, &now);
        changed.then_some(conditions)
    };
    if said(value).is_none() {
        return Ok(());
    }
    let mut change = |old: &Arc<Object>| {
        let mut new = old.value().clone();
        if let Some(conditions) = said(&new) {
            new["status"]["conditions"] = conditions.into();
        }
        Ok(new)
    };
    let own = Own {
        resource: (GROUP, PLURAL),
        namespace: "",
        name: service.name(),
        subresource: "status",
        dry_run: false,
    };
    server.modify_own(&own, &mut change).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_said_in_headers() {
        let mut user = UserInfo::new("ann", &["a", "b"]);
        user.extra.insert("k/x".into(), vec!["v".into()]);
        let headers = identity_headers(&user).unwrap();
        assert_eq!(headers.get("x-remote-user").unwrap(), "ann");
        assert_eq!(headers.get_all("x-remote-group").iter().count(), 3);
        assert_eq!(headers.get("x-remote-extra-k%2fx").unwrap(), "v");
        let named = identity_headers(&UserInfo::new("jürgen", &[])).unwrap();
        assert_eq!(named.get("x-remote-user").unwrap().as_bytes(), "jürgen".as_bytes());
        let refused = identity_headers(&UserInfo::new("a\nb", &[])).unwrap_err();
        assert_eq!(refused.code, 400, "{}", refused.message);
    }
}
