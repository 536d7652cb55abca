//! Nodes of graphs.

use std::ffi::c_uint;

use super::super::abi::{
    Callback, EdgeData, Handle, HostNode, In, KernelNode, KernelNodeV1, Memcpy3D, MemsetNode, Out,
    Raw,
};
use super::super::copy::{Copy, Fill, Place};
use super::super::error::{Error, Result};
use super::super::launch::{Launch, Shape};
use super::super::state::Call;
use super::super::work::Work;

/// Adds a node.
fn add(
    call: Call,
    node: Out<Handle>,
    graph: Handle,
    after: In<Handle>,
    count: usize,
    work: Work,
) -> Result {
    let handle = call.state().add_node(graph, work, after.list(count)?)?;
    node.set(handle)
}

/// A launch by the parameters of a kernel node.
fn kernel(call: Call, params: KernelNodeV1, function: Handle) -> Result<Work> {
    let KernelNodeV1 { grid, block, shared, .. } = params;
    let shape = Shape { grid, block, shared, cooperative: false, cluster: None };
    Ok(Work::Launch(call.prepare(function, shape, params.params, params.extra)?))
}

/// The second version may name a library's kernel in place of the function.
fn kernel_v2(call: Call, params: KernelNode) -> Result<Work> {
    let function = if params.first.function == 0 { params.kernel } else { params.first.function };
    kernel(call, params.first, function)
}

fn memset(call: Call, params: MemsetNode) -> Result<Work> {
    let MemsetNode { address, pitch, value, element, width, height } = params;
    let fill = call.fill_of(address, pitch as u64, value, element, width as u64, height as u64)?;
    Ok(Work::Fill(fill))
}

fn host(params: HostNode) -> Result<Work> {
    let function = params.function.ok_or(Error::INVALID_VALUE)?;
    Ok(Work::Host(Callback::Host { function, data: params.data }))
}

/// The parameters of a kernel node. Its arrays are kept in the node until it is asked again.
fn kernel_params(call: Call, node: Handle) -> Result<KernelNodeV1> {
    let mut state = call.state();
    let Work::Launch(Launch { function, shape, params }) = state.node(node)?.work.clone() else {
        return Err(Error::INVALID_VALUE);
    };
    let kernel = state.functions.get(&function).ok_or(Error::INVALID_HANDLE)?.kernel.clone();
    // The block of parameters is shared with the node's work, which stays where it is as long as the node does.
    let base = params.as_ptr() as u64;
    let node = state.node(node)?;
    node.shown = kernel.params.iter().map(|param| base + u64::from(param.offset)).collect();
    let Shape { grid, block, shared, .. } = shape;
    let pointers = Raw::at(node.shown.as_ptr() as u64).cast::<Raw>().as_in();
    let params = if node.shown.is_empty() { In::null() } else { pointers };
    Ok(KernelNodeV1 { function, grid, block, shared, params, extra: In::null() })
}

fn memset_params(fill: &Fill) -> MemsetNode {
    MemsetNode {
        address: fill.address,
        pitch: fill.pitch as usize,
        value: fill.value,
        element: fill.size,
        width: fill.width as usize,
        height: fill.height as usize,
    }
}

/// The parameters of a copy node, with the offsets in its addresses.
fn copy_params(copy: &Copy) -> Memcpy3D {
    let end = |place: Place| match place {
        Place::Host(host) => (1, Raw::at(host.address()), 0),
        Place::Device { address, .. } => (2, Raw::NULL, address),
    };
    let ((src_type, src_host, src_device), (dst_type, dst_host, dst_device)) =
        (end(copy.from.place), end(copy.to.place));
    let rows = |pitch: u64, layer: u64| layer.checked_div(pitch).unwrap_or(0) as usize;
    Memcpy3D {
        src_x: 0,
        src_y: 0,
        src_z: 0,
        src_lod: 0,
        src_type,
        src_host,
        src_device,
        src_array: 0,
        src_context: 0,
        src_pitch: copy.from.pitch as usize,
        src_height: rows(copy.from.pitch, copy.from.layer),
        dst_x: 0,
        dst_y: 0,
        dst_z: 0,
        dst_lod: 0,
        dst_type,
        dst_host,
        dst_device,
        dst_array: 0,
        dst_context: 0,
        dst_pitch: copy.to.pitch as usize,
        dst_height: rows(copy.to.pitch, copy.to.layer),
        width: copy.width as usize,
        height: copy.height as usize,
        depth: copy.depth as usize,
    }
}

/// The event of a node that records it or waits for it.
fn event_of(call: Call, node: Handle, records: bool) -> Result<Handle> {
    match call.state().node(node)?.work {
        Work::Record(event) if records => Ok(event),
        Work::Wait(event) if !records => Ok(event),
        _ => Err(Error::INVALID_VALUE),
    }
}

fn event_work(call: Call, event: Handle, records: bool) -> Result<Work> {
    call.state().event(event)?;
    Ok(if records { Work::Record(event) } else { Work::Wait(event) })
}

/// The work of a node of a kind.
fn work_of(call: Call, node: Handle) -> Result<Work> {
    Ok(call.state().node(node)?.work.clone())
}

api! {
    bound fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize) |call| {
        add(call, node, graph, after, count, Work::Empty)
    }

    bound fn cuGraphAddKernelNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelNodeV1>) |call| {
        let params = params.get()?;
        add(call, node, graph, after, count, kernel(call, params, params.function)?)
    }

    bound fn cuGraphAddKernelNode_v2(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<KernelNode>) |call| {
        add(call, node, graph, after, count, kernel_v2(call, params.get()?)?)
    }

    bound fn cuGraphAddMemcpyNode(
        node: Out<Handle>,
        graph: Handle,
        after: In<Handle>,
        count: usize,
        params: In<Memcpy3D>,
        _context: Handle,
    ) |call| {
        add(call, node, graph, after, count, Work::Copy(call.copy_3d(&params.get()?)?))
    }

    bound fn cuGraphAddMemsetNode(
        node: Out<Handle>,
        graph: Handle,
        after: In<Handle>,
        count: usize,
        params: In<MemsetNode>,
        _context: Handle,
    ) |call| {
        add(call, node, graph, after, count, memset(call, params.get()?)?)
    }

    bound fn cuGraphAddHostNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, params: In<HostNode>) |call| {
        add(call, node, graph, after, count, host(params.get()?)?)
    }

    bound fn cuGraphAddChildGraphNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, child: Handle) |call| {
        if child == graph {
            return Err(Error::INVALID_VALUE);
        }
        let (copy, _) = call.state().clone_graph(child, true)?;
        add(call, node, graph, after, count, Work::Child(copy))
    }

    bound fn cuGraphAddEventRecordNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) |call| {
        add(call, node, graph, after, count, event_work(call, event, true)?)
    }

    bound fn cuGraphAddEventWaitNode(node: Out<Handle>, graph: Handle, after: In<Handle>, count: usize, event: Handle) |call| {
        add(call, node, graph, after, count, event_work(call, event, false)?)
    }

    bound fn cuGraphDestroyNode(node: Handle) |call| {
        call.state().remove_node(node)?;
        call.driver.sweep()
    }

    bound fn cuGraphNodeGetType(node: Handle, kind: Out<c_uint>) |call| {
        kind.set(work_of(call, node)?.node_type())
    }

    bound fn cuGraphNodeGetDependencies(node: Handle, nodes: Out<Handle>, count: Out<usize>) |call| {
        let found = call.state().node(node)?.dependencies.clone();
        nodes.list(count, &found)
    }

    bound fn cuGraphNodeGetDependencies_v2(node: Handle, nodes: Out<Handle>, data: Out<EdgeData>, count: Out<usize>) |call| {
        let found = call.state().node(node)?.dependencies.clone();
        if !data.is_null() {
            found.iter().take(count.get()?).enumerate().try_for_each(|(i, _)| data.set_at(i, EdgeData::default()))?;
        }
        nodes.list(count, &found)
    }

    bound fn cuGraphNodeGetDependentNodes(node: Handle, nodes: Out<Handle>, count: Out<usize>) |call| {
        let found = call.state().dependents(node)?;
        nodes.list(count, &found)
    }

    bound fn cuGraphNodeGetDependentNodes_v2(node: Handle, nodes: Out<Handle>, data: Out<EdgeData>, count: Out<usize>) |call| {
        let found = call.state().dependents(node)?;
        if !data.is_null() {
            found.iter().take(count.get()?).enumerate().try_for_each(|(i, _)| data.set_at(i, EdgeData::default()))?;
        }
        nodes.list(count, &found)
    }

    bound fn cuGraphNodeFindInClone(found: Out<Handle>, node: Handle, clone: Handle) |call| {
        // A clone has its nodes in the order of execution of the original.
        let mut state = call.state();
        let original = state.node(node)?.graph;
        let order = state.order(original)?;
        let at = order.iter().position(|&other| other == node).ok_or(Error::INVALID_VALUE)?;
        let twin = state.graph(clone)?.nodes.get(at).copied().ok_or(Error::INVALID_VALUE)?;
        found.set(twin)
    }

    bound fn cuGraphKernelNodeGetParams(node: Handle, params: Out<KernelNodeV1>) |call| {
        params.set(kernel_params(call, node)?)
    }

    bound fn cuGraphKernelNodeGetParams_v2(node: Handle, params: Out<KernelNode>) |call| {
        let first = kernel_params(call, node)?;
        params.set(KernelNode { first, kernel: 0, context: call.context })
    }

    bound fn cuGraphKernelNodeSetParams(node: Handle, params: In<KernelNodeV1>) |call| {
        let params = params.get()?;
        let work = kernel(call, params, params.function)?;
        call.state().set_node(node, work)
    }

    bound fn cuGraphKernelNodeSetParams_v2(node: Handle, params: In<KernelNode>) |call| {
        let work = kernel_v2(call, params.get()?)?;
        call.state().set_node(node, work)
    }

    bound fn cuGraphMemcpyNodeGetParams(node: Handle, params: Out<Memcpy3D>) |call| {
        match work_of(call, node)? {
            Work::Copy(copy) => params.set(copy_params(&copy)),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    bound fn cuGraphMemcpyNodeSetParams(node: Handle, params: In<Memcpy3D>) |call| {
        let work = Work::Copy(call.copy_3d(&params.get()?)?);
        call.state().set_node(node, work)
    }

    bound fn cuGraphMemsetNodeGetParams(node: Handle, params: Out<MemsetNode>) |call| {
        match work_of(call, node)? {
            Work::Fill(fill) => params.set(memset_params(&fill)),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    bound fn cuGraphMemsetNodeSetParams(node: Handle, params: In<MemsetNode>) |call| {
        let work = memset(call, params.get()?)?;
        call.state().set_node(node, work)
    }

    bound fn cuGraphHostNodeGetParams(node: Handle, params: Out<HostNode>) |call| {
        match work_of(call, node)? {
            Work::Host(callback) => {
                let (function, data) = callback.parts();
                params.set(HostNode { function, data })
            }
            _ => Err(Error::INVALID_VALUE),
        }
    }

    bound fn cuGraphHostNodeSetParams(node: Handle, params: In<HostNode>) |call| {
        let work = host(params.get()?)?;
        call.state().set_node(node, work)
    }

    bound fn cuGraphChildGraphNodeGetGraph(node: Handle, graph: Out<Handle>) |call| {
        match work_of(call, node)? {
            Work::Child(inner) => graph.set(inner),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    bound fn cuGraphEventRecordNodeGetEvent(node: Handle, event: Out<Handle>) |call| {
        event.set(event_of(call, node, true)?)
    }

    bound fn cuGraphEventRecordNodeSetEvent(node: Handle, event: Handle) |call| {
        let work = event_work(call, event, true)?;
        call.state().set_node(node, work)
    }

    bound fn cuGraphEventWaitNodeGetEvent(node: Handle, event: Out<Handle>) |call| {
        event.set(event_of(call, node, false)?)
    }

    bound fn cuGraphEventWaitNodeSetEvent(node: Handle, event: Handle) |call| {
        let work = event_work(call, event, false)?;
        call.state().set_node(node, work)
    }

    bound fn cuGraphMemFreeNodeGetParams(node: Handle, address: Out<u64>) |call| {
        match work_of(call, node)? {
            Work::Free { address: freed } => address.set(freed),
            _ => Err(Error::INVALID_VALUE),
        }
    }

    bound fn cuGraphExecKernelNodeSetParams(exec: Handle, node: Handle, params: In<KernelNodeV1>) |call| {
        let params = params.get()?;
        let work = kernel(call, params, params.function)?;
        call.state().set_step(exec, node, work)
    }

    bound fn cuGraphExecKernelNodeSetParams_v2(exec: Handle, node: Handle, params: In<KernelNode>) |call| {
        let work = kernel_v2(call, params.get()?)?;
        call.state().set_step(exec, node, work)
    }

    bound fn cuGraphExecMemcpyNodeSetParams(exec: Handle, node: Handle, params: In<Memcpy3D>, _context: Handle) |call| {
        let work = Work::Copy(call.copy_3d(&params.get()?)?);
        call.state().set_step(exec, node, work)
    }

    bound fn cuGraphExecMemsetNodeSetParams(exec: Handle, node: Handle, params: In<MemsetNode>, _context: Handle) |call| {
        let work = memset(call, params.get()?)?;
        call.state().set_step(exec, node, work)
    }

    bound fn cuGraphExecHostNodeSetParams(exec: Handle, node: Handle, params: In<HostNode>) |call| {
        let work = host(params.get()?)?;
        call.state().set_step(exec, node, work)
    }

    bound fn cuGraphExecEventRecordNodeSetEvent(exec: Handle, node: Handle, event: Handle) |call| {
        let work = event_work(call, event, true)?;
        call.state().set_step(exec, node, work)
    }

    bound fn cuGraphExecEventWaitNodeSetEvent(exec: Handle, node: Handle, event: Handle) |call| {
        let work = event_work(call, event, false)?;
        call.state().set_step(exec, node, work)
    }

    bound fn cuGraphExecChildGraphNodeSetParams(exec: Handle, node: Handle, child: Handle) |call| {
        let mut state = call.state();
        let (copy, _) = state.clone_graph(child, true)?;
        state.set_step(exec, node, Work::Child(copy))
    }

    bound fn cuGraphNodeSetEnabled(exec: Handle, node: Handle, enabled: c_uint) |call| {
        let mut state = call.state();
        let step = state.exec(exec)?.steps.iter_mut().find(|step| step.node == node);
        let step = step.ok_or(Error::INVALID_VALUE)?;
        // Kernels, copies and memsets.
        if step.work.node_type() > 2 {
            return Err(Error::INVALID_VALUE);
        }
        step.is_enabled = enabled != 0;
        Ok(())
    }

    bound fn cuGraphNodeGetEnabled(exec: Handle, node: Handle, enabled: Out<c_uint>) |call| {
        let mut state = call.state();
        let step = state.exec(exec)?.steps.iter().find(|step| step.node == node);
        enabled.set(c_uint::from(step.ok_or(Error::INVALID_VALUE)?.is_enabled))
    }
}
