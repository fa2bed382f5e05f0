//! A container's log, as `docker logs` reads it.

use futures::Stream;
use jiff::Timestamp;
use runtime::logs::{LogLine, ReadOptions, drivers};
use runtime::{LogSpec, LoggedContainer};

use crate::Engine;
use crate::container::{Asked, Container};
use crate::error::{Error, Result};

/// Which lines are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Only lines at or after.
    pub since: Option<Timestamp>,
    /// Only lines at or before.
    pub until: Option<Timestamp>,
    /// Only the last so many.
    pub tail: Option<u64>,
    /// Go on while it runs.
    pub follow: bool,
}

impl Engine {
    /// The log's lines, with everything that was written before this was called; with `follow` until the container ends or
    /// is removed.
    pub async fn logs(
        &self,
        reference: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = runtime::Result<LogLine>> + Send + 'static + use<>> {
        let (id, log, mut mark) = if let Some(id) = self.pod(reference)? {
            let log = self.foreign.get(&id).map(|s| s.spec.io.log.clone()).unwrap_or_default();
            let mark = self.foreign.mark(&id);
            (id, log, mark)
        } else {
            let container = self.find(reference)?;
            let log = log_spec(&container, &container.lock().asked)?;
            (container.id.clone(), log, Some(container.mark.subscribe()))
        };
        if log.path().is_none() {
            return Err(Error::NotImplemented("configured logging driver does not support reading".into()));
        }
        self.runtime.flush_log(&id).await;
        let up = mark.as_ref().is_some_and(|m| m.borrow().up);
        let read = ReadOptions {
            since: options.since,
            until: options.until,
            tail: options.tail,
            follow: options.follow && up,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        let done = async move {
            // An error means that the container is gone.
            if let Some(mark) = &mut mark {
                drop(mark.wait_for(|m| !m.up || m.removed).await);
            }
        };
        Ok(runtime::logs::read(&log, read, done))
    }
}

/// How a container's output is recorded, by its driver and options. `asked` is the container's own: whoever asks may hold
/// its lock.
pub(crate) fn log_spec(container: &Container, asked: &Asked) -> Result<LogSpec> {
    let config = &asked.host.log_config;
    let about = LoggedContainer {
        id: container.id.clone(),
        name: asked.name.clone(),
        image_id: asked.image.clone(),
        image_name: asked.config.image.clone(),
        command: asked.args.join(" "),
        created: base::clock::rfc3339_nano(asked.created),
    };
    let (labels, env) = (asked.config.labels.clone().into_iter().collect(), &asked.config.env);
    let wanted = drivers::Asked { container: &about, labels: &labels, env, folder: &container.dir };
    let options = config.config.clone().into_iter().collect();
    drivers::spec(&config.driver, &options, &wanted)
        .map_err(|e| Error::Invalid(format!("failed to initialize logging driver: {e}")))
}
