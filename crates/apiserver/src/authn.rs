//! Who is it? Client certificates, service accounts' tokens, bootstrap tokens; nobody where that is allowed.
//!
//! A token is good only while what it is bound to lives: the service account, and the pod, secret or node it names.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Status, Value};
use parking_lot::Mutex;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::ApiServer;
use crate::cache::{Cache, local_key};
use crate::metrics::{Uses, count};
use crate::registry::Own;
use crate::user::{CREDENTIAL_ID, UserInfo};

/// Verified tokens are remembered by their digest, so that a signature is checked once, not with each request.
const REMEMBERED: usize = 4096;
/// How long tokens are still good when what they are bound to is going, and how far clocks may be apart, as upstream has it, in
/// seconds.
const GRACE_SECONDS: i64 = 60;

/// The groups that bootstrap tokens may be of, beside `system:bootstrappers`.
fn is_bootstrap_group(group: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    group.strip_prefix("system:bootstrappers:").is_some_and(|rest| {
        rest.len() <= 256
            && rest.bytes().all(|c| plain(c) || matches!(c, b':' | b'-'))
            && rest.bytes().last().is_some_and(plain)
    })
}

/// How long a token is to live, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// As whoever asked for it is told.
    pub told: i64,
    /// As it is good.
    pub good: i64,
}

/// When a token out of a secret was used last, as a day.
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// Since when a token out of a secret is no longer good, because nobody used it.
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

/// Who shows a token.
#[derive(Debug)]
pub struct Known {
    /// The user.
    pub user: UserInfo,
    /// Those of the audiences asked for that the token is for.
    pub audiences: Vec<String>,
    /// The secret that keeps the token, by namespace and name.
    pub secret: Option<(String, String)>,
}

/// Reads credentials.
pub struct Authenticator {
    pki: Arc<pki::Pki>,
    cache: Arc<Cache>,
    issuer: String,
    verified: Mutex<HashMap<[u8; 32], Arc<Value>>>,
    /// How often tokens were used.
    pub uses: Uses,
}

/// The audiences that the API server itself accepts.
pub fn default_audience(domain: &str) -> String {
    format!("https://kubernetes.default.svc.{domain}")
}

impl Authenticator {
    /// An authenticator of tokens that `pki` signed.
    pub fn new(pki: Arc<pki::Pki>, cache: Arc<Cache>, issuer: String) -> Self {
        Self { pki, cache, issuer, verified: Mutex::default(), uses: Uses::default() }
    }

    /// The name this cluster's tokens bear as their issuer, which is also the API server's audience.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Who the bearer of `token` is, if one of `audiences` is among the token's (of no audiences: the API server's own). An
    /// error says why not.
    pub fn token(&self, token: &str, audiences: &[String]) -> Result<Known, String> {
        let own = [self.issuer.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        // What names no audiences is for the API server.
        let common = |theirs: &[&str]| {
            let common: Vec<String> =
                wanted.iter().filter(|a| theirs.contains(&a.as_str())).cloned().collect();
            match common.is_empty() {
                true => {
                    Err(format!("token audiences {theirs:?} is invalid for the target audiences {wanted:?}"))
                }
                false => Ok(common),
            }
        };
        if let Some(user) = self.bootstrap_token(token) {
            return Ok(Known { user, audiences: common(&[&self.issuer])?, secret: None });
        }
        let claims = self.verify(token)?;
        let text = |p: &str| claims.pointer(p).and_then(Value::as_str).unwrap_or("");
        let now = base::clock::now().as_second();
        if claims.get("exp").and_then(Value::as_i64).is_some_and(|exp| exp < now - GRACE_SECONDS) {
            return Err("service account token has expired".into());
        }
        if claims.get("nbf").and_then(Value::as_i64).is_some_and(|nbf| nbf > now + GRACE_SECONDS) {
            return Err("service account token is not valid yet".into());
        }
        if claims.get("iat").and_then(Value::as_i64).is_some_and(|iat| iat > now + GRACE_SECONDS) {
            return Err("service account token is issued in the future".into());
        }
        if text("/iss") == "kubernetes/serviceaccount" {
            let (user, secret) = self.legacy(token, &claims)?;
            return Ok(Known { user, audiences: common(&[&self.issuer])?, secret: Some(secret) });
        }
        if text("/iss") != self.issuer {
            return Err(format!("the token's issuer is \"{}\", not \"{}\"", text("/iss"), self.issuer));
        }
        let theirs: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one],
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let audiences = common(&theirs)?;
        let namespace = text("/kubernetes.io/namespace");
        let (name, uid) =
            (text("/kubernetes.io/serviceaccount/name"), text("/kubernetes.io/serviceaccount/uid"));
        self.alive("serviceaccounts", namespace, name, uid)?;
        let mut user = UserInfo::service_account(namespace, name, uid);
        if let Some(id) = claims.get("jti").and_then(Value::as_str) {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        let mut note = |key: &str, value: &str| {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        };
        if claims.pointer("/kubernetes.io/pod").is_some() {
            let (pod, pod_uid) = (text("/kubernetes.io/pod/name"), text("/kubernetes.io/pod/uid"));
            self.alive("pods", namespace, pod, pod_uid)?;
            note("pod-name", pod);
            note("pod-uid", pod_uid);
        }
        if claims.pointer("/kubernetes.io/secret").is_some() {
            let (secret, secret_uid) =
                (text("/kubernetes.io/secret/name"), text("/kubernetes.io/secret/uid"));
            self.alive("secrets", namespace, secret, secret_uid)?;
        }
        if claims.pointer("/kubernetes.io/node").is_some() {
            let (node, node_uid) = (text("/kubernetes.io/node/name"), text("/kubernetes.io/node/uid"));
            if claims.pointer("/kubernetes.io/pod").is_none() {
                self.alive("nodes", "", node, node_uid)?;
            }
            note("node-name", node);
            // That of a node that was not there when the token was made is not known.
            if !node_uid.is_empty() {
                note("node-uid", node_uid);
            }
        }
        if let Some(told) = claims.pointer("/kubernetes.io/warnafter").and_then(Value::as_i64) {
            count(if told < now { &self.uses.stale } else { &self.uses.valid });
        }
        Ok(Known { user, audiences, secret: None })
    }

    fn verify(&self, token: &str) -> Result<Arc<Value>, String> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = self.verified.lock().get(&digest) {
            return Ok(claims.clone());
        }
        let claims = Arc::new(self.pki.verify_token(token).map_err(|e| e.to_string())?);
        let mut verified = self.verified.lock();
        if verified.len() >= REMEMBERED {
            verified.clear();
        }
        verified.insert(digest, claims.clone());
        Ok(claims)
    }

    /// Fails unless the object exists with this uid and has not been deleted for longer than the grace time.
    fn alive(&self, resource: &str, namespace: &str, name: &str, uid: &str) -> Result<(), String> {
        let kind = self.cache.kind("", resource);
        let Some(object) = kind.get(&local_key(namespace, name)) else {
            return Err(format!(
                "{resource} \"{namespace}/{name}\" that the token is bound to does not exist"
            ));
        };
        if object.uid() != uid {
            return Err(format!(
                "{resource} \"{namespace}/{name}\" is another one than the token is bound to"
            ));
        }
        if object.is_deleting() {
            let end = api::meta::deleted(object.value()).map(|t| t.as_second() + GRACE_SECONDS);
            if end.is_some_and(|t| t < base::clock::now().as_second()) {
                return Err(format!(
                    "{resource} \"{namespace}/{name}\" that the token is bound to was deleted"
                ));
            }
        }
        Ok(())
    }

    /// A token out of a Secret of type `kubernetes.io/service-account-token`: good while the secret holds it, and is not marked.
    fn legacy(&self, token: &str, claims: &Value) -> Result<(UserInfo, (String, String)), String> {
        let text = |field: &str| {
            claims.get(format!("kubernetes.io/serviceaccount/{field}")).and_then(Value::as_str).unwrap_or("")
        };
        let namespace = text("namespace");
        let (name, uid) = (text("service-account.name"), text("service-account.uid"));
        self.alive("serviceaccounts", namespace, name, uid)?;
        let secret_name = text("secret.name");
        let secret = self.cache.kind("", "secrets").get(&local_key(namespace, secret_name));
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, token);
        let holds = |s: &Arc<api::Object>| {
            s.value().pointer("/data/token").and_then(Value::as_str) == Some(encoded.as_str())
        };
        let Some(secret) = secret.filter(|s| !s.is_deleting() && holds(s)) else {
            return Err(format!("secret \"{namespace}/{secret_name}\" no longer holds this token"));
        };
        let automatic =
            self.cache.kind("", "serviceaccounts").get(&local_key(namespace, name)).is_some_and(|a| {
                let named = |s: &Value| s.get("name").and_then(Value::as_str) == Some(secret_name);
                a.value()
                    .get("secrets")
                    .and_then(Value::as_array)
                    .is_some_and(|secrets| secrets.iter().any(named))
            });
        if secret.labels().get(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
            if automatic {
                count(&self.uses.invalid);
            }
            return Err(format!(
                "the token in secret {namespace}/{secret_name} for service account {namespace}/{name} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        count(&self.uses.legacy);
        count(if automatic { &self.uses.automatic } else { &self.uses.manual });
        let secret = (namespace.to_owned(), secret_name.to_owned());
        Ok((UserInfo::service_account(namespace, name, uid), secret))
    }

    /// `abcdef.0123456789abcdef`, kept in the Secret kube-system/bootstrap-token-abcdef.
    fn bootstrap_token(&self, token: &str) -> Option<UserInfo> {
        let (id, secret) = token.split_once('.')?;
        let fits =
            |s: &str, n| s.len() == n && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !fits(id, 6) || !fits(secret, 16) {
            return None;
        }
        let object = self.cache.kind("", "secrets").get(&format!("kube-system/bootstrap-token-{id}"))?;
        if object.is_deleting() {
            return None;
        }
        let object = object.value();
        if object.get("type").and_then(Value::as_str) != Some("bootstrap.kubernetes.io/token") {
            return None;
        }
        let field = |name: &str| {
            let text = object.get("data")?.get(name)?.as_str()?;
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).ok()?;
            String::from_utf8(bytes).ok()
        };
        // Compared as digests, so that the time it takes says nothing of how much was right.
        if Sha256::digest(field("token-secret")?) != Sha256::digest(secret) || field("token-id")? != id {
            return None;
        }
        // A time that cannot be read is one that has passed.
        if let Some(expiry) = field("expiration")
            && expiry.parse::<jiff::Timestamp>().map_or(true, |t| t <= base::clock::now())
        {
            return None;
        }
        if field("usage-bootstrap-authentication").as_deref() != Some("true") {
            return None;
        }
        let mut user = UserInfo::new(&format!("system:bootstrap:{id}"), &["system:bootstrappers"]);
        for group in field("auth-extra-groups").unwrap_or_default().split(',').filter(|g| !g.is_empty()) {
            // A token that claims to be of any other group is no token at all.
            if !is_bootstrap_group(group) {
                tracing::warn!(
                    id,
                    group,
                    "bootstrap token refused: its groups must begin with system:bootstrappers:"
                );
                return None;
            }
            user.groups.push(group.to_owned());
        }
        Some(user)
    }

    /// Signs a token for a service account; `bound` is what else it is bound to (`pod`, `secret`, `node`) as claims. Says when
    /// it ends for whom it is given to.
    pub fn sign(
        &self,
        namespace: &str,
        account: (&str, &str),
        audiences: &[String],
        life: Life,
        bound: &[(&str, Value)],
    ) -> Result<(String, i64), Status> {
        let now = base::clock::now().as_second();
        let own = [self.issuer.clone()];
        let audiences = if audiences.is_empty() { &own[..] } else { audiences };
        let mut about =
            json!({"namespace": namespace, "serviceaccount": {"name": account.0, "uid": account.1}});
        for (key, value) in bound {
            about[*key] = value.clone();
        }
        if life.good > life.told {
            about["warnafter"] = json!(now + life.told);
        }
        let claims = json!({
            "aud": audiences, "exp": now + life.good, "iat": now, "iss": self.issuer, "jti": base::rng::uuid(),
            "kubernetes.io": about, "nbf": now, "sub": format!("system:serviceaccount:{namespace}:{}", account.0),
        });
        let token = self.pki.sign_token(&claims).map_err(Status::internal)?;
        Ok((token, now + life.told))
    }
}

/// A day as labels have it.
pub(crate) fn day(time: jiff::Timestamp) -> String {
    time.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

impl ApiServer {
    /// Notes on a secret that its token has been used today, unless it says so already. Nobody waits for that.
    pub(crate) fn used(self: &Arc<Self>, (namespace, name): (String, String)) {
        let today = day(base::clock::now());
        let says = |secret: &api::Object| secret.labels().get(LAST_USED).is_some_and(|day| day == today);
        if self.cache.kind("", "secrets").get(&local_key(&namespace, &name)).is_none_or(|s| says(&s)) {
            return;
        }
        let (server, today) = (self.clone(), today.clone());
        tokio::spawn(async move {
            let own = Own {
                resource: ("", "secrets"),
                namespace: &namespace,
                name: &name,
                subresource: "",
                dry_run: false,
            };
            let mut note = |old: &Arc<api::Object>| {
                let mut new = old.value().clone();
                api::meta::entry(api::meta::of_mut(&mut new), "labels")
                    .insert(LAST_USED.into(), json!(today));
                Ok(new)
            };
            if let Err(error) = server.modify_own(&own, &mut note).await {
                tracing::warn!(namespace, name, error = %error.message, "the use of a token is not noted on its secret");
            }
        });
    }
}
