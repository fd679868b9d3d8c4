"""In which order to eliminate the contacts of a network, so that few numbers fill up, on a CPU: loops under numba.

Contacts couple where they share a sphere. Once one is eliminated, those of both its ends are coupled: its two spheres
become one cluster. So to eliminate contacts is to contract the edges of a graph. The cluster with the fewest contacts
joins the one of its neighbours that has the fewest, nearly what a minimum degree would choose.

Legend: N spheres, E contacts; a half is an end of a contact, e's are 2 e and 2 e + 1.
"""

from typing import NamedTuple

import numpy as np

from gpuion.kernels.rows import fill, inline

_LAST = 2**62  # the key of what has no contacts left


class _Lists(NamedTuple):
    """Chains of numbers, one a cluster: first, last and count [N], and what follows a number."""

    first: np.ndarray
    last: np.ndarray
    count: np.ndarray
    after: np.ndarray


@inline
def _lists(N, numbers):
    lists = _Lists(np.empty(N, np.int64), np.empty(N, np.int64), np.zeros(N, np.int64), np.empty(numbers, np.int64))
    fill(lists.first, -1)
    fill(lists.last, -1)
    return lists


@inline
def _append(lists, c, number):
    """Put a number at the end of a cluster's list."""
    if lists.first[c] < 0:
        lists.first[c] = number
    else:
        lists.after[lists.last[c]] = number
    lists.last[c], lists.after[number] = number, -1
    lists.count[c] += 1


@inline
def _join(lists, a, b, into):
    """Make the list of `into`, one of two clusters, that of a and then that of b."""
    first, last = lists.first[a], lists.last[b]
    if first < 0:
        first = lists.first[b]
    elif lists.first[b] >= 0:
        lists.after[lists.last[a]] = lists.first[b]
    if last < 0:
        last = lists.last[a]
    lists.first[into], lists.last[into], lists.count[into] = first, last, lists.count[a] + lists.count[b]


@inline
def order(ends, contacts, spheres):
    """Set the order of contacts [E], and that of spheres [N] by clusters, for the contacts' ends [E, 2]."""
    E, N = len(ends), len(spheres)
    cluster, gone = ends.copy().reshape(2 * E), np.zeros(E, np.bool_)
    halves, done, merged = _lists(N, 2 * E), _lists(N, E), _lists(N, N)
    for i in range(N):
        _append(merged, i, i)
    for half in range(2 * E):
        _append(halves, cluster[half], half)
    keys = np.empty(N, np.int64)
    for c in range(N):
        keys[c] = _key(halves, done, c)
    left = E
    while left:
        a = np.argmin(keys)
        b = _neighbour(halves, cluster, gone, keys, a)
        left -= _merge(halves, done, merged, cluster, gone, a, b)
        keys[a], keys[b] = _LAST, _key(halves, done, b)
    _write(done, contacts)
    _write(merged, spheres)


@inline
def _key(halves, done, c):
    """Return what to choose clusters by, the least first: of the fewest contacts, then what has grown the most."""
    return (halves.count[c] + 1) * 2**32 - done.count[c] if halves.count[c] else _LAST


@inline
def _neighbour(halves, cluster, gone, keys, a):
    """Return the cluster with which to make one of a, the one that comes first of those that it has contacts with."""
    best, half = -1, halves.first[a]
    while half >= 0:
        other = cluster[half ^ 1]
        if not gone[half // 2] and (best < 0 or keys[other] < keys[best]):
            best = other
        half = halves.after[half]
    return best


@inline
def _merge(halves, done, merged, cluster, gone, a, b):
    """Make two clusters one, b; eliminate the contacts between them and return how many these were."""
    one, other = (b, a) if done.count[a] > done.count[b] else (a, b)  # what has grown more comes last
    _join(done, one, other, b)
    _join(merged, one, other, b)
    eliminated, half = 0, halves.first[a]
    while half >= 0:
        if cluster[half ^ 1] == b and not gone[half // 2]:
            gone[half // 2] = True
            _append(done, b, half // 2)
            eliminated += 1
        cluster[half] = b
        half = halves.after[half]
    _join(halves, a, b, b)
    halves.count[b] -= 2 * eliminated
    for lists in (done, merged, halves):
        lists.first[a], lists.last[a], lists.count[a] = -1, -1, 0
    return eliminated


@inline
def _write(lists, out):
    """Set `out` to the lists of all clusters, one after the other."""
    n = 0
    for c in range(len(lists.first)):
        number = lists.first[c]
        while number >= 0:
            out[n] = number
            n += 1
            number = lists.after[number]
