//! What fuzz targets call: names that anybody may ask for.

use crate::names::{Meaning, label_of, meaning};

/// A name that is asked for: what it means lies in it.
pub fn name(text: &str) {
    let name = text.to_ascii_lowercase();
    match meaning(&name, "cluster.local") {
        Meaning::Service { namespace, service } => {
            assert_eq!(format!("{service}.{namespace}.svc.cluster.local"), name);
        }
        Meaning::Pod { address, .. } => {
            let _ = label_of(&address);
        }
        _ => {}
    }
}
