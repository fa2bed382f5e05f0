//! Certificate requests: those of kubelets are approved if their senders may have them, approved ones of the cluster's own
//! signers are answered with a certificate, and old ones are cleared away.
//!
//! Every signer has rules for what it signs. A request that breaks them has failed, whoever approved it.

use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Informer, Result, gvr};
use jiff::{SignedDuration, Timestamp};
use pki::{Name, Pki, Request};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, view};

/// Certificates of users.
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Certificates by which kubelets are clients.
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Certificates by which kubelets are servers.
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// What old clients ask for without naming a signer: whoever approves it answers for it.
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// How long a certificate lasts if nobody asks for less.
const LASTS: SignedDuration = SignedDuration::from_hours(24 * pki::LEAF_DAYS);
/// The least that one lasts.
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// How long a request is kept that has been answered, denied, or has failed.
const KEEP_DONE: Duration = Duration::from_secs(60 * 60);
/// How long one is kept that nobody has answered.
const KEEP_OPEN: Duration = Duration::from_secs(24 * 60 * 60);

/// What lets a kubelet have a certificate for the asking: the right to create this subresource, and what is then said.
const GRANTS: [(&str, &str); 2] = [
    ("selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."),
    ("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."),
];

/// The controller. Its keys are requests.
pub(crate) struct Certificates {
    client: Client,
    requests: Arc<Informer>,
    roles: Arc<Informer>,
    bindings: Arc<Informer>,
    pki: Arc<Pki>,
}

impl Certificates {
    pub(crate) fn new(machine: &Machine, pki: Arc<Pki>) -> Self {
        Self {
            client: machine.client().named("certificate-controller"),
            requests: machine.informer(&gvr::CERTIFICATE_SIGNING_REQUESTS),
            roles: machine.informer(&gvr::CLUSTER_ROLES),
            bindings: machine.informer(&gvr::CLUSTER_ROLE_BINDINGS),
            pki,
        }
    }

    /// By which of the grants the sender of a request may have it approved.
    async fn grant(&self, request: &Object, asked: &Request) -> Result<Option<&'static str>> {
        if !is_open(request) || signer(request) != KUBELET_CLIENT {
            return Ok(None);
        }
        if check(KUBELET_CLIENT, asked, &usages(request)).is_err() {
            return Ok(None);
        }
        let spec = request.spec();
        for (subresource, says) in GRANTS {
            if subresource == "selfnodeclient" && spec["username"] != asked.common_name.as_str() {
                continue;
            }
            let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
                "user": spec["username"], "uid": spec["uid"], "groups": spec["groups"], "extra": spec["extra"],
                "resourceAttributes": {"group": "certificates.k8s.io", "version": "*", "verb": "create",
                    "resource": "certificatesigningrequests", "subresource": subresource}}});
            let answer = self.client.create(&gvr::SUBJECT_ACCESS_REVIEWS, "", &review).await?;
            if answer.status()["allowed"] == true {
                return Ok(Some(says));
            }
        }
        Ok(None)
    }
}

#[async_trait]
impl Controller for Certificates {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn sources(&self) -> Vec<Source> {
        // Who may not have a certificate yet may have it when rights change.
        let waiting = |rights: &Arc<Informer>| {
            let requests = self.requests.clone();
            Source::with(rights, move |_| {
                let all = requests.list("");
                let open = all.iter().filter(|r| is_open(r) && signer(r) == KUBELET_CLIENT);
                open.map(|r| r.key()).collect()
            })
        };
        vec![Source::own(&self.requests), waiting(&self.roles), waiting(&self.bindings)]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(request) = self.requests.get("", &key.name) else { return Ok(Decision::default()) };
        let pem = STANDARD.decode(view::text(&request, &["spec", "request"])).unwrap_or_default();
        let asked = Request::parse(&pem).map_err(|e| e.to_string());
        let grant = match &asked {
            Ok(asked) => self.grant(&request, asked).await?,
            Err(_) => None,
        };
        let sign = |asked: &Request, usages: &[&str], lasts: SignedDuration| {
            self.pki.sign_request(asked, usages, lasts).map_err(|e| e.to_string())
        };
        Ok(decide(&Observed { request: &request, asked, grant, now: base::clock::now() }, &sign))
    }
}

struct Observed<'a> {
    request: &'a Arc<Object>,
    /// What it asks for, or why that cannot be read.
    asked: std::result::Result<Request, String>,
    /// What is said of it if its sender may have it approved.
    grant: Option<&'static str>,
    now: Timestamp,
}

/// Makes a certificate.
type Sign<'a> = &'a dyn Fn(&Request, &[&str], SignedDuration) -> std::result::Result<String, String>;

fn signer(request: &Object) -> &str {
    view::text(request, &["spec", "signerName"])
}

fn usages(request: &Object) -> Vec<&str> {
    view::list(request, &["spec", "usages"]).iter().filter_map(Value::as_str).collect()
}

fn certificate(request: &Object) -> &str {
    view::text(request, &["status", "certificate"])
}

/// Whether nobody has decided about it.
fn is_open(request: &Object) -> bool {
    certificate(request).is_empty()
        && !["Approved", "Denied", "Failed"].iter().any(|kind| view::is_true(request, kind))
}

fn decide(o: &Observed<'_>, sign: Sign<'_>) -> Decision {
    let mut decision = Decision::default();
    if o.request.is_deleting() {
        return decision;
    }
    let left = left(o.request, o.now);
    if left.is_zero() {
        decision.actions.push(Action::delete(&gvr::CERTIFICATE_SIGNING_REQUESTS, o.request));
        return decision;
    }
    // A timer, because being old is no event.
    decision.after(left);
    decision.actions.extend(match o.grant {
        Some(says) if is_open(o.request) => {
            Some(judged(o, "approval", "Approved", "AutoApproved", says.to_owned()))
        }
        _ => answer(o, sign),
    });
    decision
}

/// The request with one condition more.
fn judged(o: &Observed<'_>, sub: &'static str, kind: &str, reason: &str, message: String) -> Action {
    let mut object = o.request.value().clone();
    let now = meta::time(o.now);
    let mut conditions = view::list(o.request, &["status", "conditions"]).to_vec();
    conditions.push(json!({"type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now}));
    meta::child(&mut object, "status").insert("conditions".to_owned(), conditions.into());
    Action::UpdateSub { gvr: gvr::CERTIFICATE_SIGNING_REQUESTS, sub, object }
}

/// The certificate for an approved request of a signer of ours, or why there will be none.
fn answer(o: &Observed<'_>, sign: Sign<'_>) -> Option<Action> {
    let (request, name) = (o.request, signer(o.request));
    let undecided = !view::is_true(request, "Approved")
        || view::is_true(request, "Denied")
        || view::is_true(request, "Failed");
    if undecided
        || !certificate(request).is_empty()
        || ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&name)
    {
        return None;
    }
    let failed = |reason: &str, why: String| Some(judged(o, "status", "Failed", reason, why));
    let usages = usages(request);
    let asked = match &o.asked {
        Ok(asked) => asked,
        Err(why) => return failed("SignerValidationFailure", why.clone()),
    };
    if let Err(why) = check(name, asked, &usages) {
        return failed("SignerValidationFailure", why);
    }
    let lasts = request.at(&["spec", "expirationSeconds"]).as_i64().map(SignedDuration::from_secs);
    let lasts = lasts.map_or(LASTS, |asked| asked.clamp(SHORTEST, LASTS));
    match sign(asked, &usages, lasts) {
        Ok(pem) => {
            let mut status = request.status().clone();
            meta::as_map(&mut status).insert("certificate".to_owned(), STANDARD.encode(pem).into());
            Some(Action::status(&gvr::CERTIFICATE_SIGNING_REQUESTS, request, status))
        }
        Err(why) => failed("SigningFailure", why),
    }
}

/// Whether a signer signs that.
fn check(signer: &str, asked: &Request, usages: &[&str]) -> std::result::Result<(), String> {
    let purpose = match signer {
        CLIENT | KUBELET_CLIENT => "client auth",
        KUBELET_SERVING => "server auth",
        _ => return Ok(()),
    };
    let known = ["digital signature", "key encipherment", purpose];
    if let Some(other) = usages.iter().find(|u| !known.contains(u)) {
        return Err(format!("usage \"{other}\" is not among those of {signer}: {}", known.join(", ")));
    }
    // A user's certificate need not say more than its purpose; a kubelet's says how its key is used.
    let needed = if signer == CLIENT { &known[2..] } else { &[known[0], known[2]] };
    if let Some(missing) = needed.iter().find(|u| !usages.contains(u)) {
        return Err(format!("{signer} needs the usage \"{missing}\""));
    }
    if signer == CLIENT {
        return Ok(());
    }
    if asked.organizations != ["system:nodes"] {
        return Err("the subject's organization is not system:nodes alone".into());
    }
    if asked.common_name.strip_prefix("system:node:").is_none_or(str::is_empty) {
        return Err("the subject's common name does not begin with system:node:".into());
    }
    let reachable = |n: &Name| matches!(n, Name::Dns(_) | Name::Ip(_));
    match signer {
        KUBELET_CLIENT if !asked.names.is_empty() => {
            Err("the certificate of a client has no alternative names".into())
        }
        KUBELET_SERVING if !asked.names.iter().any(reachable) => {
            Err("the certificate of a server needs a DNS name or an address".into())
        }
        KUBELET_SERVING if !asked.names.iter().all(reachable) => {
            Err("the certificate of a kubelet has only DNS names and addresses".into())
        }
        _ => Ok(()),
    }
}

/// How long a request is kept yet.
fn left(request: &Object, now: Timestamp) -> Duration {
    let since = |kind: &str| {
        let condition = view::condition(request, kind).filter(|c| c["status"] == "True")?;
        view::time(&condition["lastUpdateTime"]).or_else(|| Some(view::created(request)))
    };
    let (approved, ended) = (since("Approved"), since("Denied").or_else(|| since("Failed")));
    let issued = certificate(request);
    let (from, kept) = match (ended, approved) {
        (Some(at), _) => (at, KEEP_DONE),
        (None, Some(at)) if !issued.is_empty() => (at, KEEP_DONE),
        (None, Some(at)) => (at, KEEP_OPEN),
        (None, None) => (view::created(request), KEEP_OPEN),
    };
    let left = kept.saturating_sub(base::clock::between(from, now));
    // One that is over by itself is of no use to anybody.
    let pem = STANDARD.decode(issued).ok().and_then(|pem| String::from_utf8(pem).ok());
    match pem.filter(|pem| !pem.is_empty()).and_then(|pem| pki::not_after(&pem).ok()) {
        Some(end) => left.min(base::clock::between(now, end)),
        None => left,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    const NODES: &str = "system:nodes";
    const NODE: &str = "system:node:n";

    fn asked(name: &str, groups: &[&str], names: &[Name]) -> Request {
        let mut request = Request::parse(PLAIN.as_bytes()).unwrap();
        request.common_name = name.into();
        request.organizations = groups.iter().map(|g| (*g).to_owned()).collect();
        request.names = names.to_vec();
        request
    }

    /// User x of group devs.
    const PLAIN: &str = include_str!("../../apiserver/tests/data/plain.csr");

    fn request(signer: &str, usages: &[&str], conditions: &[&str]) -> Value {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|kind| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"}))
            .collect();
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"signerName": signer, "usages": usages, "username": NODE, "request": STANDARD.encode(PLAIN)},
            "status": {"conditions": conditions}})
    }

    #[test]
    fn signers_have_rules() {
        let (sign, encipher) = ("digital signature", "key encipherment");
        let (dns, ip, mail) =
            (Name::Dns("n".into()), Name::Ip([10, 0, 0, 1].into()), Name::Email("a@b".into()));
        let node = |names: &[Name]| asked(NODE, &[NODES], names);
        for (signer, asked, usages, good) in [
            (CLIENT, asked("ann", &["dev"], &[]), vec!["client auth"], true),
            (
                CLIENT,
                asked("ann", &[], std::slice::from_ref(&dns)),
                vec![sign, encipher, "client auth"],
                true,
            ),
            (CLIENT, asked("ann", &[], &[]), vec![sign], false),
            (CLIENT, asked("ann", &[], &[]), vec!["client auth", "server auth"], false),
            (KUBELET_CLIENT, node(&[]), vec![sign, "client auth"], true),
            (KUBELET_CLIENT, node(&[]), vec![sign, encipher, "client auth"], true),
            (KUBELET_CLIENT, node(&[]), vec!["client auth"], false),
            (KUBELET_CLIENT, node(&[]), vec![sign, "server auth"], false),
            (KUBELET_CLIENT, node(std::slice::from_ref(&dns)), vec![sign, "client auth"], false),
            (KUBELET_CLIENT, asked("ann", &[NODES], &[]), vec![sign, "client auth"], false),
            (KUBELET_CLIENT, asked("system:node:", &[NODES], &[]), vec![sign, "client auth"], false),
            (KUBELET_CLIENT, asked(NODE, &["dev"], &[]), vec![sign, "client auth"], false),
            (KUBELET_CLIENT, asked(NODE, &[NODES, "system:masters"], &[]), vec![sign, "client auth"], false),
            (KUBELET_SERVING, node(&[dns.clone(), ip.clone()]), vec![sign, "server auth"], true),
            (KUBELET_SERVING, node(&[]), vec![sign, "server auth"], false),
            (KUBELET_SERVING, node(&[ip, mail.clone()]), vec![sign, "server auth"], false),
            (KUBELET_SERVING, node(&[dns]), vec![sign, "client auth"], false),
            (LEGACY, asked("ann", &[], &[mail]), vec!["code signing"], true),
        ] {
            let found = check(signer, &asked, &usages);
            assert_eq!(found.is_ok(), good, "{signer} {asked:?} {usages:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_done() {
        let good = ["digital signature", "client auth"];
        let other = "example.com/signer";
        for (signer, usages, conditions, grant, minutes, want) in [
            (CLIENT, &good[..], &["Approved"][..], None, 1, "status: certificate"),
            (CLIENT, &["any"], &["Approved"], None, 1, "status: Failed SignerValidationFailure"),
            (CLIENT, &good, &[], None, 1, ""),
            (CLIENT, &good, &["Denied"], None, 1, ""),
            (CLIENT, &good, &["Approved", "Failed"], None, 1, ""),
            (other, &good, &["Approved"], None, 1, ""),
            (KUBELET_CLIENT, &good, &[], Some("yes"), 1, "approval: Approved AutoApproved"),
            (KUBELET_CLIENT, &good, &["Denied"], Some("yes"), 1, ""),
            // Each is kept for its time.
            (other, &good, &[], None, 24 * 60 - 1, ""),
            (other, &good, &[], None, 24 * 60, "delete"),
            (other, &good, &["Approved"], None, 61, ""),
            (other, &good, &["Approved"], None, 24 * 60, "delete"),
            (CLIENT, &good, &["Denied"], None, 60, "delete"),
            (CLIENT, &good, &["Approved", "Failed"], None, 60, "delete"),
        ] {
            let request = Object::from_value(request(signer, usages, conditions));
            let now =
                "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_mins(minutes);
            let o = Observed { request: &request, asked: Ok(asked("ann", &[], &[])), grant, now };
            let decision = decide(&o, &|_, _, _| Ok("PEM".into()));
            let found: Vec<String> = decision
                .actions
                .iter()
                .map(|action| match action {
                    Action::UpdateSub { sub, object, .. } => {
                        let last = object["status"]["conditions"].as_array().unwrap().last();
                        match object["status"]["certificate"].as_str() {
                            Some(_) => format!("{sub}: certificate"),
                            None => {
                                let last = last.unwrap();
                                format!("{sub}: {} {}", last["type"], last["reason"]).replace('"', "")
                            }
                        }
                    }
                    Action::Delete { .. } => "delete".into(),
                    other => format!("{other:?}"),
                })
                .collect();
            assert_eq!(found.join("; "), want, "{signer} {usages:?} {conditions:?} {minutes}");
        }
    }

    #[test]
    fn time_is_as_asked_within_bounds() {
        for (seconds, want) in [
            (Value::Null, LASTS.as_secs()),
            (json!(3600), 3600),
            (json!(1), 600),
            (json!(i32::MAX), LASTS.as_secs()),
        ] {
            let mut value = request(CLIENT, &["client auth"], &["Approved"]);
            value["spec"]["expirationSeconds"] = seconds;
            let request = Object::from_value(value);
            let asked = Ok(asked("ann", &[], &[]));
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let given = std::cell::Cell::new(0);
            decide(&Observed { request: &request, asked, grant: None, now }, &|_, _, lasts| {
                given.set(lasts.as_secs());
                Ok("PEM".into())
            });
            assert_eq!(given.get(), want);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_approved_request_is_answered_and_in_time_cleared_away() {
        let world = World::new();
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        world.machine.start(Certificates::new(&world.machine, pki.clone()));
        let mut value = request(CLIENT, &["client auth"], &["Approved"]);
        let now = meta::time(base::clock::now());
        value["status"]["conditions"][0]["lastUpdateTime"] = now.as_str().into();
        world.fake.put(&gvr::CERTIFICATE_SIGNING_REQUESTS, value);
        world.settle().await;
        let answered = world.fake.get(&gvr::CERTIFICATE_SIGNING_REQUESTS, "", "r").unwrap();
        let pem = STANDARD.decode(certificate(&answered)).unwrap();
        assert!(pki::not_after(std::str::from_utf8(&pem).unwrap()).is_ok());
        let mut old = answered.value().clone();
        old["status"]["conditions"][0]["lastUpdateTime"] = "2020-01-01T00:00:00Z".into();
        world.fake.put(&gvr::CERTIFICATE_SIGNING_REQUESTS, old);
        world.settle().await;
        assert!(world.fake.get(&gvr::CERTIFICATE_SIGNING_REQUESTS, "", "r").is_none());
    }
}
