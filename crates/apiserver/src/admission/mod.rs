//! Admission: what may be changed in, and said against, a write after authorization and before it is stored.
//!
//! Every plugin that changes objects runs before every plugin that only judges, in the order of [`stock`].

mod accounts;
mod certificates;
mod defaults;
mod lifecycle;
mod limits;
mod matching;
mod node;
mod pods;
mod quota;
mod security;
mod standards;
mod webhook;

use api::{Gvr, Kind, Status, Value};
use async_trait::async_trait;
use tokio::time::Instant;

use crate::ApiServer;
use crate::audit::Event;
use crate::conversion::Converter;
use crate::metrics::Half;
use crate::user::UserInfo;

pub use quota::Charges;
#[cfg(any(test, fuzzing))]
pub(crate) use webhook::try_response;

/// The kind of write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change.
    Update,
    /// A deletion; `object` is null.
    Delete,
    /// exec, attach, port-forward, proxy; `object` is null.
    Connect,
}

/// A write under judgement.
pub struct Review<'a> {
    /// The server, for what else there is in the cluster.
    pub server: &'a ApiServer,
    /// Who writes.
    pub user: &'a UserInfo,
    /// What kind of object.
    pub kind: &'a Kind,
    /// Its resource, in the version it is stored in.
    pub gvr: &'a Gvr,
    /// The index of the version of the request among the kind's.
    pub version: usize,
    /// What brings custom resources into their other versions.
    pub converter: Option<&'a Converter>,
    /// The subresource, empty for the object itself.
    pub subresource: &'a str,
    /// What is done.
    pub operation: Operation,
    /// The object's namespace, empty if it has none.
    pub namespace: &'a str,
    /// The object's name; empty if it is yet to be generated.
    pub name: &'a str,
    /// The object as it will be.
    pub object: &'a mut Value,
    /// The object as it is.
    pub old: Option<&'a Value>,
    /// Whether nothing will be stored.
    pub dry_run: bool,
    /// The options of the request, as a document (`CreateOptions`...).
    pub options: Value,
    /// Warnings for the client.
    pub warnings: &'a mut Vec<String>,
    /// What the plugins have come to.
    pub progress: Progress,
}

/// What plugins leave behind for each other and for the end of a review.
#[derive(Debug, Default)]
pub struct Progress {
    /// What they note of the write for the audit log ([`crate::audit`]).
    notes: Vec<(String, String)>,
    /// What quotas were charged for it.
    charges: Charges,
    /// Which webhooks are to see what others made of the object.
    rounds: Rounds,
}

/// How far mutation has gone round. A webhook that changes the object calls for a second round, in which every plugin sees
/// it once more, and those webhooks that were asked before and want to be again.
#[derive(Debug, Default)]
struct Rounds {
    /// This is the second round, the last.
    second: bool,
    /// A webhook has changed the object.
    again: bool,
    /// The webhooks that were asked and want to be asked again if the object changes.
    asked: Vec<String>,
    /// Those of them that it has changed for.
    due: Vec<String>,
    /// The object as the webhooks left it.
    left: Option<Value>,
}

impl Review<'_> {
    /// A refusal in upstream's form: `RESOURCE "NAME" is forbidden: WHY`.
    pub fn forbidden(&self, why: impl Into<String>) -> Status {
        Status::forbidden(self.gvr, self.shown_name(), &why.into())
    }

    /// What messages call the object: by what its name is to be made of, as long as it has none.
    pub fn shown_name(&self) -> &str {
        let base = api::meta::generate_name(self.object);
        [self.name, api::meta::name(self.object), base]
            .into_iter()
            .find(|n| !n.is_empty())
            .unwrap_or("Unknown")
    }

    /// Whether this is about the object itself (no subresource) of this core resource.
    pub fn is(&self, resource: &str) -> bool {
        self.subresource.is_empty() && self.gvr.group.is_empty() && self.gvr.resource == resource
    }
}

/// A step of admission.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;

    /// Upstream's names of its halves, where they are two plugins: of the one that changes, and of the one that judges.
    fn names(&self) -> [&'static str; 2] {
        [self.name(); 2]
    }

    /// Whether it has anything to do with this write; asked before the others, so that most writes pass most plugins
    /// without cost.
    fn handles(&self, review: &Review<'_>) -> bool;

    /// Changes the object.
    async fn mutate(&self, _review: &mut Review<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the write, or not.
    async fn validate(&self, _review: &mut Review<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins of a stock server.
pub fn stock() -> Vec<Box<dyn Plugin>> {
    vec![
        Box::new(lifecycle::NamespaceLifecycle),
        Box::new(limits::LimitRanger),
        Box::new(accounts::ServiceAccount),
        Box::new(node::NodeRestriction),
        Box::new(pods::Priority),
        Box::new(pods::DefaultTolerationSeconds),
        Box::new(pods::TaintNodesByCondition),
        Box::new(pods::RuntimeClass),
        Box::new(defaults::DefaultStorageClass),
        Box::new(defaults::StorageObjectInUse),
        Box::new(defaults::DefaultIngressClass),
        Box::new(defaults::VolumeResize),
        Box::new(security::PodSecurity),
        Box::new(certificates::Certificates),
        Box::new(pods::PodTopologyLabels),
        Box::new(webhook::Webhooks::default()),
        Box::new(quota::ResourceQuota),
    ]
}

/// Runs the mutating half of all plugins; once more if a webhook has changed the object, so that what it put there gets its
/// defaults too.
pub async fn mutate(plugins: &[Box<dyn Plugin>], review: &mut Review<'_>) -> Result<(), Status> {
    let started = Instant::now();
    let mut answer = mutate_once(plugins, review).await;
    if answer.is_ok() && review.progress.rounds.again {
        review.progress.rounds.second = true;
        answer = mutate_once(plugins, review).await;
    }
    let metrics = &review.server.metrics.admission;
    metrics.step(Half::Admit, review.operation, answer.is_err(), started.elapsed());
    if matches!(review.operation, Operation::Create | Operation::Update) {
        dedup_owners(review.object, review.warnings, " after mutating admission happens");
    }
    remember(review, answer.is_ok());
    answer
}

/// Leaves each owner of an object once, and says so to the client.
pub fn dedup_owners(object: &mut Value, warnings: &mut Vec<String>, when: &str) {
    let again = api::meta::dedup_owners(object);
    if !again.is_empty() {
        warnings.push(format!(
            ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            again.join(", ")
        ));
    }
}

async fn mutate_once(plugins: &[Box<dyn Plugin>], review: &mut Review<'_>) -> Result<(), Status> {
    for (at, plugin) in plugins.iter().enumerate() {
        if plugin.handles(review) {
            let started = Instant::now();
            let answer = plugin.mutate(review).await;
            let metrics = &review.server.metrics.admission;
            metrics.plugin(at, Half::Admit, review.operation, answer.is_err(), started.elapsed());
            answer?;
        }
    }
    Ok(())
}

/// Runs the validating half of all plugins. Gives what quotas were charged for the write, which is settled when it has been
/// written or not.
pub async fn validate(plugins: &[Box<dyn Plugin>], review: &mut Review<'_>) -> Result<Charges, Status> {
    let mut answer = Ok(());
    let begun = Instant::now();
    let metrics = &review.server.metrics.admission;
    for (at, plugin) in plugins.iter().enumerate() {
        if plugin.handles(review) {
            let started = Instant::now();
            answer = plugin.validate(review).await;
            metrics.plugin(at, Half::Validate, review.operation, answer.is_err(), started.elapsed());
            if answer.is_err() {
                break;
            }
        }
    }
    metrics.step(Half::Validate, review.operation, answer.is_err(), begun.elapsed());
    let charges = std::mem::take(&mut review.progress.charges);
    remember(review, answer.is_ok());
    match answer {
        Ok(()) => Ok(charges),
        refused => {
            charges.settle(review.server, review.namespace, refused).await.map(|()| Charges::default())
        }
    }
}

/// Hands on what plugins noted, whether they refused the write or not.
fn remember(review: &mut Review<'_>, admitted: bool) {
    let annotations = std::mem::take(&mut review.progress.notes);
    if annotations.is_empty() {
        return;
    }
    let event = Event {
        user: &review.user.name,
        operation: review.operation.word(),
        group: &review.gvr.group,
        resource: &review.gvr.resource,
        subresource: review.subresource,
        namespace: review.namespace,
        name: review.name,
        admitted,
        annotations,
    };
    review.server.options.audit.take(&event);
}
