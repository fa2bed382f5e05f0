//! Kinds that are asked, not stored: who is it, may they, what may they; bindings by collection; component statuses.

use api::meta::{items, text};
use api::selector::{Field, Label};
use api::{ErrorList, Path, Status, Value};
use http::{Response, StatusCode};
use serde_json::{Map, json};

use crate::ApiServer;
use crate::authz::Attributes;
use crate::body::Body;
use crate::resource::Resolved;
use crate::user::{MASTERS, UserInfo};

fn words(v: &Value, pointer: &str) -> Vec<String> {
    items(v, pointer).filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// What is in a review's selector, and whether that is all of it.
struct Selected<T> {
    terms: T,
    whole: bool,
}

/// The `fieldSelector` of a review. What cannot be understood is left out: it selects nothing less.
fn fields(selector: &Value) -> Selected<Field> {
    let raw = text(selector, "/rawSelector");
    if !raw.is_empty() {
        let parsed = Field::parse(raw);
        return Selected { whole: parsed.is_ok(), terms: parsed.unwrap_or_default() };
    }
    let (mut terms, mut whole) = (Field::everything(), true);
    for requirement in items(selector, "/requirements") {
        let (key, values) = (text(requirement, "/key"), words(requirement, "/values"));
        match (text(requirement, "/operator"), &values[..]) {
            ("In", [value]) => terms = terms.and_equal(key, value),
            ("NotIn", [value]) => terms = terms.and_unequal(key, value),
            _ => whole = false,
        }
    }
    Selected { terms, whole }
}

/// The `labelSelector` of a review, in the same way. No authorizer here goes by labels.
fn labels(selector: &Value) -> Selected<Label> {
    let raw = text(selector, "/rawSelector");
    if !raw.is_empty() {
        let parsed = Label::parse(raw);
        return Selected { whole: parsed.is_ok(), terms: parsed.unwrap_or_default() };
    }
    let known = |r: &&Value| matches!(text(r, "/operator"), "In" | "NotIn" | "Exists" | "DoesNotExist");
    let understood: Vec<&Value> = items(selector, "/requirements").filter(known).collect();
    let whole = understood.len() == items(selector, "/requirements").count();
    let parsed = Label::from_selector(&json!({"matchExpressions": understood}));
    Selected { whole: whole && parsed.is_ok(), terms: parsed.unwrap_or_default() }
}

/// What is said of a selector that was not understood as a whole.
fn ignored(selector: &str, nothing: bool) -> String {
    let partially = if nothing { "" } else { "partially " };
    format!("spec.resourceAttributes.{selector} {partially}ignored due to parse error")
}

/// What is wrong with a selector of a review.
fn check_selector(selector: &Value, path: &Path, of_labels: bool, errors: &mut ErrorList) {
    let (raw, requirements) = (text(selector, "/rawSelector"), items(selector, "/requirements").count());
    if !raw.is_empty() && requirements > 0 {
        let why = "may not specified at the same time as requirements";
        errors.invalid_str(&path.child("rawSelector"), raw, why);
    }
    if raw.is_empty() && requirements == 0 {
        let why = format!("when {path} is specified, requirements or rawSelector is required");
        errors.required(&path.child("requirements"), why);
    }
    for (i, requirement) in items(selector, "/requirements").enumerate() {
        let path = path.child("requirements").index(i);
        let (key, values) = (text(requirement, "/key"), words(requirement, "/values"));
        if !of_labels && key.is_empty() {
            errors.required(&path.child("key"), "must be specified");
        }
        match text(requirement, "/operator") {
            "In" | "NotIn" if values.is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&path.child("values"), why);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&path.child("values"), why);
            }
            // One that only newer servers know is left out, which asks for more.
            _ => {}
        }
        if of_labels {
            for why in api::validate::qualified_name(key) {
                errors.invalid_str(&path.child("key"), key, why);
            }
            for (j, value) in values.iter().enumerate() {
                for why in api::validate::label_value(value) {
                    errors.invalid_str(&path.child("values").index(j), value, why);
                }
            }
        }
    }
}

/// What is wrong with a question of what somebody may do: of whoever asks, of anybody, or of anybody in `namespace`.
fn check_access(review: &Value, own: bool, namespace: Option<&str>) -> ErrorList {
    let mut errors = ErrorList::new();
    let given = |field: &str| review["spec"].get(field).filter(|v| !v.is_null());
    let (resource, other) = (given("resourceAttributes"), given("nonResourceAttributes"));
    let path = Path::new("spec");
    match (resource, other) {
        (Some(_), Some(other)) => errors.invalid(
            &path.child("nonResourceAttributes"),
            other,
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => errors.invalid(
            &path.child("resourceAttributes"),
            &Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    if !own && text(review, "/spec/user").is_empty() && words(&review["spec"], "/groups").is_empty() {
        let why = "at least one of user or group must be specified";
        errors.invalid_str(&path.child("user"), "", why);
    }
    let path = path.child("resourceAttributes");
    for (selector, of_labels) in [("fieldSelector", false), ("labelSelector", true)] {
        if let Some(given) = resource.and_then(|r| r.get(selector)).filter(|v| !v.is_null()) {
            check_selector(given, &path.child(selector), of_labels, &mut errors);
        }
    }
    let mut meta = api::meta::of(review).as_object().cloned().unwrap_or_default();
    for field in ["managedFields", "namespace"] {
        meta.shift_remove(field);
    }
    meta.retain(|_, value| !is_empty(value));
    if !meta.is_empty() {
        let except = if namespace.is_some() { " except for namespace" } else { "" };
        errors.invalid(&Path::new("metadata"), &Value::Object(meta), format!("must be empty{except}"));
    }
    if let Some(namespace) = namespace {
        let asked = resource.map(|r| text(r, "/namespace"));
        if let Some(asked) = asked.filter(|asked| *asked != namespace) {
            errors.invalid_str(&path.child("namespace"), asked, "must match metadata.namespace");
        }
        if let Some(other) = other {
            let path = Path::new("spec").child("nonResourceAttributes");
            errors.invalid(&path, other, "disallowed on this kind of request");
        }
    }
    errors
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Takes what only a server sets off an object's metadata, and gives it the namespace of the path.
fn own_metadata(review: &mut Value, namespace: &str) -> Result<(), Status> {
    let given = text(review, "/metadata/namespace").to_owned();
    if !namespace.is_empty() && !given.is_empty() && given != namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let meta = api::meta::of_mut(review);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "namespace",
    ] {
        meta.shift_remove(field);
    }
    if !namespace.is_empty() {
        meta.insert("namespace".into(), json!(namespace));
    }
    Ok(())
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
        let namespace = r.cx.info.namespace.clone();
        own_metadata(&mut review, &namespace)?;
        self.admit_document(r, "", &mut review, options.dry_run).await?;
        let kind = r.cx.kind.clone();
        kind.to_storage(&mut review)?;
        let spec = review.get("spec").cloned().unwrap_or(Value::Null);
        let checked = |own: bool, namespace: Option<&str>| {
            let errors = check_access(&review, own, namespace);
            if errors.is_empty() { Ok(()) } else { Err(Status::invalid(&gvk, "", &errors)) }
        };
        let status = match plural.as_str() {
            "tokenreviews" => self.token_review(&spec)?,
            "selfsubjectreviews" => {
                let now = api::meta::time(base::clock::now());
                review = json!({"apiVersion": review["apiVersion"], "kind": review["kind"],
                    "metadata": {"creationTimestamp": now}});
                json!({"userInfo": user.to_value()})
            }
            "selfsubjectaccessreviews" => {
                checked(true, None)?;
                self.access(&spec, &user)
            }
            "subjectaccessreviews" | "localsubjectaccessreviews" => {
                checked(false, plural.starts_with("local").then_some(namespace.as_str()))?;
                let mut other = UserInfo {
                    name: text(&spec, "/user").to_owned(),
                    uid: text(&spec, "/uid").to_owned(),
                    groups: words(&spec, "/groups"),
                    ..UserInfo::default()
                };
                for (k, v) in spec.get("extra").and_then(Value::as_object).into_iter().flatten() {
                    let values =
                        v.as_array().into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned));
                    other.extra.insert(k.clone(), values.collect());
                }
                self.access(&spec, &other)
            }
            "selfsubjectrulesreviews" => {
                let namespace = text(&spec, "/namespace");
                if namespace.is_empty() {
                    return Err(Status::bad_request("no namespace on request"));
                }
                review = json!({"apiVersion": review["apiVersion"], "kind": review["kind"], "metadata": {}, "spec": {}});
                self.rules(&user, namespace)
            }
            _ => return Err(Status::no_such_path()),
        };
        review["status"] = status;
        kind.from_storage(&mut review, r.cx.version());
        let meta = api::meta::of_mut(&mut review);
        meta.entry("creationTimestamp").or_insert(Value::Null);
        r.document(StatusCode::CREATED, &review)
    }

    fn token_review(&self, spec: &Value) -> Result<Value, Status> {
        let token = text(spec, "/token");
        if token.is_empty() {
            return Err(Status::bad_request("token is required for TokenReview in authentication"));
        }
        Ok(match self.authenticator.token(token, &words(spec, "/audiences")) {
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

    fn access(&self, spec: &Value, user: &UserInfo) -> Value {
        let given = |field: &str| spec.get(field).filter(|v| !v.is_null());
        let resource = given("resourceAttributes");
        let a = resource.or(given("nonResourceAttributes")).unwrap_or(&Value::Null);
        let fields = fields(a.get("fieldSelector").unwrap_or(&Value::Null));
        let labels = labels(a.get("labelSelector").unwrap_or(&Value::Null));
        let mut faults = Vec::new();
        if !fields.whole {
            faults.push(ignored("fieldSelector", fields.terms.is_everything()));
        }
        if !labels.whole {
            faults.push(ignored("labelSelector", labels.terms.is_everything()));
        }
        let fields = fields.terms.to_string();
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
        let decision = self.authorize(&attributes);
        let mut status = json!({"allowed": decision.allowed()});
        if !decision.reason().is_empty() {
            status["reason"] = json!(decision.reason());
        }
        if !faults.is_empty() {
            status["evaluationError"] = json!(faults.join("; "));
        }
        status
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
        // What a kubelet may read follows from its pods, and cannot be listed.
        let node = user.node().is_some();
        let mut status = json!({"resourceRules": resources, "nonResourceRules": others, "incomplete": node});
        let faults = rbac.faults(user, namespace);
        let why = "node authorizer does not support user rule resolution";
        let errors = match (node, faults.trim_start_matches('[').trim_end_matches(']')) {
            (false, _) => faults,
            (true, "") => why.to_owned(),
            (true, others) => format!("[{why}, {others}]"),
        };
        if !errors.is_empty() {
            status["evaluationError"] = json!(errors);
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
