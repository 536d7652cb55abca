//! Bringing values into the cache before they are needed.

/// f32 in a cache line.
pub(crate) const LINE: usize = 16;

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

/// Asks memory for values that are needed later, and does not wait for them as [`fetch`] does.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[allow(unsafe_code)]
pub(crate) fn prefetch<T: bytemuck::NoUninit>(values: &[T]) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    for line in lines(values) {
        // SAFETY: every x86-64 has this hint, which changes nothing that a program can see and faults on no address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) }
    }
}

/// Fetches values: other processors' hints are not in stable Rust.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(crate) fn prefetch<T: bytemuck::NoUninit>(values: &[T]) {
    fetch(values);
}
