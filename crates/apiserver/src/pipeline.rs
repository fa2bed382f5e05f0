//! From a request to an answer: authentication, impersonation, authorization, then the resource, document or proxy asked for.
//!
//! The socket and the in-process transport both end here; what comes without a socket skips nothing but decoding TLS.

use std::cell::Cell;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::access::Ask;
use api::{Gvr, Status};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use crate::ApiServer;
use crate::authz::{Attributes, Decision};
use crate::body::Body;
use crate::metrics::{Authenticated, WAITED, is_long, validation_of};
use crate::path::{RequestInfo, Route, is_escaped};
use crate::query::{Query, VersionMatch};
use crate::registry::render_status;
use crate::user::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, UserInfo};

/// The largest body that is read, as upstream's.
const MAX_BODY: usize = 3 << 20;
/// How long a request may take that does not last as long as its caller wants; callers may ask for less. No event tells that
/// whoever is waited for (a webhook, a store, a body) will not answer.
const ALLOTTED: Duration = Duration::from_secs(60);
/// What tells a request from all others, in the logs of both sides.
const AUDIT_ID: header::HeaderName = header::HeaderName::from_static("audit-id");

/// A request's body, read or not.
pub enum Payload {
    /// Read.
    Bytes(Bytes),
    /// On its way.
    Incoming(hyper::body::Incoming),
}

/// What a connection says about who is at its other end.
#[derive(Debug, Clone, Default)]
pub enum Shown {
    /// Nothing: each request says it for itself.
    #[default]
    Nothing,
    /// Who they are by their certificate, until it ends, or by being part of this process.
    User(Arc<UserInfo>, Option<jiff::Timestamp>),
    /// A certificate that is not to be believed.
    NoGood,
}

/// What is known about who is at the other end.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// What the connection says.
    pub shown: Shown,
    /// Where they are; nothing for this process itself.
    pub address: Option<SocketAddr>,
}

/// Paths that anybody may read, so that whoever has no credentials can see whether the server lives.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/livez" | "/readyz" | "/version" | "/version/")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    readable(headers.get(name))
}

fn readable(value: Option<&header::HeaderValue>) -> &str {
    value.and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// The text of a header that says who somebody is. Names may be of any script, so it is read as UTF-8; one that cannot be
/// read is refused: left out, the request would be made as somebody else.
fn identity<'a>(name: &str, value: &'a header::HeaderValue) -> Result<&'a str, Status> {
    std::str::from_utf8(value.as_bytes())
        .map_err(|_| Status::bad_request(format!("the header {name} is not UTF-8: send it encoded as such")))
}

/// Reads a body whole, up to the limit. One that says that it is longer is not read at all.
pub async fn collect(payload: Payload) -> Result<Bytes, Status> {
    let too_large = || Status::too_large(format!("Request entity too large: limit is {MAX_BODY}"));
    match payload {
        Payload::Bytes(bytes) if bytes.len() > MAX_BODY => Err(too_large()),
        Payload::Bytes(bytes) => Ok(bytes),
        Payload::Incoming(body) if http_body::Body::size_hint(&body).lower() > MAX_BODY as u64 => {
            Err(too_large())
        }
        Payload::Incoming(body) => match Limited::new(body, MAX_BODY).collect().await {
            Ok(whole) => Ok(whole.to_bytes()),
            Err(e) if e.is::<http_body_util::LengthLimitError>() => Err(too_large()),
            Err(e) => Err(Status::bad_request(format!("the request's body broke off: {e}"))),
        },
    }
}

/// A request that is allowed, and what it is about.
pub struct Call {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// What for.
    pub info: RequestInfo,
    /// The query.
    pub query: Query,
    /// Everything else.
    pub request: Request<Payload>,
}

impl Call {
    /// A header's text, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        text(self.request.headers(), name)
    }
}

/// What a request's line says.
struct Asked {
    route: Route,
    info: RequestInfo,
    query: Query,
}

impl Asked {
    fn of<B>(request: &Request<B>) -> Self {
        let query = Query::parse(request.uri().query());
        let (route, info) = RequestInfo::parse(request.method(), request.uri().path(), query.flag("watch"));
        Self { route, info, query }
    }

    /// How long the request may take: as long as it says, if that is no longer than any may. Nothing, if it lasts as long as
    /// its caller wants.
    fn allotted(&self) -> Result<Option<Duration>, Status> {
        if is_long(&self.info) {
            return Ok(None);
        }
        let Some(given) = self.query.some("timeout") else { return Ok(Some(ALLOTTED)) };
        let nanoseconds = api::duration::parse(given).map_err(|e| {
            Status::bad_request(format!("invalid timeout specified in the request URL - {e}"))
        })?;
        let wanted = u64::try_from(nanoseconds).ok().filter(|n| *n > 0).map(Duration::from_nanos);
        Ok(Some(wanted.map_or(ALLOTTED, |wanted| wanted.min(ALLOTTED))))
    }
}

/// What the request is called in logs for audits: what its client calls it, or else a name of ours, which those who are asked
/// because of it are told too. What comes without a socket needs none.
fn audit_id(request: &mut Request<Payload>, peer: &Peer) -> Option<header::HeaderValue> {
    if let Some(given) = request.headers().get(&AUDIT_ID).filter(|id| !id.is_empty()) {
        return Some(given.clone());
    }
    peer.address?;
    let mut made = header::HeaderValue::from_str(&base::rng::uuid()).ok()?;
    // Not for secrecy: it never comes again, so HTTP/2 is not to give it the place of another header (RFC 7541, section 7.1.3).
    made.set_sensitive(true);
    request.headers_mut().insert(AUDIT_ID, made.clone());
    Some(made)
}

impl ApiServer {
    /// Answers one request; a failure is a `Status`.
    async fn handle(
        self: &Arc<Self>,
        mut request: Request<Payload>,
        peer: Peer,
        asked: Asked,
    ) -> Response<Body> {
        let allotted = asked.allotted().map(drop);
        let Asked { route, mut info, query } = asked;
        // Rules with resourceNames hold for lists and watches of that one name, too.
        if info.is_resource
            && matches!(info.verb, "list" | "watch" | "deletecollection")
            && let Some(selector) = query.some("fieldSelector")
        {
            selector.clone_into(&mut info.fields);
            let parsed = api::selector::Field::parse(selector).ok();
            if info.name.is_empty()
                && let Some(name) = parsed.as_ref().and_then(|f| f.required("metadata.name"))
            {
                name.clone_into(&mut info.name);
            }
        }
        let head = request.method() == Method::HEAD;
        let gzip = !head && crate::compress::accepted(request.headers());
        let pretty = crate::pretty::wanted(&request, &query);
        let accept = request.headers().get(header::ACCEPT).cloned();
        let validation = validation_of(&info, &query);
        let started = tokio::time::Instant::now();
        let running = {
            let served = || self.serves(&info);
            let content_type = text(request.headers(), "content-type");
            self.metrics.begin(&info, request.method(), &query, content_type, served)
        };
        if running.is_long() {
            request.extensions_mut().insert(running.clone());
        }
        let (answer, waited) = WAITED
            .scope(Cell::default(), async {
                let good = match is_escaped(request.uri().path()) {
                    true => allotted,
                    false => {
                        Err(Status::bad_request(format!("invalid URL escape in {}", request.uri().path())))
                    }
                };
                let answer = match good.and_then(|()| crate::socket::asked(&mut request, &info)) {
                    Err(status) => Err(status),
                    Ok(None) => self.answer(request, peer, route, info, query).await,
                    Ok(Some(socket)) => {
                        let answer = self.answer(request, peer, route, info, query).await;
                        answer.map(|response| socket.carry(response))
                    }
                };
                (answer, WAITED.get().get())
            })
            .await;
        let mut response = answer.unwrap_or_else(|status| render_status(&status, readable(accept.as_ref())));
        if pretty {
            response = crate::pretty::set_out(response);
        }
        if gzip {
            response = crate::compress::compress(response);
        }
        let size = http_body::Body::size_hint(response.body()).exact();
        running.counters().answered(response.status().as_u16(), started.elapsed(), waited, size);
        if let Some(validation) = validation.filter(|_| !running.is_long()) {
            self.metrics.validated(validation, started.elapsed());
        }
        if running.is_long() || matches!(response.body(), Body::Gzip(_)) {
            response = response.map(|body| running.follow(body));
        }
        if head {
            *response.body_mut() = Body::default();
        }
        response
    }

    /// Whether a resource is one of this server's, or of one behind it.
    fn serves(&self, info: &RequestInfo) -> bool {
        match self.kinds.load().find(&info.group, &info.version, &info.resource) {
            None => self.serves_remotely(&info.group, &info.version, &info.resource),
            Some(found) => {
                info.subresource.is_empty()
                    || found.kind.versions[found.version].subresource(&info.subresource).is_some()
            }
        }
    }

    /// Whether somebody else answers a request on a resource: a node, a pod, what is behind a service, another server.
    fn leads_on(&self, info: &RequestInfo) -> bool {
        info.is_resource
            && (crate::resource::CONNECT.contains(&info.subresource.as_str())
                || self.kinds.load().find(&info.group, &info.version, &info.resource).is_none())
    }

    /// Answers one request, in the time that it has. A write is carried out to its end even if nobody waits for it any more: a
    /// client that hangs up in the middle must not leave half of it. What only reads ends with its caller; so does what leads on
    /// to somebody else, whose answer may never come.
    pub async fn carry_out(self: &Arc<Self>, mut request: Request<Payload>, peer: Peer) -> Response<Body> {
        let id = audit_id(&mut request, &peer);
        let asked = Asked::of(&request);
        let allotted = asked.allotted().unwrap_or(None);
        let line = allotted.map(|_| (request.method().clone(), request.uri().clone()));
        let accept = request.headers().get(header::ACCEPT).cloned();
        let lasts = !request.method().is_safe() && !self.leads_on(&asked.info);
        let work = async {
            if !lasts {
                return self.handle(request, peer, asked).await;
            }
            let server = self.clone();
            match tokio::spawn(async move { server.handle(request, peer, asked).await }).await {
                Ok(response) => response,
                Err(error) => {
                    tracing::error!(%error, "a request was not carried out");
                    let why = "the request was not carried out; the server's log says why";
                    render_status(&Status::internal(why), readable(accept.as_ref()))
                }
            }
        };
        let mut response = match (allotted, line) {
            (Some(allotted), Some((method, uri))) => match tokio::time::timeout(allotted, work).await {
                Ok(response) => response,
                Err(_) => self.overdue((method, uri), readable(accept.as_ref()), allotted, lasts),
            },
            _ => work.await,
        };
        if let Some(id) = id
            && !response.headers().contains_key(&AUDIT_ID)
        {
            response.headers_mut().insert(AUDIT_ID, id);
        }
        response
    }

    /// The answer to a request that has taken its time, which is counted; one that is `still` carried out is counted again then.
    fn overdue(
        &self,
        line: (Method, http::Uri),
        accept: &str,
        took: Duration,
        still: bool,
    ) -> Response<Body> {
        let mut request = Request::new(());
        (*request.method_mut(), *request.uri_mut()) = line;
        let Asked { info, query, .. } = Asked::of(&request);
        let running = self.metrics.begin(&info, request.method(), &query, "", || self.serves(&info));
        running.counters().terminated();
        let status = Status::timeout("Timeout: request did not complete within the allotted timeout");
        if !still {
            running.counters().answered(status.code, took, Duration::ZERO, None);
        }
        render_status(&status, accept)
    }

    /// Whether a path can be asked for by HEAD, as upstream: what is a resource, or says what there are, cannot, and what is
    /// somebody else's is for them to say.
    fn takes_head(&self, route: &Route, info: &RequestInfo) -> bool {
        let kinds = self.kinds.load();
        match route {
            Route::Resource => {
                info.subresource == "proxy"
                    || kinds.find(&info.group, &info.version, &info.resource).is_none()
            }
            Route::Version => {
                let ours =
                    |k: &Arc<api::Kind>| k.served(&info.group, &info.version).is_some_and(|v| v.served);
                !kinds.all.iter().any(ours)
            }
            Route::Versions | Route::Group => false,
            Route::Groups => true,
            Route::Other => !matches!(
                info.path.trim_end_matches('/'),
                "/version" | "/.well-known/openid-configuration" | "/openid/v1/jwks"
            ),
        }
    }

    /// Whether a request can be answered out of the cache as it is, so that it is while a shared store is away.
    fn takes_what_is_cached(&self, info: &RequestInfo, query: &Query) -> bool {
        if !info.is_resource {
            return true;
        }
        if !info.subresource.is_empty() || !matches!(info.verb, "get" | "list" | "watch") {
            return false;
        }
        match VersionMatch::of_read(query) {
            Ok(VersionMatch::Any) => true,
            Ok(VersionMatch::NotOlderThan(revision)) => revision <= self.cache.revision(),
            _ => false,
        }
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Payload>,
        peer: Peer,
        route: Route,
        info: RequestInfo,
        query: Query,
    ) -> Result<Response<Body>, Status> {
        let user = self.authenticate(request.headers(), &peer)?;
        let user = self.impersonate(request.headers(), user)?;
        if !(is_public(&info.path) && info.verb == "get") {
            if self.takes_what_is_cached(&info, &query) {
                self.cache.own_writes().await;
            } else {
                self.cache.caught_up().await.map_err(crate::registry::store_failure)?;
            }
            self.require(&Attributes::of(&user, &info))?;
        }
        if request.method() == Method::HEAD && !self.takes_head(&route, &info) {
            return Err(Status::method_not_allowed());
        }
        let call = Call { user, info, query, request };
        match route {
            Route::Resource => Box::pin(self.resource(call)).await,
            route => Box::pin(self.document(call, route)).await,
        }
    }

    /// Whether a certificate that ends then still holds.
    fn is_still(&self, until: Option<jiff::Timestamp>) -> bool {
        let Some(until) = until else { return true };
        let left = until.duration_since(base::clock::now()).as_secs_f64();
        self.metrics.access.certificate(left);
        left >= 0.0
    }

    fn authenticate(self: &Arc<Self>, headers: &HeaderMap, peer: &Peer) -> Result<Arc<UserInfo>, Status> {
        if let Shown::User(user, until) = &peer.shown
            && self.is_still(*until)
        {
            self.metrics.access.authenticated(&user.name);
            return Ok(user.clone());
        }
        let refused = |result| {
            self.metrics.access.attempt(result);
            Err(Status::unauthorized())
        };
        let given = match headers.get(header::AUTHORIZATION).map(header::HeaderValue::to_str) {
            Some(Ok(given)) => given,
            // Credentials that no token consists of are not the same as none.
            Some(Err(_)) => return refused(Authenticated::Error),
            None => "",
        };
        let token = given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let token = match token {
            Some((_, token)) => Some(token.trim().to_owned()),
            None => remotecommand::negotiate::bearer_token(headers),
        };
        match token {
            Some(token) if !token.is_empty() => match self.authenticator.token(&token, &[]) {
                Ok(known) => {
                    self.metrics.access.authenticated(&known.user.name);
                    if let Some(secret) = known.secret {
                        self.used(secret);
                    }
                    Ok(Arc::new(known.user))
                }
                Err(why) => {
                    tracing::debug!(why, "token refused");
                    refused(Authenticated::Error)
                }
            },
            // Who shows what is no good is not nobody.
            _ if self.options.anonymous && matches!(peer.shown, Shown::Nothing) => {
                let user = UserInfo::anonymous();
                self.metrics.access.authenticated(&user.name);
                Ok(Arc::new(user))
            }
            _ if matches!(peer.shown, Shown::Nothing) => refused(Authenticated::Failure),
            _ => refused(Authenticated::Error),
        }
    }

    fn impersonate(&self, headers: &HeaderMap, user: Arc<UserInfo>) -> Result<Arc<UserInfo>, Status> {
        let one = |name: &str| headers.get(name).map_or(Ok(""), |v| identity(name, v));
        let name = one("impersonate-user")?;
        let uid = one("impersonate-uid")?;
        let groups = headers.get_all("impersonate-group").iter().map(|v| identity("impersonate-group", v));
        let groups = groups.collect::<Result<Vec<&str>, Status>>()?;
        let mut extra: Vec<(String, String)> = Vec::new();
        for (header, value) in headers {
            let Some(key) = header.as_str().strip_prefix("impersonate-extra-") else { continue };
            let key = percent_encoding::percent_decode_str(key).decode_utf8().map_err(|_| {
                Status::bad_request(format!(
                    "the name of the header {header} is not UTF-8 when it is decoded"
                ))
            })?;
            extra.push((key.into_owned(), identity(header.as_str(), value)?.to_owned()));
        }
        if name.is_empty() {
            if !groups.is_empty() || !uid.is_empty() || !extra.is_empty() {
                return Err(Status::bad_request(
                    "requested impersonation without impersonating a user: Impersonate-User is required",
                ));
            }
            return Ok(user);
        }
        let account = service_account(name);
        let mut asked = vec![match account {
            Some((ns, account)) => ("", "serviceaccounts", "", ns, account),
            None => ("", "users", "", "", name),
        }];
        asked.extend(groups.iter().map(|g| ("", "groups", "", "", *g)));
        if !uid.is_empty() {
            asked.push(("authentication.k8s.io", "uids", "", "", uid));
        }
        asked.extend(
            extra.iter().map(|(k, v)| ("authentication.k8s.io", "userextras", k.as_str(), "", v.as_str())),
        );
        for (group, resource, subresource, namespace, name) in asked {
            self.require(&Attributes::asked(
                &user,
                &Ask { verb: "impersonate", group, resource, subresource, namespace, name, ..Ask::default() },
            ))?;
        }
        let mut other = match account {
            Some((ns, account)) if groups.is_empty() => UserInfo::service_account(ns, account, ""),
            _ => UserInfo {
                name: name.to_owned(),
                groups: groups.iter().map(|g| (*g).to_owned()).collect(),
                ..UserInfo::default()
            },
        };
        // Nobody is both known and not.
        let known = name != ANONYMOUS && !other.in_group(UNAUTHENTICATED);
        let group = if known { AUTHENTICATED } else { UNAUTHENTICATED };
        if !other.in_group(group) {
            other.groups.push(group.to_owned());
        }
        other.uid = uid.to_owned();
        for (k, v) in extra {
            other.extra.entry(k).or_default().push(v);
        }
        Ok(Arc::new(other))
    }

    /// Refuses what is not allowed, in upstream's words.
    pub fn require(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        let decision = self.authorize(attributes);
        self.metrics.access.authorized(matches!(decision, Decision::Allow(_)));
        match decision {
            Decision::Allow(_) => Ok(()),
            Decision::NoOpinion(reason) => {
                let why = attributes.refusal(&reason);
                if attributes.is_resource {
                    let gvr = Gvr::owned(attributes.group, "", attributes.resource);
                    Err(Status::forbidden(&gvr, attributes.name, &why))
                } else {
                    Err(Status::failure(403, "Forbidden", format!("forbidden: {why}")))
                }
            }
        }
    }
}

/// The namespace and name of a service account whose name as a user this is.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let good =
        api::validate::dns_label(namespace).is_empty() && api::validate::dns_subdomain(name).is_empty();
    good.then_some((namespace, name))
}

/// How long all warnings of an answer may be together; those beyond are cut, and then left out.
const MAX_WARNINGS: usize = 4 << 10;
/// What is kept of a warning where they do not all fit.
const SHORT_WARNING: usize = 256;

/// The warnings that are sent: each once, and no more of them than fit.
fn fitting(warnings: &[String]) -> Vec<&str> {
    let mut seen: HashSet<&str> = HashSet::new();
    let all: Vec<&str> = warnings.iter().map(String::as_str).filter(|w| seen.insert(w)).collect();
    if all.iter().map(|w| w.len()).sum::<usize>() <= MAX_WARNINGS {
        return all;
    }
    let mut left = MAX_WARNINGS;
    all.into_iter()
        .map(|w| {
            let short = (0..=SHORT_WARNING.min(w.len())).rev().find_map(|end| w.get(..end));
            short.unwrap_or_default()
        })
        .take_while(|w| {
            let fits = w.len() <= left;
            left = left.saturating_sub(w.len());
            fits
        })
        .collect()
}

/// Adds warnings to an answer, as upstream: code 299, no agent.
pub fn add_warnings(response: &mut Response<Body>, warnings: &[String]) {
    for warning in fitting(warnings) {
        let quoted: String = warning
            .chars()
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c if c.is_control() => vec![' '],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = header::HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

/// The status code of an answer to a write.
pub fn code_of(created: bool) -> StatusCode {
    if created { StatusCode::CREATED } else { StatusCode::OK }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_that_are_service_accounts() {
        for (user, want) in [
            ("system:serviceaccount:a:b", Some(("a", "b"))),
            ("system:serviceaccount:a:b.c", Some(("a", "b.c"))),
            ("system:serviceaccount:a:b:c", None),
            ("system:serviceaccount:a.b:c", None),
            ("system:serviceaccount:a:", None),
            ("system:serviceaccount::b", None),
            ("system:serviceaccount:a", None),
            ("a", None),
        ] {
            assert_eq!(service_account(user), want, "{user}");
        }
    }

    #[test]
    fn warnings_are_said_once_and_fit_a_head() {
        let few: Vec<String> = ["a", "b", "a"].map(str::to_owned).to_vec();
        assert_eq!(fitting(&few), ["a", "b"]);
        let long = vec!["é".repeat(1000)];
        assert_eq!(fitting(&long)[0].len(), 2000, "alone it fits");
        let many: Vec<String> = (0..50_000).map(|i| format!("unknown field \"spec.f{i}\"")).collect();
        let sent = fitting(&many);
        assert!(sent.len() > 100 && sent.iter().map(|w| w.len()).sum::<usize>() <= MAX_WARNINGS);
        let some: Vec<String> = (0..9).map(|i| format!("{i}{}", "é".repeat(1000))).collect();
        assert!(fitting(&some).len() == 9 && fitting(&some).iter().all(|w| w.len() <= SHORT_WARNING));
    }
}
