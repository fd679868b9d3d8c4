"""Philox4x32-10 inside a Triton kernel: four random words from a 128-bit counter and a 64-bit key."""

import triton
import triton.language as tl


@triton.jit
def philox(c0, c1, c2, c3, key0, key1):
    """Return four uint32 words; `gpuion.kernels.reference.philox` is the twin."""
    for _ in tl.static_range(10):
        high0 = tl.umulhi(c0, tl.full(c0.shape, 0xD2511F53, tl.uint32))
        high1 = tl.umulhi(c2, tl.full(c2.shape, 0xCD9E8D57, tl.uint32))
        low0 = c0 * 0xD2511F53
        low1 = c2 * 0xCD9E8D57
        c0 = high1 ^ c1 ^ key0
        c1 = low1
        c2 = high0 ^ c3 ^ key1
        c3 = low0
        key0 = key0 + 0x9E3779B9
        key1 = key1 + 0xBB67AE85
    return c0, c1, c2, c3
