//! The model generations that a sidecar has announced on one lane.
//!
//! Invariant: a reply's model version is that of the generation which the reply bears, whenever the next one was announced.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message as _;

use crate::client::ServedModel;
use crate::proto::{card_from_wire, v1};
use crate::shm::Broken;
use crate::shm::frame::{CardAssembly, CardPart};

/// Generations that are remembered: replies of the latest few may come after the next was announced.
const REMEMBERED: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Generations {
    versions: BTreeMap<u64, Arc<str>>,
    coming: CardAssembly,
}

impl Generations {
    /// Of a lane that was opened with this one.
    pub(super) fn new(first: u64, served: &ServedModel) -> Self {
        let versions = BTreeMap::from([(first, Arc::clone(&served.model.model_version))]);
        Self { versions, coming: CardAssembly::after(first) }
    }

    /// The model version of a generation that was announced.
    pub(super) fn version(&self, generation: u64) -> Option<Arc<str>> {
        self.versions.get(&generation).cloned()
    }

    /// Takes a part of a card; with the last one, what is served from now on.
    pub(super) fn add(&mut self, part: CardPart) -> Result<Option<ServedModel>, Broken> {
        let Some((generation, card)) = self.coming.add(part)? else { return Ok(None) };
        let served = decoded(&card).map_err(|why| Broken::Field { field: "card", why })?;
        self.versions.insert(generation, Arc::clone(&served.model.model_version));
        if self.versions.len() > REMEMBERED {
            self.versions.pop_first();
        }
        Ok(Some(served))
    }
}

/// What a card says, or why it cannot be read.
pub(super) fn decoded(card: &[u8]) -> Result<ServedModel, String> {
    let card = v1::ModelCard::decode(card).map_err(|error| format!("the sidecar's card cannot be read: {error}"))?;
    card_from_wire(card).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EchoEngine, Engine as _};
    use crate::proto::card_to_wire;

    fn served(version: &str) -> ServedModel {
        let mut model = EchoEngine::new(16).card().as_ref().clone();
        model.model_version = version.into();
        ServedModel { model, in_flight_limit: 4, over_long: "reject".into(), aggregations: Vec::new() }
    }

    fn announce(generations: &mut Generations, number: u64, version: &str) -> Option<ServedModel> {
        let card = card_to_wire(&served(version)).encode_to_vec();
        let mut announced = None;
        for part in card.chunks(7) {
            assert_eq!(announced, None);
            let part = CardPart { generation: number, card_bytes: card.len(), part: part.to_vec() };
            announced = generations.add(part).unwrap();
        }
        announced
    }

    #[test]
    fn each_reply_has_the_version_of_its_own_generation() {
        let mut generations = Generations::new(3, &served("v3"));
        assert_eq!(generations.version(3).as_deref(), Some("v3"));
        assert_eq!(announce(&mut generations, 5, "v5"), Some(served("v5")));
        // Replies of the one before may still come, and none of one that was never announced.
        let versions: Vec<_> = (3..7).map(|number| generations.version(number)).collect();
        assert_eq!(versions, [Some("v3".into()), None, Some("v5".into()), None]);
    }

    #[test]
    fn a_sidecar_that_announces_for_ever_fills_no_memory() {
        let mut generations = Generations::new(1, &served("v1"));
        for number in 2..100 {
            announce(&mut generations, number, &format!("v{number}")).unwrap();
            assert!(generations.versions.len() <= REMEMBERED);
        }
        assert_eq!(generations.version(99).as_deref(), Some("v99"));
    }

    #[test]
    fn a_card_that_is_none_ends_the_lane() {
        let mut generations = Generations::new(1, &served("v1"));
        let part = CardPart { generation: 2, card_bytes: 3, part: vec![0xff; 3] };
        assert!(generations.add(part).unwrap_err().to_string().contains("cannot be read"));
        assert_eq!(generations.version(2), None);
    }
}
