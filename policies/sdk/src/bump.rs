//! The policies' allocator: small, and quick in an instance that lives for one decision.
//!
//! Most of what a fresh instance costs is memory that it touches for the first time. So blocks are laid one after
//! another from where the linker's data ends, within the page that is there already; memory grows only when that
//! room is used up.
//!
//! A freed block is reused at once if it was the last one. The others come back together: when no block is alive any
//! more, which is after every call, allocation starts again from the front. An instance that serves a batch therefore
//! needs no more than its hungriest call, provided that the policy leaks nothing and keeps nothing in statics.

/// The blocks by their addresses alone, so that this can be tested without a wasm memory.
struct Blocks {
    base: usize,
    next: usize,
    live: usize,
}

impl Blocks {
    const fn from(base: usize) -> Self {
        Self { base, next: base, live: 0 }
    }

    /// The address of a new block; `align` is a power of two. `reach` makes memory reach up to an address, if it can.
    fn alloc(&mut self, size: usize, align: usize, reach: impl FnOnce(usize) -> bool) -> Option<usize> {
        let start = self.next.checked_add(align - 1)? & !(align - 1);
        let end = start.checked_add(size).filter(|&end| reach(end))?;
        self.next = end;
        self.live += 1;
        Some(start)
    }

    fn free(&mut self, start: usize, size: usize) {
        self.live -= 1;
        if self.live == 0 {
            self.next = self.base;
        } else if start + size == self.next {
            self.next = start;
        }
    }

    /// Whether the block could be given its new size where it is.
    fn resize(&mut self, start: usize, old: usize, new: usize, reach: impl FnOnce(usize) -> bool) -> bool {
        if start + old != self.next {
            return new <= old;
        }
        let end = start.checked_add(new).filter(|&end| reach(end));
        self.next = end.unwrap_or(self.next);
        end.is_some()
    }
}

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "an allocator hands out raw memory")]
mod wasm {
    use std::alloc::{GlobalAlloc, Layout};
    use std::arch::wasm32::{memory_grow, memory_size};
    use std::cell::UnsafeCell;
    use std::ptr;

    use super::Blocks;

    const PAGE: usize = 65_536;

    struct Bump(UnsafeCell<Blocks>);

    // SAFETY: a policy imports nothing, threads included.
    unsafe impl Sync for Bump {}

    #[global_allocator]
    static BUMP: Bump = Bump(UnsafeCell::new(Blocks::from(0)));

    unsafe extern "C" {
        /// Placed by the linker at the first address after stack and data.
        static __heap_base: u8;
    }

    fn reach(end: usize) -> bool {
        let missing = end.saturating_sub(memory_size::<0>() * PAGE);
        missing == 0 || memory_grow::<0>(missing.div_ceil(PAGE)) != usize::MAX
    }

    impl Bump {
        #[expect(clippy::mut_from_ref, reason = "one thread, and no method holds it while another runs")]
        fn blocks(&self) -> &mut Blocks {
            // SAFETY: see `Sync`; nothing called while the reference lives allocates.
            let blocks = unsafe { &mut *self.0.get() };
            if blocks.base == 0 {
                *blocks = Blocks::from((&raw const __heap_base).expose_provenance());
            }
            blocks
        }
    }

    // SAFETY: live blocks never overlap: `next` is at or after the end of each of them and only goes back over
    // the last one, or over all of them when none is alive.
    unsafe impl GlobalAlloc for Bump {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            match self.blocks().alloc(layout.size(), layout.align(), reach) {
                Some(start) => ptr::with_exposed_provenance_mut(start),
                None => ptr::null_mut(),
            }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            self.blocks().free(block.addr(), layout.size());
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            if self.blocks().resize(block.addr(), layout.size(), size, reach) {
                return block;
            }
            // SAFETY: the caller promises a live block of this layout, and that `size` with its alignment is a layout.
            unsafe {
                let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                if !moved.is_null() {
                    ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
                    self.dealloc(block, layout);
                }
                moved
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Blocks;

    const ENDLESS: fn(usize) -> bool = |_| true;
    const FULL: fn(usize) -> bool = |_| false;

    #[test]
    fn blocks_follow_each_other_aligned() {
        let mut blocks = Blocks::from(1001);
        assert_eq!(blocks.alloc(3, 1, ENDLESS), Some(1001));
        assert_eq!(blocks.alloc(8, 8, ENDLESS), Some(1008));
        assert_eq!(blocks.alloc(1, 1, ENDLESS), Some(1016));
    }

    #[test]
    fn freeing_the_last_block_frees_its_room_and_freeing_all_starts_over() {
        let mut blocks = Blocks::from(1000);
        let first = blocks.alloc(10, 1, ENDLESS);
        let second = blocks.alloc(10, 1, ENDLESS);
        assert_eq!((first, second), (Some(1000), Some(1010)));
        blocks.free(1010, 10);
        assert_eq!(blocks.alloc(10, 1, ENDLESS), Some(1010));
        blocks.free(1000, 10);
        assert_eq!(blocks.alloc(10, 1, ENDLESS), Some(1020), "a gap stays until all is free");
        blocks.free(1010, 10);
        blocks.free(1020, 10);
        assert_eq!(blocks.alloc(10, 1, ENDLESS), Some(1000));
    }

    #[test]
    fn the_last_block_grows_in_place_and_any_block_shrinks_in_place() {
        let mut blocks = Blocks::from(1000);
        blocks.alloc(10, 1, ENDLESS);
        blocks.alloc(10, 1, ENDLESS);
        assert!(blocks.resize(1010, 10, 20, ENDLESS));
        assert!(!blocks.resize(1000, 10, 20, ENDLESS));
        assert!(blocks.resize(1000, 10, 5, ENDLESS));
        assert_eq!(blocks.alloc(1, 1, ENDLESS), Some(1030));
    }

    #[test]
    fn what_memory_cannot_reach_changes_nothing() {
        let mut blocks = Blocks::from(1000);
        blocks.alloc(10, 1, ENDLESS);
        assert_eq!(blocks.alloc(10, 1, FULL), None);
        assert!(!blocks.resize(1000, 10, 20, FULL));
        assert_eq!(blocks.alloc(usize::MAX, 8, ENDLESS), None);
        assert_eq!(blocks.alloc(10, 1, ENDLESS), Some(1010));
    }
}
