//! A chain of handlers: the first one that has the file serves it.

use crate::handler::{Accepted, Handler, Opened, Refusal, SharedHandler};
use crate::packet::ErrorCode;
use crate::request::Request;

/// Tries handlers in order. Only "file not found" continues with the next one; every other refusal is the answer.
#[derive(Clone)]
pub struct Chain(Vec<SharedHandler>);

impl Chain {
    /// Creates a chain of `handlers`, in order. A single handler is returned as it is.
    pub fn of(handlers: Vec<SharedHandler>) -> SharedHandler {
        match <[_; 1]>::try_from(handlers) {
            Ok([single]) => single,
            Err(handlers) => SharedHandler::new(Chain(handlers)),
        }
    }
}

fn falls_through<T>(opened: &Result<T, Refusal>) -> bool {
    opened.as_ref().is_err_and(|refusal| refusal.code == Some(ErrorCode::NOT_FOUND))
}

impl Handler for Chain {
    async fn open(&self, request: Request) -> Opened {
        for handler in &self.0 {
            let opened = handler.open(request.clone()).await;
            if !falls_through(&opened) {
                return opened;
            }
        }
        Err(Refusal::not_found())
    }

    fn open_now(&self, request: &Request) -> Option<Opened> {
        let mut opened = self.0.iter().map(|handler| handler.open_now(request));
        opened.find(|opened| opened.as_ref().is_none_or(|opened| !falls_through(opened))).unwrap_or(Some(Err(Refusal::not_found())))
    }

    fn accepts_uploads(&self) -> bool {
        self.0.iter().any(SharedHandler::accepts_uploads)
    }

    async fn store(&self, request: Request) -> Accepted {
        match self.0.iter().find(|handler| handler.accepts_uploads()) {
            Some(handler) => handler.store(request).await,
            None => Err(Refusal::access()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use crate::handler::{blocking, handler_fn};
    use crate::handlers::testing::{ask, read_all};

    /// Has the file `name`, and answers in the way `how`.
    fn having(name: &'static [u8], how: u8) -> SharedHandler {
        let open = move |request: &Request| match request.file() {
            file if file == name => Ok(Content::bytes(name)),
            b"forbidden" if how == 1 => Err(Refusal::access()),
            _ => Err(Refusal::not_found()),
        };
        if how == 0 {
            SharedHandler::new(Now(open))
        } else if how == 1 {
            SharedHandler::new(handler_fn(open))
        } else {
            SharedHandler::new(blocking(open))
        }
    }

    /// Answers at once.
    struct Now<F>(F);

    impl<F: Fn(&Request) -> Opened + Send + Sync + 'static> Handler for Now<F> {
        async fn open(&self, request: Request) -> Opened {
            self.0(&request)
        }
        fn open_now(&self, request: &Request) -> Option<Opened> {
            Some(self.0(request))
        }
    }

    #[test]
    fn the_first_that_has_it_serves_it_whichever_way_each_opens() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 0, 0]] {
            let names: [&'static [u8]; 3] = [b"one", b"two", b"three"];
            let chain = Chain::of(names.into_iter().zip(order).map(|(name, how)| having(name, how)).collect());
            for name in names {
                assert_eq!(read_all(&ask(&chain, name).unwrap()).unwrap(), name, "{order:?}");
            }
            assert_eq!(ask(&chain, b"four").err(), Some(Refusal::not_found()), "{order:?}");
        }
    }

    #[test]
    fn only_not_found_goes_on() {
        let chain = Chain::of(vec![having(b"x", 1), having(b"forbidden", 0)]);
        assert_eq!(ask(&chain, b"forbidden").err(), Some(Refusal::access()));
        assert_eq!(ask(&Chain::of(Vec::new()), b"x").err(), Some(Refusal::not_found()));
    }
}
