//! Waiting for another process or the kernel, where there is no event to wait for.

use guideway_host::error::Error;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Time between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Calls `poll` every few milliseconds until it breaks with a value. `Continue` describes the current state, for the error.
///
/// # Errors
/// The error of `poll`; [`Error::Failed`] with `what` and the last state when `limit` is over.
pub fn wait_for<T>(what: &str, limit: Duration, mut poll: impl FnMut() -> Result<ControlFlow<T, String>, Error>) -> Result<T, Error> {
    let since = Instant::now();
    loop {
        match poll()? {
            ControlFlow::Break(value) => return Ok(value),
            ControlFlow::Continue(state) if since.elapsed() > limit => {
                return Err(Error::failed(what, format!("not within {limit:?}: {state}")));
            }
            ControlFlow::Continue(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Polls `condition` every few milliseconds until it holds or `limit` is over; returns whether it held.
///
/// # Errors
/// The error of `condition`.
pub fn holds_within<E>(limit: Duration, mut condition: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    let since = Instant::now();
    while !condition()? {
        if since.elapsed() > limit {
            return Ok(false);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    Ok(true)
}

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not hold within `limit`; the message names `what`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let held = holds_within(limit, || Ok::<bool, Infallible>(condition()));
    assert_eq!(held, Ok(true), "{what}: not within {limit:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_what_was_waited_for_and_the_last_state() {
        let mut polls = 0;
        let mut count = || {
            polls += 1;
            Ok(if polls < 3 { ControlFlow::Continue(format!("poll {polls}")) } else { ControlFlow::Break(polls) })
        };
        assert_eq!(wait_for("counting", Duration::from_secs(9), &mut count).unwrap(), 3);
        let never = || Ok::<ControlFlow<(), String>, Error>(ControlFlow::Continue("asleep".to_owned()));
        let error = wait_for("starting d1", Duration::from_millis(1), never).unwrap_err();
        assert_eq!(error.to_string(), "starting d1: not within 1ms: asleep");
    }

    #[test]
    fn a_condition_is_polled_until_it_holds() {
        let mut polls = 0;
        wait_until("three polls", Duration::from_secs(9), || {
            polls += 1;
            polls == 3
        });
        assert_eq!(holds_within(Duration::ZERO, || Ok::<bool, Infallible>(false)), Ok(false));
    }
}
