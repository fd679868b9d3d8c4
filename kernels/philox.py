"""Philox4x32-10 inside a Triton kernel: four random words from a 128-bit counter and a 64-bit key."""

import triton
import triton.language as tl


@triton.jit
def _multiply(word, constant: tl.constexpr):
    """Return the high and low halves of a product, which a GPU makes in one instruction (umulhi and * are two)."""
    product = word.to(tl.uint64) * constant
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def philox(c0, c1, c2, c3, key0, key1):
    """Return four uint32 words; `gpuion.kernels.reference.philox` is the twin.

    Keys that are arguments of the kernel rather than loaded stay in uniform registers, with all that follows from them.
    """
    for _ in tl.static_range(10):
        high0, low0 = _multiply(c0, 0xD2511F53)
        high1, low1 = _multiply(c2, 0xCD9E8D57)
        c0 = high1 ^ c1 ^ key0
        c1 = low1
        c2 = high0 ^ c3 ^ key1
        c3 = low0
        key0 = key0 + 0x9E3779B9
        key1 = key1 + 0xBB67AE85
    return c0, c1, c2, c3
