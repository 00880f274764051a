//! How aggregates are named and written in the store: ids as text, everything else as JSON.

use crate::error::RuntimeError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tidegate_core::aggregate::State;
use tidegate_core::decision::AggregateId;
use tidegate_core::lease::{Lease, LeaseId};
use tidegate_core::organisation::Organisation;
use tidegate_core::pipeline::Pipeline;
use tidegate_core::scope::Scope;
use tidegate_core::team::Team;
use tidegate_core::units::Timestamp;
use tidegate_store::Loaded;

/// The state as it is stored: with the time of the newest decision on it, before which no later one may be made.
#[derive(Serialize)]
struct StoredRef<'a> {
    at: Timestamp,
    state: &'a State,
}

/// As [`StoredRef`], when it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    at: Timestamp,
    state: State,
}

/// A state that is shared between the cache and whoever reads it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shared {
    Organisation(Arc<Organisation>),
    Team(Arc<Team>),
    Pipeline(Arc<Pipeline>),
    Lease(Arc<Lease>),
}

impl Shared {
    pub(crate) fn new(state: State) -> Shared {
        match state {
            State::Organisation(state) => Shared::Organisation(Arc::new(state)),
            State::Team(state) => Shared::Team(Arc::new(state)),
            State::Pipeline(state) => Shared::Pipeline(Arc::new(state)),
            State::Lease(state) => Shared::Lease(Arc::new(state)),
        }
    }

    pub(crate) fn to_state(&self) -> State {
        match self {
            Shared::Organisation(state) => State::Organisation((**state).clone()),
            Shared::Team(state) => State::Team((**state).clone()),
            Shared::Pipeline(state) => State::Pipeline((**state).clone()),
            Shared::Lease(state) => State::Lease((**state).clone()),
        }
    }

    fn is_of(&self, id: &AggregateId) -> bool {
        matches!(
            (self, id),
            (Shared::Organisation(_), AggregateId::Organisation)
                | (Shared::Team(_), AggregateId::Team(_))
                | (Shared::Pipeline(_), AggregateId::Pipeline(_))
                | (Shared::Lease(_), AggregateId::Lease(_))
        )
    }
}

/// An aggregate as of one of its versions.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// How many facts it has; 0 if it does not exist.
    pub(crate) version: u64,
    /// The time of the newest decision on it.
    pub(crate) at: Timestamp,
    /// Its timer. Others may have set it earlier since.
    pub(crate) due: Option<Timestamp>,
    pub(crate) state: Shared,
}

impl Entry {
    /// An aggregate that does not exist.
    pub(crate) fn absent(id: &AggregateId) -> Entry {
        Entry { version: 0, at: Timestamp(i64::MIN), due: None, state: Shared::new(State::initial(id)) }
    }

    pub(crate) fn decode(id: &AggregateId, loaded: &Loaded) -> Result<Entry, RuntimeError> {
        let stored: Stored = decode(&loaded.state, || format!("the state of {id}"))?;
        let state = Shared::new(stored.state);
        if !state.is_of(id) {
            return Err(RuntimeError::WrongKind { aggregate: id.to_string(), source: None });
        }
        Ok(Entry { version: loaded.version, at: stored.at, due: loaded.due.map(Timestamp), state })
    }
}

/// The bytes of a state.
pub(crate) fn encode_state(id: &AggregateId, at: Timestamp, state: &State) -> Result<Vec<u8>, RuntimeError> {
    encode(&StoredRef { at, state }, || format!("the state of {id}"))
}

pub(crate) fn encode<T: Serialize>(
    value: &T,
    what: impl FnOnce() -> String,
) -> Result<Vec<u8>, RuntimeError> {
    serde_json::to_vec(value).map_err(|source| RuntimeError::Encode { what: what(), source })
}

pub(crate) fn decode<T: DeserializeOwned>(
    bytes: &[u8],
    what: impl FnOnce() -> String,
) -> Result<T, RuntimeError> {
    serde_json::from_slice(bytes).map_err(|source| RuntimeError::Decode { what: what(), source })
}

/// The aggregate of that name: the way back from its `Display`.
///
/// # Errors
/// If it is none.
pub(crate) fn parse_id(text: &str) -> Result<AggregateId, RuntimeError> {
    let unknown = || RuntimeError::UnknownAggregate { id: text.chars().take(200).collect() };
    let parsed = match text.split_once('/') {
        None => (text == "organisation").then_some(AggregateId::Organisation),
        Some(("team", id)) => id.parse().ok().map(AggregateId::Team),
        Some(("pipeline", id)) => id.parse().ok().map(AggregateId::Pipeline),
        Some(("lease", rest)) => rest.split_once('/').and_then(|(service, scope)| {
            let scope = Scope::try_from(scope.to_owned()).ok()?;
            Some(AggregateId::Lease(LeaseId::new(&service.parse().ok()?, scope)))
        }),
        Some(_) => None,
    };
    parsed.ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_from_their_text_and_others_are_refused() {
        for text in ["organisation", "team/shop", "pipeline/shop-app", "lease/frontend/production/eu-1"] {
            assert_eq!(parse_id(text).unwrap().to_string(), text);
        }
        for text in ["", "team", "team/", "team/A", "lease/frontend", "lease/a/b", "lease/a/b/c/d", "box/a"] {
            assert!(parse_id(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_state_of_another_kind_or_with_unknown_fields_is_refused() {
        let team = AggregateId::Team("shop".parse().unwrap());
        let lease = parse_id("lease/frontend/production/eu-1").unwrap();
        let bytes = |text: &[u8]| Loaded { version: 1, state: text.to_vec(), due: None, head: [0; 32] };
        let state = encode_state(&team, Timestamp(7), &State::initial(&team)).unwrap();
        let entry = Entry::decode(&team, &bytes(&state)).unwrap();
        assert_eq!((entry.version, entry.at), (1, Timestamp(7)));
        assert!(matches!(Entry::decode(&lease, &bytes(&state)), Err(RuntimeError::WrongKind { .. })));
        let newer = br#"{"at":7,"state":{"lease":"free"},"more":1}"#;
        assert!(matches!(Entry::decode(&lease, &bytes(newer)), Err(RuntimeError::Decode { .. })));
    }
}
