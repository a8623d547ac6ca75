//! The destination of an upload as an event loop holds it.

use crate::content::run_elsewhere;
use crate::handler::Destination;

/// A destination that is dropped on a thread that may block: discarding a file may wait for a disk, and a foreign destination for anything.
pub struct HeldDestination(Option<Box<dyn Destination>>);

impl HeldDestination {
    /// Holds a destination.
    pub fn new(destination: Box<dyn Destination>) -> HeldDestination {
        HeldDestination(Some(destination))
    }

    /// Returns the largest number of bytes that it takes, if limited.
    pub fn limit(&self) -> Option<u64> {
        self.0.as_ref().and_then(|destination| destination.limit())
    }

    /// Gives it to a thread that may block.
    pub fn into_inner(mut self) -> Box<dyn Destination> {
        match self.0.take() {
            Some(destination) => destination,
            None => unreachable!("only this and its drop take it"),
        }
    }
}

impl Drop for HeldDestination {
    fn drop(&mut self) {
        if let Some(destination) = self.0.take() {
            run_elsewhere(move || drop(destination));
        }
    }
}
