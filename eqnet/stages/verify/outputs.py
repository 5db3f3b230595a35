"""The numbers of parity: two networks' logits on the same images."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.decisions import decide
from eqnet.backend.judge import agreement, paired_interval
from eqnet.backend.protocol import Array
from eqnet.spec.judging.comparison import OutputComparison, Run

TOP, PERCENTILE, LEVELS = 5, 99, 255
TINY = float(np.finfo(np.float32).tiny)
# Of the bootstrap, rounded as elsewhere in a report.
POINT_DIGITS = 4

Labels = NDArray[np.int64]


def compare_outputs(
    run: Run,
    against: Literal["subnet", "float"],
    source: str,
    logits: Array,
    truth: Array,
    labels: Labels,
    step: float | None = None,
) -> OutputComparison:
    """Compare logits float32 [N, K] with those of another network, `truth`, of the same shape.

    labels: int64 [N], -1 where not known. step: of the grid that errors are counted in; by
    default of 8 bits over the range of `truth`.
    """
    if step is None:
        step = float(truth.max() - truth.min()) / LEVELS
    with np.errstate(invalid="ignore"):
        errors = np.abs(logits.astype(np.float64) - truth) / max(step, TINY)
    known = labels >= 0
    found: dict[str, Any] = {}
    if known.any():
        right, other = right_of(logits[known], labels[known]), right_of(truth[known], labels[known])
        found = {
            "top1": float(right.mean()),
            "other_top1": float(other.mean()),
            "accuracy_drop": round(100 * float(other.mean() - right.mean()), POINT_DIGITS),
            "accuracy_drop_interval": paired_interval(other, right),
        }
        if logits.shape[1] > TOP:
            found["top5"] = top5(logits[known], labels[known])
            found["other_top5"] = top5(truth[known], labels[known])
    return OutputComparison(
        run=run,
        against=against,
        source=source,
        images=len(logits),
        agreement=agreement(logits, truth),
        kl=_finite(float(divergence(truth, logits).mean())),
        error_mean=_finite(float(errors.mean())),
        error_p99=_finite(float(np.percentile(errors, PERCENTILE))),
        error_max=_finite(float(errors.max())),
        labelled=int(known.sum()),
        **found,
    )


def right_of(logits: Array, labels: Labels) -> NDArray[np.bool_]:
    """Whether each row of logits [N, K] decides for its label [N]."""
    right: NDArray[np.bool_] = decide(logits) == labels
    return right


def top5(logits: Array, labels: Labels) -> float:
    """Share of rows of logits [N, K] whose label [N] is among the 5 largest.

    Of equal logits the earlier class comes first. A row that is not finite is wrong.
    """
    rows = np.arange(len(labels))
    own = logits[rows, labels][:, None]
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    ahead = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float(np.mean((ahead < TOP) & np.isfinite(logits).all(axis=1)))


def divergence(truth: Array, logits: Array) -> NDArray[np.float64]:
    """KL(truth || logits) of the softmax of each row [N, K], in nats, [N].

    sum_k p_k (log p_k - log q_k). A single logit is a sigmoid's: the same with the two classes
    of logits (x, 0).
    """
    p, q = _log_softmax(truth), _log_softmax(logits)
    with np.errstate(invalid="ignore"):
        sums: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return np.maximum(sums, 0.0)


def _log_softmax(logits: Array) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    if wide.shape[1] == 1:
        wide = np.concatenate([wide, np.zeros_like(wide)], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        shifted = wide - wide.max(axis=1, keepdims=True)
        log: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
