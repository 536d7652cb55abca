//! Loads, stores, atomics and asynchronous copies of a warp.

use super::block::Context;
use super::warp::{Fault, Outcome, Warp};
use crate::isa::atomic::{self, Action};
use crate::isa::memory::{Access, CopyAsync, Op, Space, Target};
use crate::isa::scope::{Address, Place};
use crate::lanes::{Condition, Lanes};
use crate::memory::{Order, Request, Violation, ViolationKind, Who, lanes};
use crate::num::half::{self, Bf16, F16, Half};
use crate::report::Check;

/// Generic addresses of shared memory begin here: far from device memory and from the host's.
pub const SHARED_WINDOW: u64 = 0x1800_0000_0000;
/// Generic addresses of a thread's local memory.
pub const LOCAL_WINDOW: u64 = 0x1810_0000_0000;
/// Generic addresses of the kernel's parameters.
pub const PARAM_WINDOW: u64 = 0x1820_0000_0000;
const WINDOW_BYTES: u64 = 0x0010_0000_0000;

/// The space and the address in it that a generic address means.
fn resolve(address: u64) -> (Space, u64) {
    match address {
        _ if address.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES => {
            (Space::Shared, address - SHARED_WINDOW)
        }
        _ if address.wrapping_sub(LOCAL_WINDOW) < WINDOW_BYTES => {
            (Space::Local, address - LOCAL_WINDOW)
        }
        _ if address.wrapping_sub(PARAM_WINDOW) < WINDOW_BYTES => {
            (Space::Param, address - PARAM_WINDOW)
        }
        _ => (Space::Global, address),
    }
}

/// What a generic address of a space adds to an address in it.
fn window(space: Space) -> u64 {
    match space {
        Space::Shared => SHARED_WINDOW,
        Space::Local => LOCAL_WINDOW,
        Space::Param => PARAM_WINDOW,
        // Global and constant addresses are generic ones.
        Space::Global | Space::Const | Space::Generic => 0,
    }
}

impl Warp {
    pub(super) fn addresses(&self, address: &Address) -> [u64; 32] {
        let offset = address.offset as u64;
        match address.narrow {
            true => {
                self.registers.get::<u32>(address.base).map(|a| u64::from(a).wrapping_add(offset))
            }
            false => self.registers.get::<u64>(address.base).map(|a| a.wrapping_add(offset)),
        }
    }

    pub(super) fn memory(
        &mut self,
        cx: &mut Context,
        op: &Op,
        active: u32,
        pc: u32,
    ) -> Outcome<()> {
        match op {
            Op::Load(access) => self.load(cx, access, active, pc),
            Op::Store(access) => self.store(cx, access, active, pc),
            Op::CopyAsync(copy) => self.copy_async(cx, copy, active, pc),
            Op::CommitGroup => {
                cx.shared.commit_group(self.index, active);
                Ok(())
            }
            Op::WaitGroup(pending) => {
                cx.shared.wait_group(self.index, active, *pending, &cx.clocks);
                Ok(())
            }
            Op::WaitAll => {
                cx.shared.wait_all(self.index, active, &cx.clocks);
                Ok(())
            }
            Op::ToGeneric { d, a, space, .. } => {
                let start = window(*space);
                self.lanes(active).map1(*d, *a, |a: u64| a.wrapping_add(start));
                Ok(())
            }
            Op::FromGeneric { d, a, space, .. } => {
                let start = window(*space);
                self.lanes(active).map1(*d, *a, |a: u64| a.wrapping_sub(start));
                Ok(())
            }
            Op::IsSpace { p, a, space } => {
                let addresses = self.registers.get::<u64>(*a);
                let holds = lanes(active).filter(|&lane| {
                    let found = resolve(addresses[lane]).0;
                    let is_const = || {
                        let found = cx.launch.memory.lookup(addresses[lane]);
                        found.is_some_and(|found| found.kind == crate::memory::Kind::Constant)
                    };
                    match space {
                        Space::Const => is_const(),
                        Space::Global => found == Space::Global && !is_const(),
                        space => found == *space,
                    }
                });
                let mask = holds.fold(0, |mask, lane| mask | 1 << lane);
                self.lanes(active).put_predicate(*p, mask);
                Ok(())
            }
            Op::Prefetch => Ok(()),
            Op::Policy { d } => {
                self.lanes(active).put(*d, &[0u64; 32]);
                Ok(())
            }
        }
    }

    pub(super) fn lanes(&mut self, active: u32) -> Lanes<'_> {
        Lanes { registers: &mut self.registers, active }
    }

    fn load(&mut self, cx: &mut Context, access: &Access, active: u32, pc: u32) -> Outcome<()> {
        let addresses = self.addresses(&access.address);
        let bytes = u32::from(access.bytes) * u32::from(access.count);
        let fetch = Fetch { warp: self.index, order: access.order, bytes, space: access.space };
        fetch.load(cx, active, &addresses).map_err(|violation| Fault::memory(pc, violation))?;
        if access.order != Order::Weak {
            self.polled();
        }
        for (index, &target) in access.elements[..usize::from(access.count)].iter().enumerate() {
            let shift = 8 * usize::from(access.bytes) * index;
            self.unpack(target, access, shift as u32, active, &cx.data);
        }
        Ok(())
    }

    /// One element of what was loaded, extended to its register's width.
    fn unpack(&mut self, d: Target, access: &Access, shift: u32, active: u32, data: &[u128; 32]) {
        let unused = 64 - 8 * u32::from(access.bytes);
        let extend = |lane: usize| {
            let bits = (data[lane] >> shift) as u64;
            match access.signed {
                true => ((bits << unused) as i64 >> unused) as u64,
                false => bits << unused >> unused,
            }
        };
        let mut lanes = self.lanes(active);
        match d.wide {
            true => lanes.put::<u64>(d.slot, &std::array::from_fn(extend)),
            false => lanes.put::<u32>(d.slot, &std::array::from_fn(|lane| extend(lane) as u32)),
        }
    }

    fn store(&mut self, cx: &mut Context, access: &Access, active: u32, pc: u32) -> Outcome<()> {
        let addresses = self.addresses(&access.address);
        let bits = 8 * u32::from(access.bytes);
        let mask = u128::MAX >> (128 - bits);
        cx.data.fill(0);
        for (index, source) in access.elements[..usize::from(access.count)].iter().enumerate() {
            let shift = bits * index as u32;
            match source.wide {
                true => {
                    for (data, &value) in
                        cx.data.iter_mut().zip(self.registers.get::<u64>(source.slot))
                    {
                        *data |= (u128::from(value) & mask) << shift;
                    }
                }
                false => {
                    for (data, &value) in
                        cx.data.iter_mut().zip(self.registers.get::<u32>(source.slot))
                    {
                        *data |= (u128::from(value) & mask) << shift;
                    }
                }
            }
        }
        let bytes = u32::from(access.bytes) * u32::from(access.count);
        let fetch = Fetch { warp: self.index, order: access.order, bytes, space: access.space };
        fetch.store(cx, active, &addresses).map_err(|violation| Fault::memory(pc, violation))
    }

    fn copy_async(
        &mut self,
        cx: &mut Context,
        copy: &CopyAsync,
        active: u32,
        pc: u32,
    ) -> Outcome<()> {
        let fault = |violation| Fault::memory(pc, violation);
        let bytes = u32::from(copy.bytes);
        let (to, from) = (self.addresses(&copy.shared), self.addresses(&copy.global));
        let mut sizes = [bytes; 32];
        if let Some(slot) = copy.source_bytes {
            sizes = *self.registers.get::<u32>(slot);
        }
        if let Some(Place::Predicate(predicate)) = copy.ignore {
            let condition = Condition { predicate, negated: copy.ignore_negated };
            for lane in lanes(self.registers.condition(condition)) {
                sizes[lane] = 0;
            }
        }
        let with = |test: &dyn Fn(u32) -> bool| {
            lanes(active)
                .filter(|&lane| test(sizes[lane]))
                .fold(0u32, |mask, lane| mask | 1 << lane)
        };
        let (some, part) = (with(&|size| size > 0), with(&|size| size > 0 && size < bytes));
        let beyond = with(&|size| size > bytes);
        if beyond != 0 {
            let size = sizes[beyond.trailing_zeros() as usize];
            let what = format!("{size} source bytes of a copy of {bytes}");
            return Err(Fault::new(Check::Parameters, beyond, pc, what));
        }
        let who = Who { block: cx.block, warp: self.index };
        let order = Order::Weak;
        let mut data = [0u128; 32];
        let request = Request { mask: some, addresses: &from, bytes, who, order };
        if part != 0 {
            cx.global.load_parts(&request, &sizes, &cx.clocks, &mut data).map_err(fault)?;
        } else if some != 0 {
            cx.global.load(&request, &mut cx.clocks, &mut data).map_err(fault)?;
        }
        let request = Request { mask: active, addresses: &to, bytes, who, order };
        cx.shared.copy_async(&request, &mut cx.clocks, &data).map_err(fault)?;
        cx.counts.async_copy_bytes += u64::from(bytes) * u64::from(active.count_ones());
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        cx: &mut Context,
        op: &atomic::Op,
        active: u32,
        pc: u32,
    ) -> Outcome<()> {
        let fault = |violation| Fault::memory(pc, violation);
        let addresses = self.addresses(&op.address);
        let bytes = op.ty.bytes();
        let value = |slot, lane: usize| match bytes {
            8 => self.registers.get::<u64>(slot)[lane],
            _ => u64::from(self.registers.get::<u32>(slot)[lane]),
        };
        let who = Who { block: cx.block, warp: self.index };
        let (mut shared, mut global) = (0u32, 0u32);
        let mut inside = addresses;
        for lane in lanes(active) {
            let (space, address) = match op.space {
                Space::Generic => resolve(addresses[lane]),
                space => (space, addresses[lane]),
            };
            inside[lane] = address;
            match space {
                Space::Shared => shared |= 1 << lane,
                Space::Global => global |= 1 << lane,
                _ => {
                    let what = "an atomic operation reaches only shared and global memory";
                    return Err(Fault::memory(
                        pc,
                        Violation {
                            kind: ViolationKind::OutOfBounds,
                            lane: lane as u32,
                            address: addresses[lane],
                            bytes,
                            what: what.to_owned(),
                        },
                    ));
                }
            }
        }
        let request = |mask| Request { mask, addresses: &inside, bytes, who, order: op.order };
        let changes = std::cell::Cell::new(false);
        let replace = |lane: usize, old: u128, is_global| {
            let new = op.apply(old as u64, value(op.b, lane), value(op.c, lane), is_global);
            changes.set(changes.get() || u128::from(new) != old);
            u128::from(new)
        };
        if shared != 0 {
            let mut apply = |lane: usize, old: u128| replace(lane, old, false);
            let request = request(shared);
            cx.shared.atomic(&request, &mut cx.clocks, &mut cx.data, &mut apply).map_err(fault)?;
        }
        if global != 0 {
            let mut apply = |lane: usize, old: u128| replace(lane, old, true);
            let request = request(global);
            cx.global.atomic(&request, &mut cx.clocks, &mut cx.data, &mut apply).map_err(fault)?;
        }
        if !changes.get() {
            self.polled();
        }
        if let Some(d) = op.d {
            let mut lanes = Lanes { registers: &mut self.registers, active };
            match bytes {
                8 => lanes.put::<u64>(d, &cx.data.map(|old| old as u64)),
                _ => lanes.put::<u32>(d, &cx.data.map(|old| old as u32)),
            }
        }
        Ok(())
    }
}

impl atomic::Op {
    /// The value that the operation leaves in memory. Additions to global memory flush f32 subnormals.
    fn apply(&self, old: u64, b: u64, c: u64, is_global: bool) -> u64 {
        use crate::syntax::ty::Ty;
        match (self.action, self.ty) {
            (Action::And, _) => old & b,
            (Action::Or, _) => old | b,
            (Action::Xor, _) => old ^ b,
            (Action::Exchange, _) => b,
            (Action::CompareSwap, _) => {
                if old == b {
                    c
                } else {
                    old
                }
            }
            (Action::Increment, _) => {
                if old >= b {
                    0
                } else {
                    old + 1
                }
            }
            (Action::Decrement, _) => {
                if old == 0 || old > b {
                    b
                } else {
                    old - 1
                }
            }
            (Action::Add, Ty::F32) => {
                let flush =
                    |x: f32| if is_global && x.is_subnormal() { 0f32.copysign(x) } else { x };
                let (old, b) = (f32::from_bits(old as u32), f32::from_bits(b as u32));
                u64::from(flush(flush(old) + flush(b)).to_bits())
            }
            (Action::Add, Ty::F64) => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            (Action::Add, Ty::U32 | Ty::S32) => u64::from((old as u32).wrapping_add(b as u32)),
            (Action::Add, Ty::F16 | Ty::F16x2) => u64::from(add_halves::<F16>(old, b)),
            (Action::Add, Ty::Bf16 | Ty::Bf16x2) => u64::from(add_halves::<Bf16>(old, b)),
            (Action::Add, _) => old.wrapping_add(b),
            (Action::Min, Ty::S32) => (old as i32).min(b as i32) as u32 as u64,
            (Action::Max, Ty::S32) => (old as i32).max(b as i32) as u32 as u64,
            (Action::Min, Ty::S64) => (old as i64).min(b as i64) as u64,
            (Action::Max, Ty::S64) => (old as i64).max(b as i64) as u64,
            (Action::Min, _) => old.min(b),
            (Action::Max, _) => old.max(b),
        }
    }
}

/// `.noftz` additions: of both halves of a word, where a single value leaves the upper one zero.
fn add_halves<H: Half>(old: u64, b: u64) -> u32 {
    half::each2(old as u32, b as u32, |old, b| half::add::<H>(half::Style::default(), old, b))
}

/// An access of a warp, to be sent to the memory it reaches.
struct Fetch {
    warp: u32,
    order: Order,
    bytes: u32,
    space: Space,
}

impl Fetch {
    /// Loads into `cx.data`.
    fn load(&self, cx: &mut Context, active: u32, addresses: &[u64; 32]) -> Result<(), Violation> {
        if self.space != Space::Generic {
            return self.load_from(cx, self.space, active, addresses);
        }
        let mut whole = [0u128; 32];
        for (space, mask, addresses) in split(active, addresses) {
            self.load_from(cx, space, mask, &addresses)?;
            for lane in lanes(mask) {
                whole[lane] = cx.data[lane];
            }
        }
        *cx.data = whole;
        Ok(())
    }

    fn load_from(
        &self,
        cx: &mut Context,
        space: Space,
        mask: u32,
        addresses: &[u64; 32],
    ) -> Result<(), Violation> {
        let who = Who { block: cx.block, warp: self.warp };
        let request = Request { mask, addresses, bytes: self.bytes, who, order: self.order };
        let asked = u64::from(self.bytes) * u64::from(mask.count_ones());
        match space {
            Space::Shared => cx.shared.load(&request, &mut cx.clocks, &mut cx.data),
            Space::Local => {
                cx.counts.local_bytes += asked;
                cx.local.load(&request, &mut cx.data)
            }
            Space::Param => {
                cx.counts.constant_bytes += asked;
                load_params(cx.launch.params, &request, &mut cx.data)
            }
            Space::Const => {
                // Constants come through their own cache: they are not global traffic.
                cx.counts.constant_bytes += asked;
                cx.global.load_constant(&request, &mut cx.data)
            }
            Space::Global | Space::Generic => {
                cx.global.load(&request, &mut cx.clocks, &mut cx.data)
            }
        }
    }

    /// Stores `cx.data`.
    fn store(&self, cx: &mut Context, active: u32, addresses: &[u64; 32]) -> Result<(), Violation> {
        if self.space != Space::Generic {
            return self.store_to(cx, self.space, active, addresses);
        }
        for (space, mask, addresses) in split(active, addresses) {
            self.store_to(cx, space, mask, &addresses)?;
        }
        Ok(())
    }

    fn store_to(
        &self,
        cx: &mut Context,
        space: Space,
        mask: u32,
        addresses: &[u64; 32],
    ) -> Result<(), Violation> {
        let who = Who { block: cx.block, warp: self.warp };
        let request = Request { mask, addresses, bytes: self.bytes, who, order: self.order };
        match space {
            Space::Shared => cx.shared.store(&request, &mut cx.clocks, &cx.data),
            Space::Local => {
                cx.counts.local_bytes += u64::from(self.bytes) * u64::from(mask.count_ones());
                cx.local.store(&request, &cx.data)
            }
            Space::Global | Space::Generic => cx.global.store(&request, &mut cx.clocks, &cx.data),
            Space::Const | Space::Param => {
                let lane = mask.trailing_zeros();
                Err(Violation {
                    kind: ViolationKind::ReadOnly,
                    lane,
                    address: addresses[lane as usize],
                    bytes: self.bytes,
                    what: "constants and parameters cannot be stored to".to_owned(),
                })
            }
        }
    }
}

/// The lanes of a generic access by the space they reach, with the addresses in it.
fn split(active: u32, addresses: &[u64; 32]) -> impl Iterator<Item = (Space, u32, [u64; 32])> {
    let mut masks = [0u32; 4];
    let mut inside = *addresses;
    for lane in lanes(active) {
        let (space, address) = resolve(addresses[lane]);
        inside[lane] = address;
        masks[order_of(space)] |= 1 << lane;
    }
    let spaces = [Space::Global, Space::Shared, Space::Local, Space::Param];
    let parts = spaces.into_iter().zip(masks);
    parts.filter(|&(_, mask)| mask != 0).map(move |(space, mask)| (space, mask, inside))
}

fn order_of(space: Space) -> usize {
    match space {
        Space::Shared => 1,
        Space::Local => 2,
        Space::Param => 3,
        Space::Global | Space::Const | Space::Generic => 0,
    }
}

/// Loads from the parameter block.
fn load_params(params: &[u8], request: &Request, out: &mut [u128; 32]) -> Result<(), Violation> {
    for lane in lanes(request.mask) {
        let (address, bytes) = (request.addresses[lane], request.bytes as usize);
        let violation = |kind, what: String| Violation {
            kind,
            lane: lane as u32,
            address,
            bytes: request.bytes,
            what,
        };
        if address % u64::from(request.bytes) != 0 {
            let what = format!(
                "a parameter access of {bytes} bytes needs an address that is a multiple of {bytes}"
            );
            return Err(violation(ViolationKind::Misaligned, what));
        }
        let start = usize::try_from(address).unwrap_or(usize::MAX);
        let Some(from) = start.checked_add(bytes).and_then(|end| params.get(start..end)) else {
            let what = format!(
                "{bytes} bytes at offset {address} of {} bytes of parameters",
                params.len()
            );
            return Err(violation(ViolationKind::OutOfBounds, what));
        };
        let mut value = [0u8; 16];
        value[..bytes].copy_from_slice(from);
        out[lane] = u128::from_le_bytes(value);
    }
    Ok(())
}
