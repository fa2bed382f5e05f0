//! Server-side apply and managed fields.

use jiff::Timestamp;
use serde_json::Value;

use crate::Status;
use crate::schema::Schema;

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// `fieldManager`, or what is derived from the user agent.
    pub manager: &'a str,
    /// The time of the request.
    pub now: Timestamp,
    /// `""` or the subresource written through.
    pub subresource: &'a str,
    /// The version of the request, e.g. `apps/v1`.
    pub api_version: &'a str,
}

/// Applies a configuration to the live object (`None`: it is created) and returns the new object, with its managed fields.
/// Fields that others own and this configuration changes are conflicts (409) unless `force`.
pub fn apply(
    live: Option<&Value>,
    config: &Value,
    schema: Schema<'_>,
    writer: Writer<'_>,
    force: bool,
) -> Result<Value, Status> {
    let _ = (live, config, schema, writer, force);
    Err(Status::internal("apply is not here yet"))
}

/// Notes in `new`'s managed fields which fields a create, update or other patch has changed since `old`.
pub fn track_update(old: Option<&Value>, new: &mut Value, schema: Schema<'_>, writer: Writer<'_>) {
    let _ = (old, new, schema, writer);
}
