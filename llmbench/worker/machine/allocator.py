"""How the C library handles memory that is freed on the host.

glibc gives the end of its heap back to the system when enough of it is free, and large blocks at once; the next step
asks for them again, and the kernel clears each page before it hands it over. How much of a step that is depends on what
happens to lie at the end of the heap, so it differs from process to process.
"""

from __future__ import annotations

import ctypes

from llmbench.contract.errors import Unsupported

M_TRIM_THRESHOLD = -1  # mallopt(3), <malloc.h>
M_MMAP_MAX = -4


def keep_freed() -> None:
    """Let this process keep the memory that it frees from now on, for its next request. The peak does not get lower.

    The same as starting it with `MALLOC_TRIM_THRESHOLD_` at its largest and `MALLOC_MMAP_MAX_=0`. Raises Unsupported
    where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError) as error:
        raise Unsupported("keep_memory: this system's C library has no mallopt (glibc has); leave it out") from error
    if not (mallopt(M_TRIM_THRESHOLD, -1) and mallopt(M_MMAP_MAX, 0)):  # -1: never; 0: no block that is mapped alone
        raise Unsupported("keep_memory: this system's C library did not take it; leave it out")
