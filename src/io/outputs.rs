//! Other interfaces to send by, on top of an io that has one: hosts with several uplinks reach some backends by another than the one that
//! packets come from.
//!
//! A packet socket for each such interface, opened with the first frame for it. Frames for the io's own interface are left to the io.
//!
//! GRE to a server of this host leaves by the loopback. It goes to raw IP sockets: the kernel accepts its own address as a source from these, but not from a
//! packet socket.

use super::af_packet::{address, send};
use super::loopback::Loopback;
use super::{BatchHandler, Io, PollResult};
use guideway_packet::frame::{Frame, LOOPBACK, OWN_INTERFACE, Output};
use guideway_packet::loss::Losses;
use guideway_packet::time::Time;
use guideway_packet::verdict::{Reason, Verdict};
use guideway_sys as sys;
use socket2::{Domain, Socket, Type};
use std::os::fd::AsFd;
use std::time::Duration;

/// An io that can send by every Ethernet interface of its network namespace.
#[derive(Debug)]
pub struct Outputs<I> {
    io: I,
    sockets: Sockets,
    loopback: Loopback,
}

/// One socket for each other interface.
#[derive(Debug, Default)]
struct Sockets(Vec<(Output, Socket)>);

impl<I: Io> Outputs<I> {
    /// Puts the other interfaces on top of `io`.
    pub fn new(io: I) -> Outputs<I> {
        Outputs { io, sockets: Sockets::default(), loopback: Loopback::default() }
    }
}

impl<I: Io> Io for Outputs<I> {
    fn poll(&mut self, wait: Duration, work: &mut BatchHandler<'_>) -> std::io::Result<PollResult> {
        let Outputs { io, sockets, loopback } = self;
        let mut lost = 0;
        let mut poll = io.poll(wait, &mut |now, frames| {
            work(now, frames);
            lost += loopback.transmit(frames) + sockets.transmit(frames);
        })?;
        poll.transmit_full += lost;
        Ok(poll)
    }

    fn send(&mut self, frame: &[u8]) -> std::io::Result<bool> {
        self.io.send(frame)
    }

    /// By another interface it is sent at once.
    fn send_by(&mut self, frame: &[u8], output: Output) -> std::io::Result<bool> {
        if output == OWN_INTERFACE {
            return self.io.send(frame);
        }
        if output == LOOPBACK {
            return Ok(self.loopback.send(frame));
        }
        let sent = self.sockets.of(output).and_then(|socket| socket.send_with_flags(frame, libc::MSG_DONTWAIT));
        if sent.is_err() {
            self.sockets.forget_gone(output);
        }
        Ok(sent.is_ok())
    }

    fn now(&self) -> Time {
        self.io.now()
    }

    fn losses(&self) -> Losses {
        self.io.losses()
    }

    fn for_each_counter(&self, show: &mut dyn FnMut(&'static str, u64)) {
        self.io.for_each_counter(show);
    }
}

impl Sockets {
    /// Sends the frames for other interfaces, and leaves the io nothing to do with them but to release them. Returns how many found no room.
    fn transmit(&mut self, frames: &mut [Frame<'_>]) -> usize {
        let mut lost = 0;
        while let Some(output) = frames.iter().find(|frame| leaves_elsewhere(frame)).map(|frame| frame.output) {
            lost += match self.of(output) {
                Ok(socket) => {
                    let (full, outcome) = send::transmit(socket.as_fd(), frames, output);
                    if outcome.is_err() {
                        self.forget_gone(output);
                    }
                    full
                }
                Err(_) => frames.iter().filter(|frame| leaves_elsewhere(frame) && frame.output == output).count(),
            };
            for frame in frames.iter_mut().filter(|frame| leaves_elsewhere(frame) && frame.output == output) {
                frame.verdict = Verdict::Drop(Reason::TransmitFull);
            }
        }
        lost
    }

    fn of(&mut self, output: Output) -> std::io::Result<&Socket> {
        let at = match self.0.iter().position(|(known, _)| *known == output) {
            Some(at) => at,
            None => {
                // Protocol 0 receives nothing.
                let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
                sys::set_option(socket.as_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1)?;
                sys::bind(socket.as_fd(), &address(output, 0))?;
                self.0.push((output, socket));
                self.0.len() - 1
            }
        };
        Ok(&self.0[at].1)
    }

    /// Closes the socket of an interface that is gone: the kernel may give its index to another one.
    fn forget_gone(&mut self, output: Output) {
        let exists = sys::interface_error(std::io::Error::from_raw_os_error(libc::ENXIO), output).is_ok();
        self.0.retain(|(known, _)| exists || *known != output);
    }
}

fn leaves_elsewhere(frame: &Frame<'_>) -> bool {
    frame.verdict == Verdict::Transmit && frame.output != OWN_INTERFACE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;
    use crate::memory::Memory;
    use crate::testing::{self, PacketSocket, ip};

    #[test]
    fn frames_leave_by_the_interface_that_they_name_and_a_lost_one_is_counted() {
        testing::in_namespace(|| {
            testing::veth(1, 1500);
            let output = nix::net::if_::if_nametoindex("guide0").unwrap();
            let mut wire = PacketSocket::open("guide1");
            let mut io = Outputs::new(Memory::new(2048));
            let frames: Vec<Vec<u8>> = (0..4).map(|n| conformance::frame(1, n, 60)).collect();
            let batch = |io: &mut Outputs<Memory>, output: Output| {
                frames.iter().for_each(|frame| io.io.push(frame));
                let poll = io.poll(Duration::ZERO, &mut |_, frames| {
                    for (n, frame) in frames.iter_mut().enumerate() {
                        frame.verdict = Verdict::Transmit;
                        frame.output = if n % 2 == 0 { OWN_INTERFACE } else { output };
                    }
                });
                poll.unwrap()
            };
            assert_eq!(batch(&mut io, output), PollResult { received: 4, transmit_full: 0, end: false });
            for n in [1, 3] {
                assert_eq!(wire.receive(Duration::from_secs(2)).as_ref(), Some(&frames[n]));
            }
            assert_eq!((io.io.pop().as_ref(), io.io.pop().as_ref(), io.io.pop()), (Some(&frames[0]), Some(&frames[2]), None));
            assert!(io.send_by(&frames[1], output).unwrap() && io.send_by(&frames[0], OWN_INTERFACE).unwrap());
            assert_eq!(wire.receive(Duration::from_secs(2)).as_ref(), Some(&frames[1]));
            assert_eq!(io.io.pop().as_ref(), Some(&frames[0]));

            ip("link set guide0 down");
            assert_eq!(batch(&mut io, output).transmit_full, 2, "counted, and the io goes on");
            ip("link del guide0");
            assert_eq!(batch(&mut io, output).transmit_full, 2);
            assert!(!io.send_by(&frames[1], output).unwrap() && io.sockets.0.is_empty());
        });
    }
}
