//! Which resources the server has.

use api::{Gvr, Value};

use crate::{Client, Result};

/// One resource that the server serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub gvr: Gvr,
    /// The kind of its objects.
    pub kind: String,
    /// Whether its objects lie in namespaces.
    pub namespaced: bool,
    /// What can be done: `list`, `delete`, `deletecollection`, ...
    pub verbs: Vec<String>,
}

impl Resource {
    /// Whether the server says that this can be done.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// Every resource in the version that its group prefers (sub-resources left out). A group whose documents cannot be
/// read is left out and named in the second part of the answer.
pub async fn preferred(client: &Client) -> Result<(Vec<Resource>, Vec<String>)> {
    let mut out = resources("", "v1", &client.raw("/api/v1").await?);
    let mut unreadable = Vec::new();
    let groups = client.raw("/apis").await?;
    for group in groups["groups"].as_array().into_iter().flatten() {
        let name = group["name"].as_str().unwrap_or_default();
        let preferred = group["preferredVersion"]["version"].as_str().unwrap_or_default();
        let versions =
            group["versions"].as_array().into_iter().flatten().filter_map(|v| v["version"].as_str());
        let mut seen: Vec<Resource> = Vec::new();
        for version in std::iter::once(preferred).chain(versions.filter(|v| *v != preferred)) {
            match client.raw(&format!("/apis/{name}/{version}")).await {
                Ok(document) => {
                    for r in resources(name, version, &document) {
                        if !seen.iter().any(|s| s.gvr.resource == r.gvr.resource) {
                            seen.push(r);
                        }
                    }
                }
                Err(_) => unreadable.push(format!("{name}/{version}")),
            }
        }
        out.append(&mut seen);
    }
    Ok((out, unreadable))
}

/// The resource whose objects say `apiVersion: API_VERSION` and `kind: KIND`, if the server has it.
pub async fn find(client: &Client, api_version: &str, kind: &str) -> Result<Option<Resource>> {
    let (group, version) = api::names::split_api_version(api_version);
    let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match client.raw(&path).await {
        Ok(document) => Ok(resources(group, version, &document).into_iter().find(|r| r.kind == kind)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

pub(crate) fn resources(group: &str, version: &str, document: &Value) -> Vec<Resource> {
    let list = document["resources"].as_array().into_iter().flatten();
    list.filter_map(|r| {
        let name = r["name"].as_str()?;
        if name.contains('/') {
            return None;
        }
        Some(Resource {
            gvr: Gvr::owned(group, version, name),
            kind: r["kind"].as_str()?.into(),
            namespaced: r["namespaced"].as_bool()?,
            verbs: r["verbs"].as_array()?.iter().filter_map(|v| v.as_str().map(String::from)).collect(),
        })
    })
    .collect()
}
