//! A radix tree over tokens. Each node is a run of tokens and the slots of their keys and values.

use std::collections::BTreeMap;
use std::sync::Weak;

use slab::Slab;

use crate::batch::common_prefix;

/// Names a node. A node that is split keeps its name for its end: who stands at the end of a node stays there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(usize);

impl NodeId {
    /// Where all rollouts begin: a node without tokens.
    pub(super) const ROOT: Self = Self(0);
}

/// A place on a path: after so many tokens of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    node: NodeId,
    tokens: usize,
}

impl Place {
    /// Where all rollouts begin.
    pub(super) const ROOT: Self = Self { node: NodeId::ROOT, tokens: 0 };
}

#[derive(Debug)]
pub(super) struct Node {
    /// The root's is the root.
    pub(super) parent: NodeId,
    pub(super) tokens: Vec<u32>,
    /// One for each token.
    pub(super) slots: Vec<u32>,
    /// By their first tokens.
    pub(super) children: BTreeMap<u32, NodeId>,
    /// The latest pass that used it.
    pub(super) used: u64,
    /// The latest pass after which a rollout in the queue was known to begin with it; 0: none was.
    pub(super) asked: u64,
    /// The pass that computed it.
    born: u64,
    /// Those who want it, while they live.
    pins: Vec<Weak<()>>,
}

impl Node {
    pub(super) fn is_pinned(&self) -> bool {
        self.pins.iter().any(|pin| pin.strong_count() > 0)
    }
}

#[derive(Debug)]
pub(super) struct Tree(Slab<Node>);

impl Default for Tree {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node {
            parent: NodeId::ROOT,
            tokens: Vec::new(),
            slots: Vec::new(),
            children: BTreeMap::new(),
            used: 0,
            asked: 0,
            born: 0,
            pins: Vec::new(),
        });
        Self(nodes)
    }
}

impl Tree {
    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.0[id.0]
    }

    pub(super) fn holds(&self, id: NodeId) -> bool {
        self.0.contains(id.0)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        self.0.iter().map(|(id, _)| NodeId(id))
    }

    /// Follows `tokens` down from `from` as far as they are known, and cuts the last node there: the node that then ends
    /// where they part, and how many tokens lead to it. All on the way are used in `pass`.
    pub(super) fn descend(&mut self, from: NodeId, tokens: &[u32], pass: u64) -> (NodeId, usize) {
        let (mut at, mut done) = (from, 0);
        while let Some(next) = tokens.get(done).and_then(|first| self.node(at).children.get(first).copied()) {
            let common = common_prefix(&self.node(next).tokens, &tokens[done..]);
            at = self.split(next, common);
            self.0[at.0].used = pass;
            done += common;
        }
        (at, done)
    }

    /// Follows `tokens` from a place as far as they are known, and changes nothing: where they part, and how many lead there.
    pub(super) fn follow(&self, from: Place, tokens: &[u32]) -> (Place, usize) {
        let (mut at, mut done) = (from, 0);
        loop {
            let node = self.node(at.node);
            let common = common_prefix(&node.tokens[at.tokens..], &tokens[done..]);
            done += common;
            at.tokens += common;
            let next = tokens.get(done).and_then(|first| node.children.get(first));
            match next {
                Some(next) if at.tokens == node.tokens.len() => at = Place { node: *next, tokens: 0 },
                _ => return (at, done),
            }
        }
    }

    /// Notes that somebody will come to a place, after a pass.
    pub(super) fn ask(&mut self, place: Place, pass: u64) {
        let mut id = place.node;
        // Who asked for an end has asked for all before it.
        while id != NodeId::ROOT && self.node(id).asked != pass {
            self.0[id.0].asked = pass;
            id = self.node(id).parent;
        }
    }

    /// Makes a node end after its first `len` tokens: itself, or a new one that it then continues.
    fn split(&mut self, id: NodeId, len: usize) -> NodeId {
        let node = &mut self.0[id.0];
        if len == node.tokens.len() {
            return id;
        }
        let rest = (node.tokens.split_off(len), node.slots.split_off(len));
        let (tokens, slots) = (std::mem::replace(&mut node.tokens, rest.0), std::mem::replace(&mut node.slots, rest.1));
        let (parent, first, next) = (node.parent, tokens[0], node.tokens[0]);
        let (used, asked, born) = (node.used, node.asked, node.born);
        let children = BTreeMap::from([(next, id)]);
        let head = NodeId(self.0.insert(Node { parent, tokens, slots, children, used, asked, born, pins: Vec::new() }));
        self.0[id.0].parent = head;
        self.0[parent.0].children.insert(first, head);
        head
    }

    /// Adds a node of one or more tokens that `pass` computes, where no other begins with the first of them.
    pub(super) fn add(&mut self, parent: NodeId, tokens: &[u32], slots: Vec<u32>, pass: u64) -> NodeId {
        debug_assert_eq!(tokens.len(), slots.len());
        let first = tokens[0];
        let (tokens, children) = (tokens.to_vec(), BTreeMap::new());
        let node = Node { parent, tokens, slots, children, used: pass, asked: 0, born: pass, pins: Vec::new() };
        let id = NodeId(self.0.insert(node));
        let replaced = self.0[parent.0].children.insert(first, id);
        debug_assert!(replaced.is_none(), "two nodes begin alike");
        id
    }

    /// Pins what leads to the place `back` tokens before the end of a node.
    pub(super) fn pin(&mut self, mut id: NodeId, mut back: usize, by: &Weak<()>) {
        while id != NodeId::ROOT && back >= self.node(id).tokens.len() {
            back -= self.node(id).tokens.len();
            id = self.node(id).parent;
        }
        if id != NodeId::ROOT {
            let id = self.split(id, self.node(id).tokens.len() - back);
            let pins = &mut self.0[id.0].pins;
            pins.retain(|pin| pin.strong_count() > 0);
            pins.push(by.clone());
        }
    }

    /// Takes up to `n` tokens from the end of a leaf, which is gone with its last; their slots.
    pub(super) fn shorten(&mut self, leaf: NodeId, n: usize) -> Vec<u32> {
        let node = &mut self.0[leaf.0];
        debug_assert!(leaf != NodeId::ROOT && node.children.is_empty());
        let left = node.tokens.len().saturating_sub(n);
        if left == 0 {
            let Node { parent, tokens, slots, .. } = self.0.remove(leaf.0);
            self.0[parent.0].children.remove(&tokens[0]);
            return slots;
        }
        node.tokens.truncate(left);
        node.slots.split_off(left)
    }

    /// Removes what a pass computed; the slots.
    pub(super) fn remove_born(&mut self, pass: u64) -> Vec<u32> {
        // What continues it was computed by the same pass or a later one, and there is none yet.
        let born: Vec<usize> = self.0.iter().filter(|(_, node)| node.born == pass).map(|(id, _)| id).collect();
        let mut slots = Vec::new();
        for id in born {
            let node = self.0.remove(id);
            if let Some(parent) = self.0.get_mut(node.parent.0) {
                parent.children.remove(&node.tokens[0]);
            }
            slots.extend(node.slots);
        }
        slots
    }
}
