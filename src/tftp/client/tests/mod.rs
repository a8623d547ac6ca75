mod reading;
mod reference;
mod through_faults;
mod writing;

use super::*;
use crate::packet::{Packet, put_ack, put_error, put_oack};
use guideway_packet::time::Time;
use std::net::SocketAddr;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);

fn server() -> SocketAddr {
    "192.0.2.69:69".parse().unwrap()
}

fn tid() -> SocketAddr {
    "192.0.2.69:4000".parse().unwrap()
}

fn at(milliseconds: u32) -> Time {
    Time(0).plus(MS * milliseconds)
}

fn data(block: u16, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    Packet::Data { block, data: bytes }.emit(&mut out);
    out
}

fn ack(block: u16) -> Vec<u8> {
    let mut out = Vec::new();
    put_ack(&mut out, block);
    out
}

fn oack(options: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_oack(&mut out, options.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())));
    out
}

fn error(code: u16, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    put_error(&mut out, crate::packet::ErrorCode(code), text.as_bytes());
    out
}

fn plan(ask: &[RequestOption]) -> TransferPlan {
    TransferPlan { ask: ask.to_vec(), ..TransferPlan::new(server(), "f") }
}

/// Returns all datagrams that a read wants to send.
fn sent(read: &mut Read) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut out = Vec::new();
    std::iter::from_fn(|| read.transmit(&mut out).map(|to| (to, out.clone()))).collect()
}
