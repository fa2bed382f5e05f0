//! CertificateApproval, CertificateSigning, CertificateSubjectRestriction and ClusterTrustBundleAttest: who approves or signs a
//! request, or says whom a signer's certificates are to be checked against, must be allowed to for the signer, and nobody gets a
//! certificate of the group that may do everything.

use api::access::Ask;
use api::meta::text;
use api::{Status, Value};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Operation, Plugin, Review};
use crate::authz::{Attributes, is_for_collection_alone};
use crate::user::MASTERS;

/// See the module.
pub struct Certificates;

/// Whether the user has the verb on the signer, or on all of its domain.
fn may(r: &Review<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
    let asked = std::iter::once(signer.to_owned()).chain(domain);
    asked.into_iter().any(|name| {
        let attributes = Attributes::asked(
            r.user,
            &Ask { verb, group: "certificates.k8s.io", resource: "signers", name: &name, ..Ask::default() },
        );
        r.server.authorize(&attributes).allowed()
    })
}

/// Who makes or changes a bundle of a signer's must be allowed to speak for the signer.
fn attest(r: &Review<'_>) -> Result<(), Status> {
    let signer = text(r.object, "/spec/signerName");
    let written = match r.operation {
        Operation::Create => true,
        Operation::Update => !r.old.is_some_and(|old| is_for_collection_alone(r.object, old)),
        _ => false,
    };
    if !written || signer.is_empty() || may(r, "attest", signer) {
        return Ok(());
    }
    Err(r.forbidden(format!("user not permitted to attest for signerName \"{signer}\"")))
}

#[async_trait]
impl Plugin for Certificates {
    fn name(&self) -> &'static str {
        "CertificateApproval, CertificateSigning, CertificateSubjectRestriction, ClusterTrustBundleAttest"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.gvr.group == "certificates.k8s.io"
            && matches!(&*r.gvr.resource, "certificatesigningrequests" | "clustertrustbundles")
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if r.gvr.resource == "clustertrustbundles" {
            return attest(r);
        }
        let old = r.old.unwrap_or(&Value::Null);
        match (r.operation, r.subresource) {
            (Operation::Create, "") => {
                let signer = text(r.object, "/spec/signerName");
                if signer != "kubernetes.io/kube-apiserver-client" {
                    return Ok(());
                }
                let request = STANDARD.decode(text(r.object, "/spec/request")).unwrap_or_default();
                // What cannot be read is for validation to refuse.
                let groups = pki::Request::parse(&request).map(|r| r.organizations).unwrap_or_default();
                if groups.iter().any(|g| g == MASTERS) {
                    return Err(
                        r.forbidden(format!("use of {signer} signer with {MASTERS} group is not allowed"))
                    );
                }
                Ok(())
            }
            (Operation::Update, "approval") => {
                let signer = text(old, "/spec/signerName");
                if may(r, "approve", signer) {
                    return Ok(());
                }
                Err(r.forbidden(format!(
                    "user not permitted to approve requests with signerName \"{signer}\""
                )))
            }
            (Operation::Update, "status") => {
                let part = |v: &Value, p: &str| v.pointer(p).cloned().unwrap_or(Value::Null);
                let same = ["/status/certificate", "/status/conditions"]
                    .iter()
                    .all(|p| part(old, p) == part(r.object, p));
                let signer = text(old, "/spec/signerName");
                if same || may(r, "sign", signer) {
                    return Ok(());
                }
                Err(r.forbidden(format!("user not permitted to sign requests with signerName \"{signer}\"")))
            }
            _ => Ok(()),
        }
    }
}
