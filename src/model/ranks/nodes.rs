//! NUMA nodes: which CPUs share a memory, and threads that stay with theirs.
//!
//! Invariant: a thread is pinned only to CPUs that its process may use, and where the system has one node, or says nothing, no
//! thread is pinned. Where a thread runs changes no bit.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The CPUs of a node, counted from 0.
pub type Cpus = Vec<usize>;

/// The CPUs of each node that this process may use, nodes without any left out.
pub fn nodes() -> Vec<Cpus> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    nodes_under(Path::new("/"), |cpu| cpu < CpuSet::MAX_CPU && allowed.is_set(cpu))
}

fn nodes_under(root: &Path, allowed: impl Fn(usize) -> bool) -> Vec<Cpus> {
    let Ok(entries) = fs::read_dir(root.join("sys/devices/system/node")) else { return Vec::new() };
    let mut nodes = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(number) = name.to_str().and_then(|name| name.strip_prefix("node")?.parse::<usize>().ok()) else {
            continue;
        };
        let list = fs::read_to_string(entry.path().join("cpulist")).ok();
        // A node that cannot be read: better to pin nothing than to leave its CPUs idle.
        let Some(cpus) = list.and_then(|list| cpu_list(list.trim())) else { return Vec::new() };
        nodes.insert(number, cpus.into_iter().filter(|cpu| allowed(*cpu)).collect::<Cpus>());
    }
    nodes.into_values().filter(|cpus| !cpus.is_empty()).collect()
}

/// `0-3,8,10-11` written out, as the kernel's `cpulist` has it; a node may have none. `None` for anything else.
fn cpu_list(text: &str) -> Option<Cpus> {
    let mut cpus = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Where rank `rank` of `world` is to run: ranks are spread over the nodes in order. `None` where there is nothing to choose, or
/// where nodes outnumber ranks, whose threads would then leave CPUs idle.
pub fn of_rank(nodes: &[Cpus], rank: usize, world: usize) -> Option<&Cpus> {
    if nodes.len() < 2 || world < nodes.len() {
        return None;
    }
    nodes.get(rank * nodes.len() / world)
}

/// Keeps the calling thread on these CPUs. A system that refuses loses speed alone.
pub fn pin(cpus: &[usize]) {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(%error, "a rank's thread could not be pinned to its NUMA node");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(nodes: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (node, cpus) in nodes {
            let folder = root.path().join("sys/devices/system/node").join(node);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cpulist"), cpus).unwrap();
        }
        root
    }

    #[test]
    fn nodes_are_read_in_order_and_cut_to_what_may_be_used() {
        // Ten nodes, so that order by name would be another; memory without CPUs; a folder that is no node.
        let root = system(&[
            ("node10", "12\n"),
            ("node2", "0-3,8,10-11\n"),
            ("node3", "\n"),
            ("power", "x"),
            ("node4", "5\n"),
        ]);
        let nodes = nodes_under(root.path(), |cpu| cpu != 2 && cpu != 5);
        assert_eq!(nodes, [vec![0, 1, 3, 8, 10, 11], vec![12]]);
        assert_eq!(nodes_under(system(&[]).path(), |_| true), [] as [Cpus; 0]);
        for broken in ["3-1", "a", "1-", "0-100000"] {
            let root = system(&[("node0", "0"), ("node1", broken)]);
            assert_eq!(nodes_under(root.path(), |_| true), [] as [Cpus; 0], "{broken}");
        }
    }

    #[test]
    fn ranks_are_spread_over_nodes() {
        let nodes = [vec![0, 1], vec![2, 3]];
        let at = |rank, world| of_rank(&nodes, rank, world).map(|cpus| cpus[0]);
        assert_eq!([0, 1, 2, 3].map(|rank| at(rank, 4)), [Some(0), Some(0), Some(2), Some(2)]);
        assert_eq!([0, 1, 2].map(|rank| at(rank, 3)), [Some(0), Some(0), Some(2)]);
        assert_eq!(at(0, 1), None, "one rank uses both");
        assert_eq!(of_rank(&nodes[..1], 0, 2), None, "one node");
    }

    #[test]
    fn a_thread_stays_where_it_is_pinned() {
        let allowed = sched_getaffinity(None).unwrap();
        let last = (0..CpuSet::MAX_CPU).rfind(|cpu| allowed.is_set(*cpu)).unwrap();
        let pinned = std::thread::spawn(move || {
            pin(&[last]);
            sched_getaffinity(None).unwrap()
        });
        let pinned = pinned.join().unwrap();
        assert_eq!((pinned.count(), pinned.is_set(last)), (1, true));
    }
}
