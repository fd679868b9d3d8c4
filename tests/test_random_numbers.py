"""Philox's published vectors, and numbers made of its words."""

import torch

from gpuion.kernels.reference import philox, pick, uniform


def test_philox_gives_the_published_vectors():
    # Random123's known-answer tests of Philox4x32-10: zeros, ones, digits of pi.
    vectors = [
        ((0, 0, 0, 0), 0, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, 2**64 - 1, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0x299F31D0 << 32) | 0xA4093822,
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]  # fmt: skip
    for counter, key, expected in vectors:
        assert " ".join(f"{int(word):08x}" for word in philox(key, *counter)) == expected


def test_words_map_to_the_ends_of_their_ranges():
    ends = torch.tensor([0, 2**32 - 1])
    assert uniform(ends).tolist() == [0.0, 1 - 2.0**-32]
    assert pick(ends, 7).tolist() == [0, 6]
