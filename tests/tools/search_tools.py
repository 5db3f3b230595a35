"""What the tests of the search share: a small network, its data, and predictors to stand in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from artifacts import profile
from nets import TinyData, small_supernet

import eqnet.stages.search.search as module
from eqnet.spec.hardware.costs import REMAINDER_BITS, Cost, CostSite
from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.manifest import Preprocessing
from eqnet.spec.network import NetworkInfo
from eqnet.spec.reports import MeasuredScore, SearchReport
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.fronts.measuring import Measurer
from eqnet.stages.search.space import Space
from eqnet.subnets.target import Target
from eqnet.supernet.checkpoint import Header
from eqnet.supernet.session import Session
from eqnet.supernet.supernet import Supernet

ALL_PAIRS = [[w, a] for w in range(2, 9) for a in range(2, 9)]
SMALL: dict[str, Any] = {"generations": 12, "population": 24}
PINNED = [{"layers": "first"}, {"layers": "last"}]
IDENTITY = "5" * 64


class SmallData(TinyData):
    """12 x 12 colour images of five classes."""

    name = "small"
    preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    classes = tuple("abcde")
    input_shape = (3, 12, 12)


def lowbit(**changes: object) -> HardwareProfile:
    """A low-bit profile with every pair of bits and its first and last layer pinned."""
    return profile("lowbit", **{"bits": ALL_PAIRS, "pinned": PINNED, **changes})


def cost_function(info: NetworkInfo, rules: HardwareProfile, folder: Path | None = None) -> Cost:
    """The cost function of a profile whose cost model times nothing."""
    return rules.cost.of(CostSite(info, REMAINDER_BITS[rules.remainder], folder or Path()))


def space_of(info: NetworkInfo, rules: HardwareProfile) -> Space:
    """The search space of a network under a profile."""
    return Space.of(Target.of(info, rules), IDENTITY)


def session_of(folder: Path, supernet: Supernet | None = None) -> Session:
    """An open session of the small network with the small data."""
    header = Header(
        model="nets:SmallNet",
        input_shape=(3, 12, 12),
        classes=5,
        dataset="small",
        method="post_training",
        seed=0,
    )
    return Session(
        folder,
        "small",
        supernet or small_supernet(),
        header,
        IDENTITY,
        SmallData(),
        torch.device("cpu"),
    )


class BitsPredictor:
    """Accuracy that grows with the one-hot positions of bits; it counts its calls."""

    header = SimpleNamespace(kendall_tau=0.5, pearson=0.6)

    def __init__(self, info: NetworkInfo, weights: np.ndarray | None = None) -> None:
        self.codes = len(info.layers) + len(info.read_tensors())
        self.weights = np.ones(self.codes) if weights is None else weights
        self.calls = self.subnets = 0

    def predict(self, features: np.ndarray) -> np.ndarray:
        """0.5 plus up to 0.4 with the bits of every layer and tensor."""
        self.calls += 1
        self.subnets += len(features)
        one_hot = features[:, -8 * self.codes :].reshape(len(features), self.codes, 8)
        bits = one_hot @ np.array([9.0, 2, 3, 4, 5, 6, 7, 8])
        found: np.ndarray = 0.5 + 0.4 * (bits @ self.weights) / (9 * self.weights.sum())
        return found.astype(np.float32)


def size_of(info: NetworkInfo, spec: SubnetSpec) -> float:
    """KiB of the weights of a subnet without a remainder."""
    return sum(layer.weights * int(spec.weights[layer.name]) for layer in info.layers) / 8192


class World:
    """A search in the small network, with a predictor that grows with bits and counts calls."""

    def __init__(self, folder: Path, supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, monkeypatch
        self.session = session_of(folder, supernet)
        self.info = supernet.info
        self.predictor = BitsPredictor(supernet.info)
        self.measured: list[SubnetSpec] = []
        monkeypatch.setattr(module, "open_session", lambda *_, **__: self.session)
        monkeypatch.setattr(module, "_predictor", lambda *_: self.predictor)

    def write(self, rules: HardwareProfile) -> str:
        """Write a profile file; returns its path."""
        path = self.folder / f"{rules.name}.yaml"
        path.write_text(rules.model_dump_json(exclude_none=True))
        return str(path)

    def measure_as(self, accuracy: Callable[[SubnetSpec], float]) -> None:
        """Let finalists have accuracy(spec), without running them."""

        def measure(measurer: Measurer, spec: SubnetSpec) -> MeasuredScore:
            self.measured.append(spec)
            found = accuracy(spec)
            return MeasuredScore(accuracy=found, images=40, float_agreement=found, kl=1 - found)

        self.patch.setattr(Measurer, "measure", measure)

    def __call__(
        self,
        rules: HardwareProfile | None = None,
        budgets: dict[str, float] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> SearchReport:
        """Search; the low-bit profile when none is given."""
        path = self.write(rules or lowbit())
        return module.search(
            profile=path,
            budgets=budgets,
            out=self.folder / "out",
            seed=seed,
            **{**SMALL, **options},
        )
