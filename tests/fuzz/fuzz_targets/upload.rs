//! Any blocks and times to the state machine of a write.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guideway_tftp::fuzz::upload(bytes));
