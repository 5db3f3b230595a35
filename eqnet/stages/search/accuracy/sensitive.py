"""Accuracy from sensitivities: the places' KL alone, summed, and a monotone map to accuracy.

Measuring a place takes a part of a pass on few images, where a predictor needs some hundred
measured subnets. The sum knows nothing of how errors meet; a few measured subnets correct it and
tell what accuracy belongs to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eqnet.sensitivity.measure import Alone, place_images
from eqnet.sensitivity.places import Kind, Place
from eqnet.spec.network import NetworkInfo
from eqnet.spec.progress import Progress
from eqnet.spec.scheme import CARRIER_BITS
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.stages.search.accuracy.features import CODES, feature_size, in_common
from eqnet.stages.search.accuracy.mapping import TINY
from eqnet.stages.search.accuracy.points import Points, point_images
from eqnet.stages.search.accuracy.refined import Refined
from eqnet.stages.search.space import Genome, Space
from eqnet.supernet.measure import Batches
from eqnet.supernet.session import Session

FITTED = 10
"""Subnets that tell which accuracy belongs to which sum."""
MEASURED_BITS = (2, 3, 4, 6, 8)
"""Bits that are measured; between them the logarithm of the KL is interpolated."""


@dataclass(frozen=True)
class Additive:
    """KL as the sum of what a subnet's places cost alone.

    weights: KL in nats of each feature, float32 [D].
    """

    weights: NDArray[np.float32]
    header: None = None
    mapping: None = None

    def log_kl(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """The logarithm of the summed KL of subnets encoded as [N, D], float64 [N]."""
        logs: NDArray[np.float64] = np.log(self._costs(features).sum(1))
        return logs

    def doubts(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Each feature's part of the sum, and what it has in common with others, [N, 2 D].

        A sum whose terms are wrong by factors exp(e) is wrong, in its logarithm, by the mean of
        e, each weighed by its part.
        """
        costs = self._costs(features)
        parts = costs / costs.sum(1, keepdims=True)
        return np.concatenate([parts, in_common(features)], axis=1)

    def _costs(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Positive, so that a subnet in float has a logarithm and shares too."""
        costs: NDArray[np.float64] = features.astype(np.float64) * self.weights
        costs += TINY / features.shape[1]
        return costs


def from_sensitivities(
    session: Session, space: Space, points: Points, seed: int, progress: Progress
) -> Refined:
    """Measure every place of a space alone, and a few subnets of it, on validation images.

    What was measured of places is kept in the supernet's folder. seed: of which subnets.
    """
    count = min(place_images(session), point_images(session))
    images = session.judged(session.dataset.validation(), count)
    additive = Additive(_weights(session, space, images, progress))
    specs = [space.subnet(genome) for genome in spread(space, FITTED, seed)]
    return Refined(additive, tuple(points.measure_all(specs, progress)))


def spread(space: Space, count: int, seed: int) -> list[Genome]:
    """Genomes from the coarsest to the finest: half of them uniform, half mixed around those."""
    rng = random.Random(seed)  # noqa: S311  (not for secrets)
    uniform = space.uniform_genomes()
    bits = space.target.profile.bits
    uniform.sort(key=lambda genome: sum(bits[genome[0]]) if space.layers else 0)
    half = max(2, count // 2)
    places = np.unique(np.linspace(0, len(uniform) - 1, half).round().astype(int))
    chosen = [uniform[place] for place in places]
    ordered = sorted(range(len(bits)), key=lambda index: sum(bits[index]))
    rest = max(0, count - len(chosen))
    for index in range(rest):
        middle = (index + 0.5) / rest * len(ordered)
        low, high = int(middle * 0.5), min(len(ordered), int(middle * 1.5) + 1)
        genes = [rng.choice(ordered[low:high]) for _ in space.layers]
        groups = space.choices()[len(space.layers) :]
        chosen.append((*genes, *(rng.randrange(values) for values in groups)))
    return list(dict.fromkeys(chosen))


def _weights(
    session: Session, space: Space, images: Batches, progress: Progress
) -> NDArray[np.float32]:
    """KL of each feature, float32 [D]; 0 of the form's flags and of what is float."""
    info, target = session.supernet.info, space.target
    specs = [target.uniform(pair, supernet=session.identity) for pair in target.profile.bits]
    wanted = places_to_measure(info, specs)
    found = Alone(session, specs[0], images).measure(wanted, len(images), progress)
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for place, one in found.items():
        curves.setdefault((place.kind, place.name), {})[place.bits] = one.mean_kl()
    names = [("weights", layer.name) for layer in info.layers]
    names += [("input", tensor.name) for tensor in info.read_tensors()]
    codes = np.zeros((len(names), len(CODES)), np.float32)
    for row, name in zip(codes, names, strict=True):
        for bits, kl in between(curves.get(name, {})).items():
            row[CODES.index(bits)] = kl
    carriers = np.zeros(len(info.tensors), np.float32)
    for index, tensor in enumerate(info.tensors):
        for bits, kl in curves.get(("carrier", tensor.name), {}).items():
            carriers[index] = kl * CARRIER_BITS / bits  # the feature is bits as a part of 8
    flags = np.zeros(feature_size(info) - codes.size - carriers.size, np.float32)
    return np.concatenate([flags, carriers, codes.reshape(-1)])


def places_to_measure(info: NetworkInfo, specs: Sequence[SubnetSpec]) -> list[Place]:
    """Each layer, tensor and carrier with the bits that it has in `specs`, few of many."""
    bits: dict[tuple[Kind, str], set[int]] = {}
    for spec in specs:
        for layer in info.layers:
            choice = spec.weights[layer.name]
            if choice != REMAINDER:
                bits.setdefault(("weights", layer.name), set()).add(int(choice))
        for name, width in spec.activations.items():
            bits.setdefault(("input", name), set()).add(width)
        for name, width in spec.carriers.items():
            bits.setdefault(("carrier", name), set()).add(width)
    places = []
    for (kind, name), widths in bits.items():
        places += [Place(kind, name, width) for width in _few(widths)]
    return places


def _few(widths: Iterable[int]) -> list[int]:
    """The least and the most, and of the others those of `MEASURED_BITS`."""
    ordered = sorted(widths)
    return [width for width in ordered if width in (*MEASURED_BITS, ordered[0], ordered[-1])]


def between(curve: Mapping[int, float]) -> dict[int, float]:
    """KL by bits, never less with fewer bits, and those between two by their logarithms."""
    if not curve:
        return {}
    known = sorted(curve)
    logs = [float(np.log(max(curve[bits], TINY))) for bits in known]
    highest = np.maximum.accumulate(logs[::-1])[::-1]
    every = range(known[0], known[-1] + 1)
    filled = np.exp(np.interp(every, known, highest)).tolist()
    return dict(zip(every, filled, strict=True))
