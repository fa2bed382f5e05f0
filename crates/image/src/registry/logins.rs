//! What `docker login` has kept: the `config.json` of a Docker client, and the programs that it names as keepers of
//! credentials (the protocol of docker-credential-helpers).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncWriteExt;

use super::Auth;
use crate::error::{Error, Result};
use crate::reference::DEFAULT_DOMAIN;

/// How long a helper may take. It may be waiting for somebody who is not there: only time tells.
const PATIENCE: Duration = Duration::from_secs(30);
/// The name that Docker's own registry has in these files.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// What a helper says instead of a user's name if the secret is a refresh token.
const TOKEN: &str = "<token>";

/// The parts of `config.json` that are about credentials.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: serde_json::Map<String, Value>,
    creds_store: String,
    cred_helpers: serde_json::Map<String, Value>,
}

impl Auth {
    /// The credentials for the registry `domain` (as in references) by the `config.json` of a Docker client; `None` if it
    /// has none. Helpers are asked each time, because theirs may expire. A file that cannot be read is an error.
    pub async fn from_docker_config(file: &Path, domain: &str) -> Result<Option<Self>> {
        let bytes = tokio::fs::read(file).await.map_err(Error::file("open", file))?;
        let config: Config = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Invalid(format!("{}: {e}: is it a Docker client's?", file.display())))?;
        let helper = entry(&config.cred_helpers, domain).and_then(Value::as_str);
        match helper.unwrap_or(&config.creds_store) {
            "" => Ok(Self::from_logins(&config.auths, domain)),
            helper => {
                let address = if domain == DEFAULT_DOMAIN { DOCKER_HUB } else { domain };
                ask(&format!("docker-credential-{helper}"), address).await
            }
        }
    }

    /// The credentials for the registry `domain` in a map of logins, as `config.json` has it in `auths`.
    pub fn from_logins(logins: &serde_json::Map<String, Value>, domain: &str) -> Option<Self> {
        entry(logins, domain).and_then(written)
    }
}

/// The entry of a registry, which may be named by a URL.
fn entry<'a>(all: &'a serde_json::Map<String, Value>, domain: &str) -> Option<&'a Value> {
    all.iter().find(|(key, _)| host(key) == domain).map(|(_, value)| value)
}

fn host(key: &str) -> &str {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    match key.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN,
        other => other,
    }
}

/// Credentials as they stand in the file.
fn written(entry: &Value) -> Option<Auth> {
    let text = |name: &str| entry[name].as_str().unwrap_or_default().to_string();
    let mut auth = Auth {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
        registry_token: text("registrytoken"),
    };
    let pair = STANDARD.decode(text("auth")).ok().and_then(|pair| String::from_utf8(pair).ok());
    if let Some((user, password)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
        // Docker's client has written it with a zero at its end at times.
        (auth.username, auth.password) = (user.into(), password.trim_end_matches('\0').into());
    }
    (auth != Auth::default()).then_some(auth)
}

/// Asks a helper: the registry's name goes in, a document with the secret comes out, or a sentence.
async fn ask(program: &str, address: &str) -> Result<Option<Auth>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        username: String,
        secret: String,
    }
    let failed = |why: &dyn std::fmt::Display| {
        Error::Invalid(format!("the credentials for {address} cannot be had from {program}: {why}"))
    };
    let mut child = tokio::process::Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(&e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it says why.
        let _ = stdin.write_all(address.as_bytes()).await;
    }
    let output = match tokio::time::timeout(PATIENCE, child.wait_with_output()).await {
        Ok(output) => output.map_err(|e| failed(&e))?,
        Err(_) => return Err(failed(&format!("it did not answer within {} s", PATIENCE.as_secs()))),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout);
        return match said.trim() {
            said if said.contains("credentials not found") => Ok(None),
            "" => Err(failed(&output.status)),
            said => Err(failed(&said)),
        };
    }
    let Answer { username, secret } = serde_json::from_slice(&output.stdout).map_err(|e| failed(&e))?;
    Ok(Some(match username.as_str() {
        TOKEN => Auth { identity_token: secret, ..Auth::default() },
        _ => Auth { username, password: secret, ..Auth::default() },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(file: &Path, domain: &str) -> Option<(String, String, String)> {
        let auth = Auth::from_docker_config(file, domain).await.unwrap();
        auth.map(|a| (a.username, a.password, a.identity_token))
    }

    fn some(user: &str, password: &str, token: &str) -> Option<(String, String, String)> {
        Some((user.into(), password.into(), token.into()))
    }

    #[tokio::test]
    async fn credentials_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.json");
        assert!(Auth::from_docker_config(&file, "docker.io").await.is_err());
        let json = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpwOnE="}, "r:5000": {"identitytoken": "t"},
            "https://x.example/v2/": {"username": "a", "password": "b"}, "empty.example": {}}, "detachKeys": "x"}"#;
        std::fs::write(&file, json).unwrap();
        assert_eq!(of(&file, "docker.io").await, some("u", "p:q", ""));
        assert_eq!(of(&file, "r:5000").await, some("", "", "t"));
        assert_eq!(of(&file, "x.example").await, some("a", "b", ""));
        for none in ["r", "empty.example", "other"] {
            assert_eq!(of(&file, none).await, None);
        }
        std::fs::write(&file, "[").unwrap();
        let e = Auth::from_docker_config(&file, "r").await.unwrap_err().to_string();
        assert!(e.contains("config.json"), "{e}");
    }

    #[tokio::test]
    async fn credentials_of_helpers() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        // Found by its path, because a test must not change the PATH of the others.
        let helper = |name: &str, text: &str| {
            let path = dir.path().join(format!("docker-credential-{name}"));
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.display().to_string()
        };
        let echo = r#"name=$(cat); printf '{"ServerURL":"%s","Username":"u of %s","Secret":"%s"}' "$name" "$name" "$1""#;
        let echo = helper("echo", echo);
        let token = helper("token", r#"cat >/dev/null; echo '{"Username":"<token>","Secret":"refresh"}'"#);
        let none = helper("none", "echo 'credentials not found in native keychain'; exit 1");
        let broken = helper("broken", "echo 'the keychain is locked'; exit 1");
        let auth = ask(&echo, "r:5000").await.unwrap().unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u of r:5000", "get"));
        assert_eq!(ask(&token, "r").await.unwrap().unwrap().identity_token, "refresh");
        assert!(ask(&none, "r").await.unwrap().is_none());
        let e = ask(&broken, "r").await.unwrap_err().to_string();
        assert!(e.contains("for r cannot be had") && e.contains("the keychain is locked"), "{e}");
        let file = dir.path().join("config.json");
        let json = r#"{"auths": {"r": {"auth": "dTpw"}}, "credsStore": "there-is-none-of-that-name", "credHelpers": {"s": ""}}"#;
        std::fs::write(&file, json).unwrap();
        let e = Auth::from_docker_config(&file, "r").await.unwrap_err().to_string();
        assert!(e.contains("docker-credential-there-is-none-of-that-name"), "{e}");
        assert_eq!(of(&file, "s").await, None, "an empty helper is the file itself");
    }
}
