"""Accuracy without a predictor: every subnet of a small space, measured on validation images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.progress import Progress
from eqnet.stages.search.accuracy.cqap import CqapHeader
from eqnet.stages.search.accuracy.features import encode
from eqnet.stages.search.space import Space
from eqnet.supernet.session import Session
from eqnet.supernet.settling.settle import measure

IMAGES = 500


class AccuracyModel(Protocol):
    """What tells the accuracy of a subnet: CQAP, or a table of measurements."""

    @property
    def header(self) -> CqapHeader | None:
        """How well a predictor ranks; None where nothing is predicted."""
        ...

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Accuracies float32 [N], in [0, 1], of subnets encoded as [N, D]."""
        ...


class MeasuredAccuracy(NamedTuple):
    """Accuracies by encoded subnet."""

    accuracies: Mapping[bytes, float]
    header: None = None

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Look up the accuracies, float32 [N]. Raises KeyError for a subnet never measured."""
        accuracies = [self.accuracies[row.tobytes()] for row in features]
        return np.asarray(accuracies, dtype=np.float32)


def measure_space(
    session: Session,
    space: Space,
    progress: Progress,
    known: MutableMapping[str, float] | None = None,
    save: Callable[[], None] = lambda: None,
) -> MeasuredAccuracy:
    """Measure every subnet of a small space on up to 500 validation images.

    known: accuracies by the subnets' sha256, which are not measured again; what is measured is
    put there, and `save` called.
    """
    known = {} if known is None else known
    calibration = session.calibration()
    validation = session.judged(session.dataset.validation(), IMAGES)
    progress.start("measuring subnets", space.size())
    accuracies = {}
    for genome in space.all_genomes():
        spec = space.subnet(genome)
        key = spec.sha256()
        if key not in known:
            known[key] = measure(session.supernet, spec, calibration, validation)
            save()
        accuracy = known[key]
        accuracies[encode(session.supernet.info, spec).tobytes()] = accuracy
        progress.advance(accuracy=accuracy)
    progress.finish()
    return MeasuredAccuracy(accuracies)
