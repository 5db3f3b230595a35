"""`eqnet eval`: the accuracy of one uniform subnet in PyTorch."""

from __future__ import annotations

from pathlib import Path

from eqnet.spec.errors import UsageError
from eqnet.spec.profiles import load_profile
from eqnet.spec.progress import Progress, Silent
from eqnet.spec.reports import EvalReport
from eqnet.spec.scheme import Form
from eqnet.supernet.choices import PAPER_STYLE, Style, uniform
from eqnet.supernet.measure import accuracy
from eqnet.supernet.session import Session, open_session

SPLITS = ("validation", "test")


def evaluate(
    *,
    supernet: Path | None = None,
    form: Form,
    weight_bits: int,
    activation_bits: int,
    placement: str = "onnxruntime_x86",
    data: Path | None = None,
    split: str = "test",
    allow_code: bool = False,
    progress: Progress | None = None,
) -> EvalReport:
    """Measure the subnet that has these bits everywhere but in the first and last layer (8).

    placement: "paper" (quantizers at Conv and Linear inputs) or the name of a profile.
    split: "validation" or "test". Batch norm is recalibrated first.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}' (allowed: {', '.join(SPLITS)})")
    session = open_session(supernet, data, allow_code=allow_code)
    style = PAPER_STYLE if placement == "paper" else Style.of(load_profile(placement))
    return evaluate_in(session, style, form, weight_bits, activation_bits, split, progress)


def evaluate_in(
    session: Session,
    style: Style,
    form: Form,
    weight_bits: int,
    activation_bits: int,
    split: str,
    progress: Progress | None = None,
) -> EvalReport:
    """As `evaluate`, in a session that is open: for tables of many subnets."""
    progress = progress or Silent()
    images = getattr(session.dataset, split)()
    progress.start(f"w{weight_bits}a{activation_bits}", None)
    spec = uniform(session.supernet.info, style, form, weight_bits, activation_bits)
    session.settle(spec, session.calibration())
    batches = session.batches(images)
    found = accuracy(session.supernet.graph, batches)
    progress.finish()
    return EvalReport(
        supernet=session.label, form=form, weight_bits=weight_bits,
        activation_bits=activation_bits, placement=style.name, dataset=session.header.dataset,
        split=split, images=len(batches), accuracy=found,
    )  # fmt: skip
