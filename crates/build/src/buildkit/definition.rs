//! Results as a client may hand them on: a definition whose one source names the result.
//!
//! A client that links builds together takes a result's definition and gives it to the next build as an input, without
//! looking into it. So ours says nothing but which result of this builder it is.

use std::collections::HashMap;

use prost::Message;
use sha2::{Digest, Sha256};

use super::proto::{Definition, Input, Op, OpMetadata, SourceOp};

const SCHEME: &str = "tug-result://";

/// The definition of the result of that id.
pub(crate) fn of(id: &str) -> Definition {
    let source = SourceOp { identifier: format!("{SCHEME}{id}"), attrs: HashMap::new() };
    let first = Op { source: Some(source), ..Op::default() }.encode_to_vec();
    let digest = format!("sha256:{}", hex::encode(Sha256::digest(&first)));
    // Clients refuse a definition that says nothing of its operations.
    let metadata = HashMap::from([(digest.clone(), OpMetadata::default())]);
    let last = Op { inputs: vec![Input { digest, index: 0 }], ..Op::default() }.encode_to_vec();
    Definition { def: vec![first, last], metadata }
}

/// What a definition's source is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// A result of this builder.
    Result(String),
    /// Something else.
    Source {
        /// `docker-image://alpine`, `https://host/repository.git#branch`
        address: String,
        /// The name that a file is to have, if it says one.
        file: String,
        /// The platform that an image is to be for, if it says one.
        platform: Option<image::Platform>,
    },
}

/// The one source of a definition; `None` if it does more than name a source.
pub(crate) fn source(definition: &Definition) -> Option<Named> {
    let ops: Vec<Op> =
        definition.def.iter().map(|b| Op::decode(b.as_slice())).collect::<Result<_, _>>().ok()?;
    let mut sources = ops.iter().filter_map(|op| Some((op.source.as_ref()?, op.platform.as_ref())));
    let (Some((one, platform)), None) = (sources.next(), sources.next()) else { return None };
    // One more op at most: the one that says which output is meant.
    if ops.len() > 2 {
        return None;
    }
    Some(match one.identifier.strip_prefix(SCHEME) {
        Some(id) => Named::Result(id.to_string()),
        None => {
            let attribute = |name: &str| one.attrs.get(name).filter(|v| !v.is_empty());
            // A repository is named without its protocol, which stands beside it.
            let fragment = one.identifier.split_once('#').map(|(_, f)| format!("#{f}")).unwrap_or_default();
            let whole = attribute("git.fullurl").map(|url| format!("{url}{fragment}"));
            let address = whole.unwrap_or_else(|| one.identifier.clone());
            Named::Source {
                address,
                file: attribute("http.filename").cloned().unwrap_or_default(),
                platform: platform.map(image::Platform::from),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        assert_eq!(source(&of("abc")), Some(Named::Result("abc".into())));
        assert_eq!(source(&Definition::default()), None);
    }

    #[test]
    fn repositories_with_their_protocol() {
        let attrs = HashMap::from([("git.fullurl".to_string(), "https://h/r.git".to_string())]);
        let mut op = Op {
            source: Some(SourceOp { identifier: "git://h/r.git#v1:sub".into(), attrs }),
            ..Op::default()
        };
        let definition = Definition { def: vec![op.encode_to_vec()], ..Definition::default() };
        let address = "https://h/r.git#v1:sub".to_string();
        let named =
            |platform| Some(Named::Source { address: address.clone(), file: String::new(), platform });
        assert_eq!(source(&definition), named(None));
        op.platform = Some(super::super::proto::Platform {
            architecture: "arm64".into(),
            os: "linux".into(),
            variant: String::new(),
        });
        let definition = Definition { def: vec![op.encode_to_vec()], ..Definition::default() };
        assert_eq!(source(&definition), named(Some(image::Platform::parse("linux/arm64").unwrap())));
    }
}
