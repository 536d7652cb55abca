//! Graphs of work: nodes, edges, executable graphs and their updates.

use std::collections::{BTreeMap, BTreeSet};

use super::abi::Handle;
use super::error::{Error, Result};
use super::memory;
use super::state::{Call, Driver, State};
use super::survey::Entry;
use super::work::Work;

/// A graph under construction.
#[derive(Debug, Default)]
pub struct Graph {
    /// In the order they were added.
    pub nodes: Vec<Handle>,
    /// It is the inside of a node.
    pub is_child: bool,
}

/// A node of a graph.
#[derive(Debug)]
pub struct Node {
    pub graph: Handle,
    pub work: Work,
    pub dependencies: Vec<Handle>,
    /// What `GetParams` pointed its caller at: the parameter block and the addresses of the parameters in it.
    pub shown: Vec<u64>,
}

/// An executable graph.
#[derive(Debug)]
pub struct Exec {
    pub steps: Vec<Step>,
    pub flags: u64,
}

/// A node in the order of execution.
#[derive(Debug, Clone)]
pub struct Step {
    pub node: Handle,
    pub work: Work,
    /// Indices of earlier steps.
    pub dependencies: Vec<usize>,
    pub is_enabled: bool,
}

/// `CUgraphInstantiate_flags`.
const AUTO_FREE: u64 = 1;
const DEVICE_LAUNCH: u64 = 4;
const ALL_FLAGS: u64 = 15;

/// `CUgraphExecUpdateResult` and the node that it is about.
pub type Update = std::result::Result<(), (u32, Handle)>;
const TOPOLOGY_CHANGED: u32 = 2;
const TYPE_CHANGED: u32 = 3;

impl State {
    pub fn graph(&mut self, graph: Handle) -> Result<&mut Graph> {
        self.graphs.get_mut(&graph).ok_or(Error::INVALID_VALUE)
    }

    pub fn node(&mut self, node: Handle) -> Result<&mut Node> {
        self.nodes.get_mut(&node).ok_or(Error::INVALID_VALUE)
    }

    pub fn exec(&mut self, exec: Handle) -> Result<&mut Exec> {
        self.execs.get_mut(&exec).ok_or(Error::INVALID_VALUE)
    }

    /// Adds a node behind others of its graph.
    pub fn add_node(
        &mut self,
        graph: Handle,
        work: Work,
        dependencies: Vec<Handle>,
    ) -> Result<Handle> {
        self.graph(graph)?;
        for &dependency in &dependencies {
            if self.node(dependency)?.graph != graph {
                return Err(Error::INVALID_VALUE);
            }
        }
        let distinct: BTreeSet<Handle> = dependencies.iter().copied().collect();
        if distinct.len() != dependencies.len() {
            return Err(Error::INVALID_VALUE);
        }
        let node = self.handle();
        self.nodes.insert(node, Node { graph, work, dependencies, shown: Vec::new() });
        self.graph(graph)?.nodes.push(node);
        Ok(node)
    }

    /// Nodes and all that they depend on.
    pub fn ancestors(&self, nodes: &[Handle]) -> BTreeSet<Handle> {
        let mut reached = BTreeSet::new();
        let mut left = nodes.to_vec();
        while let Some(node) = left.pop() {
            if reached.insert(node)
                && let Some(node) = self.nodes.get(&node)
            {
                left.extend(&node.dependencies);
            }
        }
        reached
    }

    /// Adds or removes an edge.
    pub fn edge(&mut self, graph: Handle, from: Handle, to: Handle, add: bool) -> Result {
        if self.node(from)?.graph != graph || self.node(to)?.graph != graph || from == to {
            return Err(Error::INVALID_VALUE);
        }
        if add && self.ancestors(&[from]).contains(&to) {
            return Err(Error::INVALID_VALUE);
        }
        let dependencies = &mut self.node(to)?.dependencies;
        match (dependencies.iter().position(|&known| known == from), add) {
            (None, true) => dependencies.push(from),
            (Some(at), false) => drop(dependencies.remove(at)),
            _ => return Err(Error::INVALID_VALUE),
        }
        Ok(())
    }

    /// Edges of a graph, from and to.
    pub fn edges(&mut self, graph: Handle) -> Result<Vec<(Handle, Handle)>> {
        let nodes = self.graph(graph)?.nodes.clone();
        let edges = |to: &Handle| {
            let dependencies = self.nodes.get(to).map(|node| node.dependencies.clone());
            let to = *to;
            dependencies.unwrap_or_default().into_iter().map(move |from| (from, to))
        };
        Ok(nodes.iter().flat_map(edges).collect())
    }

    /// Nodes of a graph that nothing comes before.
    pub fn roots(&mut self, graph: Handle) -> Result<Vec<Handle>> {
        let nodes = self.graph(graph)?.nodes.clone();
        let is_root = |node: &Handle| self.nodes[node].dependencies.is_empty();
        Ok(nodes.into_iter().filter(is_root).collect())
    }

    /// Nodes that depend on one.
    pub fn dependents(&mut self, node: Handle) -> Result<Vec<Handle>> {
        let graph = self.node(node)?.graph;
        let edges = self.edges(graph)?;
        Ok(edges.into_iter().filter(|&(from, _)| from == node).map(|(_, to)| to).collect())
    }

    pub fn remove_node(&mut self, node: Handle) -> Result {
        let removed = self.nodes.remove(&node).ok_or(Error::INVALID_VALUE)?;
        if let Work::Child(graph) = removed.work {
            self.remove_graph(graph);
        }
        let graph = self.graph(removed.graph)?;
        graph.nodes.retain(|&other| other != node);
        for other in graph.nodes.clone() {
            self.node(other)?.dependencies.retain(|&dependency| dependency != node);
        }
        Ok(())
    }

    pub fn remove_graph(&mut self, graph: Handle) {
        let Some(removed) = self.graphs.remove(&graph) else { return };
        for node in removed.nodes {
            if let Some(Node { work: Work::Child(inner), .. }) = self.nodes.remove(&node) {
                self.remove_graph(inner);
            }
        }
    }

    /// A copy of a graph, with the node that each of its nodes became.
    pub fn clone_graph(
        &mut self,
        graph: Handle,
        is_child: bool,
    ) -> Result<(Handle, BTreeMap<Handle, Handle>)> {
        let copy = self.handle();
        self.graphs.insert(copy, Graph { nodes: Vec::new(), is_child });
        let mut became = BTreeMap::new();
        for node in self.order(graph)? {
            let Node { work, dependencies, .. } = self.node(node)?;
            let (mut work, dependencies) = (work.clone(), dependencies.clone());
            if let Work::Child(inner) = &mut work {
                *inner = self.clone_graph(*inner, true)?.0;
            }
            let dependencies = dependencies.iter().map(|dependency| became[dependency]).collect();
            became.insert(node, self.add_node(copy, work, dependencies)?);
        }
        Ok((copy, became))
    }

    /// The nodes of a graph, each behind those it depends on, and otherwise as they were added.
    pub fn order(&mut self, graph: Handle) -> Result<Vec<Handle>> {
        let mut left = self.graph(graph)?.nodes.clone();
        let mut order = Vec::with_capacity(left.len());
        let mut done = BTreeSet::new();
        while !left.is_empty() {
            let before = left.len();
            left.retain(|node| {
                let is_ready =
                    self.nodes[node].dependencies.iter().all(|other| done.contains(other));
                if is_ready {
                    done.insert(*node);
                    order.push(*node);
                }
                !is_ready
            });
            if left.len() == before {
                return Err(Error::INVALID_VALUE);
            }
        }
        Ok(order)
    }

    /// The steps of a graph.
    fn steps(&mut self, graph: Handle) -> Result<Vec<Step>> {
        let order = self.order(graph)?;
        let index: BTreeMap<Handle, usize> =
            order.iter().enumerate().map(|(index, &node)| (node, index)).collect();
        let step = |&node: &Handle| {
            let Node { work, dependencies, .. } = &self.nodes[&node];
            let mut dependencies: Vec<usize> =
                dependencies.iter().map(|node| index[node]).collect();
            dependencies.sort_unstable();
            Step { node, work: work.clone(), dependencies, is_enabled: true }
        };
        Ok(order.iter().map(step).collect())
    }

    /// The same work with a graph of its own, if it is one.
    fn own(&mut self, work: Work) -> Result<Work> {
        match work {
            Work::Child(graph) => Ok(Work::Child(self.clone_graph(graph, true)?.0)),
            other => Ok(other),
        }
    }

    /// Lets go of what [`State::own`] made.
    fn disown(&mut self, work: &Work) {
        if let Work::Child(graph) = work {
            self.remove_graph(*graph);
        }
    }

    /// The steps of a graph, independent of it.
    fn own_steps(&mut self, graph: Handle) -> Result<Vec<Step>> {
        let mut steps = self.steps(graph)?;
        for step in &mut steps {
            step.work = self.own(step.work.clone())?;
        }
        Ok(steps)
    }

    /// Changes an executable graph to the work of another graph of the same shape.
    ///
    /// # Errors
    /// One of them does not exist; inside, why the shapes differ, with the executable graph as it was.
    pub fn update(&mut self, exec: Handle, graph: Handle) -> Result<Update> {
        let fresh = self.steps(graph)?;
        let steps = &self.exec(exec)?.steps;
        if fresh.len() != steps.len() {
            return Ok(Err((TOPOLOGY_CHANGED, 0)));
        }
        for (old, new) in steps.iter().zip(&fresh) {
            if old.work.node_type() != new.work.node_type() {
                return Ok(Err((TYPE_CHANGED, new.node)));
            }
            if old.dependencies != new.dependencies {
                return Ok(Err((TOPOLOGY_CHANGED, new.node)));
            }
        }
        let works =
            fresh.into_iter().map(|step| self.own(step.work)).collect::<Result<Vec<_>>>()?;
        for (index, work) in works.into_iter().enumerate() {
            let step = &mut self.exec(exec)?.steps[index];
            let old = std::mem::replace(&mut step.work, work);
            self.disown(&old);
        }
        Ok(Ok(()))
    }

    /// Replaces the work of a node in an executable graph.
    pub fn set_step(&mut self, exec: Handle, node: Handle, work: Work) -> Result {
        let step = self.exec(exec)?.steps.iter_mut().find(|step| step.node == node);
        let step = step.ok_or(Error::INVALID_VALUE)?;
        if step.work.node_type() != work.node_type() {
            return Err(Error::INVALID_VALUE);
        }
        let old = std::mem::replace(&mut step.work, work);
        self.disown(&old);
        Ok(())
    }

    /// Replaces the work of a node by work of the same kind.
    pub fn set_node(&mut self, node: Handle, work: Work) -> Result {
        let node = self.node(node)?;
        if node.work.node_type() != work.node_type() {
            return Err(Error::INVALID_VALUE);
        }
        node.work = work;
        Ok(())
    }

    /// Memory of graphs that was freed and that no graph can reach any more.
    fn orphans(&self) -> Vec<u64> {
        let steps = self.execs.values().flat_map(|exec| exec.steps.iter().map(|step| &step.work));
        let works = self.nodes.values().map(|node| &node.work).chain(steps);
        let reachable: BTreeSet<u64> = works
            .filter_map(|work| match work {
                Work::Allocate { address, .. } => Some(*address),
                _ => None,
            })
            .collect();
        let freed =
            self.allocations.iter().filter(|(_, allocation)| allocation.graph == Some(true));
        freed.map(|(&address, _)| address).filter(|address| !reachable.contains(address)).collect()
    }
}

impl Driver {
    /// Frees the memory of graphs that are gone.
    pub fn sweep(&self) -> Result {
        let orphans = self.state().orphans();
        orphans.into_iter().try_for_each(|address| memory::release(self, address))
    }

    pub fn destroy_graph(&self, graph: Handle) -> Result {
        let mut state = self.state();
        if state.graph(graph)?.is_child {
            return Err(Error::INVALID_VALUE);
        }
        state.remove_graph(graph);
        drop(state);
        self.sweep()
    }

    pub fn destroy_exec(&self, exec: Handle) -> Result {
        let mut state = self.state();
        let removed = state.execs.remove(&exec).ok_or(Error::INVALID_VALUE)?;
        for step in &removed.steps {
            state.disown(&step.work);
        }
        drop(state);
        self.sweep()
    }
}

impl Call {
    pub fn instantiate(&self, graph: Handle, flags: u64) -> Result<Handle> {
        if flags & !ALL_FLAGS != 0
            || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH
        {
            return Err(Error::INVALID_VALUE);
        }
        if flags & DEVICE_LAUNCH != 0 {
            return Err(Error::NOT_SUPPORTED);
        }
        let mut state = self.state();
        let steps = state.own_steps(graph)?;
        let exec = state.handle();
        state.execs.insert(exec, Exec { steps, flags });
        Ok(exec)
    }

    /// The work of a graph inside a node.
    pub fn flatten(&self, graph: Handle) -> Result<Vec<(Handle, Work)>> {
        let steps = self.state().steps(graph)?;
        Ok(steps.into_iter().map(|step| (step.node, step.work)).collect())
    }

    /// Launches an executable graph in a stream; in one that captures, it becomes a part of that graph.
    pub fn launch_graph(&self, exec: Handle, stream: Handle) -> Result {
        let stream = self.target(stream)?;
        let (steps, capture) = {
            let mut state = self.state();
            let capture = state.stream(stream)?.capture;
            let steps = state.exec(exec)?.steps.clone();
            (steps, capture)
        };
        if let Some(capture) = capture {
            let mut state = self.state();
            let graph = state.handle();
            state.graphs.insert(graph, Graph { nodes: Vec::new(), is_child: true });
            let mut nodes: Vec<Handle> = Vec::new();
            for step in steps {
                let dependencies = step.dependencies.iter().map(|&index| nodes[index]).collect();
                let work = if step.is_enabled { state.own(step.work)? } else { Work::Empty };
                nodes.push(state.add_node(graph, work, dependencies)?);
            }
            return state.capture_work(capture, stream, Work::Child(graph)).map(drop);
        }
        let steps: Vec<&Step> = steps.iter().filter(|step| step.is_enabled).collect();
        self.note(&Entry::Graph(steps.len()));
        for step in steps {
            self.run(stream, &step.work)?;
        }
        Ok(())
    }
}
