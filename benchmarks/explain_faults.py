"""Does `eqnet explain` name a layer that was damaged? Every layer of a network, four faults each.

    python benchmarks/explain_faults.py [--images N] [--json FILE] --supernet DIR ...

A trial damages one layer in the default subnet of a profile (onnxruntime_x86 unless --profile says
otherwise) and asks what `eqnet explain` does: which place costs most, and which weights lose more
than their bits explain (suspects). It is won where the first place is the layer's weights or the
tensor that it reads, or where the layer is a suspect. Faults: its weights' scales an eighth of
what they were (weights are cut off) or 16 times (few levels are left), the scale of the tensor
that it reads a quarter (activations are cut off), one output channel's scale 64 times (as an
outlier does). A supernet is one of post-training: a trained one has learned other scales.

Places are measured alone, so damage to one does not change what is measured of another: a sound
network is measured once, and then, for each fault, every layer with it; each trial is the sound
network's ranking with one layer's places from the damaged one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from eqnet.sensitivity.measure import Alone, ranked
from eqnet.sensitivity.places import Place, places_of
from eqnet.sensitivity.store import Found
from eqnet.sensitivity.suspects import suspects
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.progress import Silent
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.target import Target
from eqnet.supernet.measure import Batches
from eqnet.supernet.session import Session, open_session
from eqnet.supernet.supernet import Supernet

GOAL = 0.95
FAULTS = ("cut", "coarse", "input", "channel")


class Trial(NamedTuple):
    """What was damaged, which place came first, and where the damaged layer's places came."""

    fault: str
    layer: str
    first: str
    rank: int
    kl: float
    suspect: bool
    suspects: int

    @property
    def won(self) -> bool:
        """Whether the damaged layer is named."""
        return self.rank == 0 or self.suspect


def weight_scales(supernet: Supernet, spec: SubnetSpec, layer: str) -> torch.Tensor:
    """The logarithms of a layer's scales in the subnet's form, [C or 1]."""
    quantizer, form, bits = supernet.layer(layer).weight_quantizer, spec.form, spec.weights[layer]
    key = quantizer.key(form.weight_granularity, form.weight_symmetry, int(bits))
    scales: torch.Tensor = quantizer.log_scale[key]
    return scales


def input_scale(supernet: Supernet, spec: SubnetSpec, layer: str) -> torch.Tensor:
    """The logarithm of the scale, [], of the tensor that a layer reads."""
    name = supernet.info.layer(layer).input
    quantizer = supernet.activation(name)
    symmetry = "unsigned" if quantizer.non_negative else str(spec.form.activation_symmetry)
    scale: torch.Tensor = quantizer.log_scale[f"{symmetry}_{spec.activations[name]}"]
    return scale


@torch.no_grad()
def damage(supernet: Supernet, spec: SubnetSpec, layer: str, fault: str, seed: int) -> None:
    """Plant a fault, one of `FAULTS`, in a layer."""
    scales = weight_scales(supernet, spec, layer)
    if fault == "cut":
        scales -= np.log(8.0)
    elif fault == "coarse":
        scales += np.log(16.0)
    elif fault == "input":
        input_scale(supernet, spec, layer).sub_(np.log(4.0))
    else:
        scales[int(np.random.default_rng(seed).integers(len(scales)))] += np.log(64.0)


def places_with(session: Session, spec: SubnetSpec, layer: str) -> list[Place]:
    """The places that a fault in a layer shows in."""
    names = {layer, session.supernet.info.layer(layer).input}
    return [place for place in places_of(session.supernet.info, spec) if place.name in names]


def measured(session: Session, spec: SubnetSpec, images: Batches) -> dict[Place, Found]:
    """What each place costs alone in the network as it is now; nothing is kept on disk."""
    with tempfile.TemporaryDirectory() as folder:
        nowhere = replace(session, folder=Path(folder))
        places = places_of(session.supernet.info, spec)
        return Alone(nowhere, spec, images).measure(places, len(images), Silent())


def trials(session: Session, spec: SubnetSpec, images: Batches) -> list[Trial]:
    """Every fault in every layer that the subnet quantizes."""
    supernet = session.supernet
    natural = {one.layer for one in suspects(supernet, spec)}
    print(f"suspects of the sound network: {', '.join(sorted(natural)) or 'none'}")
    sound = measured(session, spec, images)
    tensors = dict(supernet.graph.named_parameters())
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    found = []
    for fault in FAULTS:
        damaged: set[int] = set()
        for number, layer in enumerate(spec.quantized_layers()):
            scale = input_scale(supernet, spec, layer)
            if fault != "input" or id(scale) not in damaged:
                damage(supernet, spec, layer, fault, number)
            damaged.add(id(scale))
        broken = measured(session, spec, images)
        listed = {one.layer for one in suspects(supernet, spec)}
        with torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(kept[name])
        for layer in spec.quantized_layers():
            named = natural | (listed & {layer})
            found.append(_trial(session, spec, sound, broken, fault, layer, named))
    return found


def _trial(
    session: Session,
    spec: SubnetSpec,
    sound: dict[Place, Found],
    broken: dict[Place, Found],
    fault: str,
    layer: str,
    named: set[str],
) -> Trial:
    own = places_with(session, spec, layer)
    order = ranked(sound | {place: broken[place] for place in own})
    rank = min(order.index(place) for place in own)
    kl = broken[order[rank]].mean_kl()
    return Trial(fault, layer, order[0].key, rank, kl, layer in named, len(named))


def table(name: str, found: Sequence[Trial]) -> str:
    """One network's trials by fault."""
    lines = [f"{name}: {'fault':<10}{'trials':>8}{'first':>8}{'suspect':>9}{'either':>8}"]
    for fault in FAULTS:
        some = [trial for trial in found if trial.fault == fault]
        first, listed = sum(t.rank == 0 for t in some), sum(t.suspect for t in some)
        named = sum(t.won for t in some)
        lines.append(f"{'':{len(name)}}  {fault:<10}{len(some):>8}{first:>8}{listed:>9}{named:>8}")
    return "\n".join(lines)


def main() -> None:
    """Run all networks and say how often the damaged layer came first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="8 images")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", default="onnxruntime_x86")
    parser.add_argument("--supernet", type=Path, nargs="+", required=True)
    options = parser.parse_args()
    rows, everything = {}, []
    for folder in options.supernet:
        start = time.process_time()
        session = open_session(folder, allow_code=True)
        spec = Target.of(session.supernet.info, load_profile(options.profile)).default(
            session.identity
        )
        count = 8 if options.quick else options.images
        found = trials(session, spec, session.batches(session.dataset.validation(), count))
        print(table(session.label, found), f"({time.process_time() - start:.0f} s of CPU)")
        for trial in found:
            if not trial.won:
                print(f"  {trial.fault} in {trial.layer}: {trial.first} first, rank {trial.rank}")
        rows[session.label] = [trial._asdict() for trial in found]
        everything += found
        if options.json:
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
    share = sum(trial.won for trial in everything) / len(everything)
    print(f"named: {100 * share:.1f} % of {len(everything)} (goal: {100 * GOAL:.0f} %)")


if __name__ == "__main__":
    main()
