"""Making the predictor that travels with a supernet: measure subnets, fit CQAP, save it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from eqnet.spec.progress import Progress, Silent
from eqnet.stages.search.accuracy.cqap import fit, save_cqap
from eqnet.stages.search.accuracy.labels import measure_labels
from eqnet.subnets.build import PAPER_STYLE, load_style
from eqnet.supernet.session import open_session

LABELS = "cqap_labels.safetensors"


def make_predictor(
    folder: Path,
    *,
    data: Path | None = None,
    subnets: int = 1000,
    images: int = 2000,
    epochs: int = 150,
    members: int = 3,
    seed: int = 0,
    device: torch.device | str = "cpu",
    allow_code: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Fit the predictor of the supernet in `folder` on validation images; returns its quality.

    Interrupted, it goes on from the labels that it has measured.
    """
    progress = progress or Silent()
    session = open_session(folder, data, allow_code=allow_code, device=device)
    validation = session.judged(session.dataset.validation(), images)
    styles = [load_style(name) for name in session.header.styles or (PAPER_STYLE.name,)]
    labels = measure_labels(
        session.supernet,
        styles,
        session.calibration(),
        validation,
        session.reference_logits(validation),
        identity=session.identity,
        count=subnets,
        seed=seed,
        path=folder / LABELS,
        progress=progress,
    )
    cqap = fit(
        labels,
        info=session.supernet.info,
        supernet=session.identity,
        images=len(validation),
        epochs=epochs,
        members=members,
        seed=seed,
        progress=progress,
    )
    save_cqap(folder, cqap)
    return cqap.header.model_dump()
