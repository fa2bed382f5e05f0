//! `Status`: how the API says that a request failed (or what a delete did), with upstream's reasons and texts.

use serde::{Deserialize, Serialize};

use crate::field::ErrorList;
use crate::names::{Gvk, Gvr};

/// meta/v1 `Status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Always `Status`.
    #[serde(default = "kind")]
    pub kind: String,
    /// Always `v1`.
    #[serde(default = "api_version")]
    pub api_version: String,
    /// List metadata; empty.
    #[serde(default)]
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// `Success` or `Failure`.
    #[serde(default)]
    pub status: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// For programs, e.g. `NotFound`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// HTTP status code.
    #[serde(default)]
    pub code: u16,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// What a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Details {
    /// Name of the object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its group.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its kind, or (as upstream does) its resource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// One per thing that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// Seconds after which trying again makes sense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// For programs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Which field.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub field: String,
}

fn kind() -> String {
    "Status".to_owned()
}

fn api_version() -> String {
    "v1".to_owned()
}

/// `deployments.apps`, `pods`: how messages name a resource.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// A failure.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status {
            kind: kind(),
            api_version: api_version(),
            metadata: serde_json::Map::new(),
            status: "Failure".to_owned(),
            message: message.into(),
            reason: reason.to_owned(),
            details: None,
            code,
        }
    }

    /// A success, as a delete answers it.
    pub fn success(group: &str, resource: &str, name: &str, uid: &str) -> Status {
        let details = Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: resource.to_owned(),
            uid: uid.to_owned(),
            ..Details::default()
        };
        Status {
            status: "Success".to_owned(),
            details: Some(details),
            code: 200,
            ..Status::failure(200, "", "")
        }
    }

    fn about(mut self, group: &str, resource: &str, name: &str) -> Status {
        let details = self.details.get_or_insert_with(Details::default);
        details.name = name.to_owned();
        details.group = group.to_owned();
        details.kind = resource.to_owned();
        self
    }

    /// With one more cause.
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Status {
        let cause = Cause { reason: reason.to_owned(), message: message.into(), field: field.to_owned() };
        self.details.get_or_insert_with(Details::default).causes.push(cause);
        self
    }

    /// With the seconds after which trying again makes sense; 0 if nobody knows.
    pub fn with_retry_after(mut self, seconds: u32) -> Status {
        let details = self.details.get_or_insert_with(Details::default);
        details.retry_after_seconds = Some(seconds).filter(|s| *s > 0);
        self
    }

    /// 404 of an object.
    pub fn not_found(gvr: &Gvr, name: &str) -> Status {
        let message = format!("{} \"{name}\" not found", qualified(&gvr.group, &gvr.resource));
        Status::failure(404, "NotFound", message).about(&gvr.group, &gvr.resource, name)
    }

    /// 404 of a path that serves nothing.
    pub fn no_such_path() -> Status {
        Status::failure(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 of a create.
    pub fn already_exists(gvr: &Gvr, name: &str) -> Status {
        let message = format!("{} \"{name}\" already exists", qualified(&gvr.group, &gvr.resource));
        Status::failure(409, "AlreadyExists", message).about(&gvr.group, &gvr.resource, name)
    }

    /// 409 of a create whose generated names were all taken.
    pub fn no_name_left(gvr: &Gvr, name: &str) -> Status {
        let mut status = Status::already_exists(gvr, name).with_retry_after(1);
        status.message.push_str(", the server was not able to generate a unique name for the object");
        status
    }

    /// 409 of an update, with the reason why.
    pub fn conflict(gvr: &Gvr, name: &str, why: &str) -> Status {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            qualified(&gvr.group, &gvr.resource)
        );
        Status::failure(409, "Conflict", message).about(&gvr.group, &gvr.resource, name)
    }

    /// 409 of an update whose resourceVersion is old.
    pub fn modified(gvr: &Gvr, name: &str) -> Status {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Status::conflict(gvr, name, why)
    }

    /// 422 of an object that breaks rules.
    pub fn invalid(gvk: &Gvk, name: &str, errors: &ErrorList) -> Status {
        let what = qualified(&gvk.group, &gvk.kind);
        let mut status =
            Status::failure(422, "Invalid", format!("{what} \"{name}\" is invalid: {}", errors.message()))
                .about(&gvk.group, &gvk.kind, name);
        for e in &errors.0 {
            status = status.with_cause(e.kind.reason(), e.body(), &e.field);
        }
        status
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::failure(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Status {
        Status::failure(401, "Unauthorized", "Unauthorized")
    }

    /// 403 of a request on a resource; `why` is the reason after the colon.
    pub fn forbidden(gvr: &Gvr, name: &str, why: &str) -> Status {
        let what = qualified(&gvr.group, &gvr.resource);
        let message = if name.is_empty() {
            format!("{what} is forbidden: {why}")
        } else {
            format!("{what} \"{name}\" is forbidden: {why}")
        };
        Status::failure(403, "Forbidden", message).about(&gvr.group, &gvr.resource, name)
    }

    /// 405.
    pub fn method_not_supported(gvr: &Gvr, action: &str) -> Status {
        let message = format!("{action} is not supported on resources of kind \"{}\"", gvr.resource);
        Status::failure(405, "MethodNotAllowed", message).about(&gvr.group, &gvr.resource, "")
    }

    /// 405 of a path that does not have the method.
    pub fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status::failure(405, "MethodNotAllowed", message)
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Status {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Status::failure(406, "NotAcceptable", message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Status::failure(415, "UnsupportedMediaType", message)
    }

    /// 410 of a resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Status {
        Status::failure(410, "Expired", message)
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Status {
        Status::failure(413, "RequestEntityTooLarge", message)
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        Status::failure(429, "TooManyRequests", message).with_retry_after(retry_after_seconds)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Status {
        Status::failure(500, "InternalError", format!("Internal error occurred: {message}")).with_cause(
            "",
            message.to_string(),
            "",
        )
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::failure(503, "ServiceUnavailable", message)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Status {
        Status::failure(504, "Timeout", message)
    }

    /// JSON, ready to be sent.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// As a [`serde_json::Value`].
    pub fn to_value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_upstream_s() {
        let deployments = Gvr::new("apps", "v1", "deployments");
        assert_eq!(Status::not_found(&deployments, "x").message, "deployments.apps \"x\" not found");
        assert_eq!(
            Status::modified(&Gvr::new("", "v1", "pods"), "x").message,
            "Operation cannot be fulfilled on pods \"x\": the object has been modified; please apply your changes to \
             the latest version and try again"
        );
        let mut errors = ErrorList::new();
        errors.required(&crate::Path::new("spec").child("containers"), "");
        let status = Status::invalid(&Gvk::new("", "v1", "Pod"), "x", &errors);
        assert_eq!(status.message, "Pod \"x\" is invalid: spec.containers: Required value");
        assert_eq!(status.details.unwrap().causes[0].reason, "FieldValueRequired");
    }
}
