use super::*;
use std::sync::{Arc, Mutex};
#[derive(Debug, Clone, Copy)]
pub struct Checks {
    pub races: bool,
    pub uninitialized: bool,
}
impl Default for Checks {
    fn default() -> Self {
        Checks { races: true, uninitialized: true }
    }
}
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Device,
    Managed,
    Pinned,
    Constant,
    Module,
}
#[derive(Debug, thiserror::Error)]
#[error("oom")]
pub struct AllocError;
#[derive(Debug)]
pub struct FreeError;
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct GlobalCounts {
    n: u64,
}
pub type SharedCounts = GlobalCounts;
impl std::ops::AddAssign for GlobalCounts {
    fn add_assign(&mut self, o: Self) {
        self.n += o.n
    }
}
#[derive(Debug)]
pub struct AllocationInfo {
    pub kind: Kind,
}
#[derive(Debug, Default)]
pub struct Memory(Mutex<Vec<u8>>);
static M: Mutex<Vec<u8>> = Mutex::new(Vec::new());
impl Memory {
    pub fn new(_: u64) -> Memory {
        Memory::default()
    }
    pub fn alloc(&self, n: u64, _: Kind) -> Result<u64, AllocError> {
        let mut m = M.lock().unwrap();
        let a = m.len().next_multiple_of(256);
        m.resize(a + n as usize, 0);
        Ok(a as u64)
    }
    pub fn free(&self, _: u64) -> Result<(), FreeError> {
        Ok(())
    }
    pub fn write(&self, a: u64, b: &[u8]) -> Result<(), Violation> {
        M.lock().unwrap()[a as usize..][..b.len()].copy_from_slice(b);
        Ok(())
    }
    pub fn read(&self, a: u64, b: &mut [u8]) -> Result<(), Violation> {
        b.copy_from_slice(&M.lock().unwrap()[a as usize..][..b.len()]);
        Ok(())
    }
    pub fn lookup(&self, _: u64) -> Option<AllocationInfo> {
        None
    }
    pub fn view(&self) -> Arc<View> {
        Arc::new(View)
    }
}
#[derive(Debug)]
pub struct View;
pub struct Tracking;
impl Tracking {
    pub fn new(_: Arc<View>, _: u32, _: Checks, _: u64, _: bool) -> Tracking {
        Tracking
    }
}
pub struct Global;
fn acc(m: &mut Vec<u8>, r: &Request, f: &mut dyn FnMut(usize, u128) -> u128) {
    for l in 0..32 {
        if r.mask >> l & 1 == 1 {
            let a = r.addresses[l] as usize;
            let mut b = [0u8; 16];
            let n = r.bytes as usize;
            b[..n].copy_from_slice(&m[a..a + n]);
            let v = f(l, u128::from_le_bytes(b));
            m[a..a + n].copy_from_slice(&v.to_le_bytes()[..n]);
        }
    }
}
impl Global {
    pub fn new(_: Arc<Tracking>) -> Global {
        Global
    }
    pub fn begin_block(&mut self, _: u32) {}
    pub fn load(&mut self, r: &Request, _: &Clocks, d: &mut Data) -> Result<(), Violation> {
        acc(&mut M.lock().unwrap(), r, &mut |l, v| {
            d[l] = v;
            v
        });
        Ok(())
    }
    pub fn load_constant(&mut self, r: &Request, d: &mut Data) -> Result<(), Violation> {
        acc(&mut M.lock().unwrap(), r, &mut |l, v| {
            d[l] = v;
            v
        });
        Ok(())
    }
    pub fn store(&mut self, r: &Request, _: &Clocks, d: &Data) -> Result<(), Violation> {
        acc(&mut M.lock().unwrap(), r, &mut |l, _| d[l]);
        Ok(())
    }
    pub fn atomic(
        &mut self,
        r: &Request,
        _: &Clocks,
        d: &mut Data,
        f: &mut dyn FnMut(usize, u128) -> u128,
    ) -> Result<(), Violation> {
        acc(&mut M.lock().unwrap(), r, &mut |l, v| {
            d[l] = v;
            f(l, v)
        });
        Ok(())
    }
    pub fn fence(&mut self, _: Who, _: crate::isa::warp::FenceScope) {}
    pub fn take_counts(&mut self) -> GlobalCounts {
        GlobalCounts::default()
    }
}
pub struct Shared(Vec<u8>);
impl Shared {
    pub fn new(_: Checks) -> Shared {
        Shared(vec![])
    }
    pub fn reset(&mut self, n: usize, _: u32) {
        self.0.clear();
        self.0.resize(n, 0);
    }
    pub fn load(&mut self, r: &Request, _: &Clocks, d: &mut Data) -> Result<(), Violation> {
        acc(&mut self.0, r, &mut |l, v| {
            d[l] = v;
            v
        });
        Ok(())
    }
    pub fn store(&mut self, r: &Request, _: &Clocks, d: &Data) -> Result<(), Violation> {
        acc(&mut self.0, r, &mut |l, _| d[l]);
        Ok(())
    }
    pub fn copy_async(&mut self, r: &Request, _: &Clocks, d: &Data) -> Result<(), Violation> {
        acc(&mut self.0, r, &mut |l, _| d[l]);
        Ok(())
    }
    pub fn atomic(
        &mut self,
        r: &Request,
        _: &mut Clocks,
        d: &mut Data,
        f: &mut dyn FnMut(usize, u128) -> u128,
    ) -> Result<(), Violation> {
        acc(&mut self.0, r, &mut |l, v| {
            d[l] = v;
            f(l, v)
        });
        Ok(())
    }
    pub fn commit_group(&mut self, _: u32, _: u32) {}
    pub fn wait_group(&mut self, _: u32, _: u32, _: u32, _: &Clocks) {}
    pub fn wait_all(&mut self, _: u32, _: u32, _: &Clocks) {}
    pub fn take_counts(&mut self) -> SharedCounts {
        SharedCounts::default()
    }
}
pub struct Local;
impl Local {
    pub fn new(_: Checks) -> Local {
        Local
    }
    pub fn reset(&mut self, _: u32, _: u32) {}
    pub fn load(&mut self, _: &Request, _: &mut Data) -> Result<(), Violation> {
        Ok(())
    }
    pub fn store(&mut self, _: &Request, _: &Data) -> Result<(), Violation> {
        Ok(())
    }
}
pub struct Clocks;
impl Clocks {
    pub fn new(_: usize) -> Clocks {
        Clocks
    }
    pub fn reset(&mut self) {}
    pub fn fence(&mut self, _: u32) {}
    pub fn sync_warp(&mut self, _: u32) {}
    pub fn arrive(&mut self, _: u32, _: usize) {}
    pub fn release(&mut self, _: usize, _: u32) {}
}
