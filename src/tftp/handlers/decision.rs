//! Decisions of a program or a hook about a request, in JSON.
//!
//! | Decision | Meaning |
//! |---|---|
//! | `{"file": "images/grubx64.efi"}` | serve this file of the handler configured as `files` |
//! | `{"content": "#!ipxe\n…"}` | serve this text |
//! | `{"error": {"code": 2, "text": "not for you"}}` | answer with this ERROR; with code 1, a chain tries the next handler |

use crate::content::Content;
use crate::handler::{Handler, Opened, Refusal, SharedHandler};
use crate::packet::ErrorCode;
use crate::request::Request;
use serde::Deserialize;

/// Format of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// It is a [`Decision`] (`"decision"`, the default).
    #[default]
    Decision,
    /// It is the file itself (`"bytes"`).
    Bytes,
}

/// A decision about a request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Serve another file instead.
    File(String),
    /// Serve this text.
    Content(String),
    /// Refuse the request.
    Error(Reason),
}

/// Code and text of a refusal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Code of the ERROR packet (RFC 1350 section 5).
    pub code: u16,
    /// Its text.
    pub text: String,
}

/// Longest text of an ERROR packet, in characters; longer texts are cut.
const MAX_TEXT: usize = 256;

impl Decision {
    /// Reads a decision.
    ///
    /// # Errors
    /// When `json` is not a valid decision.
    pub fn parse(json: &[u8]) -> Result<Decision, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// Carries out an answer. `who` names its source in the log.
pub(super) async fn apply_decision(answer: Answer, bytes: Vec<u8>, who: &str, request: Request, files: Option<&SharedHandler>) -> Opened {
    let decision = match answer {
        Answer::Bytes => return Ok(Content::bytes(bytes)),
        Answer::Decision => Decision::parse(&bytes),
    };
    match decision {
        Ok(Decision::Content(text)) => Ok(Content::bytes(text)),
        Ok(Decision::Error(Reason { code, text })) => {
            let text: String = text.chars().take(MAX_TEXT).collect();
            Err(Refusal::new(ErrorCode(code), text))
        }
        Ok(Decision::File(file)) => match files {
            Some(files) => files.open(request.with_file(file.as_bytes())).await,
            None => {
                tracing::error!(who, file, "handler decided on a file, but its key files is not set");
                Err(Refusal::failed("the server is not configured for this"))
            }
        },
        Err(error) => {
            tracing::error!(who, %error, answer = super::json::text(&bytes).as_ref(), "handler did not answer with a decision");
            Err(Refusal::failed("the server's logic failed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        let parse = |text: &str| Decision::parse(text.as_bytes()).ok();
        assert_eq!(parse(r#"{"file": "a"}"#), Some(Decision::File("a".into())));
        assert_eq!(parse(r#"{"content": ""}"#), Some(Decision::Content(String::new())));
        let error = Reason { code: 2, text: "no".into() };
        assert_eq!(parse(r#"{"error": {"code": 2, "text": "no"}}"#), Some(Decision::Error(error)));
        for wrong in [
            "",
            "a",
            "{}",
            r#"{"file": "a", "content": "b"}"#,
            r#"{"fil": "a"}"#,
            r#"{"error": {"code": -1, "text": ""}}"#,
            r#"{"file": 1}"#,
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
