//! NamespaceLifecycle: nothing is created in a namespace that is not there or is ending, and the system's own namespaces
//! are not deleted.

use api::{Gvr, Status, Value};
use async_trait::async_trait;

use super::{Operation, Plugin, Review};

/// Namespaces that may not be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// See the module.
pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        if r.is("namespaces") {
            return r.operation == Operation::Delete;
        }
        r.operation == Operation::Create
            && !r.namespace.is_empty()
            // A namespace that ends still answers questions about who may do what in it.
            && r.gvr.group != "authorization.k8s.io"
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if r.is("namespaces") {
            if IMMORTAL.contains(&r.name) {
                return Err(r.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        let namespaces = Gvr::new("", "v1", "namespaces");
        let Some(namespace) = r.server.cache.kind("", "namespaces").get(r.namespace) else {
            return Err(Status::not_found(&namespaces, r.namespace));
        };
        let ending = namespace.status().get("phase").and_then(Value::as_str) == Some("Terminating");
        if ending || namespace.is_deleting() {
            let why = format!(
                "unable to create new content in namespace {} because it is being terminated",
                r.namespace
            );
            return Err(r.forbidden(why).with_cause(
                "NamespaceTerminating",
                format!("namespace {} is being terminated", r.namespace),
                "metadata.namespace",
            ));
        }
        Ok(())
    }
}
