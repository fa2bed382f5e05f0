//! Images for containers: what is here, what is pulled, and when a failed pull may be tried again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use image::{Auth, Image};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::context::Context;
use crate::env::Sources;
use crate::pod::state::ImageState;
use crate::view::{Container, Pod};

/// The first delay after a failed pull; each further one is twice as long, up to `LAST_DELAY`.
const FIRST_DELAY: Duration = Duration::from_secs(10);
/// The longest delay.
const LAST_DELAY: Duration = Duration::from_secs(300);
/// For how long a status shows the failure itself before it shows that a back-off goes on: a timer because nothing
/// happens in between.
const SHOW: Duration = Duration::from_secs(2);

/// The failed pulls of this node's pods.
#[derive(Default)]
pub struct Pulls {
    failed: Mutex<HashMap<(String, String), Failed>>,
}

#[derive(Clone, Copy)]
struct Failed {
    delay: Duration,
    until: Instant,
}

impl Pulls {
    /// Forgets a pod.
    pub fn forget(&self, uid: &str) {
        self.failed.lock().retain(|(owner, _), _| owner != uid);
    }

    /// How long an image's pull must wait still.
    fn waits(&self, key: &(String, String), now: Instant) -> Option<Instant> {
        self.failed.lock().get(key).map(|f| f.until).filter(|until| *until > now)
    }

    fn failed(&self, key: (String, String), now: Instant) {
        let mut failed = self.failed.lock();
        let delay = failed.get(&key).map_or(FIRST_DELAY, |f| (f.delay * 2).min(LAST_DELAY));
        failed.insert(key, Failed { delay, until: now + delay });
    }
}

/// Sees that the container's image is here, by its policy. Events say what was done.
pub async fn ensure(context: &Context, pod: &Pod, container: &Container) -> ImageState {
    let field = pod.spec.field_path(&container.name);
    let event = |kind: &'static str, reason: &str, message: String| {
        context.recorder.event_at(&pod.object, &field, kind, reason, message);
    };
    let name = container.image.as_str();
    let now = Instant::now();
    let failed =
        |reason: &'static str, message: String, until: Instant| ImageState::Failed { reason, message, until };
    if let Err(e) = image::reference::parse_tagged(name) {
        let message = format!(
            "Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {e}"
        );
        event("Warning", "InspectFailed", message.clone());
        event("Warning", "Failed", "Error: InvalidImageName".into());
        return failed("InvalidImageName", message, now + LAST_DELAY);
    }
    let present = context.options.images.get(name).ok();
    if let Some(image) = present.filter(|image| is_enough(&container.image_pull_policy, image)) {
        event("Normal", "Pulled", format!("Container image \"{name}\" already present on machine"));
        return ImageState::Ready(image.id.clone());
    }
    if container.image_pull_policy == "Never" {
        let message = format!("Container image \"{name}\" is not present with pull policy of Never");
        event("Warning", "ErrImageNeverPull", message.clone());
        event("Warning", "Failed", "Error: ErrImageNeverPull".into());
        return failed("ErrImageNeverPull", message, now + FIRST_DELAY);
    }
    let key = (pod.uid.clone(), name.to_owned());
    if let Some(until) = context.pulls.waits(&key, now) {
        let message = format!("Back-off pulling image \"{name}\"");
        event("Normal", "BackOff", message.clone());
        event("Warning", "Failed", "Error: ImagePullBackOff".into());
        return failed("ImagePullBackOff", message, until);
    }
    event("Normal", "Pulling", format!("Pulling image \"{name}\""));
    match pull(context, pod, name).await {
        Ok(image) => {
            context.pulls.failed.lock().remove(&key);
            let took = now.elapsed();
            event(
                "Normal",
                "Pulled",
                format!(
                    "Successfully pulled image \"{name}\" in {:.3}s ({:.3}s including waiting). Image size: {} bytes.",
                    took.as_secs_f64(),
                    took.as_secs_f64(),
                    image.size
                ),
            );
            ImageState::Ready(image.id.clone())
        }
        Err(e) => {
            let message = format!("failed to pull image \"{name}\": {e}");
            event("Warning", "Failed", format!("Failed to pull image \"{name}\": {e}"));
            event("Warning", "Failed", "Error: ErrImagePull".into());
            let now = Instant::now();
            context.pulls.failed(key, now);
            failed("ErrImagePull", message, now + SHOW)
        }
    }
}

/// Whether an image that is here will do. With `Always` too, if it was built or loaded here: no registry knows of it
/// that could have a newer one.
fn is_enough(policy: &str, image: &Image) -> bool {
    policy != "Always" || image.repo_digests.is_empty()
}

async fn pull(context: &Context, pod: &Pod, name: &str) -> Result<Arc<Image>, image::Error> {
    let domain = image::reference::parse_tagged(name)?.domain;
    let sources = context.sources(&pod.namespace);
    let auths: Vec<Auth> = pod
        .spec
        .image_pull_secrets
        .iter()
        .filter_map(|secret| sources.secret(&secret.name))
        .filter_map(|data| credentials(&data, &domain))
        .collect();
    let mut tries: Vec<Option<Auth>> = auths.into_iter().map(Some).collect();
    tries.push(None);
    let mut last = Err(image::Error::Cancelled(format!("pull of {name}")));
    for auth in tries {
        // Nobody watches a pod's pull: a closed channel stops nothing.
        let (progress, _) = mpsc::channel(1);
        last = context.options.images.pull(name, auth, None, progress).await;
        match &last {
            Err(image::Error::Denied(_)) => {}
            _ => break,
        }
    }
    last
}

/// The credentials for a registry in a Secret of type `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg`.
fn credentials(data: &std::collections::BTreeMap<String, Vec<u8>>, domain: &str) -> Option<Auth> {
    let parse = |key: &str| data.get(key).and_then(|d| serde_json::from_slice::<Value>(d).ok());
    let logins = parse(".dockerconfigjson").map(|mut v| v["auths"].take()).or_else(|| parse(".dockercfg"))?;
    Auth::from_logins(logins.as_object()?, domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_wait_longer_and_longer() {
        let pulls = Pulls::default();
        let key = ("u".to_string(), "i".to_string());
        assert_eq!(pulls.waits(&key, Instant::now()), None);
        let mut delays = Vec::new();
        for _ in 0..7 {
            pulls.failed(key.clone(), Instant::now());
            let until = pulls.waits(&key, Instant::now()).unwrap();
            delays.push((until - Instant::now()).as_secs());
            tokio::time::sleep_until(until).await;
            assert_eq!(pulls.waits(&key, Instant::now()), None);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        pulls.forget("u");
        assert!(pulls.failed.lock().is_empty());
    }

    #[test]
    fn credentials_of_secrets() {
        let json = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}, "r:5000": {"username": "a", "password": "b"}}}"#;
        let data = [(".dockerconfigjson".to_string(), json.as_bytes().to_vec())].into();
        let got = credentials(&data, "docker.io").unwrap();
        assert_eq!((got.username.as_str(), got.password.as_str()), ("u", "p:q"));
        assert_eq!(credentials(&data, "r:5000").unwrap().username, "a");
        assert!(credentials(&data, "other").is_none());
    }
}
