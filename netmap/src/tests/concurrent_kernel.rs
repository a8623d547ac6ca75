//! A kernel in another thread, which looks at the rings whenever it likes: what is handed over is whole when it is seen.

use super::{frame, rx, tx};
use crate::BATCH;
use crate::simulated::Simulated;
use std::sync::atomic::{AtomicBool, Ordering};

const FRAMES: u32 = if cfg!(miri) { 60 } else { 20_000 };

/// Runs `body` while the kernel looks at its rings without end.
fn beside(kernel: &Simulated, body: impl FnOnce()) {
    /// Ends the other thread also when the body fails.
    struct Done<'d>(&'d AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    kernel.set_manual(true);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Holds back every now and then, as cards do.
            for round in 0u32.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                kernel.set_tx_stalled(round % 5 < 2);
                kernel.step();
                std::thread::yield_now();
            }
            kernel.set_tx_stalled(false);
        });
        let _done = Done(&done);
        body();
    });
}

#[test]
fn a_pipe_carries_everything_in_order_and_whole() {
    let pipe = Simulated::pipe(16);
    let (mut a, mut b) = (pipe.open("sim{1").unwrap(), pipe.open("sim}1").unwrap());
    beside(&pipe, || {
        let (mut sent, mut next) = (0, 0);
        while next < FRAMES {
            if sent < FRAMES && tx(&mut a).send(&frame(sent, 60 + sent as usize % 40)).unwrap() {
                sent += 1;
            }
            let mut batch = rx(&mut b).batch(1 + next as usize % BATCH).unwrap();
            for (_, buffer, len) in batch.iter_mut() {
                assert_eq!(buffer[..len], frame(next, 60 + next as usize % 40));
                next += 1;
            }
        }
    });
    assert!(pipe.buffers_are_unique());
}

#[test]
fn an_echo_loses_nothing() {
    let network = Simulated::interface(1, 8);
    let mut port = network.open("sim0").unwrap();
    beside(&network, || {
        let (mut given, mut back) = (0, 0);
        while back < FRAMES {
            if given < FRAMES && given - back < 4 {
                network.inject(0, &frame(given, 60));
                given += 1;
            }
            let rings = port.rings();
            let room = rings.tx[0].room().unwrap() as usize;
            if room > 0 {
                let mut batch = rings.rx[0].batch(room).unwrap();
                for at in 0..batch.len() {
                    batch.bytes(at).unwrap()[59] = 0xee;
                    assert!(batch.send(at, &mut rings.tx[0], 60).unwrap());
                }
            }
            while let Some((0, bytes)) = network.take_transmitted() {
                assert_eq!((&bytes[..59], bytes[59]), (&frame(back, 60)[..59], 0xee));
                back += 1;
            }
            std::thread::yield_now();
        }
    });
    assert!(network.buffers_are_unique());
}
