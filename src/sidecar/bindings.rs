//! Aggregations that many rollouts share are checked and bound to the model's attributes once, not for each of them: a client
//! may send a table of thousands of weights once and then name it with every rollout.
//!
//! Invariant: what is given out is what checking and binding afresh would give. The key is the aggregation's allocation, which
//! its entry keeps from being used again; an aggregation behind an `Arc` does not change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::aggregate::{self, Bound};
use crate::engine::ModelCard;
use crate::limits;
use crate::reward::{Code, Rejection};
use crate::rollout::AggregationSpec;

/// Entries that are kept before the first look for those that nobody shares any more.
const FEW: usize = 64;

/// The bindings to one model.
#[derive(Default)]
pub(super) struct Bindings(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// By the address of the aggregation.
    entries: HashMap<usize, Entry>,
    /// So many were in use at the last look for others.
    in_use: usize,
}

struct Entry {
    /// Keeps the allocation, and knows whether the aggregation is still in use.
    spec: Weak<AggregationSpec>,
    binding: Arc<Binding>,
}

/// One aggregation's binding, as far as it was needed.
#[derive(Default)]
pub(super) struct Binding {
    names: OnceLock<Result<(), Rejection>>,
    length_unknown: OnceLock<Result<Bound, Rejection>>,
    length_known: OnceLock<Result<Bound, Rejection>>,
}

impl Bindings {
    /// The binding of `spec`. It is kept where others have the same `Arc`, and as long as somebody has it.
    pub(super) fn of(&self, spec: &Arc<AggregationSpec>) -> Arc<Binding> {
        if Arc::strong_count(spec) == 1 {
            return Arc::default();
        }
        // Nothing that holds the lock can panic with the table half changed.
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.entries.len() >= FEW.max(2 * table.in_use) {
            table.entries.retain(|_, entry| entry.spec.strong_count() > 0);
            table.in_use = table.entries.len();
        }
        let entry = table.entries.entry(Arc::as_ptr(spec).addr());
        let entry = entry.or_insert_with(|| Entry { spec: Arc::downgrade(spec), binding: Arc::default() });
        Arc::clone(&entry.binding)
    }
}

impl Binding {
    /// Whether the names in `spec` keep to the limits.
    pub(super) fn check_names(&self, spec: &AggregationSpec) -> Result<(), Rejection> {
        self.names.get_or_init(|| check_names(spec)).clone()
    }

    /// `spec` bound to the columns of `card`, or what is wrong with it.
    pub(super) fn bind(
        &self,
        spec: &AggregationSpec,
        card: &ModelCard,
        length_known: bool,
    ) -> Result<Bound, Rejection> {
        let bound = if length_known { &self.length_known } else { &self.length_unknown };
        bound.get_or_init(|| aggregate::bind(spec, card, length_known)).clone()
    }
}

fn check_names(spec: &AggregationSpec) -> Result<(), Rejection> {
    let names = [("aggregation.name", spec.name.as_str())].into_iter();
    let names = names.chain(spec.weighting.as_deref().map(|name| ("aggregation.weighting", name)));
    let names = names.chain(spec.weights.keys().map(|name| ("aggregation.weights", name.as_str())));
    let mut names = names.chain(spec.transforms.keys().map(|name| ("aggregation.transforms", name.as_str())));
    names.try_for_each(|(field, name)| check_name(field, name))
}

/// Whether a name keeps to the limit.
pub(super) fn check_name(field: &str, name: &str) -> Result<(), Rejection> {
    if name.len() <= limits::MAX_NAME_BYTES {
        return Ok(());
    }
    let what = format!("{field}: {} bytes; at most {}", name.len(), limits::MAX_NAME_BYTES);
    Err(Rejection::new(Code::BadOption, what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EchoEngine, Engine as _};

    fn spec(attribute: &str) -> Arc<AggregationSpec> {
        Arc::new(AggregationSpec { weights: [(attribute.to_owned(), 1.0)].into(), ..AggregationSpec::default() })
    }

    #[test]
    fn what_is_shared_is_bound_once() {
        let (bindings, engine) = (Bindings::default(), EchoEngine::new(16));
        let shared = spec("length");
        let others = Arc::clone(&shared);
        let (first, second) = (bindings.of(&shared), bindings.of(&others));
        assert!(Arc::ptr_eq(&first, &second));
        let bound = first.bind(&shared, engine.card(), true).unwrap();
        assert!(Arc::ptr_eq(&bound, &second.bind(&others, engine.card(), true).unwrap()));
        // Whether the completion's length is known makes another binding.
        assert!(!Arc::ptr_eq(&bound, &second.bind(&others, engine.card(), false).unwrap()));
        // Equal aggregations that are not shared are each bound for themselves.
        assert!(!Arc::ptr_eq(&bindings.of(&spec("length")), &first));
    }

    #[test]
    fn what_is_wrong_is_found_once_as_well() {
        let (bindings, engine) = (Bindings::default(), EchoEngine::new(16));
        let unknown = spec("nobody");
        let _others = Arc::clone(&unknown);
        for _ in 0..2 {
            let rejection = bindings.of(&unknown).bind(&unknown, engine.card(), true).err().unwrap();
            assert_eq!(rejection.code, Code::UnknownAttribute);
        }
        let long = spec(&"x".repeat(limits::MAX_NAME_BYTES + 1));
        assert_eq!(Binding::default().check_names(&long).unwrap_err().code, Code::BadOption);
        assert_eq!(Binding::default().check_names(&unknown), Ok(()));
    }

    /// An allocation that is used again would have the binding of what was there before.
    #[test]
    fn no_binding_outlives_its_aggregation_and_is_anothers() {
        let (bindings, engine) = (Bindings::default(), EchoEngine::new(16));
        for n in 0..1000 {
            let name = if n % 2 == 0 { "length" } else { "nobody" };
            let shared = spec(name);
            let _others = Arc::clone(&shared);
            let bound = bindings.of(&shared).bind(&shared, engine.card(), true);
            assert_eq!(bound.is_ok(), n % 2 == 0);
        }
        assert!(bindings.0.lock().unwrap().entries.len() <= FEW);
    }
}
