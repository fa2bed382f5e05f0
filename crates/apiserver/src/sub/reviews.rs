//! Kinds that are asked, not stored: who is it, may they, what may they; bindings by collection; component statuses.

use api::meta::text;
use api::{Gvk, Status, Value};
use http::{Response, StatusCode};
use serde_json::{Map, json};

use crate::ApiServer;
use crate::authz::{Attributes, Decision};
use crate::body::Body;
use crate::resource::Resolved;
use crate::user::{MASTERS, UserInfo};

fn list(v: &Value, field: &str) -> Vec<String> {
    let items = v.get(field).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// A `fieldSelector` of a review as the text that a request would have. What cannot be said so selects nothing less.
fn selected(selector: &Value) -> String {
    let raw = text(selector, "/rawSelector");
    if !raw.is_empty() {
        return raw.to_owned();
    }
    let mut all = api::selector::Field::everything();
    for requirement in selector.get("requirements").and_then(Value::as_array).into_iter().flatten() {
        if let ("In", [value]) = (text(requirement, "/operator"), &list(requirement, "values")[..]) {
            all = all.and_equal(text(requirement, "/key"), value);
        }
    }
    all.to_string()
}

impl ApiServer {
    /// Answers a request on a kind that is not stored.
    pub(crate) async fn unstored(&self, r: &mut Resolved) -> Result<Response<Body>, Status> {
        let (plural, verb) = (r.cx.kind.plural.clone(), r.cx.info.verb);
        if plural == "componentstatuses" {
            return self.component_statuses(r).await;
        }
        let gvk = r.cx.version().gvk(&r.cx.kind);
        if verb != "create" {
            return Err(Status::method_not_supported(&r.cx.gvr(), verb));
        }
        if plural == "bindings" {
            return self.bind(r, &gvk).await;
        }
        let options = r.write_options()?;
        let mut review = r.decode_as(&gvk, &options).await?;
        let user = r.cx.user.clone();
        let spec = review.get("spec").cloned().unwrap_or(Value::Null);
        let status = match plural.as_str() {
            "tokenreviews" => self.token_review(&spec)?,
            "selfsubjectreviews" => json!({"userInfo": user.to_value()}),
            "selfsubjectaccessreviews" => self.access(&spec, &user, &gvk)?,
            "subjectaccessreviews" | "localsubjectaccessreviews" => {
                let namespace = text(&spec, "/resourceAttributes/namespace");
                if plural == "localsubjectaccessreviews" && namespace != r.cx.info.namespace {
                    return Err(Status::bad_request(
                        "spec.resourceAttributes.namespace must match the namespace of the request",
                    ));
                }
                let mut other = UserInfo {
                    name: text(&spec, "/user").to_owned(),
                    uid: text(&spec, "/uid").to_owned(),
                    groups: list(&spec, "groups"),
                    ..UserInfo::default()
                };
                if other.name.is_empty() && other.groups.is_empty() {
                    let mut errors = api::ErrorList::new();
                    errors.invalid_str(
                        &api::Path::new("spec").child("user"),
                        "",
                        "at least one of user or group must be specified",
                    );
                    return Err(Status::invalid(&gvk, "", &errors));
                }
                for (k, v) in spec.get("extra").and_then(Value::as_object).into_iter().flatten() {
                    let values =
                        v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned));
                    other.extra.insert(k.clone(), values.collect());
                }
                self.access(&spec, &other, &gvk)?
            }
            "selfsubjectrulesreviews" => {
                let namespace = text(&spec, "/namespace");
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                self.rules(&user, namespace)
            }
            _ => return Err(Status::no_such_path()),
        };
        review["status"] = status;
        let meta = api::meta::of_mut(&mut review);
        meta.entry("creationTimestamp").or_insert(Value::Null);
        r.document(StatusCode::CREATED, &review)
    }

    fn token_review(&self, spec: &Value) -> Result<Value, Status> {
        let token = text(spec, "/token");
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        Ok(match self.authenticator.token(token, &list(spec, "audiences")) {
            Ok(known) => {
                let mut status = json!({"authenticated": true, "user": known.user.to_value()});
                if !known.audiences.is_empty() {
                    status["audiences"] = json!(known.audiences);
                }
                status
            }
            Err(why) => json!({"authenticated": false, "user": {}, "error": why}),
        })
    }

    fn access(&self, spec: &Value, user: &UserInfo, gvk: &Gvk) -> Result<Value, Status> {
        let resource = spec.get("resourceAttributes").filter(|v| !v.is_null());
        let other = spec.get("nonResourceAttributes").filter(|v| !v.is_null());
        let mut errors = api::ErrorList::new();
        let path = api::Path::new("spec");
        match (resource, other) {
            (Some(_), Some(_)) => errors.invalid(
                &path.child("nonResourceAttributes"),
                &json!("nonResourceAttributes"),
                "cannot be specified in combination with resourceAttributes",
            ),
            (None, None) => errors.invalid(
                &path.child("resourceAttributes"),
                &json!("resourceAttributes"),
                "exactly one of nonResourceAttributes or resourceAttributes must be specified",
            ),
            _ => {}
        }
        if !errors.is_empty() {
            return Err(Status::invalid(gvk, "", &errors));
        }
        let a = resource.or(other).unwrap_or(&Value::Null);
        let fields = selected(a.get("fieldSelector").unwrap_or(&Value::Null));
        let attributes = Attributes {
            user,
            verb: text(a, "/verb"),
            is_resource: resource.is_some(),
            group: text(a, "/group"),
            resource: text(a, "/resource"),
            subresource: text(a, "/subresource"),
            namespace: text(a, "/namespace"),
            name: text(a, "/name"),
            path: text(a, "/path"),
            fields: &fields,
        };
        Ok(match self.authorize(&attributes) {
            Decision::Allow(reason) if reason.is_empty() => json!({"allowed": true}),
            Decision::Allow(reason) => json!({"allowed": true, "reason": reason}),
            Decision::NoOpinion(reason) if reason.is_empty() => json!({"allowed": false}),
            Decision::NoOpinion(reason) => json!({"allowed": false, "reason": reason}),
        })
    }

    fn rules(&self, user: &UserInfo, namespace: &str) -> Value {
        let mut resources = Vec::new();
        let mut others = Vec::new();
        if user.in_group(MASTERS) {
            resources.push(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            others.push(json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        let rbac = self.rbac();
        for rule in rbac.rules_for(user, namespace) {
            let value = rule.to_value();
            let target = if rule.urls.is_empty() { &mut resources } else { &mut others };
            if !target.contains(&value) {
                target.push(value);
            }
        }
        let mut status = json!({"resourceRules": resources, "nonResourceRules": others, "incomplete": false});
        // What a kubelet may read follows from its pods, and cannot be listed.
        let node = user.node().map(|_| "node authorizer does not support user rule resolution".to_owned());
        let faults = rbac.faults(user, namespace);
        let missing: Vec<String> = node.into_iter().chain([faults]).filter(|why| !why.is_empty()).collect();
        if !missing.is_empty() {
            status["incomplete"] = json!(true);
            status["evaluationError"] = json!(missing.join(", "));
        }
        status
    }

    /// The parts of the control plane, as far as this process can tell: those that hold a lease are healthy while they
    /// renew it, the store while it answers.
    async fn component_statuses(&self, r: &mut Resolved) -> Result<Response<Body>, Status> {
        let verb = r.cx.info.verb;
        if !matches!(verb, "get" | "list") {
            return Err(Status::method_not_supported(&r.cx.gvr(), verb));
        }
        let condition = |healthy: bool, message: String, error: &str| {
            let mut c = Map::new();
            c.insert("type".into(), json!("Healthy"));
            c.insert("status".into(), json!(if healthy { "True" } else { "False" }));
            c.insert("message".into(), json!(message));
            if !error.is_empty() {
                c.insert("error".into(), json!(error));
            }
            Value::Object(c)
        };
        let mut found = Vec::new();
        for name in ["controller-manager", "scheduler"] {
            let lease =
                self.cache.kind("coordination.k8s.io", "leases").get(&format!("kube-system/kube-{name}"));
            let fresh = lease.as_ref().is_some_and(|l| {
                let renewed = l
                    .spec()
                    .get("renewTime")
                    .and_then(Value::as_str)
                    .and_then(|t| t.parse::<jiff::Timestamp>().ok());
                let life = l.spec().get("leaseDurationSeconds").and_then(Value::as_i64).unwrap_or(15);
                renewed.is_some_and(|t| t.as_second() + 2 * life >= base::clock::now().as_second())
            });
            let alive = fresh || self.options.components.iter().any(|c| c == name);
            found.push((
                name,
                if alive {
                    condition(true, "ok".into(), "")
                } else {
                    condition(
                        false,
                        String::new(),
                        "no lease of it is being renewed, and it does not run in this process",
                    )
                },
            ));
        }
        found.push((
            "etcd-0",
            match self.cache.store().revision().await {
                Ok(_) => condition(true, "ok".into(), ""),
                Err(e) => condition(false, String::new(), &e.to_string()),
            },
        ));
        let item = |name: &str, c: Value| json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name, "creationTimestamp": null}, "conditions": [c]});
        r.cx.warnings.push("v1 ComponentStatus is deprecated in v1.19+".into());
        if verb == "get" {
            let name = r.cx.info.name.clone();
            let Some((name, c)) = found.into_iter().find(|(n, _)| *n == name) else {
                return Err(Status::not_found(&r.cx.gvr(), &name));
            };
            return r.object(StatusCode::OK, &api::Object::from_value(item(name, c)));
        }
        let object = |(n, c)| api::Object::from_value(item(n, c)).encoded().clone();
        let items = found.into_iter().map(object).collect();
        let listed = crate::registry::Listed { revision: self.cache.revision(), items, ..Default::default() };
        crate::registry::render_list(&r.cx, &r.accept, r.include, listed)
    }
}
