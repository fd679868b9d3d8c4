"""Site classes to fields and back to counts on the CPU: scalar loops under numba, some five times as fast as torch's.

Letters: B structures, V sites (of a structure, or of one of its X planes), X Y Z sites, L site classes.
"""

import numpy as np

from gpuion.kernels.levels import bounds, jit, lend


@jit
def count(labels, counts):
    """Add to `counts` int64 [B, L] how many of the sites uint8 [B, V] have each class."""
    labels, counts = lend(labels), lend(counts)
    some = np.zeros((4, 256), np.int64)  # in turn: a class that follows itself need not wait for its own sum
    for b in range(len(labels)):
        row = labels[b]
        some[:] = 0
        whole = len(row) // 4 * 4
        for v in range(0, whole, 4):
            some[0, row[v]] += 1
            some[1, row[v + 1]] += 1
            some[2, row[v + 2]] += 1
            some[3, row[v + 3]] += 1
        for v in range(whole, len(row)):
            some[0, row[v]] += 1
        for k in range(counts.shape[1]):
            counts[b, k] += some[0, k] + some[1, k] + some[2, k] + some[3, k]


@jit
def pairs(labels, occurs):
    """Mark in `occurs` bool [B, L, L] which classes lie side by side, each ahead of the first along x, y or z.

    Sites uint8 [B, X, Y, Z], periodic.
    """
    labels, occurs = lend(labels), lend(occurs)
    B, X, Y, Z = labels.shape
    for b in range(B):
        found = occurs[b]
        for x in range(X):
            for y in range(Y):
                row, along_x, along_y = labels[b, x, y], labels[b, (x + 1) % X, y], labels[b, x, (y + 1) % Y]
                for z in range(Z):
                    found[row[z], along_x[z]] = True
                    found[row[z], along_y[z]] = True
                    found[row[z - 1], row[z]] = True


@jit
def look_up(labels, table, field, k, m):
    """Set parts k … m − 1 of `field` [X, V] to the value in `table` [L] of each site's class, uint8 [X, V]."""
    labels, table, field = lend(labels), lend(table), lend(field)
    X = len(labels)
    for x in range(bounds(X, k)[0], bounds(X, m - 1)[1]):
        row, to = labels[x], field[x]
        for v in range(len(row)):
            to[v] = table[row[v]]


@jit
def weakest(field):
    """Return the least value of each structure [B, V] that is above 0, or 1 if that is less, float64 [B]."""
    field = lend(field)
    found = np.ones(len(field))
    for b in range(len(field)):
        row, least = field[b], np.float64(1)
        for v in range(len(row)):
            value = row[v]
            least = value if 0 < value < least else least
        found[b] = least
    return found
