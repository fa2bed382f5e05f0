//! TokenRequest: a token for a service account, bound to what will use it.

use api::meta::text as text_at;
use api::{ErrorList, Gvk, Path, Status, Value};
use http::{Response, StatusCode};
use serde_json::json;

use crate::ApiServer;
use crate::authn::Life;
use crate::body::Body;
use crate::cache::local_key;
use crate::resource::Resolved;

/// The shortest life of a token, in seconds.
const SHORTEST: i64 = 600;
/// The longest.
const LONGEST: i64 = 1 << 32;
/// What is given to who does not ask.
const DEFAULT: i64 = 3600;
/// The time that the ServiceAccount plugin asks tokens for that it gives to pods.
pub(crate) const OF_PODS: i64 = 3607;
/// How long such tokens are good in truth, as upstream: programs that read theirs once are older than tokens that end.
const EXTENDED: i64 = 365 * 24 * 3600;

impl ApiServer {
    /// POST of a TokenRequest to a service account.
    pub(crate) async fn token(&self, r: &mut Resolved, gvk: &Gvk) -> Result<Response<Body>, Status> {
        let options = r.write_options()?;
        let mut request = r.decode_as(gvk, &options).await?;
        let name = r.cx.info.name.clone();
        let namespace = r.cx.info.namespace.clone();
        let about = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
        let mut errors = ErrorList::new();
        for (field, own) in [("name", &name), ("namespace", &namespace)] {
            let given = api::meta::of(&request).get(field).and_then(Value::as_str).unwrap_or("");
            if errors.is_empty() && !given.is_empty() && given != own {
                let why = format!("must match the service account {field} if specified");
                errors.invalid_str(&Path::new("metadata").child(field), given, why);
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&about, &name, &errors));
        }
        let account = self.get_object(&r.cx, &name).await?;
        let uid = text_at(&request, "/metadata/uid").to_owned();
        if !uid.is_empty() && uid != account.uid() {
            let why = format!(
                "the UID in the token request ({uid}) does not match the UID of the service account ({})",
                account.uid()
            );
            if self.options.release >= api::Release::TOKENS_OF_A_UID {
                let gvr = api::Gvr::owned("authentication.k8s.io", "v1", "TokenRequest");
                return Err(Status::conflict(&gvr, &name, &why));
            }
            r.cx.warnings.push(format!(
                "{why} but TokenRequestServiceAccountUIDValidation is not enabled. In the future, this will return a conflict error"
            ));
        }
        self.admit_document(r, "token", &mut request, options.dry_run).await?;
        let spec = request.get("spec").cloned().unwrap_or(Value::Null);
        let seconds = spec.get("expirationSeconds").and_then(Value::as_i64).unwrap_or(DEFAULT);
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("expirationSeconds");
        if seconds < SHORTEST {
            errors.invalid(&path, &json!(seconds), "may not specify a duration less than 10 minutes");
        }
        if seconds > LONGEST {
            errors.invalid(&path, &json!(seconds), "may not specify a duration larger than 2^32 seconds");
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&about, "", &errors));
        }
        let audiences: Vec<String> = spec
            .get("audiences")
            .and_then(Value::as_array)
            .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        let mut bound: Vec<(&str, Value)> = Vec::new();
        if let Some(reference) = spec.get("boundObjectRef").filter(|v| !v.is_null()) {
            let text = |f: &str| reference.get(f).and_then(Value::as_str).unwrap_or("");
            let (claim, resource) = match (text("apiVersion"), text("kind")) {
                ("v1", "Pod") => ("pod", "pods"),
                ("v1", "Secret") => ("secret", "secrets"),
                ("v1", "Node") => ("node", "nodes"),
                (api_version, kind) => {
                    let (group, version) = api::names::split_api_version(api_version);
                    return Err(Status::bad_request(format!(
                        "cannot bind token to object of type {group}/{version}, Kind={kind}"
                    )));
                }
            };
            let scope = if resource == "nodes" { "" } else { namespace.as_str() };
            let gvr = api::Gvr::owned("", "v1", resource);
            let object = self
                .cache
                .kind("", resource)
                .get(&local_key(scope, text("name")))
                .ok_or_else(|| Status::not_found(&gvr, text("name")))?;
            if !text("uid").is_empty() && text("uid") != object.uid() {
                let why = format!(
                    "the UID in the bound object reference ({}) does not match the UID in record. The object might have been deleted and then recreated",
                    text("uid")
                );
                // Upstream names the kind here, not the resource.
                let kind = api::Gvr::owned("", "v1", text("kind"));
                return Err(Status::conflict(&kind, text("name"), &why));
            }
            bound.push((claim, json!({"name": object.name(), "uid": object.uid()})));
            if resource == "pods" {
                let spec = object.spec();
                if spec.get("serviceAccountName").and_then(Value::as_str) != Some(name.as_str()) {
                    return Err(Status::bad_request(format!(
                        "cannot bind token for serviceaccount \"{name}\" to pod running with different serviceaccount name."
                    )));
                }
                let node = spec.get("nodeName").and_then(Value::as_str).unwrap_or("");
                // One that is not there is told by its name.
                if !node.is_empty() {
                    bound.push(match self.cache.kind("", "nodes").get(node) {
                        Some(node) => ("node", json!({"name": node.name(), "uid": node.uid()})),
                        None => ("node", json!({"name": node})),
                    });
                }
            }
        }
        let own = || audiences.iter().all(|a| a == self.authenticator.issuer());
        let extended = bound.iter().any(|(claim, _)| *claim == "pod") && seconds == OF_PODS && own();
        let life = Life { told: seconds, good: if extended { EXTENDED } else { seconds } };
        let (token, expires) =
            self.authenticator.sign(&namespace, (&name, account.uid()), &audiences, life, &bound)?;
        let expires = jiff::Timestamp::from_second(expires).map_err(Status::internal)?;
        if let Some(spec) = request.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("expirationSeconds".into(), json!(seconds));
            if audiences.is_empty() {
                spec.insert("audiences".into(), json!([self.authenticator.issuer()]));
            }
        }
        request["status"] = json!({"token": token, "expirationTimestamp": api::meta::time(expires)});
        let meta = api::meta::of_mut(&mut request);
        meta.insert("name".into(), json!(name));
        meta.insert("namespace".into(), json!(namespace));
        if meta.get("uid").and_then(Value::as_str).is_none_or(str::is_empty) {
            meta.insert("uid".into(), json!(account.uid()));
        }
        meta.insert("creationTimestamp".into(), json!(api::meta::time(base::clock::now())));
        r.document(StatusCode::CREATED, &request)
    }
}
