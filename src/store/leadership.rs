//! Leadership: one of all processes that could publish health does so.

use super::background_task::BackgroundTask;
use tokio::sync::watch;

/// A candidacy. The holder publishes while [`Leadership::leads`]; the others stand by. Dropping it lets the next one lead.
#[derive(Debug)]
pub struct Leadership {
    leads: watch::Receiver<bool>,
    background_task: BackgroundTask,
}

impl Leadership {
    pub(super) fn new(leads: watch::Receiver<bool>, background_task: BackgroundTask) -> Leadership {
        Leadership { leads, background_task }
    }

    /// Returns whether this process leads now. Otherwise, the store refuses its publications.
    pub fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Returns a channel with changes of the leadership.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Waits until this process gains or loses the leadership; returns which.
    pub async fn changed(&mut self) -> bool {
        if self.leads.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.leads.borrow_and_update()
    }

    /// Waits until this process leads.
    pub async fn elected(&mut self) {
        while !*self.leads.borrow_and_update() {
            self.changed().await;
        }
    }

    /// Gives up the leadership; another process may lead when this returns.
    pub async fn resign(self) {
        self.background_task.end().await;
    }
}

/// A director's presence record in the store. The record exists until this is dropped or the process ends.
#[derive(Debug)]
pub struct Presence {
    background_task: BackgroundTask,
}

impl Presence {
    pub(super) fn new(background_task: BackgroundTask) -> Presence {
        Presence { background_task }
    }

    /// Removes the record from the store; it is gone when this returns, if the store could be reached.
    pub async fn leave(self) {
        self.background_task.end().await;
    }
}
