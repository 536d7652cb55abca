//! Streams, events and captures.

use std::ffi::{c_int, c_uint};
use std::ptr::null;

use super::super::abi::{
    Callback, EdgeData, Handle, HostFn, In, Ordinal, Out, Raw, StreamCallback,
};
use super::super::capture::{Mode, exchange_mode};
use super::super::error::{Error, Result};
use super::super::state::Call;
use super::super::work::Work;

/// `CUstreamCaptureStatus`, the capture's number and graph, and what the stream's next work depends on.
fn capture_info(call: Call, stream: Handle) -> Result<(c_uint, Handle, Handle, Vec<Handle>)> {
    let mut state = call.state();
    let stream = state.stream_of(call.context, stream)?;
    let Some(capture) = state.stream(stream)?.capture else { return Ok((0, 0, 0, Vec::new())) };
    let found = state.captures.get(&capture).ok_or(Error::UNKNOWN)?;
    let tail = found.tails.get(&stream).cloned().unwrap_or_default();
    Ok(if found.is_invalid { (2, capture, 0, tail) } else { (1, capture, found.graph, tail) })
}

/// Gives the caller an array that lives as long as the capture: a stream's dependencies are never many, and are kept.
fn capture_info_v2(
    call: Call,
    stream: Handle,
    status: Out<c_uint>,
    id: Out<u64>,
    graph: Out<Handle>,
    nodes: Out<*const Handle>,
    count: Out<usize>,
) -> Result {
    let (found, number, owner, tail) = capture_info(call, stream)?;
    status.set(found)?;
    if found == 1 {
        id.set_if_wanted(number);
        graph.set_if_wanted(owner);
        count.set_if_wanted(tail.len());
        nodes.set_if_wanted(call.state().show_tail(number, tail));
    } else {
        nodes.set_if_wanted(null());
        count.set_if_wanted(0);
    }
    Ok(())
}

fn update_dependencies(
    call: Call,
    stream: Handle,
    nodes: In<Handle>,
    count: usize,
    flags: c_uint,
) -> Result {
    let nodes = nodes.list(count)?;
    let mut state = call.state();
    let stream = state.stream_of(call.context, stream)?;
    let capture = state.stream(stream)?.capture.ok_or(Error::ILLEGAL_STATE)?;
    for &node in &nodes {
        state.node(node)?;
    }
    let found = state.captures.get_mut(&capture).ok_or(Error::UNKNOWN)?;
    let tail = found.tails.entry(stream).or_default();
    match flags {
        0 => tail.extend(nodes),
        1 => *tail = nodes,
        _ => return Err(Error::INVALID_VALUE),
    }
    tail.sort_unstable();
    tail.dedup();
    Ok(())
}

api! {
    bound fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) |call| {
        stream.set(call.create_stream(flags, 0)?)
    }

    bound fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, priority: c_int) |call| {
        stream.set(call.create_stream(flags, priority)?)
    }

    ends fn cuStreamDestroy_v2(stream: Handle) |call| { call.destroy_stream(stream) }

    bound fn cuStreamGetPriority(stream: Handle, priority: Out<c_int>) |call| {
        priority.set(call.with_stream(stream, |stream| stream.priority)?)
    }

    bound fn cuStreamGetFlags(stream: Handle, flags: Out<c_uint>) |call| {
        flags.set(call.with_stream(stream, |stream| stream.flags)?)
    }

    bound fn cuStreamGetId(stream: Handle, id: Out<u64>) |call| {
        let handle = call.state().stream_of(call.context, stream)?;
        id.set(handle)
    }

    bound fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) |call| {
        context.set(call.with_stream(stream, |stream| stream.context)?)
    }

    bound fn cuStreamGetDevice(stream: Handle, device: Out<Ordinal>) |call| {
        let context = call.with_stream(stream, |stream| stream.context)?;
        let ordinal = call.state().context(context)?.device;
        device.set(ordinal as Ordinal)
    }

    bound fn cuStreamQuery(stream: Handle) |call| { call.query_stream(stream) }

    waits fn cuStreamSynchronize(stream: Handle) |call| { call.synchronize_stream(stream) }

    bound fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: c_uint) |call| {
        if flags > 1 {
            return Err(Error::INVALID_VALUE);
        }
        let stream = call.target(stream)?;
        call.state().wait(stream, event)
    }

    bound fn cuStreamAddCallback(stream: Handle, callback: StreamCallback, data: Raw, flags: c_uint) |call| {
        if flags != 0 {
            return Err(Error::INVALID_VALUE);
        }
        let function = callback.ok_or(Error::INVALID_VALUE)?;
        call.enqueue(stream, Work::Host(Callback::Stream { function, stream, data }))
    }

    bound fn cuLaunchHostFunc(stream: Handle, function: HostFn, data: Raw) |call| {
        let function = function.ok_or(Error::INVALID_VALUE)?;
        call.enqueue(stream, Work::Host(Callback::Host { function, data }))
    }

    bound fn cuStreamAttachMemAsync(stream: Handle, address: u64, _length: usize, flags: c_uint) |call| {
        call.with_stream(stream, |_| ())?;
        call.range_of(address).map_err(|_| Error::INVALID_VALUE)?;
        if matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(Error::INVALID_VALUE) }
    }

    bound fn cuStreamBeginCapture_v2(stream: Handle, mode: c_uint) |call| {
        call.begin_capture(stream, Mode::of(mode)?, None)
    }

    bound fn cuStreamBeginCaptureToGraph(
        stream: Handle,
        graph: Handle,
        nodes: In<Handle>,
        _edges: In<EdgeData>,
        count: usize,
        mode: c_uint,
    ) |call| {
        call.begin_capture(stream, Mode::of(mode)?, Some((graph, nodes.list(count)?)))
    }

    bound fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) |call| {
        match call.end_capture(stream) {
            Ok(captured) => graph.set(captured),
            Err(error) => {
                graph.set(0)?;
                Err(error)
            }
        }
    }

    bound fn cuStreamIsCapturing(stream: Handle, status: Out<c_uint>) |call| {
        status.set(capture_info(call, stream)?.0)
    }

    bound fn cuStreamGetCaptureInfo(stream: Handle, status: Out<c_uint>, id: Out<u64>) |call| {
        let (found, number, ..) = capture_info(call, stream)?;
        status.set(found)?;
        id.set_if_wanted(number);
        Ok(())
    }

    bound fn cuStreamGetCaptureInfo_v2(
        stream: Handle,
        status: Out<c_uint>,
        id: Out<u64>,
        graph: Out<Handle>,
        nodes: Out<*const Handle>,
        count: Out<usize>,
    ) |call| {
        capture_info_v2(call, stream, status, id, graph, nodes, count)
    }

    bound fn cuStreamGetCaptureInfo_v3(
        stream: Handle,
        status: Out<c_uint>,
        id: Out<u64>,
        graph: Out<Handle>,
        nodes: Out<*const Handle>,
        edges: Out<*const EdgeData>,
        count: Out<usize>,
    ) |call| {
        // Without data on edges, there is no array of it.
        edges.set_if_wanted(null());
        capture_info_v2(call, stream, status, id, graph, nodes, count)
    }

    bound fn cuStreamUpdateCaptureDependencies(stream: Handle, nodes: In<Handle>, count: usize, flags: c_uint) |call| {
        update_dependencies(call, stream, nodes, count, flags)
    }

    bound fn cuStreamUpdateCaptureDependencies_v2(
        stream: Handle,
        nodes: In<Handle>,
        _edges: In<EdgeData>,
        count: usize,
        flags: c_uint,
    ) |call| {
        update_dependencies(call, stream, nodes, count, flags)
    }

    ready fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) |_| {
        let before = exchange_mode(Mode::of(mode.get()?)?);
        mode.set(before as c_uint)
    }

    bound fn cuEventCreate(event: Out<Handle>, flags: c_uint) |call| {
        event.set(call.create_event(flags)?)
    }

    ends fn cuEventDestroy_v2(event: Handle) |call| { call.destroy_event(event) }

    bound fn cuEventRecord(event: Handle, stream: Handle) |call| {
        call.enqueue(stream, Work::Record(event))
    }

    bound fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: c_uint) |call| {
        if flags > 1 {
            return Err(Error::INVALID_VALUE);
        }
        call.enqueue(stream, Work::Record(event))
    }

    bound fn cuEventQuery(event: Handle) |call| { call.query_event(event) }

    waits fn cuEventSynchronize(event: Handle) |call| { call.synchronize_event(event) }

    blocks fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) |call| {
        milliseconds.set(call.elapsed(start, end)?)
    }

    blocks fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) |call| {
        milliseconds.set(call.elapsed(start, end)?)
    }
}
