//! The seam for an audit log: what is to be remembered of requests is handed to a [`Sink`], which is all that a log needs to
//! be. Today that is what admission noted of writes, whether they were carried out or refused: webhooks' audit
//! annotations, and pods that a namespace's level would have refused. What a policy file would choose from them, and
//! requests that no admission sees, are for the log that comes.

/// What one half of admission, the mutating or the validating one, noted of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Who wrote.
    pub user: &'a str,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    pub operation: &'a str,
    /// API group.
    pub group: &'a str,
    /// Resource.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace, empty for none.
    pub namespace: &'a str,
    /// Name, empty if it was yet to be generated.
    pub name: &'a str,
    /// Whether it let the write pass.
    pub admitted: bool,
    /// Upstream's keys: `WEBHOOK/KEY` of webhooks, `pod-security.kubernetes.io/…`.
    pub annotations: Vec<(String, String)>,
}

/// Where events go. It is called on the way of the request, and so must neither block nor wait.
pub trait Sink: std::fmt::Debug + Send + Sync {
    /// Takes an event.
    fn take(&self, event: &Event<'_>);
}

/// The program's own log, at the level of debugging, under the target `audit`.
#[derive(Debug)]
pub struct Log;

impl Sink for Log {
    fn take(&self, event: &Event<'_>) {
        for (key, value) in &event.annotations {
            tracing::debug!(target: "audit", user = event.user, operation = event.operation,
                group = event.group, resource = event.resource, subresource = event.subresource,
                namespace = event.namespace, name = event.name, admitted = event.admitted, key, value);
        }
    }
}
