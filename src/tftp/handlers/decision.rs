//! What a program or a hook may decide about a request, in JSON.
//!
//! | decision | means |
//! |---|---|
//! | `{"file": "images/grubx64.efi"}` | this file of the handler that is configured as `files` |
//! | `{"content": "#!ipxe\n…"}` | this text |
//! | `{"error": {"code": 2, "text": "not for you"}}` | this ERROR; code 1 lets the next handler of a chain try |

use super::background::settle_here;
use super::owned::OwnedRequest;
use crate::content::Bytes;
use crate::handler::{Handler, Opened, Refusal};
use crate::packet::ErrorCode;
use serde::Deserialize;
use std::sync::Arc;

/// How an answer is to be read.
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
    /// Another file is served in its place.
    File(String),
    /// This text is the file.
    Content(String),
    /// It is refused.
    Error(Reason),
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Code of the ERROR packet (RFC 1350 section 5).
    pub code: u16,
    /// Its text.
    pub text: String,
}

/// Texts of ERROR packets are cut behind so many characters, so that they stay one small packet.
const LONGEST_TEXT: usize = 256;

impl Decision {
    /// Reads a decision.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Decision, serde_json::Error> {
        serde_json::from_slice(json)
    }
}

/// Makes an answer true. `who` gave it, for the log; it runs on the background threads.
pub async fn carry_out(answer: Answer, bytes: Vec<u8>, who: &str, request: OwnedRequest, files: Option<&Arc<dyn Handler>>) -> Opened {
    let decision = match answer {
        Answer::Bytes => return Ok(Arc::new(Bytes::new(bytes))),
        Answer::Decision => Decision::parse(&bytes),
    };
    match decision {
        Ok(Decision::Content(text)) => Ok(Arc::new(Bytes::new(text.into_bytes()))),
        Ok(Decision::Error(Reason { code, text })) => {
            let text: String = text.chars().take(LONGEST_TEXT).collect();
            Err(Refusal::new(ErrorCode(code), text))
        }
        Ok(Decision::File(file)) => match files {
            Some(files) => {
                let request = request.with_file(file.as_bytes());
                // In a statement of its own: the borrowed request must be gone before waiting.
                let opening = files.open(&request.request());
                settle_here(opening).await
            }
            None => {
                tracing::error!(who, file, "decides on a file, but no handler is configured for its files");
                Err(Refusal::failed("the server is not configured for this"))
            }
        },
        Err(error) => {
            tracing::error!(who, %error, "does not answer with a decision");
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
