//! Launches and occupancy.

use std::ffi::{c_int, c_uint};

use super::super::abi::{BlockToShared, Handle, In, LaunchConfig, Out, Raw};
use super::super::error::{Error, Result};
use super::super::launch::Shape;
use super::super::state::Call;
use super::super::work::Work;
use crate::engine::MAX_CLUSTER;

fn launch(
    call: Call,
    function: Handle,
    shape: Shape,
    stream: Handle,
    params: In<Raw>,
    extra: In<Raw>,
) -> Result {
    let launch = call.prepare(function, shape, params, extra)?;
    call.enqueue(stream, Work::Launch(launch))
}

api! {
    bound fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Handle,
        params: In<Raw>,
        extra: In<Raw>,
    ) |call| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, shared, cooperative: false, cluster: None };
        launch(call, function, shape, stream, params, extra)
    }

    bound fn cuLaunchCooperativeKernel(
        function: Handle,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: Handle,
        params: In<Raw>,
    ) |call| {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, shared, cooperative: true, cluster: None };
        launch(call, function, shape, stream, params, In::null())
    }

    bound fn cuLaunchKernelEx(config: In<LaunchConfig>, function: Handle, params: In<Raw>, extra: In<Raw>) |call| {
        let config = config.get()?;
        launch(call, function, Shape::of(&config)?, config.stream, params, extra)
    }

    bound fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<c_int>,
        function: Handle,
        threads: c_int,
        dynamic: usize,
    ) |call| {
        blocks.set(call.occupancy(function, threads, dynamic)? as c_int)
    }

    bound fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<c_int>,
        function: Handle,
        threads: c_int,
        dynamic: usize,
        flags: c_uint,
    ) |call| {
        if flags > 1 {
            return Err(Error::INVALID_VALUE);
        }
        blocks.set(call.occupancy(function, threads, dynamic)? as c_int)
    }

    bound fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<c_int>,
        block: Out<c_int>,
        function: Handle,
        dynamic_of: BlockToShared,
        dynamic: usize,
        limit: c_int,
    ) |call| {
        let (blocks, threads) = call.best_block(function, dynamic_of, dynamic, limit)?;
        grid.set(blocks)?;
        block.set(threads)
    }

    bound fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<c_int>,
        block: Out<c_int>,
        function: Handle,
        dynamic_of: BlockToShared,
        dynamic: usize,
        limit: c_int,
        flags: c_uint,
    ) |call| {
        if flags > 1 {
            return Err(Error::INVALID_VALUE);
        }
        let (blocks, threads) = call.best_block(function, dynamic_of, dynamic, limit)?;
        grid.set(blocks)?;
        block.set(threads)
    }

    bound fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>,
        function: Handle,
        blocks: c_int,
        threads: c_int,
    ) |call| {
        bytes.set(call.available_shared(function, blocks, threads)?)
    }

    bound fn cuOccupancyMaxPotentialClusterSize(size: Out<c_int>, function: Handle, _config: In<LaunchConfig>) |call| {
        call.function_of(function)?;
        size.set(if call.device().arch.target < 90 { 1 } else { MAX_CLUSTER as c_int })
    }

    bound fn cuOccupancyMaxActiveClusters(clusters: Out<c_int>, function: Handle, config: In<LaunchConfig>) |call| {
        let shape = Shape::of(&config.get()?)?;
        clusters.set(call.clusters(function, &shape)? as c_int)
    }
}
