"""Keep memory that a sampling process frees, so that the kernel does not clear the same pages for each tensor."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
KEPT = 256 << 20
LARGEST = 32 << 20  # the largest that glibc takes; larger tensors are the kernel's own pages


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep up to 256 MiB of freed memory, in blocks of at most 32 MiB, for this process's later
    tensors. By default it returns the heap's end to the kernel at twice the largest block, which for a small network
    comes several times in each forward. False where the C library has no such setting, and nothing changes."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT))
