//! Service accounts' token Secrets: those that people ask for are filled, those whose account is gone go too. Where the
//! cluster behaves like a release that did so, every account gets one by itself.

use std::sync::Arc;

use api::{Key, Object, Release, Value, meta};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Informer, Result, gvr};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// The controller. Its keys are service accounts.
pub(crate) struct Tokens {
    client: Client,
    accounts: Arc<Informer>,
    secrets: Arc<Informer>,
    pki: Arc<pki::Pki>,
    automatic: bool,
}

impl Tokens {
    pub(crate) fn new(machine: &Machine, pki: Arc<pki::Pki>, release: Release) -> Self {
        Self {
            client: machine.client().named("tokens-controller"),
            accounts: machine.informer(&gvr::SERVICE_ACCOUNTS),
            secrets: machine.informer(&gvr::SECRETS),
            pki,
            automatic: release < Release::NO_TOKEN_SECRETS,
        }
    }
}

/// The account whose token a Secret is to hold.
fn account_of(secret: &Object) -> Option<&str> {
    if secret.at(&["type"]) != TYPE {
        return None;
    }
    secret.annotation(ACCOUNT).filter(|name| !name.is_empty())
}

#[async_trait]
impl Controller for Tokens {
    fn name(&self) -> &'static str {
        "tokens-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let secrets = Source::with(&self.secrets, |c| {
            let of = |o: &Arc<Object>| account_of(o).map(|name| Key::new(o.namespace(), name));
            c.old.iter().chain(&c.new).filter_map(of).collect()
        });
        vec![Source::own(&self.accounts), secrets]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let mut account = self.accounts.get(&key.namespace, &key.name);
        let secrets: Vec<_> = self.secrets.list(&key.namespace);
        let secrets: Vec<_> = secrets.iter().filter(|s| account_of(s) == Some(&key.name)).collect();
        if account.is_none() && !secrets.is_empty() {
            // The two caches may not be equally far: a Secret must not be deleted because its account has yet to be seen.
            account = match self.client.get(&gvr::SERVICE_ACCOUNTS, &key.namespace, &key.name).await {
                Err(e) if e.is_not_found() => None,
                found => Some(found?),
            };
        }
        Ok(decide(account.as_deref(), &secrets, self.automatic, self.pki.ca_pem(), &|claims| {
            self.pki.sign_token(claims).ok()
        })
        .into())
    }
}

/// What is to be done about an account and the Secrets for its tokens. `sign` makes a token of its claims.
fn decide(
    account: Option<&Object>,
    secrets: &[&Arc<Object>],
    automatic: bool,
    ca: &str,
    sign: &dyn Fn(&Value) -> Option<String>,
) -> Vec<Action> {
    let Some(account) = account else {
        return secrets.iter().map(|s| Action::delete(&gvr::SECRETS, s)).collect();
    };
    let mut actions = Vec::new();
    let mut filled = Vec::new();
    let mut alive = 0;
    for secret in secrets.iter().filter(|s| !s.is_deleting()) {
        if secret.annotation(ACCOUNT_UID).is_some_and(|uid| uid != account.uid()) {
            actions.push(Action::delete(&gvr::SECRETS, secret));
            continue;
        }
        alive += 1;
        match fill(account, secret, ca, sign) {
            Some(object) => actions.push(Action::Update { gvr: gvr::SECRETS, object }),
            None => filled.push(secret.name()),
        }
    }
    if !automatic || account.is_deleting() {
        return actions;
    }
    if alive == 0 {
        let object = json!({"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": {
            "generateName": format!("{}-token-", account.name()), "namespace": account.namespace(),
            "annotations": {ACCOUNT: account.name(), ACCOUNT_UID: account.uid()}}});
        actions.push(Action::Create { gvr: gvr::SECRETS, object, announce: None });
    }
    actions.extend(refer(account, secrets, &filled));
    actions
}

/// The Secret with what it lacks, if it lacks anything.
fn fill(
    account: &Object,
    secret: &Object,
    ca: &str,
    sign: &dyn Fn(&Value) -> Option<String>,
) -> Option<Value> {
    let mut wanted = vec![("ca.crt", ca.to_owned())];
    let lacks = |field: &str| secret.at(&["data", field]).as_str().is_none_or(str::is_empty);
    if lacks("namespace") {
        wanted.push(("namespace", secret.namespace().to_owned()));
    }
    if lacks("token") {
        let about = |field: &str| format!("kubernetes.io/serviceaccount/{field}");
        let claims = json!({
            "iss": "kubernetes/serviceaccount",
            "sub": format!("system:serviceaccount:{}:{}", account.namespace(), account.name()),
            about("namespace"): account.namespace(),
            about("secret.name"): secret.name(),
            about("service-account.name"): account.name(),
            about("service-account.uid"): account.uid(),
        });
        wanted.extend(sign(&claims).map(|token| ("token", token)));
    }
    let mut object = secret.value().clone();
    let data = meta::child(&mut object, "data");
    for (field, text) in wanted {
        data.insert(field.to_owned(), json!(STANDARD.encode(text)));
    }
    let annotations = meta::entry(meta::of_mut(&mut object), "annotations");
    annotations.insert(ACCOUNT_UID.to_owned(), json!(account.uid()));
    (object != *secret.value()).then_some(object)
}

/// The account with a reference to each of its filled Secrets, and none to such as are no more, if that changes it.
fn refer(account: &Object, secrets: &[&Arc<Object>], filled: &[&str]) -> Option<Action> {
    let before = account.at(&["secrets"]).as_array().cloned().unwrap_or_default();
    let prefix = format!("{}-token-", account.name());
    let mut list = before.clone();
    list.retain(|r| {
        let name = r["name"].as_str().unwrap_or_default();
        !name.starts_with(&prefix) || secrets.iter().any(|s| s.name() == name && !s.is_deleting())
    });
    let referred = |list: &[Value], name: &str| list.iter().any(|r| r["name"] == name);
    // One is enough; further ones that people made are theirs to refer to.
    if let Some(first) = filled.first()
        && !filled.iter().any(|name| referred(&list, name))
    {
        list.push(json!({"name": first}));
    }
    if list == before {
        return None;
    }
    let mut object = account.value().clone();
    object["secrets"] = json!(list);
    Some(Action::Update { gvr: gvr::SERVICE_ACCOUNTS, object })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, summary};

    fn account(secrets: Value) -> Arc<Object> {
        Object::from_value(
            json!({"metadata": {"name": "a", "namespace": "n", "uid": "1"}, "secrets": secrets}),
        )
    }

    fn secret(name: &str, uid: &str, full: bool) -> Arc<Object> {
        let data =
            if full { json!({"ca.crt": "Q0E=", "namespace": "bg==", "token": "dA=="}) } else { json!({}) };
        Object::from_value(json!({"type": TYPE, "data": data, "metadata": {"name": name, "namespace": "n",
            "uid": name, "annotations": {ACCOUNT: "a", ACCOUNT_UID: uid}}}))
    }

    fn run(account: Option<&Object>, secrets: &[Arc<Object>], automatic: bool) -> String {
        let secrets: Vec<&Arc<Object>> = secrets.iter().collect();
        let actions = decide(account, &secrets, automatic, "CA", &|_| Some("t".to_owned()));
        summary(&actions).join("; ")
    }

    #[test]
    fn what_is_done() {
        let none = account(json!([]));
        let has = account(json!([{"name": "a-token-x"}]));
        let (full, empty) = (secret("a-token-x", "1", true), secret("a-token-x", "1", false));
        for (account, secrets, automatic, want) in [
            (Some(&none), vec![], false, ""),
            (Some(&none), vec![], true, "create secrets a-token-"),
            (Some(&none), vec![empty.clone()], false, "update secrets/a-token-x"),
            (Some(&none), vec![empty], true, "update secrets/a-token-x"),
            (Some(&none), vec![full.clone()], false, ""),
            (Some(&none), vec![full.clone()], true, "update serviceaccounts/a"),
            (Some(&has), vec![full.clone()], true, ""),
            (Some(&has), vec![], true, "create secrets a-token-; update serviceaccounts/a"),
            (Some(&none), vec![secret("x", "2", true)], false, "delete secrets/x"),
            (None, vec![full], true, "delete secrets/a-token-x"),
        ] {
            assert_eq!(run(account.map(|a| &**a), &secrets, automatic), want);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_of_old_has_a_token_that_names_it() {
        let world = World::new();
        let dir = tempfile::tempdir().unwrap();
        let pki = pki::Pki::open(dir.path()).unwrap();
        world.machine.start(Tokens::new(&world.machine, pki.clone(), Release::OLDEST));
        world.fake.put(&gvr::SERVICE_ACCOUNTS, json!({"metadata": {"name": "a", "namespace": "n"}}));
        world.settle().await;
        let account = world.fake.get(&gvr::SERVICE_ACCOUNTS, "n", "a").unwrap();
        let name = account.value()["secrets"][0]["name"].as_str().unwrap().to_owned();
        let secret = world.fake.get(&gvr::SECRETS, "n", &name).unwrap();
        let token = STANDARD.decode(secret.value()["data"]["token"].as_str().unwrap()).unwrap();
        let claims = pki.verify_token(std::str::from_utf8(&token).unwrap()).unwrap();
        assert_eq!(claims["kubernetes.io/serviceaccount/secret.name"], name);
        assert_eq!(claims["sub"], "system:serviceaccount:n:a");
        world.fake.remove(&gvr::SERVICE_ACCOUNTS, "n", "a");
        world.settle().await;
        assert!(world.fake.get(&gvr::SECRETS, "n", &name).is_none());
    }
}
