//! The stream of events (server-sent events). A reader has a position in the ring and no buffer; one that is too slow gets a last message and is cut off.

use super::request::ApiRequest;
use super::state::Api;
use crate::events::NextEvent;
use axum::extract::State as AxumState;
use axum::response::Sse;
use axum::response::sse::{self, KeepAlive};
use futures_util::Stream;
use guideway_api::event::{Event, LossKind, LostEvents};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Time between comments when nothing happens, which reveal a dead connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Position of a reader.
struct Reader {
    api: Arc<Api>,
    seen: u64,
    newest: watch::Receiver<u64>,
    first: bool,
    cut_off: bool,
}

pub(super) async fn events(
    AxumState(api): AxumState<Arc<Api>>,
    request: ApiRequest,
) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let newest = api.status.events().newest();
    let since = request.parameter("since").and_then(|since| since.parse().ok()).or(request.last_event);
    let seen = since.unwrap_or_else(|| *newest.borrow());
    let reader = Reader { api, seen, newest, first: true, cut_off: false };
    Sse::new(futures_util::stream::unfold(reader, next)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

async fn next(mut reader: Reader) -> Option<(Result<sse::Event, Infallible>, Reader)> {
    loop {
        if reader.cut_off {
            return None;
        }
        reader.newest.borrow_and_update();
        match reader.api.status.events().after(reader.seen) {
            NextEvent::Event(event) => {
                reader.seen = event.id;
                reader.first = false;
                return Some((Ok(to_sse(&event)), reader));
            }
            // A new reader that begins too far back gets a message about the gap, then all events. A reader that was connected before is too slow.
            NextEvent::Lost(oldest) => {
                let event = if reader.first { LossKind::Missed } else { LossKind::CutOff };
                let why = if reader.first {
                    "events after the one that you saw last are no longer kept; what follows is all there is"
                } else {
                    "you read more slowly than events happen; read the state anew and connect again"
                };
                reader.cut_off = !reader.first;
                reader.first = false;
                let lost = LostEvents { event, after: reader.seen, oldest, why: why.to_owned() };
                reader.seen = oldest - 1;
                return Some((Ok(sse::Event::default().event(event.name()).data(json(&lost))), reader));
            }
            NextEvent::Pending => {
                reader.first = false;
                if reader.newest.changed().await.is_err() {
                    return None;
                }
            }
        }
    }
}

fn to_sse(event: &Event) -> sse::Event {
    sse::Event::default().id(event.id.to_string()).event(event.data.name()).data(json(event))
}

fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::CAPACITY;
    use crate::{DirectorInfo, Status};
    use guideway_api::event::{EventData, ReloadOutcome};
    use guideway_config::Intent;
    use guideway_store::Store;
    use std::time::Instant;

    #[tokio::test]
    async fn who_reads_too_slowly_gets_a_last_word() {
        let info = DirectorInfo {
            name: "d1".into(),
            kind: "af_xdp",
            interface: "eth0".into(),
            mode: "native".into(),
            cpus: vec![],
            instance: Default::default(),
            started: Instant::now(),
        };
        let status = Arc::new(Status::new(info, vec![], None));
        let api = Arc::new(Api::new(
            status.clone(),
            Store::memory(Intent::default()),
            tokio::sync::mpsc::channel(1).0,
            tokio::sync::mpsc::channel(1).0,
        ));
        let newest = status.events().newest();
        let seen = *newest.borrow();
        let reader = Reader { api, seen, newest, first: true, cut_off: false };
        let reload = || EventData::Reload(ReloadOutcome { accepted: true, why: None });
        status.events().record(1, reload());
        let (event, reader) = next(reader).await.unwrap();
        assert!(format!("{event:?}").contains("reload"));
        // Control records events without waiting for readers.
        (0..=CAPACITY).for_each(|_| status.events().record(1, reload()));
        let (last, reader) = next(reader).await.unwrap();
        assert!(format!("{last:?}").contains("cut_off"), "{last:?}");
        assert!(next(reader).await.is_none());
    }
}
