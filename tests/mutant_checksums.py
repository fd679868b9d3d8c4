"""Forged shards: HDF5's own structures changed and their checksums made good."""

import functools
import struct

from mutant_shards import sound


def lookup3(data: bytes) -> int:
    """Return Jenkins's hash of 2006, by which HDF5 checks its structures."""
    a = b = c = (0xDEADBEEF + len(data)) & 0xFFFFFFFF

    def turn(x, k):
        return (x << k | x >> (32 - k)) & 0xFFFFFFFF

    padded, at = data + bytes(12), 0
    while len(data) - at > 12:
        a, b, c = (((x + y) & 0xFFFFFFFF) for x, y in zip((a, b, c), struct.unpack_from("<3I", data, at), strict=True))
        a = (a - c) & 0xFFFFFFFF ^ turn(c, 4)
        c = (c + b) & 0xFFFFFFFF
        b = (b - a) & 0xFFFFFFFF ^ turn(a, 6)
        a = (a + c) & 0xFFFFFFFF
        c = (c - b) & 0xFFFFFFFF ^ turn(b, 8)
        b = (b + a) & 0xFFFFFFFF
        a = (a - c) & 0xFFFFFFFF ^ turn(c, 16)
        c = (c + b) & 0xFFFFFFFF
        b = (b - a) & 0xFFFFFFFF ^ turn(a, 19)
        a = (a + c) & 0xFFFFFFFF
        c = (c - b) & 0xFFFFFFFF ^ turn(b, 4)
        b = (b + a) & 0xFFFFFFFF
        at += 12
    if len(data) > at:
        last = struct.unpack_from("<3I", padded, at)
        a, b, c = (((x + y) & 0xFFFFFFFF) for x, y in zip((a, b, c), last, strict=True))
        for k, (x, y) in zip((14, 11, 25, 16, 4, 14, 24), ("cb", "ac", "ba", "cb", "ac", "ba", "cb"), strict=True):
            now = {"a": a, "b": b, "c": c}
            now[x] = ((now[x] ^ now[y]) - turn(now[y], k)) & 0xFFFFFFFF
            a, b, c = now["a"], now["b"], now["c"]
    return c


@functools.cache
def blocks() -> list[tuple[int, int]]:
    """Return begin and end of structures with their checksum behind them: superblock, headers, trees, heaps."""
    whole = sound()
    found = [(0, 44)]
    for mark in (b"OHDR", b"BTHD", b"FRHP", b"OCHK", b"BTLF"):
        at = whole.find(mark)
        while at >= 0:
            lengths = (34, 142) if mark in (b"BTHD", b"FRHP") else range(8, 700)
            if mark == b"OHDR":
                flags = whole[at + 5]
                head = 6 + 16 * bool(flags & 32) + 4 * bool(flags & 16) + (1 << (flags & 3))
                lengths = [head + int.from_bytes(whole[at + head - (1 << (flags & 3)) : at + head], "little")]
            found += [(at, at + n) for n in lengths if is_checked(whole, at, at + n)][:1]
            at = whole.find(mark, at + 4)
    return found


def is_checked(whole: bytes, begin: int, end: int) -> bool:
    return whole[end : end + 4] == lookup3(whole[begin:end]).to_bytes(4, "little")


def rechecked(draw):
    """Return a shard with bytes of HDF5's own structures changed and their checksums made good: no accident."""
    changed, told = bytearray(sound()), []
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        begin, end = draw.choice(blocks())
        at, size = draw.randrange(begin + 4, end), draw.choice((1, 1, 1, 2, 4, 8))
        new = draw.choice((b"\x00" * size, b"\xff" * size, b"\x7f" * size, draw.randbytes(size)))
        if draw.random() < 0.4:
            new = bytes([changed[at] ^ 1 << draw.randrange(8)])
        new = new[: end - at]
        changed[at : at + len(new)] = new
        changed[end : end + 4] = lookup3(bytes(changed[begin:end])).to_bytes(4, "little")
        told.append(f"{bytes(changed[begin : begin + 4])} at {begin}: byte {at} is {new.hex()}")
    return bytes(changed), "checksums made good: " + "; ".join(told)


def forge(draw, folder):
    """Return a shard of which structures were changed and their checksums made good."""
    content, recipe = rechecked(draw)
    path = folder / "rewritten.h5"
    path.write_bytes(content)
    return path, recipe
