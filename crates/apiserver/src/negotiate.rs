//! What the client wants to read: media type, and whether the object itself, a table, or its metadata alone.

use api::Status;
use api::codec::MediaType;

/// The form of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The object or list itself.
    Object,
    /// A meta.k8s.io Table of this version.
    Table(String),
    /// PartialObjectMetadata or its list, of this version.
    Metadata(String),
    /// Aggregated discovery of this version.
    Discovery(String),
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// The media type.
    pub media: MediaType,
    /// The form.
    pub form: Form,
}

impl Default for Accept {
    fn default() -> Self {
        Self { media: MediaType::Json, form: Form::Object }
    }
}

/// What there is to choose from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// An object, its table or its metadata; `protobuf`: whether the object itself has such a form. Metadata always have.
    Object {
        /// Whether it has.
        protobuf: bool,
    },
    /// Only the object itself.
    Plain,
    /// Discovery, aggregated or not.
    Discovery,
}

const ALL: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The alternatives of the header, those that the client prefers first (RFC 9110, section 12.5.1).
fn by_preference(header: &str) -> Vec<&str> {
    let mut all: Vec<&str> = header.split(',').collect();
    if header.contains("q=") || header.contains('*') {
        all.sort_by_cached_key(|alternative| {
            let mut parts = alternative.split(';').map(str::trim);
            let wild = parts.next().map_or(0, |name| name.matches('*').count());
            let quality = parts.find_map(|p| p.strip_prefix("q=")?.parse::<f64>().ok()).unwrap_or(1.0);
            // In thousandths, as many as it may have; the highest first.
            (-(quality.clamp(0.0, 1.0) * 1000.0) as i32, wild)
        });
    }
    all
}

/// The first of the header's alternatives that can be served.
pub fn accept(header: &str, offer: Offer) -> Result<Accept, Status> {
    if header.trim().is_empty() {
        return Ok(Accept::default());
    }
    for alternative in by_preference(header) {
        let mut parts = alternative.split(';').map(str::trim);
        let media = match parts.next().unwrap_or("") {
            "*/*" | "application/*" => MediaType::Json,
            "" => continue,
            name => match MediaType::of(name) {
                Some(m) => m,
                None => continue,
            },
        };
        let (mut form, mut version, mut group) = ("", "", "");
        for p in parts {
            match p.split_once('=') {
                Some(("as", v)) => form = v,
                Some(("v", v)) => version = v,
                Some(("g", v)) => group = v,
                _ => {}
            }
        }
        let of_object = matches!(offer, Offer::Object { .. });
        let known = of_object && group == "meta.k8s.io" && matches!(version, "v1" | "v1beta1");
        let form = match form {
            "" if media == MediaType::Protobuf && offer == (Offer::Object { protobuf: false }) => continue,
            "" => Form::Object,
            // Tables have no protobuf form.
            "Table" if known && media != MediaType::Protobuf => Form::Table(version.to_owned()),
            "PartialObjectMetadata" | "PartialObjectMetadataList" if known => {
                Form::Metadata(version.to_owned())
            }
            "APIGroupDiscoveryList"
                if offer == Offer::Discovery
                    && group == "apidiscovery.k8s.io"
                    && matches!(version, "v2" | "v2beta1") =>
            {
                Form::Discovery(version.to_owned())
            }
            _ => continue,
        };
        return Ok(Accept { media, form });
    }
    Err(Status::not_acceptable(&ALL))
}

/// In which media type a failure is told: the first that can be had, as of an object, or JSON, which every client reads.
pub fn of_failure(header: &str) -> MediaType {
    accept(header, Offer::Plain).map_or(MediaType::Json, |accept| accept.media)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Offer = Offer::Object { protobuf: true };

    #[test]
    fn picks_what_can_be_served() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl, OBJECT).unwrap().form, Form::Table("v1".into()));
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(go, OBJECT).unwrap().media, MediaType::Protobuf);
        let aggregated =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(accept(aggregated, Offer::Discovery).unwrap().form, Form::Discovery("v2".into()));
        assert_eq!(accept(aggregated, OBJECT).unwrap(), Accept::default());
        assert_eq!(accept("*/*", OBJECT).unwrap(), Accept::default());
        assert_eq!(accept("text/html", OBJECT).unwrap_err().code, 406);
        let media = |header: &str| accept(header, OBJECT).unwrap().media;
        assert_eq!(media("application/json;q=0.5, application/yaml"), MediaType::Yaml);
        assert_eq!(media("application/yaml;q=0.8,application/json;q=0.9"), MediaType::Json);
        assert_eq!(media("*/*, application/yaml"), MediaType::Yaml);
    }

    #[test]
    fn what_has_no_protobuf_form_is_not_promised_in_it() {
        const PROTO: &str = "application/vnd.kubernetes.protobuf";
        let metadata = format!("{PROTO};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        let table = format!("{PROTO};as=Table;g=meta.k8s.io;v=v1");
        let without = Offer::Object { protobuf: false };
        for (header, offer, want) in [
            (PROTO.to_owned(), OBJECT, Some(MediaType::Protobuf)),
            (PROTO.to_owned(), without, None),
            (format!("{PROTO},application/json"), without, Some(MediaType::Json)),
            (format!("{PROTO}, */*"), without, Some(MediaType::Json)),
            (metadata.clone(), without, Some(MediaType::Protobuf)),
            (metadata.clone(), Offer::Plain, None),
            (table.clone(), OBJECT, None),
            (format!("{table},application/json;as=Table;g=meta.k8s.io;v=v1"), OBJECT, Some(MediaType::Json)),
        ] {
            assert_eq!(accept(&header, offer).ok().map(|a| a.media), want, "{header} {offer:?}");
        }
        for (header, want) in [
            (PROTO.to_owned(), MediaType::Protobuf),
            (format!("{PROTO},application/json"), MediaType::Protobuf),
            (format!("{metadata},{PROTO};q=0.5,application/json"), MediaType::Json),
            (metadata, MediaType::Json),
            ("application/yaml".to_owned(), MediaType::Yaml),
            ("text/html".to_owned(), MediaType::Json),
            (String::new(), MediaType::Json),
        ] {
            assert_eq!(of_failure(&header), want, "{header}");
        }
    }
}
