//! The kinds of events with their meaning, for guides and help: read from the schemas of the types, so that the doc comments say it once.

use super::event::{BackendTransition, EventData, VipTransition};
use serde::Serialize;
use utoipa::PartialSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{Object, Schema};

/// A kind of event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventKind {
    /// Its name in JSON and in `event:`.
    pub event: String,
    /// What has happened.
    pub description: String,
    /// Names of the changes that such an event may list.
    pub changes: Vec<String>,
}

/// Returns all kinds of events of a director.
pub fn event_kinds() -> Vec<EventKind> {
    let RefOr::T(Schema::OneOf(variants)) = EventData::schema() else { return Vec::new() };
    variants.items.iter().filter_map(object).filter_map(kind).collect()
}

fn kind(variant: &Object) -> Option<EventKind> {
    let event = names(variant.properties.get("event")?).into_iter().next()?;
    let is_list = event == "state_changed";
    let changes = [BackendTransition::schema(), VipTransition::schema()];
    let changes = if is_list { changes.iter().flat_map(names).collect() } else { Vec::new() };
    Some(EventKind { event, description: variant.description.clone().unwrap_or_default(), changes })
}

fn object(schema: &RefOr<Schema>) -> Option<&Object> {
    match schema {
        RefOr::T(Schema::Object(object)) => Some(object),
        _ => None,
    }
}

/// Returns the words that a schema allows.
fn names(schema: &RefOr<Schema>) -> Vec<String> {
    let values = object(schema).and_then(|object| object.enum_values.as_ref());
    values.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ReloadOutcome;

    #[test]
    fn every_kind_has_a_name_and_a_meaning() {
        let kinds = event_kinds();
        assert_eq!(kinds.len(), 7, "{kinds:?}");
        assert!(kinds.iter().all(|kind| kind.description.ends_with('.')), "{kinds:?}");
        let reload = EventData::Reload(ReloadOutcome { accepted: true, why: None });
        assert!(kinds.iter().any(|kind| kind.event == reload.name()));
        let changes = &kinds[0].changes;
        assert!(
            changes.contains(&BackendTransition::BackendDown.name().to_owned())
                && changes.contains(&VipTransition::VipPaused.name().to_owned())
        );
    }
}
