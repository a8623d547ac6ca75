//! Leading: of all processes that could publish health, one does.

use super::background::Background;
use tokio::sync::watch;

/// The wish to lead. Who holds it publishes while [`Leadership::leads`]; the others stand by. Dropping it gives way to the next.
#[derive(Debug)]
pub struct Leadership {
    leads: watch::Receiver<bool>,
    background: Background,
}

impl Leadership {
    pub(super) fn new(leads: watch::Receiver<bool>, background: Background) -> Leadership {
        Leadership { leads, background }
    }

    /// Whether we lead now. A publication is refused once this is no longer so, whatever the caller believes.
    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Whether we lead, as it changes.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Waits until we begin or cease to lead; gives which.
    pub async fn changed(&mut self) -> bool {
        if self.leads.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.leads.borrow_and_update()
    }

    /// Waits until we lead.
    pub async fn won(&mut self) {
        while !*self.leads.borrow_and_update() {
            self.changed().await;
        }
    }

    /// Gives way; somebody else may lead when this returns.
    pub async fn resign(self) {
        self.background.end().await;
    }
}

/// A director's word about itself in the store. It is kept there until this is dropped, or until the process ends.
#[derive(Debug)]
pub struct Presence {
    background: Background,
}

impl Presence {
    pub(super) fn new(background: Background) -> Presence {
        Presence { background }
    }

    /// Takes the word out of the store; it is gone when this returns, if the store could be reached.
    pub async fn leave(self) {
        self.background.end().await;
    }
}
