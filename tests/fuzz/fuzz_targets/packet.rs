//! Any datagram to the parser and to the negotiation of options.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| guideway_tftp::fuzz::packet(bytes));
