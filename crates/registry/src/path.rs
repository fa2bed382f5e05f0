//! The paths of the protocol (OCI distribution-spec, "Endpoints"). Pure: any text gives an endpoint or nothing.

/// What a path asks for. Names, digests and tags are as in the path, not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint<'a> {
    /// `/v2/`
    Base,
    /// `/token`, which is ours alone.
    Token,
    /// `/v1/search`, of the first version of the API, which the second has nothing for.
    Search,
    /// `/v2/_catalog`
    Catalogue,
    /// `/v2/NAME/tags/list`
    Tags(&'a str),
    /// `/v2/NAME/blobs/uploads/`
    Uploads(&'a str),
    /// `/v2/NAME/blobs/uploads/ID`
    Upload(&'a str, &'a str),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(&'a str, &'a str),
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(&'a str, &'a str),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(&'a str, &'a str),
}

impl<'a> Endpoint<'a> {
    /// What a decoded path asks for; `None` if it is no path of a registry.
    pub fn parse(path: &'a str) -> Option<Self> {
        match path {
            "/token" => return Some(Endpoint::Token),
            "/v1/search" => return Some(Endpoint::Search),
            "/v2" | "/v2/" => return Some(Endpoint::Base),
            "/v2/_catalog" => return Some(Endpoint::Catalogue),
            _ => {}
        }
        let rest = path.strip_prefix("/v2/")?;
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(Endpoint::Tags(name));
        }
        let uploads = rest.strip_suffix("/blobs/uploads").or_else(|| rest.strip_suffix("/blobs/uploads/"));
        if let Some(name) = uploads {
            return Some(Endpoint::Uploads(name));
        }
        let (front, last) = rest.rsplit_once('/')?;
        if let Some(name) = front.strip_suffix("/blobs/uploads") {
            return Some(Endpoint::Upload(name, last));
        }
        if let Some(name) = front.strip_suffix("/blobs") {
            return Some(Endpoint::Blob(name, last));
        }
        if let Some(name) = front.strip_suffix("/manifests") {
            return Some(Endpoint::Manifest(name, last));
        }
        front.strip_suffix("/referrers").map(|name| Endpoint::Referrers(name, last))
    }

    /// The repository that it is about, if it is about one.
    pub fn name(&self) -> Option<&'a str> {
        match self {
            Endpoint::Base | Endpoint::Token | Endpoint::Search | Endpoint::Catalogue => None,
            Endpoint::Tags(name)
            | Endpoint::Uploads(name)
            | Endpoint::Upload(name, _)
            | Endpoint::Blob(name, _)
            | Endpoint::Manifest(name, _)
            | Endpoint::Referrers(name, _) => Some(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        use Endpoint as E;
        for (path, want) in [
            ("/v2/", Some(E::Base)),
            ("/v2", Some(E::Base)),
            ("/v2x", None),
            ("/v2/_catalog", Some(E::Catalogue)),
            ("/v2/a/b/tags/list", Some(E::Tags("a/b"))),
            ("/v2/tags/list/tags/list", Some(E::Tags("tags/list"))),
            ("/v2/a/blobs/uploads", Some(E::Uploads("a"))),
            ("/v2/a/blobs/uploads/", Some(E::Uploads("a"))),
            ("/v2/a/blobs/uploads/x", Some(E::Upload("a", "x"))),
            ("/v2/a/blobs/sha256:0", Some(E::Blob("a", "sha256:0"))),
            ("/v2/manifests/manifests/1", Some(E::Manifest("manifests", "1"))),
            ("/v2/a/referrers/d", Some(E::Referrers("a", "d"))),
            ("/v2/a", None),
            ("/v2//manifests/1", Some(E::Manifest("", "1"))),
            ("/", None),
        ] {
            assert_eq!(E::parse(path), want, "{path}");
        }
    }
}
