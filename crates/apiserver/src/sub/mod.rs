//! Subresources and reviews: documents that are answered, not stored.

mod pods;
mod reviews;
mod scale;
mod tokens;

pub(crate) use tokens::OF_PODS;

use api::{Status, Value};

use crate::ApiServer;
use crate::admission::{self, Operation, Progress, Review};
use crate::resource::Resolved;

impl ApiServer {
    /// Admits what is posted to a subresource and is a document of its own: a binding, an eviction, a request for a token.
    async fn admit_document(
        &self,
        r: &mut Resolved,
        subresource: &str,
        document: &mut Value,
        dry_run: bool,
    ) -> Result<(), Status> {
        let options = r.write_options()?.document("CreateOptions");
        let cx = &mut r.cx;
        let (kind, user, gvr) = (cx.kind.clone(), cx.user.clone(), cx.kind.gvr());
        let (namespace, name) = (cx.info.namespace.clone(), cx.info.name.clone());
        let mut review = Review {
            server: self,
            user: &user,
            kind: &kind,
            gvr: &gvr,
            version: cx.version,
            converter: None,
            subresource,
            operation: Operation::Create,
            namespace: &namespace,
            name: &name,
            object: document,
            old: None,
            dry_run,
            options,
            warnings: &mut cx.warnings,
            progress: Progress::default(),
        };
        admission::mutate(&self.admission, &mut review).await?;
        admission::validate(&self.admission, &mut review).await.map(drop)
    }
}
