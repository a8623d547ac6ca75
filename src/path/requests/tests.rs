//! Requests through the whole path.
