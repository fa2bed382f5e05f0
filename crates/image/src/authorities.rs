//! The certificate authorities that this machine trusts, where Go's programs look for them: `$SSL_CERT_FILE` or the first
//! bundle that is there, and the folders of `$SSL_CERT_DIR`, or the usual ones where there is no bundle.
//!
//! They are read anew for each client, so that one that was added counts at once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const FOLDERS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// Those of this machine.
pub(crate) fn system() -> Vec<CertificateDer<'static>> {
    found(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
}

fn found(variable: impl Fn(&str) -> Option<OsString>) -> Vec<CertificateDer<'static>> {
    let bundles = match variable("SSL_CERT_FILE") {
        Some(file) => vec![PathBuf::from(file)],
        None => BUNDLES.map(PathBuf::from).into(),
    };
    let bundle = bundles.iter().find_map(|file| certificates(file));
    let folders: Vec<PathBuf> = match (variable("SSL_CERT_DIR"), &bundle) {
        (Some(folders), _) => std::env::split_paths(&folders).collect(),
        (None, None) => FOLDERS.map(PathBuf::from).into(),
        (None, Some(_)) => Vec::new(),
    };
    let mut all = bundle.unwrap_or_default();
    for folder in folders {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        all.extend(entries.filter_map(|entry| certificates(&entry.path())).flatten());
    }
    all
}

/// The certificates in a file; what else is in it does not matter. `None` if it cannot be read.
fn certificates(file: &Path) -> Option<Vec<CertificateDer<'static>>> {
    let sections = CertificateDer::pem_slice_iter(&std::fs::read(file).ok()?).collect::<Vec<_>>();
    Some(sections.into_iter().filter_map(Result::ok).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;

    fn pem(der: &[u8]) -> String {
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    #[test]
    fn variables_name_files_and_folders() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("bundle.pem"), format!("# ours\n{}{}", pem(b"one"), pem(b"two"))).unwrap();
        for (folder, der) in [("a", b"three"), ("b", b"fours")] {
            std::fs::create_dir(at(folder)).unwrap();
            std::fs::write(at(folder).join("x.crt"), pem(der)).unwrap();
            std::fs::write(at(folder).join("README"), "nothing").unwrap();
        }
        let with = |file: Option<&str>, folders: &[&str]| {
            let folders =
                (!folders.is_empty()).then(|| std::env::join_paths(folders.iter().map(|f| at(f))).unwrap());
            let file = file.map(|f| at(f).into_os_string());
            let found = found(|name| if name == "SSL_CERT_FILE" { file.clone() } else { folders.clone() });
            found.iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect::<Vec<_>>()
        };
        assert_eq!(with(Some("bundle.pem"), &[]), ["one", "two"]);
        assert_eq!(with(Some("bundle.pem"), &["a", "missing", "b"]), ["one", "two", "three", "fours"]);
        assert_eq!(with(Some("missing"), &["b"]), ["fours"]);
    }
}
