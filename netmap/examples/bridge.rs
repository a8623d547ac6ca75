//! Passes frames between two ports, without a copy where they share a memory region: `bridge netmap:eth0 netmap:eth1`.

use netmap_rings::{BATCH, Events, Port, RingError};
use std::time::Duration;

fn pass(from: &mut Port, to: &mut Port) -> Result<(), RingError> {
    for (rx, tx) in from.rings().rx.iter_mut().zip(to.rings().tx) {
        while tx.room()? > 0 {
            let mut batch = rx.batch(BATCH.min(tx.room()? as usize))?;
            if batch.is_empty() {
                break;
            }
            for frame in 0..batch.len() {
                let bytes = batch.bytes(frame).map(|bytes| bytes.len()).unwrap_or(0);
                match batch.send(frame, tx, bytes) {
                    Err(RingError::OtherRegion) => {
                        if let Some(bytes) = batch.bytes(frame) {
                            tx.send(bytes)?;
                        }
                    }
                    sent => drop(sent?),
                }
            }
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut names = std::env::args().skip(1);
    let (Some(one), Some(other)) = (names.next(), names.next()) else {
        return Err("usage: bridge PORT PORT, for example: bridge netmap:eth0 netmap:eth1".into());
    };
    let (mut one, mut other) = (Port::open(&one)?, Port::open(&other)?);
    loop {
        Port::wait(&[&one, &other], Events::Receive, Duration::from_secs(1))?;
        pass(&mut one, &mut other)?;
        pass(&mut other, &mut one)?;
        one.sync_tx()?;
        other.sync_tx()?;
    }
}
