//! Bringing values into the cache before they are needed.

/// f32 in a cache line.
pub(crate) const LINE: usize = 16;

/// Values on a cache line.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; LINE]);

/// Memory that starts on a cache line, so that no vector straddles two.
#[derive(Default)]
pub(crate) struct Lines(Vec<Line>);

impl Lines {
    /// Zeros for `len` values of 32 bits.
    pub(crate) fn new(len: usize) -> Lines {
        let mut lines = Lines::default();
        lines.resize(len);
        lines
    }

    pub(crate) fn resize(&mut self, len: usize) {
        self.0.resize(len.div_ceil(LINE), Line([0.0; LINE]));
    }

    #[inline(always)]
    pub(crate) fn as_slice<T: bytemuck::Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.0)
    }

    #[inline(always)]
    pub(crate) fn as_mut_slice<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Brings values into the cache in the order in which they lie, of which processors read ahead; read from memory in the
/// order of a register tile, a few rows at a time, they take twice as long.
#[inline(always)]
pub(crate) fn fetch<T: bytemuck::NoUninit>(values: &[T]) {
    let lines = lines(values).map(|line| bytemuck::bytes_of(&line[0])[0]);
    std::hint::black_box(lines.fold(0, |all, bits| all | bits));
}

#[inline(always)]
fn lines<T>(values: &[T]) -> std::slice::Chunks<'_, T> {
    values.chunks(LINE * size_of::<f32>() / size_of::<T>())
}

/// Asks memory for values that are needed later, and does not wait for them as [`fetch`] does. Processors whose hints are not in
/// stable Rust fetch them.
#[inline(always)]
pub(crate) fn prefetch<T: bytemuck::NoUninit>(values: &[T]) {
    match cfg!(target_arch = "x86_64") {
        true => prefetch_after(values, 0),
        false => fetch(values),
    }
}

/// Asks memory for what lies `bytes` bytes after each of the values. The address may be outside the slice: a hint faults
/// nowhere. On processors whose hints are not in stable Rust this does nothing.
#[inline(always)]
pub(crate) fn prefetch_after<T>(values: &[T], bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(values) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        let address = line.as_ptr().cast::<i8>().wrapping_add(bytes);
        #[allow(unsafe_code)]
        // SAFETY: every x86-64 has this hint, which changes nothing that a program can see and faults on no address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(address);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (values, bytes);
}
