//! Frames that came out, in words, each compared byte for byte with the frame that it came from.

use super::decode::{Output, Payload, ip, output};
use super::language::Input;
use std::time::Duration;

/// A line for every frame of `frames`; panics at one that is not what a director may send.
pub fn render(frames: &[(Duration, Vec<u8>)], inputs: &[Input]) -> Vec<String> {
    let mut used = vec![false; inputs.len()];
    frames.iter().map(|(time, frame)| line(*time, frame, inputs, &mut used)).collect()
}

fn line(time: Duration, frame: &[u8], inputs: &[Input], used: &mut [bool]) -> String {
    let out = output(frame).unwrap_or_else(|wrong| panic!("{wrong} is wrong: {frame:02x?}"));
    let Output { to, vlan, outer, what } = &out;
    let mac = to.map(|byte| format!("{byte:02x}")).join(":");
    let vlan = vlan.map_or(String::new(), |vlan| format!(" vlan {vlan}"));
    let what = match what {
        Payload::Gre(inner) => {
            format!("gre {} > {} ttl {} tos {} | {}", outer.source, outer.destination, outer.ttl, outer.tos, carried(inner, inputs, used))
        }
        Payload::Icmp(kind, code, rest) => {
            format!("icmp {} > {} {kind} {code} ttl {} | {}", outer.source, outer.destination, outer.ttl, said(*kind, rest, inputs))
        }
    };
    format!("{:.6} to {mac}{vlan} | {what}", time.as_secs_f64())
}

/// Payload a GRE packet carries: one of the packets that went in, whole, or a piece of it.
fn carried(inner: &[u8], inputs: &[Input], used: &mut [bool]) -> String {
    let same = |n: &usize| inner_of(&inputs[*n]) == inner;
    if let Some(n) = (0..inputs.len()).filter(|n| !used[*n]).find(same) {
        used[n] = true;
        return format!("frame {} as it came", n + 1);
    }
    let piece = ip(inner).unwrap();
    for (n, input) in inputs.iter().enumerate() {
        let Ok(whole) = ip(inner_of(input)) else { continue };
        let offset = piece.piece.1.wrapping_sub(whole.piece.1);
        let part = inner_of(input).get(whole.header + offset..whole.header + offset + inner.len() - piece.header);
        let alike = (piece.source, piece.destination, piece.protocol, piece.ttl, piece.tos, piece.df, piece.piece.0)
            == (whole.source, whole.destination, whole.protocol, whole.ttl, whole.tos, whole.df, whole.piece.0);
        if alike && part == Some(&inner[piece.header..]) {
            let more = if piece.piece.2 { "more" } else { "last" };
            return format!("piece of frame {}: {} bytes at {offset}, {more}", n + 1, inner.len() - piece.header);
        }
    }
    panic!("nothing like this went in: {inner:02x?}");
}

/// The client's packet, as far as the frame was not cut.
fn inner_of(input: &Input) -> &[u8] {
    input.frame.get(input.inner.clone()).unwrap_or_default()
}

/// Payload an ICMP message says.
fn said(kind: u8, rest: &[u8], inputs: &[Input]) -> String {
    let of =
        |part: &[u8]| inputs.iter().position(|i| inner_of(i).len() >= part.len() && inner_of(i).windows(part.len()).any(|w| w == part));
    let origin = |part: &[u8]| of(part).unwrap_or_else(|| panic!("nothing like this went in: {part:02x?}")) + 1;
    match kind {
        0 | 129 => format!("what frame {} asked", origin(rest)),
        _ => format!("mtu {}, quotes {} bytes of frame {}", u16::from_be_bytes([rest[2], rest[3]]), rest.len() - 4, origin(&rest[4..])),
    }
}
