//! Exit codes of the program.

/// Success.
pub const DONE: u8 = 0;
/// Failure.
pub const FAILED: u8 = 1;
/// Bad usage or configuration.
pub const BAD_USAGE: u8 = 2;
