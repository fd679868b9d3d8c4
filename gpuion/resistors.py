"""A learned resistor network: ions pass from corona to corona, and D follows from Kirchhoff's laws.

Legend: B structures, N particles, E contacts, K contacts of a sphere, R bumps, C channels.
"""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gpuion.checks import check_room
from gpuion.contacts import Contacts, Room, bumps, contacts, crowding, lengths, nearest, shells, trimmed, vectors
from gpuion.descriptors import checked_centers
from gpuion.kirchhoff import Circuit, plane_waves, power, wave_vectors
from gpuion.predictor import Predictor, Standard, layers

CUTOFF = 16.5  # of a contact, voxels: coronas touch at 14, and their tails reach some two voxels more
AFFINE = math.exp(-8)  # a bath's conductance over a corona's
WEIGHT = 870.0  # of a sphere's corona, where one voxel of corona counts 1
REACH = 2 * math.pi * 3 / 75  # of the bath's waves, 1/voxel
RADIUS = 6.0  # of a sphere as the bath sees it, voxels
ALPHA = 3 * 4 / 3 * math.pi * 7**3  # polarizability of a good conductor as large as a sphere with its corona, voxels³
RING_WIDTH, THIRD_WIDTH = 1.2, 2.4  # of the bumps over distances to neighbours, and to third spheres, voxels
OVERLAP = 0.01  # of a diameter, at most: with 5% errors are twice what `spread` says, at uniform points five times
LONGEST = 300.0  # edge of a cell, voxels: 7152 waves of the bath, whose equations take 2 GB and half a minute of a core
_PAIR, _PAIRED, _UNKNOWN = 250, 12, 40  # bytes of two spheres, of two contacts, of two potentials at the most, measured


def check_size(centers: Tensor, box: float) -> None:
    """Raise ValueError for structures whose pairs, or whose circuits, would take more memory than there is."""
    B, N = centers.shape[:2]
    unknown = N + 4 / 3 * math.pi * (REACH * box / (2 * math.pi)) ** 3  # spheres, and waves of the bath
    check_room(B * max(1.0 * _PAIR * N**2, _UNKNOWN * unknown**2), f"{B} circuits of {N} spheres in {box:g} voxels")


class ResistorNetwork(Predictor):
    """D along each axis as the power that a network of learned conductances dissipates, over its learned weight.

        D_aa = P_aa / Σ_i w_i,

    with P of `gpuion.kirchhoff.power`. Small networks give each contact's conductance g from its length, from third
    spheres near its middle and from what surrounds its two ends; and each sphere's weight w, the resistance s of its
    shell, its coupling h to the bath and its polarizability α in it from its neighbourhood. All are local, and the
    bath's σ is one number: chains, percolation and what a cell's filling does are in Kirchhoff's laws, so the network
    takes other numbers of spheres and other cells.

    Turning, mirroring or shifting the structure turns D with it, exactly.

    Parameters
    ----------
    hidden : int
        Width of the layers.
    channels : int
        Numbers that describe a sphere's surroundings to its contacts.
    orders : int
        Orders of the Legendre polynomials of a shell's resistance.
    """

    per_axis = True
    fillings = (0.25, 2.5)  # of spheres; beyond, errors outgrow `spread`: docs/models.md
    lengths: Tensor
    rings: Tensor
    thirds: Tensor

    def __init__(self, *, hidden: int = 32, channels: int = 8, orders: int = 5) -> None:
        if min(hidden, channels, orders) < 1:
            raise ValueError(f"hidden, channels and orders must be ≥ 1, got {hidden}, {channels} and {orders}")
        rings = torch.arange(9.5, 18.0, 0.75)
        features = 2 * (2 * len(rings) + channels + 4)
        arguments = {"model": "network", "hidden": hidden, "channels": channels, "orders": orders}
        super().__init__(arguments, features)
        for name, values in (
            ("lengths", torch.arange(9.5, 17.0, 0.5)),
            ("rings", rings),
            ("thirds", torch.arange(5.0, 15.0, 1.25)),
        ):
            self.register_buffer(name, values, persistent=False)
        around = 2 * len(rings)
        self.around, self.beside = Standard(around), Standard(len(self.thirds))
        self.place = layers(around, hidden, channels)
        self.sphere = layers(around + channels, hidden, 4)
        self.contact = layers(len(self.lengths) + len(self.thirds) + 2 * channels, hidden, 1, start_at_zero=True)
        self.slope = nn.Parameter(torch.tensor([1.0, -0.5]))  # log g of touching coronas, and per voxel beyond
        self.common = nn.Parameter(torch.zeros(4))  # log of w, h, σ and α, over what they are taken to be
        self.orders = nn.Parameter(torch.tensor([math.log(0.3 / (n * (n + 1))) for n in range(1, orders + 1)]))

    def prepare(self, centers: Tensor, box: float, diameter: float) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Return contacts, what is around spheres and contacts, centres and box.

        Raises
        ------
        ValueError
            For malformed centres, a cell in which two spheres could touch through two images, or one that is too large.
        """
        self.check(box)
        check_size(checked_centers(centers, box), box)
        vector = vectors(centers, box)
        found, around, beside = self._surroundings(vector, lengths(vector), box)
        return (
            found.ends.int(), found.vector, found.distance, found.real, found.slots.int(), around, beside,
            centers, centers.new_full((len(centers),), box, dtype=torch.float64),
        )  # fmt: skip

    def _surroundings(
        self, vector: Tensor, distance: Tensor, box: float, room: Room | None = None
    ) -> tuple[Contacts, Tensor, Tensor]:
        """Return contacts, and what is around spheres and beside contacts."""
        if room is None:
            pairs = int((distance < CUTOFF).sum((1, 2)).max()) // 2
            check_room(1.0 * _PAIRED * len(distance) * pairs**2, f"the network of {pairs} contacts of a structure")
        found = contacts(vector, distance, CUTOFF, room)
        rings, thirds = self.rings.float(), self.thirds.float()
        around = shells(vector, distance, rings, RING_WIDTH)
        return found, around, crowding(found, vector, box, thirds, THIRD_WIDTH)

    def within(self, room: Room, box: float) -> Callable[[Tensor], Tensor]:
        """Return what `prepare` and `forward` make together, D* [B, 3] of centres [B, N, 3], as work of fixed size.

        Shapes depend on `room` alone and the host waits for nothing, so a GPU can record it. Centres are taken to be in
        order. D* is NaN where there are more contacts than room; fewer are filled up, which changes roundings only.
        """
        self.check(box)
        waves = wave_vectors(box, REACH).to(self.orders.device)

        def diffusivity(centers: Tensor) -> Tensor:
            x = centers.double()
            vector = nearest(x, box)
            distance = lengths(vector)
            found, around, beside = self._surroundings(vector, distance, box, room)
            D = self._diffusivity(found, around, beside, x, box, waves)
            return D.masked_fill(room.is_full(distance, CUTOFF)[:, None], math.nan)

        return diffusivity

    def check_spheres(self, centers: Tensor, box: float, diameter: float) -> None:
        """Raise ValueError as `Predicting` does, and of a trained network for spheres that overlap: it has met none."""
        super().check_spheres(centers, box, diameter)
        self.check(box)
        check_size(centers[:1], box)
        for b, one in enumerate(centers.split(1)):
            least, flat = lengths(nearest(one.double(), box)).flatten().min(0)
            if least < (1 - OVERLAP) * diameter and "diameter" in self.meta:
                pair = " and ".join(map(str, divmod(int(flat), centers.shape[1])))
                raise ValueError(
                    f"structure {b}: spheres {pair} of diameter {diameter:.7g} are {float(least):.4g} apart, and this "
                    "model has met none that overlap; move them with separate, or solve with homogenize"
                )

    @staticmethod
    def check(box: float) -> None:
        """Raise ValueError for a cell in which two spheres could touch through two images, or of too many waves."""
        if box < 2 * CUTOFF:
            raise ValueError(f"contacts reach {CUTOFF} voxels, so box must be {2 * CUTOFF:g} or more, got {box}")
        if box > LONGEST:
            raise ValueError(
                f"the bath's equations grow as box to the sixth power, so box must be {LONGEST:g} voxels or less, got "
                f"{box}; solve larger cells with homogenize"
            )

    def normalize(self, *inputs: Tensor) -> None:
        """Fix the scales of the surroundings."""
        _, _, _, real, _, around, beside, _, _ = inputs
        self.around.fit(around)
        self.beside.fit(beside[real])

    def calibrate(self, targets: Tensor, inputs: tuple[Tensor, ...]) -> None:
        """Fix scales, and the weight that makes the mean of log D* right before training."""
        super().calibrate(targets, inputs)
        with torch.no_grad():
            ratio = self(*inputs).mean(-1).log().mean() - self.output_shift
            self.common[0] += ratio

    def features(self, *inputs: Tensor) -> Tensor:
        """Return mean and deviation over spheres of what is around them and what is made of it, [B, C]."""
        around = self.around(inputs[5])
        place = self.place(around)
        x = torch.cat([around, place, self.sphere(torch.cat([around, place], -1))], -1)
        return torch.cat([x.mean(1), x.std(1, correction=0)], -1)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return D* along x, y, z, [B, 3], of what `prepare` gave."""
        ends, vector, distance, real, slots, around, beside, centers, box = inputs
        edge = float(box[0])  # one of all: a batch is of one cell
        found = trimmed(Contacts(ends=ends.long(), vector=vector, distance=distance, real=real, slots=slots.long()))
        waves = wave_vectors(edge, REACH).to(centers.device)
        D = self._diffusivity(found, around, beside, centers.double(), edge, waves)
        if not D.is_cuda and bool(D.isnan().any()):  # on a GPU the host would wait to know
            raise torch.linalg.LinAlgError("a circuit has no solution: its weights, or its centres, are no numbers")
        return D

    def _diffusivity(
        self, found: Contacts, around: Tensor, beside: Tensor, centers: Tensor, edge: float, vectors: Tensor
    ) -> Tensor:
        """Return D* [B, 3] of contacts and surroundings, and of float64 centres in a bath of these wave vectors."""
        dtype, E = self.orders.dtype, found.distance.shape[1]
        found = dataclasses.replace(found, vector=found.vector.to(dtype), distance=found.distance.to(dtype))
        around = self.around(around)
        place = self.place(around)
        conductance = self._conductance(found, place, self.beside(beside[:, :E]))
        weight, spread, coupling, polarizability = self.sphere(torch.cat([around, place], -1)).unbind(-1)
        waves, slopes, squares = plane_waves(centers, vectors, radius=RADIUS)
        solvent = AFFINE * self.common[2].exp()
        circuit = Circuit(
            ends=found.ends, vector=found.vector, slots=found.slots, conductance=conductance,
            spread=spread.clamp(-6, 6).exp(), orders=self.orders.exp(),
            coupling=3 * (coupling + self.common[1]).clamp(-6, 6).exp(),
            polarizability=solvent * ALPHA * (polarizability + self.common[3]).clamp(-6, 6).exp(),
            solvent=solvent.expand(len(centers)), volume=edge**3,
            waves=waves.to(dtype), slopes=slopes.to(dtype), squares=squares.to(dtype),
        )  # fmt: skip
        total = WEIGHT * (0.3 * weight + self.common[0]).exp().sum(1, keepdim=True)
        return power(circuit) / total

    def _conductance(self, found: Contacts, place: Tensor, beside: Tensor) -> Tensor:
        """Return g of each contact, [B, E]; it falls to zero at the cutoff."""
        index = found.ends[..., None].expand(-1, -1, -1, place.shape[-1])
        tail, head = (place.gather(1, at) for at in index.unbind(1))
        bump = bumps(found.distance, self.lengths, 1.0)
        learned = self.contact(torch.cat([bump, beside, tail + head, tail * head], -1))[..., 0]
        falling = self.slope[0] + self.slope[1] * nn.functional.softplus(2 * (found.distance - 13))
        fade = (1 + torch.cos(math.pi * (found.distance / CUTOFF).clamp(max=1))) / 2
        return (learned + falling).clamp(-12, 8).exp() * fade.clamp_min(1e-9) * found.real
