"""Which spheres touch which, and what is around each contact: a structure as a graph of fixed numbers.

Legend: B structures, N particles, E contacts, K contacts of a sphere. Lengths in voxels.
"""

import dataclasses
import math

import torch
from torch import Tensor

from gpuion.descriptors import checked_centers

_CHUNK = 300_000  # distances from contacts to third spheres at once: with their bumps 15 MB
_CHUNK_GPU = 10_000_000  # the same where every operation is a launch
_STEP = 64  # contacts by which room grows
_FAR = 1e3  # stands for a distance that counts nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contacts:
    """Pairs of spheres closer than a cutoff, each once, the closest first; padded to the largest structure.

    Attributes
    ----------
    ends : int64 [B, 2, E]
        Tail and head, tail < head; 0 where there is no contact.
    vector : float32 [B, E, 3]
        From tail to the nearest image of head.
    distance : float32 [B, E]
        Its length, 0 where there is no contact.
    real : bool [B, E]
    slots : int64 [B, N, K]
        A sphere's contacts, nearest first: e + 1 for one whose tail it is, −(e + 1) for one whose head it is, then 0.
    """

    ends: Tensor
    vector: Tensor
    distance: Tensor
    real: Tensor
    slots: Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """How many contacts a structure, and how many a sphere, is given room for, whatever it has."""

    contacts: int
    slots: int

    def is_complete(self, particles: int) -> bool:
        """Return whether there is room for each pair of so many spheres."""
        return self.contacts >= particles * (particles - 1) // 2 and self.slots >= particles - 1

    def is_full(self, distance: Tensor, cutoff: float) -> Tensor:
        """Return whether structures of distances [B, N, N] have more than that, bool [B]."""
        near = (distance < cutoff).sum(2)
        return (near.sum(1) > 2 * self.contacts) | (near.amax(1) > self.slots)


def room_for(distance: Tensor, cutoff: float, margin: float) -> Room:
    """Return room for what structures of distances [B, N, N] have times `margin`, at most for all pairs."""
    N = distance.shape[1]
    near = (distance < cutoff).sum(2)
    contacts, slots = int(near.sum(1).max()) // 2, int(near.max())
    return Room(
        contacts=min(math.ceil(margin * (contacts + 1) / _STEP) * _STEP, N * (N - 1) // 2),
        slots=min(math.ceil(margin * (slots + 1) / 4) * 4, N - 1),
    )


def vectors(centers: Tensor, box: float) -> Tensor:
    """Return vectors from sphere i to the nearest image of sphere j, float32 [B, N, N, 3].

    Raises
    ------
    ValueError
        For malformed centres or box.
    """
    return nearest(checked_centers(centers, box), box)


def nearest(x: Tensor, box: float) -> Tensor:
    """Return the same for centres float64 [B, N, 3] that are known to be in order."""
    apart = x[:, None] - x[:, :, None]
    return (apart - box * (apart / box).round()).float()


def lengths(vector: Tensor) -> Tensor:
    """Return distances [B, N, N] of vectors between spheres, a sphere's own being far away."""
    square = vector.square().sum(-1)
    square.diagonal(dim1=1, dim2=2).fill_(_FAR**2)  # before the root, whose gradient at 0 is not finite
    return square.sqrt()


def contacts(vector: Tensor, distance: Tensor, cutoff: float, room: Room | None = None) -> Contacts:
    """Return the pairs of spheres closer than `cutoff`, from vectors and distances of all pairs.

    With `room` there are that many contacts and slots, and the host need not wait to know how many are wanted.
    """
    N = distance.shape[1]
    i, j = torch.triu_indices(N, N, 1, device=distance.device)
    pair = distance[:, i, j]
    E = room.contacts if room else int((pair < cutoff).sum(1).max()) if len(i) else 0
    order = pair.argsort(dim=1, stable=True)[:, :E]
    real = pair.gather(1, order) < cutoff
    ends = torch.stack([torch.where(real, i[order], 0), torch.where(real, j[order], 0)], 1)
    along = vector[:, i, j].gather(1, order[..., None].expand(-1, -1, 3))
    # Which contact a pair is: a sphere finds its slots among its neighbours.
    number = torch.where(real, torch.arange(1, E + 1, device=order.device), 0)
    of_pair = torch.zeros_like(pair, dtype=torch.int64).scatter_(1, order, number)
    table = torch.zeros_like(distance, dtype=torch.int64)
    table[:, i, j], table[:, j, i] = of_pair, -of_pair
    K = room.slots if room else int((distance < cutoff).sum(2).max())
    slots = table.gather(2, distance.argsort(dim=2, stable=True)[..., :K])
    return Contacts(
        ends=ends, real=real, slots=slots, vector=torch.where(real[..., None], along, 0),
        distance=torch.where(real, pair.gather(1, order), 0),
    )  # fmt: skip


def trimmed(found: Contacts) -> Contacts:
    """Return contacts without the padding that no structure of the batch needs."""
    E, K = (int(x.sum(-1).max()) if x.numel() else 0 for x in (found.real, found.slots != 0))
    return Contacts(
        ends=found.ends[..., :E], vector=found.vector[:, :E], distance=found.distance[:, :E], real=found.real[:, :E],
        slots=found.slots[..., :K],
    )  # fmt: skip


def bumps(distance: Tensor, centers: Tensor, width: float) -> Tensor:
    """Return bumps (1 − ((d − c) / width)²)³ of distances, 0 beyond the width, [..., len(centers)].

    Gaussians of like shape take ten times as long on a CPU: most of their values underflow.
    """
    inside = (1 - ((distance[..., None] - centers) * (1 / width)).square()).relu_()
    return inside * inside.square()


def shells(vector: Tensor, distance: Tensor, centers: Tensor, width: float) -> Tensor:
    """Return how many neighbours a sphere has at which distances, and how lopsided they lie, [B, N, 2R].

    Σ_j b_r(d_ij) and |Σ_j b_r(d_ij) n_ij| for R bumps b_r: the second depends on angles between neighbours.
    """
    bump = bumps(distance, centers, width)  # [B, N, N, R]
    lopsided = torch.einsum("bijr,bijx->birx", bump, vector / distance[..., None])
    return torch.cat([bump.sum(2), (lopsided.square().sum(-1) + 1e-4).sqrt()], -1)


def crowding(found: Contacts, vector: Tensor, box: float, centers: Tensor, width: float) -> Tensor:
    """Return how many third spheres lie at which distances from a contact's middle, [B, E, R]."""
    B, N = vector.shape[:2]
    parts, chunk = [vector.new_zeros(B, 0, len(centers))], _CHUNK_GPU if vector.is_cuda else _CHUNK
    for some in torch.arange(found.ends.shape[2], device=vector.device).split(max(1, chunk // (B * N))):
        tail, head = found.ends[..., some].unbind(1)
        row = vector.gather(1, tail[..., None, None].expand(-1, -1, N, 3))  # from the tail to all
        apart = row - found.vector[:, some, None] / 2
        square = (apart - box * (apart / box).round()).square().sum(-1)
        square.scatter_(2, tail[..., None], _FAR**2).scatter_(2, head[..., None], _FAR**2)
        parts.append(bumps(square.sqrt(), centers, width).sum(2))
    return torch.cat(parts, 1) * found.real[..., None]
