"""The start of homogenisation on the CPU, layers in series along one axis: scalar loops under numba.

Letters: X Y Z sites, n layers along the axis. Parts of consecutive planes: see `gpuion.kernels.levels`.
"""

from gpuion.kernels.levels import bounds, inline, jit, lend


@inline
def _beside(x, y, axis, shift, X, Y):
    """Return the line one site on, or back, along x or y; the line itself for z."""
    return ((x + shift) % X if axis == 0 else x), ((y + shift) % Y if axis == 1 else y)


@jit
def conductances(s, axis, g, k, m):
    """Add to `g` float64 [X, n] the sum of s s' over a plane's bonds from each layer to the next, in parts k … m − 1.

    Of s float64 [X, Y, Z]; what all planes say of a layer is to be added up.
    """
    s, g = lend(s), lend(g)
    X, Y, Z = s.shape
    for x in range(bounds(X, k)[0], bounds(X, m - 1)[1]):
        for y in range(Y):
            i, j = _beside(x, y, axis, 1, X, Y)
            here, there = s[x, y], s[i, j]
            if axis == 2:
                for z in range(Z - 1):
                    g[x, z] += here[z] * here[z + 1]
                g[x, Z - 1] += here[Z - 1] * here[0]
            else:
                part = 0.0
                for z in range(Z):
                    part += here[z] * there[z]
                g[x, x if axis == 0 else y] += part


@jit
def residual(s, axis, w, r, k, m):
    """Set r [X, Y, Z] to s (s' w' − s'' w''), with s' and s'' the sites before and behind, w float64 [n] the drops.

    In parts k … m − 1.
    """
    s, w, r = lend(s), lend(w), lend(r)
    X, Y, Z = s.shape
    for x in range(bounds(X, k)[0], bounds(X, m - 1)[1]):
        for y in range(Y):
            here, to = s[x, y], r[x, y]
            if axis == 2:
                for z in range(1, Z - 1):
                    to[z] = here[z] * (here[z + 1] * w[z] - here[z - 1] * w[z - 1])
                for z in (0, Z - 1):
                    to[z] = here[z] * (here[(z + 1) % Z] * w[z] - here[z - 1] * w[z - 1])
                continue
            n = x if axis == 0 else y
            ahead, behind = s[_beside(x, y, axis, 1, X, Y)], s[_beside(x, y, axis, -1, X, Y)]
            one, other = w[n], w[n - 1]
            for z in range(Z):
                to[z] = here[z] * (ahead[z] * one - behind[z] * other)
