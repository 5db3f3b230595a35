"""What eqnet makes of a network with real weights: artifacts, and uniform subnets in PyTorch.

One supernet without learning, one with reconstruction and one that was fine-tuned elastically from
the same images, without labels, serve every profile, form and bit-width.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_weights import write_folder

from eqnet.cli.options import parse_bits
from eqnet.spec.manifest import MODEL
from eqnet.spec.scheme import Form, Granularity, Symmetry
from eqnet.stages.export.export import export
from eqnet.stages.train.elastic import train
from eqnet.stages.train.post_training import post_training
from eqnet.subnets.build import PAPER_STYLE, PlacementStyle, uniform
from eqnet.supernet.extract import extract
from eqnet.supernet.measure import Batches, logits
from eqnet.supernet.session import Session, open_session
from eqnet.supernet.settling.settle import Calibration

Pixels = NDArray[np.uint8]
PARTS = {"calibration": "train", "validation": "val", "evaluation": "test"}
PLAIN, LEARNED, TUNED = WAYS = "plain", "reconstructed", "fine-tuned"
RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "fine_tuning.yaml"
SYMMETRIC, ASYMMETRIC = Symmetry.SYMMETRIC, Symmetry.ASYMMETRIC
FORMS = {
    "per-channel": Form(weight_granularity=Granularity.PER_CHANNEL, weight_symmetry=SYMMETRIC),
    "per-channel, both asymmetric": Form(
        weight_granularity=Granularity.PER_CHANNEL, weight_symmetry=ASYMMETRIC
    ),
    "per-channel, both symmetric": Form(activation_symmetry=SYMMETRIC),
    "per-tensor": Form(weight_granularity=Granularity.PER_TENSOR),
}


@dataclass(frozen=True)
class Ours:
    """A folder with crops and what was made of them. net: a name of `real_weights.NETS`.

    epochs: of fine-tuning (None: the recipe's). device: where networks learn.
    """

    folder: Path
    net: str
    seed: int
    epochs: int | None = None
    device: str = "cpu"

    def lay(self, crops: Mapping[str, Pixels]) -> None:
        """Write the crops of each split, uint8 [N, 3, H, W], as an image folder, once."""
        for split, part in PARTS.items():
            if not (self.folder / "data" / part).is_dir():
                write_folder(self.folder / "data" / part, crops[split])

    def supernet(self, how: str) -> tuple[Path, float]:
        """A supernet's folder and the seconds that it took. how: one of `WAYS`."""
        out = self.folder / f"supernet-{how}"
        clock = out.with_suffix(".seconds")
        if not clock.is_file():
            start = time.perf_counter()
            named: dict[str, Any] = {
                "model": f"real_weights:{self.net}",
                "data": self.folder / "data",
                "dataset": "image_folder",
                "allow_code": True,
                "seed": self.seed,
                "device": self.device,
            }
            if how == TUNED:
                train(RECIPE, out, epochs=self.epochs, resume=True, **named)
            else:
                post_training(out=out, reconstruct=how == LEARNED, **named)
            clock.write_text(str(time.perf_counter() - start))
        return out, float(clock.read_text())

    def artifact(self, profile: str, how: str) -> tuple[Path, float]:
        """The default subnet's `model.onnx` under a profile, and the seconds for all of it."""
        supernet, seconds = self.supernet(how)
        out = self.folder / f"{profile}-{how}"
        start = time.perf_counter()
        export(
            profile=profile,
            supernet=supernet,
            out=out,
            allow_code=True,
            force=True,
            searches=self.folder / "no_search",
        )
        return out / MODEL, seconds + time.perf_counter() - start

    def subnet(
        self, bits: str, form: str, how: str, pixels: Pixels, style: PlacementStyle = PAPER_STYLE
    ) -> tuple[NDArray[np.float32], float]:
        """Logits of a uniform subnet (8 bits in the first and last layer) in PyTorch, seconds."""
        supernet, seconds = self.supernet(how)
        start = time.perf_counter()
        session, calibration = _open(supernet)
        spec = uniform(session.supernet.info, style, FORMS[form], *parse_bits(bits))
        session.settle(spec, calibration)
        net = extract(session.supernet, spec)
        seconds += time.perf_counter() - start
        images = Batches.of(
            pixels, np.zeros(len(pixels), np.int64), session.dataset.preprocessing, batch=8
        )
        return logits(net, images).numpy(), seconds


@functools.lru_cache(maxsize=1)
def _open(supernet: Path) -> tuple[Session, Calibration]:
    """Held from one subnet to the next."""
    session = open_session(supernet, allow_code=True)
    return session, session.calibration()
