//! The stream of events (server-sent events). A reader has a place in the ring and nothing else: who reads too slowly is told so and cut off.

use super::Api;
use super::asked::Asked;
use crate::events::{Event, Next};
use axum::extract::State as Of;
use axum::response::Sse;
use axum::response::sse::{self, KeepAlive};
use futures_util::Stream;
use serde_json::json;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A comment is sent so often when nothing happens, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where a reader is.
struct Reader {
    api: Arc<Api>,
    seen: u64,
    newest: watch::Receiver<u64>,
    first: bool,
    cut_off: bool,
}

pub(super) async fn events(Of(api): Of<Arc<Api>>, asked: Asked) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let newest = api.board.events().newest();
    let since = asked.parameter("since").and_then(|since| since.parse().ok()).or(asked.last_event);
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
        match reader.api.board.events().after(reader.seen) {
            Next::Event(event) => {
                reader.seen = event.id;
                reader.first = false;
                return Some((Ok(written(&event)), reader));
            }
            // Who begins too far back gets what there is, after a word about what is missing; who was here all the time is too slow.
            Next::Lost(oldest) => {
                let word = if reader.first { "missed" } else { "cut_off" };
                let why = if reader.first {
                    "events after the one that you saw last are no longer kept; what follows is all there is"
                } else {
                    "you read more slowly than events happen; read the state anew and connect again"
                };
                reader.cut_off = !reader.first;
                reader.first = false;
                let data = json!({"event": word, "after": reader.seen, "oldest": oldest, "why": why});
                reader.seen = oldest - 1;
                return Some((Ok(sse::Event::default().event(word).data(data.to_string())), reader));
            }
            Next::Later => {
                reader.first = false;
                if reader.newest.changed().await.is_err() {
                    return None;
                }
            }
        }
    }
}

fn written(event: &Event) -> sse::Event {
    let document = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.id.to_string()).event(event.kind.name()).data(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{KEPT, Kind};
    use crate::{Board, Facts};
    use guideway_config::Intent;
    use guideway_store::Store;
    use std::time::Instant;

    #[tokio::test]
    async fn who_reads_too_slowly_gets_a_last_word() {
        let facts = Facts {
            name: "d1".into(),
            kind: "af_xdp",
            interface: "eth0".into(),
            mode: "native".into(),
            cpus: vec![],
            started: Instant::now(),
        };
        let board = Arc::new(Board::new(facts, vec![], None));
        let api = Arc::new(Api::new(board.clone(), Store::memory(Intent::default()), tokio::sync::mpsc::channel(1).0));
        let newest = board.events().newest();
        let seen = *newest.borrow();
        let reader = Reader { api, seen, newest, first: true, cut_off: false };
        board.events().note(1, Kind::Reload, json!({"number": 0}));
        let (event, reader) = next(reader).await.unwrap();
        assert!(format!("{event:?}").contains("reload"));
        // Control notes what happens, and waits for nobody.
        (0..=KEPT).for_each(|number| board.events().note(1, Kind::Reload, json!({"number": number})));
        let (last, reader) = next(reader).await.unwrap();
        assert!(format!("{last:?}").contains("cut_off"), "{last:?}");
        assert!(next(reader).await.is_none());
    }
}
