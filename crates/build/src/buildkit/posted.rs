//! A build by `POST /build?version=2`: how clients before buildx ask for BuildKit. What it is for comes as a query, the files
//! by a session or as the request's body, and the progress goes back as messages of the control API within lines of JSON.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use prost::Message;
use tokio::sync::mpsc;

use super::control;
use super::locals::Body;
use super::proto::{CacheOptions, CacheOptionsEntry, Exporter, SolveRequest};
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::options::Options;

/// The address of the request's body, as that of an upload.
const BODY: &str = "http://buildkit-session/body";

/// What is asked for beside the options that both builders have.
#[derive(Default)]
pub struct Posted {
    /// What the client calls the build; it may be cancelled by it.
    pub reference: String,
    /// The client's session; empty if it has none.
    pub session: String,
    /// The context's address, if it is neither in the session nor in the body.
    pub remote: Option<String>,
    /// The context as a tar, or a Dockerfile alone.
    pub body: Option<Body>,
    /// What becomes of the result, as an exporter and its options; an image in the store if it is not said.
    pub output: Option<(String, HashMap<String, String>)>,
}

impl Builder {
    /// Builds what was posted. `progress` gets the messages of the control API (`StatusResponse`), encoded. The answer is the
    /// image's id, if an image was made.
    pub async fn build_posted(
        self: &Arc<Self>,
        posted: Posted,
        options: &Options,
        progress: mpsc::Sender<Vec<u8>>,
    ) -> Result<Option<String>> {
        let reference = match posted.reference.as_str() {
            "" => base::rng::hex(16),
            given => given.to_string(),
        };
        let mut attributes = attributes(options)?;
        let context = posted.body.is_some().then(|| BODY.to_string()).or(posted.remote);
        attributes.extend(context.map(|address| ("context".to_string(), address)));
        let (kind, mut attrs) = posted.output.unwrap_or_else(|| ("moby".into(), HashMap::new()));
        if kind == "moby" {
            attrs.insert("name".into(), options.tags.join(","));
        }
        let imports = options.cache_from.iter().map(|name| CacheOptionsEntry {
            kind: "registry".into(),
            attrs: HashMap::from([("ref".into(), name.clone())]),
        });
        let inline = options.build_args.get("BUILDKIT_INLINE_CACHE").and_then(Option::as_deref) == Some("1");
        let exports = inline.then(|| CacheOptionsEntry { kind: "inline".into(), attrs: HashMap::new() });
        let request = SolveRequest {
            reference: reference.clone(),
            session: posted.session,
            frontend: "dockerfile.v0".into(),
            frontend_attrs: attributes,
            entitlements: (options.network_mode == "host")
                .then(|| "network.host".into())
                .into_iter()
                .collect(),
            cache: Some(CacheOptions { imports: imports.collect(), exports: exports.into_iter().collect() }),
            // Nothing is kept of it but the cache.
            exporters: if kind == "cacheonly" { Vec::new() } else { vec![Exporter { kind, attrs }] },
            ..SolveRequest::default()
        };
        // It ends when the solve has.
        let mut told = std::pin::pin!(self.desk.build(&reference).log.stream());
        let tell = async {
            while let Some(Ok(message)) = told.next().await {
                if progress.send(message.encode_to_vec()).await.is_err() {
                    return;
                }
            }
        };
        let (solved, ()) = tokio::join!(control::solve(self, request, posted.body), tell);
        let mut response = solved.map_err(|status| Error::Step(status.message))?.exporter_response;
        Ok(response.remove("containerimage.config.digest"))
    }

    /// Ends the build that its client calls so, if there is one.
    pub fn cancel_posted(&self, reference: &str) {
        self.desk.build(reference).cancel();
    }
}

/// The options as the Dockerfile frontend knows them.
fn attributes(options: &Options) -> Result<HashMap<String, String>> {
    if options.squash {
        return Err(Error::Invalid("squash is not possible with BuildKit: build without --squash".into()));
    }
    let mut all = HashMap::new();
    let mut set = |name: &str, value: String| {
        if !value.is_empty() {
            all.insert(name.to_string(), value);
        }
    };
    match options.network_mode.as_str() {
        "" | "default" => {}
        mode @ ("host" | "none") => set("force-network-mode", mode.into()),
        other => return Err(Error::Invalid(format!("network mode {other:?} not supported by buildkit"))),
    }
    set("filename", options.dockerfile.clone());
    set("target", options.target.clone());
    set("cgroup-parent", options.cgroup_parent.clone());
    set("platform", options.platform.as_ref().map(ToString::to_string).unwrap_or_default());
    set("shm-size", options.shm_size.map(|n| n.to_string()).unwrap_or_default());
    let hosts = options.extra_hosts.iter().filter_map(|h| h.split_once(':')).map(|(h, a)| format!("{h}={a}"));
    set("add-hosts", hosts.collect::<Vec<_>>().join(","));
    let limits = options.ulimits.iter().map(|u| format!("{}={}:{}", u.name, u.soft, u.hard));
    set("ulimit", limits.collect::<Vec<_>>().join(","));
    if options.pull {
        set("image-resolve-mode", "pull".into());
    }
    // Empty values say something here.
    all.extend(options.no_cache.then(|| ("no-cache".to_string(), String::new())));
    let given = options.build_args.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    all.extend(given.map(|(name, value)| (format!("build-arg:{name}"), value.clone())));
    all.extend(options.labels.iter().map(|(name, value)| (format!("label:{name}"), value.clone())));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::frontend;
    use super::*;
    use crate::options::Ulimit;

    /// What goes through the frontend's options comes out as it was.
    #[test]
    fn options_stay_what_they_are() {
        let options = Options {
            dockerfile: "d/Dockerfile".into(),
            target: "t".into(),
            no_cache: true,
            pull: true,
            network_mode: "host".into(),
            extra_hosts: vec!["a:10.0.0.1".into(), "b:fd00::1".into()],
            shm_size: Some(1 << 20),
            ulimits: vec![Ulimit { name: "nofile".into(), soft: 10, hard: 20 }],
            cgroup_parent: "/p".into(),
            build_args: BTreeMap::from([("A".into(), Some(String::new())), ("B".into(), None)]),
            labels: BTreeMap::from([("l".into(), "x,y".into())]),
            platform: Some(image::Platform::host()),
            ..Options::default()
        };
        let (read, platforms) = frontend::options(&attributes(&options).unwrap()).unwrap();
        assert_eq!(platforms, [image::Platform::host()]);
        let want = Options {
            platform: None,
            build_args: BTreeMap::from([("A".into(), Some(String::new()))]),
            ..options.clone()
        };
        assert_eq!(format!("{read:?}"), format!("{want:?}"));
        let refused = attributes(&Options { network_mode: "container:x".into(), ..options }).unwrap_err();
        assert_eq!(refused.to_string(), "network mode \"container:x\" not supported by buildkit");
    }
}
