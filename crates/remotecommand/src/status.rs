//! How a streamed command ended, in the words of each version of the remote command protocol.

use bytes::Bytes;
use serde_json::json;

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With exit code 0.
    Success,
    /// With another exit code.
    Exit(i32),
    /// It could not be run, or not to its end; the text says why.
    Failure(String),
}

/// What goes over the error stream: nothing for success before version 4, a `Status` since.
pub fn encode(outcome: &Outcome, version: u8) -> Bytes {
    if version < 4 {
        return match outcome {
            Outcome::Success => Bytes::new(),
            Outcome::Exit(code) => Bytes::from(format!(
                "error executing command in container: command terminated with exit code {code}"
            )),
            Outcome::Failure(message) => Bytes::from(message.clone()),
        };
    }
    let status = match outcome {
        Outcome::Success => json!({"metadata": {}, "status": "Success"}),
        Outcome::Exit(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Outcome::Failure(message) => json!({
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": "InternalError",
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }),
    };
    Bytes::from(status.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(encode(&Outcome::Success, 3), "");
        assert_eq!(encode(&Outcome::Success, 4), r#"{"metadata":{},"status":"Success"}"#);
        let exit: serde_json::Value = serde_json::from_slice(&encode(&Outcome::Exit(3), 5)).unwrap();
        assert_eq!(exit["reason"], "NonZeroExitCode");
        assert_eq!(exit["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(encode(&Outcome::Failure("why".into()), 1), "why");
    }
}
