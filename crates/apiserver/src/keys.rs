//! Servers that share a datastore must share the cluster's keys: else each would refuse the certificates and tokens that the
//! others issued. Which keys they are is kept in the store, as fingerprints; the keys themselves never are.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use store::{Expect, Op, Txn};

use crate::{Error, Options, Result};

/// Not a kind's key, so the cache passes over it.
const KEY: &str = "/registry/cluster-keys";

/// Which keys a server has.
fn fingerprints(pki: &pki::Pki) -> Value {
    let tokens = pki.key_set().document();
    json!({"authority": hex::encode(Sha256::digest(pki.ca_pem())), "tokens": tokens["keys"][0]["kid"]})
}

/// Fails if the datastore is that of a cluster with other keys.
pub async fn check(options: &Options) -> Result<()> {
    if !options.shared_store {
        return Ok(());
    }
    let own = fingerprints(&options.pki);
    let value = Bytes::from(api::object::encode(&own));
    let op = Op::Put { value, lease: None };
    let done = options.store.txn(Txn { key: KEY.into(), expect: Expect::Absent, op }).await?;
    let Some(first) = done.current.filter(|_| !done.succeeded) else { return Ok(()) };
    let theirs: Value = serde_json::from_slice(&first.value).unwrap_or(Value::Null);
    for (field, what, files) in [
        ("authority", "certificate authority", "ca.crt and ca.key"),
        ("tokens", "key of service-account tokens", "sa.key"),
    ] {
        if own[field] != theirs[field] {
            let dir = options.instance.pki_dir();
            return Err(Error::ForeignKeys(format!(
                "this datastore belongs to a cluster with another {what} ({}, not {}): copy {files} from the pki folder of a server of that cluster to {}, and start again; or, if this server's keys are to be the cluster's from now on, delete the key {KEY} from the datastore",
                theirs[field].as_str().unwrap_or("unknown"),
                own[field].as_str().unwrap_or("unknown"),
                dir.display()
            )));
        }
    }
    Ok(())
}
