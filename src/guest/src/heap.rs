//! The agent's memory: overwritten when it is given back.
//!
//! What passes through the agent (output of commands, files, ports) may be secret, and the
//! guest's memory is written to disk when it sleeps. The kernel overwrites pages that are freed
//! (`init_on_free=1`); this does the same for what the agent frees and keeps for itself.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, forgetting what was in the memory it takes back.
pub(crate) struct Forgetful;

// SAFETY: allocates and frees with the system's allocator under the same layouts, and writes to
// nothing but the block that is given back, before it is. `realloc` is the trait's own: a new
// block, a copy, and the old one given back here.
unsafe impl GlobalAlloc for Forgetful {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is the caller's, valid for writes of its size, and nobody else's.
        unsafe { block.write_bytes(0, layout.size()) };
        // The compiler must not see that nobody reads it any more.
        std::hint::black_box(block);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_works_and_moves() {
        let layout = Layout::array::<u8>(64).unwrap();
        // SAFETY: a valid layout, used within its size and given back once.
        unsafe {
            let block = Forgetful.alloc(layout);
            block.write_bytes(7, 64);
            let block = Forgetful.realloc(block, layout, 128);
            let kept = std::slice::from_raw_parts(block, 64);
            assert!(kept.iter().all(|byte| *byte == 7));
            Forgetful.dealloc(block, Layout::array::<u8>(128).unwrap());
        }
    }
}
