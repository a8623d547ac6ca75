//! Answers to requests that are refused.

use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// Nothing was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Error {
    /// Why, in a sentence.
    pub error: String,
    /// Everything that is wrong.
    #[serde(default)]
    #[schema(required)]
    pub problems: Vec<Problem>,
    /// A known name that resembles the unknown one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub did_you_mean: Option<String>,
    /// Generation of the intent, where it is not the one of If-Match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent_generation: Option<u64>,
}

/// One thing that is wrong: a key with its value, or a reason why this director cannot do it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The key; missing where no key is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The value of the key.
    #[serde(default)]
    pub value: Option<String>,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.key, &self.value) {
            (Some(key), Some(value)) => write!(f, "{key} = {value}: {}", self.message),
            (Some(key), None) => write!(f, "{key}: {}", self.message),
            (None, _) => f.write_str(&self.message),
        }
    }
}

impl fmt::Display for Error {
    /// The sentence repeats the first problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        self.problems.iter().skip(1).try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}
