//! Signals that ask the lab to end.

use guideway_host::error::{Context, Error};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Ctrl-C, SIGTERM and SIGHUP.
pub struct Interrupt {
    stop: watch::Sender<bool>,
    ready: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on. By handlers, not by blocking: a program that the lab starts would inherit what is blocked.
    pub fn listen() -> Result<Self, Error> {
        let interrupt = Interrupt { stop: watch::Sender::new(false), ready: Arc::new(AtomicBool::new(false)) };
        let (stop, ready) = (interrupt.stop.clone(), Arc::clone(&interrupt.ready));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().with_context(|| "starting a runtime".to_owned())?;
        let mut streams = {
            let _guard = runtime.enter();
            let listen = |kind| signal(kind).with_context(|| "listening for signals".to_owned());
            [listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]
        };
        let body = move || {
            loop {
                let [interrupt, terminate, hangup] = &mut streams;
                runtime.block_on(async {
                    tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {}, _ = hangup.recv() => {} }
                });
                if !ready.load(Ordering::Acquire) {
                    // Nothing is worth waiting for yet; with this process goes everything that it has made.
                    eprintln!("interrupted before the first transfer");
                    std::process::exit(130);
                }
                stop.send_replace(true);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(body).with_context(|| "starting a thread".to_owned())?;
        Ok(interrupt)
    }

    /// There is something to put in order now: from here on an interruption ends the transfers and not the process.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Becomes true when it happens.
    pub fn subscribe(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Whether it did.
    pub fn is_set(&self) -> bool {
        *self.stop.borrow()
    }

    pub fn wait(&self) {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().build() {
            let mut receiver = self.subscribe();
            // Fails only when the sender is gone, and we hold it.
            let _stopped = runtime.block_on(receiver.wait_for(|stop| *stop));
        }
    }
}
