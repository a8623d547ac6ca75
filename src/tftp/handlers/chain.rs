//! A chain of handlers: the first one that has the file serves it.

use super::background::Background;
use super::owned::OwnedRequest;
use crate::handler::{Handler, Opened, Opening, Refusal, Request};
use crate::packet::ErrorCode;
use std::sync::Arc;

/// Tries handlers in order. Only "file not found" continues with the next one; every other refusal is the answer.
pub struct Chain {
    handlers: Arc<[Arc<dyn Handler>]>,
    background: Background,
}

impl Chain {
    /// Creates a chain of `handlers`, in order. A single handler is returned as it is.
    pub fn of(handlers: Vec<Arc<dyn Handler>>, background: &Background) -> Arc<dyn Handler> {
        match <[_; 1]>::try_from(handlers) {
            Ok([single]) => single,
            Err(handlers) => Arc::new(Chain { handlers: handlers.into(), background: background.clone() }),
        }
    }
}

fn falls_through(opened: &Opened) -> bool {
    opened.as_ref().is_err_and(|refusal| refusal.code == Some(ErrorCode::NOT_FOUND))
}

impl Handler for Chain {
    fn open(&self, request: &Request<'_>) -> Opening {
        let Some(last) = self.handlers.len().checked_sub(1) else { return Opening::refuse(Refusal::not_found()) };
        for (index, handler) in self.handlers.iter().enumerate() {
            let opening = handler.open(request);
            match opening {
                opening if index == last => return opening,
                Opening::Now(opened) if falls_through(&opened) => {}
                Opening::Now(opened) => return Opening::Now(opened),
                opening => return self.try_next(opening, index + 1, OwnedRequest::new(request)),
            }
        }
        Opening::refuse(Refusal::not_found())
    }
}

impl Chain {
    /// Waits for the result of `opening`, and tries the handlers after it.
    fn try_next(&self, opening: Opening, next: usize, request: OwnedRequest) -> Opening {
        let (handlers, background) = (self.handlers.clone(), self.background.clone());
        Opening::later(async move {
            let mut opened = background.settle(opening).await;
            for handler in handlers.iter().skip(next) {
                if !falls_through(&opened) {
                    break;
                }
                // A separate statement: the borrowed request must be dropped before the next await.
                let opening = handler.open(&request.request());
                opened = background.settle(opening).await;
            }
            opened
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Bytes;
    use crate::handlers::testing::{ask, read_all};

    /// Has the file `name`, and answers in the way `how`.
    fn having(name: &'static [u8], how: u8) -> Arc<dyn Handler> {
        Arc::new(move |request: &Request<'_>| {
            let opened: Opened = match request.file {
                file if file == name => Ok(Arc::new(Bytes::new(name))),
                b"forbidden" if how == 1 => Err(Refusal::access()),
                _ => Err(Refusal::not_found()),
            };
            match how {
                0 => Opening::Now(opened),
                1 => Opening::later(async move { opened }),
                _ => Opening::job(move || opened),
            }
        })
    }

    #[test]
    fn the_first_that_has_it_serves_it_whichever_way_each_opens() {
        let background = Background::new(1).unwrap();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 0, 0]] {
            let names: [&'static [u8]; 3] = [b"one", b"two", b"three"];
            let handlers = names.into_iter().zip(order).map(|(name, how)| having(name, how)).collect();
            let chain = Chain::of(handlers, &background);
            for name in names {
                assert_eq!(read_all(&*ask(&*chain, name).unwrap()).unwrap(), name, "{order:?}");
            }
            assert_eq!(ask(&*chain, b"four").err(), Some(Refusal::not_found()), "{order:?}");
        }
    }

    #[test]
    fn only_not_found_goes_on() {
        let background = Background::new(1).unwrap();
        let chain = Chain::of(vec![having(b"x", 1), having(b"forbidden", 0)], &background);
        assert_eq!(ask(&*chain, b"forbidden").err(), Some(Refusal::access()));
        assert_eq!(ask(&*Chain::of(Vec::new(), &background), b"x").err(), Some(Refusal::not_found()));
    }
}
