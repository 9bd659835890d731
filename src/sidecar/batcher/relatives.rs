//! Which rollouts share tokens with which (families), and which their callers call a group.

use std::collections::HashMap;

use super::Waiting;
use crate::batch::common_prefix;

/// See the module.
pub(super) struct Relatives<'a> {
    waiting: &'a [Waiting<'a>],
    /// Rollouts in lexicographic order of tokens: those that share most are neighbours.
    sorted: Vec<usize>,
    /// By rollout, its place in that order.
    places: Vec<usize>,
    /// By place, the first place of its family; `None` once the family was taken.
    families: Vec<Option<usize>>,
    /// By rollout, its place in order of urgency.
    ranks: Vec<usize>,
    /// Members by caller and name, most urgent first.
    groups: HashMap<(u64, &'a str), Vec<usize>>,
}

impl<'a> Relatives<'a> {
    /// The relatives among `urgent`, which is sorted by urgency.
    pub fn of(waiting: &'a [Waiting<'a>], urgent: &[usize]) -> Self {
        let mut sorted = urgent.to_vec();
        sorted.sort_by(|&a, &b| waiting[a].tokens.cmp(waiting[b].tokens));
        let mut places = vec![0; waiting.len()];
        let mut families: Vec<Option<usize>> = Vec::with_capacity(sorted.len());
        for (place, &i) in sorted.iter().enumerate() {
            places[i] = place;
            // One family: neighbours that share at least half of the shorter one. A template's common opening alone
            // rarely reaches that, a common prompt does.
            let related = place > 0 && {
                let (a, b) = (waiting[sorted[place - 1]].tokens, waiting[i].tokens);
                2 * common_prefix(a, b) >= a.len().min(b.len())
            };
            families.push(if related { families[place - 1] } else { Some(place) });
        }
        let mut ranks = vec![0; waiting.len()];
        let mut groups: HashMap<_, Vec<usize>> = HashMap::new();
        for (rank, &i) in urgent.iter().enumerate() {
            ranks[i] = rank;
            if !waiting[i].group.is_empty() {
                groups.entry((waiting[i].caller, waiting[i].group)).or_default().push(i);
            }
        }
        Self { waiting, sorted, places, families, ranks, groups }
    }

    /// By rollout, its place in lexicographic order of tokens.
    pub fn places(&self) -> Box<[usize]> {
        self.places.clone().into()
    }

    /// This rollout and those that go with it: its family, and then the rest of its group, each with its own family. What shares
    /// tokens goes before what is merely called a group, and a name that means several prompts divides none of their families. May
    /// name a rollout twice.
    pub fn take(&mut self, i: usize) -> Vec<usize> {
        let mut all = vec![i];
        all.extend(self.take_family(i));
        for member in self.take_group(i) {
            all.push(member);
            all.extend(self.take_family(member));
        }
        all
    }

    /// The rollouts that share much with this one, most urgent first; empty where the family was taken before.
    fn take_family(&mut self, i: usize) -> Vec<usize> {
        let Some(first) = self.families[self.places[i]] else { return Vec::new() };
        let members = self.families[first..].iter().take_while(|of| **of == Some(first)).count();
        self.families[first..first + members].fill(None);
        let mut family = self.sorted[first..first + members].to_vec();
        family.sort_by_key(|&i| self.ranks[i]);
        family
    }

    /// The rest of this one's group, most urgent first; empty where the group was taken before.
    fn take_group(&mut self, i: usize) -> Vec<usize> {
        self.groups.remove(&(self.waiting[i].caller, self.waiting[i].group)).unwrap_or_default()
    }
}
