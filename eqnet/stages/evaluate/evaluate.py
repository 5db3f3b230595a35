"""`eqnet eval`: the accuracy of one uniform subnet in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eqnet.spec.errors import UsageError
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import EvalReport
from eqnet.spec.scheme import Form, Scales
from eqnet.subnets.build import PlacementStyle, load_style, uniform
from eqnet.supernet.measure import accuracy
from eqnet.supernet.session import Session, open_session

SPLITS = ("validation", "test")
RESAMPLES = 10_000


def evaluate(
    *,
    supernet: Path | None = None,
    form: Form,
    weight_bits: int,
    activation_bits: int,
    placement: str = "onnxruntime_x86",
    data: Path | None = None,
    split: str = "test",
    scales: Scales = Scales.FREE,
    seed: int = 0,
    allow_code: bool = False,
    progress: Progress | None = None,
) -> EvalReport:
    """Measure the subnet that has these bits everywhere but in the first and last layer (8).

    placement: "paper" (quantizers at Conv and Linear inputs) or the name of a profile, of which
    nothing else is taken. scales: of weights and activations alike.
    split: "validation" or "test". seed: of the interval's bootstrap; nothing else is random.
    Batch norm is recalibrated first.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}' (allowed: {', '.join(SPLITS)})")
    session = open_session(supernet, data, allow_code=allow_code)
    style = load_style(placement)
    return evaluate_in(
        session, style, form, weight_bits, activation_bits, split, seed, progress, scales
    )


def evaluate_in(
    session: Session,
    style: PlacementStyle,
    form: Form,
    weight_bits: int,
    activation_bits: int,
    split: str,
    seed: int = 0,
    progress: Progress | None = None,
    scales: Scales = Scales.FREE,
) -> EvalReport:
    """As `evaluate`, in a session that is open: for tables of many subnets."""
    progress = progress or Silent()
    images = getattr(session.dataset, split)()
    batches = session.judged(images)
    progress.start(f"w{weight_bits}a{activation_bits}", None)
    plain = uniform(session.supernet.info, style, form, weight_bits, activation_bits)
    spec = plain.model_copy(update={"weight_scales": scales, "activation_scales": scales})
    session.settle(spec, session.calibration())
    share = accuracy(session.supernet.graph, batches)
    progress.finish()
    return EvalReport(
        supernet=session.label,
        form=form,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        placement=style.name,
        scales=scales,
        dataset=session.header.dataset,
        split=split,
        images=len(batches),
        accuracy=share,
        judge=session.judge(images),
        interval=interval_of(share, len(batches), seed),
    )


def interval_of(accuracy: float, images: int, seed: int) -> tuple[float, float]:
    """95% bootstrap interval of an accuracy in [0, 1] that was measured on so many images.

    Drawing images again with repetition makes the number of right ones binomial.
    """
    right = np.random.default_rng(seed).binomial(images, accuracy, RESAMPLES)
    low, high = np.percentile(right / images, [2.5, 97.5])
    return float(low), float(high)
