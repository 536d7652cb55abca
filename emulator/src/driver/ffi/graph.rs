//! Graphs: making, instantiating, launching and updating them.

use std::ffi::{c_char, c_uint};

use super::super::abi::{EdgeData, Handle, In, InstantiateParams, Out, Raw, UpdateInfo};
use super::super::error::{Error, Result};
use super::super::graph::{Graph, Update};
use super::super::state::Call;

/// `CU_GRAPH_EXEC_UPDATE_SUCCESS`.
const UPDATED: c_uint = 0;

fn update(call: Call, exec: Handle, graph: Handle, tell: impl FnOnce(c_uint, Handle)) -> Result {
    let result: Update = call.state().update(exec, graph)?;
    match result {
        Ok(()) => {
            tell(UPDATED, 0);
            Ok(())
        }
        Err((why, node)) => {
            tell(why, node);
            Err(Error::GRAPH_EXEC_UPDATE_FAILURE)
        }
    }
}

fn edit(
    call: Call,
    graph: Handle,
    from: In<Handle>,
    to: In<Handle>,
    count: usize,
    add: bool,
) -> Result {
    let mut state = call.state();
    (0..count).try_for_each(|index| state.edge(graph, from.at(index)?, to.at(index)?, add))
}

fn edges(
    call: Call,
    graph: Handle,
    from: Out<Handle>,
    to: Out<Handle>,
    count: Out<usize>,
) -> Result {
    let edges = call.state().edges(graph)?;
    if from.is_null() != to.is_null() {
        return Err(Error::INVALID_VALUE);
    }
    let (sources, targets): (Vec<Handle>, Vec<Handle>) = edges.into_iter().unzip();
    if from.is_null() {
        return count.set(sources.len());
    }
    let room = count.get()?;
    from.list(count, &sources)?;
    count.set(room)?;
    to.list(count, &targets)
}

fn no_data(edges: Out<EdgeData>, count: Out<usize>) -> Result {
    if !edges.is_null() {
        for index in 0..count.get()? {
            edges.set_at(index, EdgeData::default())?;
        }
    }
    Ok(())
}

api! {
    bound fn cuGraphCreate(graph: Out<Handle>, flags: c_uint) |call| {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let mut state = call.state();
        let handle = state.handle();
        state.graphs.insert(handle, Graph::default());
        graph.set(handle)
    }

    ready fn cuGraphDestroy(graph: Handle) |driver| { driver.destroy_graph(graph) }

    bound fn cuGraphClone(clone: Out<Handle>, graph: Handle) |call| {
        let (copy, _) = call.state().clone_graph(graph, false)?;
        clone.set(copy)
    }

    bound fn cuGraphInstantiate_v2(
        exec: Out<Handle>,
        graph: Handle,
        node: Out<Handle>,
        log: Raw,
        room: usize,
    ) |call| {
        node.set_if_wanted(0);
        if !log.is_null() {
            log.put_text(room, "")?;
        }
        exec.set(call.instantiate(graph, 0)?)
    }

    bound fn cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) |call| {
        exec.set(call.instantiate(graph, flags)?)
    }

    bound fn cuGraphInstantiateWithParams(exec: Out<Handle>, graph: Handle, params: Out<InstantiateParams>) |call| {
        let mut given = params.get()?;
        given.error_node = 0;
        let made = call.instantiate(graph, given.flags);
        given.result = c_uint::from(made.is_err());
        params.set(given)?;
        exec.set(made?)
    }

    bound fn cuGraphLaunch(exec: Handle, stream: Handle) |call| { call.launch_graph(exec, stream) }

    bound fn cuGraphUpload(exec: Handle, stream: Handle) |call| {
        call.with_stream(stream, |_| ())?;
        call.state().exec(exec).map(drop)
    }

    ready fn cuGraphExecDestroy(exec: Handle) |driver| { driver.destroy_exec(exec) }

    bound fn cuGraphExecGetFlags(exec: Handle, flags: Out<u64>) |call| {
        let value = call.state().exec(exec)?.flags;
        flags.set(value)
    }

    bound fn cuGraphExecUpdate(exec: Handle, graph: Handle, node: Out<Handle>, result: Out<c_uint>) |call| {
        update(call, exec, graph, |why, at| {
            node.set_if_wanted(at);
            result.set_if_wanted(why);
        })
    }

    bound fn cuGraphExecUpdate_v2(exec: Handle, graph: Handle, info: Out<UpdateInfo>) |call| {
        update(call, exec, graph, |result, node| {
            info.set_if_wanted(UpdateInfo { result, node, from: 0 });
        })
    }

    bound fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) |call| {
        let all = call.state().graph(graph)?.nodes.clone();
        nodes.list(count, &all)
    }

    bound fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) |call| {
        let roots = call.state().roots(graph)?;
        nodes.list(count, &roots)
    }

    bound fn cuGraphGetEdges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) |call| {
        edges(call, graph, from, to, count)
    }

    bound fn cuGraphGetEdges_v2(
        graph: Handle,
        from: Out<Handle>,
        to: Out<Handle>,
        data: Out<EdgeData>,
        count: Out<usize>,
    ) |call| {
        edges(call, graph, from, to, count)?;
        no_data(data, count)
    }

    bound fn cuGraphAddDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) |call| {
        edit(call, graph, from, to, count, true)
    }

    bound fn cuGraphAddDependencies_v2(
        graph: Handle,
        from: In<Handle>,
        to: In<Handle>,
        _data: In<EdgeData>,
        count: usize,
    ) |call| {
        edit(call, graph, from, to, count, true)
    }

    bound fn cuGraphRemoveDependencies(graph: Handle, from: In<Handle>, to: In<Handle>, count: usize) |call| {
        edit(call, graph, from, to, count, false)
    }

    bound fn cuGraphRemoveDependencies_v2(
        graph: Handle,
        from: In<Handle>,
        to: In<Handle>,
        _data: In<EdgeData>,
        count: usize,
    ) |call| {
        edit(call, graph, from, to, count, false)
    }

    bound fn cuGraphDebugDotPrint(graph: Handle, path: super::super::abi::Text, _flags: c_uint) |call| {
        let mut state = call.state();
        let nodes = state.graph(graph)?.nodes.clone();
        let edges = state.edges(graph)?;
        let mut dot = String::from("digraph {\n");
        for node in nodes {
            let kind = state.node(node)?.work.node_type();
            dot += &format!("  n{node:x} [label=\"type {kind}\"];\n");
        }
        for (from, to) in edges {
            dot += &format!("  n{from:x} -> n{to:x};\n");
        }
        dot += "}\n";
        std::fs::write(path.get()?, dot).map_err(|_| Error::INVALID_VALUE)
    }
}

/// `char` is one byte, as [`Raw::put_text`] has it.
const _: () = assert!(size_of::<c_char>() == 1);
