//! Any acknowledgements and times to the state machine of a read.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guideway_tftp::fuzz::transfer(bytes));
