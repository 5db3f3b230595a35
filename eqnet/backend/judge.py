"""Is the quantization good? A quantized network judged against the float model it began as."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from eqnet.backend.decisions import decide, margins
from eqnet.spec.hardware.profile import ParityRules
from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.reports import Check, Verdict

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]

RESAMPLES = 10_000
# Accuracies that a supernet's header holds were averaged in float32.
POINT_DIGITS = 4
# An error of one step of an 8-bit grid over the logits' range in each of the two best logits.
CLEAR_STEPS = 2.0
# Of a two-sided interval of 95%: how improbable chance must be before an artifact fails.
TAIL = 0.025
# On fewer images a demand is looked at, but meeting it is no evidence.
MIN_IMAGES = 16
NO_FLOAT_LOGITS = (
    "the supernet was trained further from its float model, whose logits are not known"
)
NO_FLOAT = "the artifact was exported without the float model's logits"
NO_LABELS = "the stored images have no labels"
NO_FLOAT_ACCURACY = "the float model's accuracy on the stored images is not known"


def compare_with_float(
    logits: Logits,
    float_logits: Logits | None,
    labels: Labels,
    float_accuracy: float | None = None,
    seed: int = 0,
) -> FloatComparison:
    """Compare logits [N, K] with the float model's on the same images.

    labels: int64 [N], -1 where not known. float_accuracy: of the float model on the labelled
    images, in [0, 1]; only used where its logits are not known. The interval of the accuracy
    difference is a bootstrap over images, seeded by `seed`: paired where both networks' answers
    are known image by image, else the two accuracies are drawn independently, which is wider.
    """
    labelled = labels >= 0
    right = decide(logits)[labelled] == labels[labelled]
    drop = interval = None
    if float_logits is not None and labelled.any():
        float_right = decide(float_logits)[labelled] == labels[labelled]
        float_accuracy = float(float_right.mean())
        interval = paired_interval(float_right, right, seed)
    elif float_accuracy is not None and labelled.any():
        interval = _independent_interval(float_accuracy, right, seed)
    if interval is not None and float_accuracy is not None:
        drop = round(100 * (float_accuracy - float(right.mean())), POINT_DIGITS)
    share = snr = None
    reason = NO_FLOAT_LOGITS
    if float_logits is not None:
        share, snr = agreement(logits, float_logits), signal_to_noise(logits, float_logits)
        reason = ""
    return FloatComparison(
        images=len(logits),
        agreement=share,
        snr_db=snr,
        labelled=int(labelled.sum()),
        float_accuracy=float_accuracy,
        accuracy_drop=drop,
        accuracy_drop_interval=interval,
        paired=float_logits is not None and interval is not None,
        reason=reason,
    )


def agreement(a: Logits, b: Logits) -> float:
    """Share of rows with the same class; a row that is not finite agrees with none."""
    finite = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    return float(np.mean((decide(a) == decide(b)) & finite))


def share_interval(share: float, count: int, seed: int = 0) -> tuple[float, float]:
    """95% interval of a share of `count` images when they are drawn again with replacement."""
    draws = np.random.default_rng(seed).binomial(count, share, size=RESAMPLES) / count
    low, high = np.percentile(draws, [100 * TAIL, 100 * (1 - TAIL)])
    return float(low), float(high)


def clear_agreement(logits: Logits, truth: Logits, step: float) -> float:
    """Share of rows with the same class, or whose class is not clear in `truth`.

    A row is clear where its best two logits are more than 2 steps apart; what is nearer, a
    rounding tie inside the network may turn over in a runtime that is right. With 1,000 classes
    that is one image in 30. step: of an 8-bit grid over the range of `truth`, [N, K].
    """
    finite = np.isfinite(logits).all(axis=1)
    same = (decide(logits) == decide(truth)) | (margins(truth) <= CLEAR_STEPS * step)
    return float(np.mean(same & finite))


def signal_to_noise(logits: Logits, float_logits: Logits) -> float | None:
    """Signal-to-noise ratio of logits [N, K] in dB, over the whole set.

    10 log10(sum f^2 / sum (f - q)^2) with f the float model's logits and q these, neither
    centred. None where either sum is 0 or not finite.
    """
    truth = float_logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        signal = float(np.square(truth).sum())
        noise = float(np.square(truth - logits).sum())
    if not (signal > 0 and noise > 0 and math.isfinite(signal) and math.isfinite(noise)):
        return None
    return 10 * math.log10(signal / noise)


def paired_interval(
    float_right: NDArray[np.bool_], right: NDArray[np.bool_], seed: int = 0
) -> tuple[float, float]:
    """95% interval of the loss in points when images are drawn again with replacement.

    float_right, right: bool [N], whether the other network and this one are right.

    An image is lost, won or neither, so that a resample is a draw of how often each comes up.
    """
    count = len(right)
    lost = int((float_right & ~right).sum())
    won = int((right & ~float_right).sum())
    shares = np.array([lost, won, count - lost - won]) / count
    draws = np.random.default_rng(seed).multinomial(count, shares, size=RESAMPLES)
    return _middle((draws[:, 0] - draws[:, 1]) / count)


def _independent_interval(
    float_accuracy: float, right: NDArray[np.bool_], seed: int
) -> tuple[float, float]:
    count, rng = len(right), np.random.default_rng(seed)
    theirs = rng.binomial(count, float_accuracy, size=RESAMPLES)
    ours = rng.binomial(count, float(right.mean()), size=RESAMPLES)
    return _middle((theirs - ours) / count)


def _middle(losses: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(100 * losses, [100 * TAIL, 100 * (1 - TAIL)])
    return round(float(low), POINT_DIGITS), round(float(high), POINT_DIGITS)


def float_checks(comparison: FloatComparison | None, rules: ParityRules) -> list[Check]:
    """The demands of a profile on a comparison with the float model.

    comparison: None for an artifact that was exported before eqnet stored one.
    """
    if comparison is None:
        return [_skipped(name, NO_FLOAT) for name in ("float_agreement", "float_accuracy_drop")]
    return [_agreement_check(comparison, rules), _drop_check(comparison, rules)]


def _agreement_check(comparison: FloatComparison, rules: ParityRules) -> Check:
    """Failed where the share is below the limit by more than chance.

    That is: were the true share the limit, so few agreeing images or fewer would come up with a
    probability below 2.5%.
    """
    name, share, limit = "float_agreement", comparison.agreement, rules.float_agreement
    if share is None:
        return _skipped(name, comparison.reason)
    agreeing = round(share * comparison.images)
    chance = binomial_tail(agreeing, comparison.images, limit)
    return _judged(
        name,
        share,
        limit,
        "share",
        comparison.images,
        missed=share < limit,
        plausible=chance >= TAIL,
        sign=">=",
    )


def _drop_check(comparison: FloatComparison, rules: ParityRules) -> Check:
    """Failed where the loss exceeds the limit, and the interval holds no loss of 0."""
    name, drop, limit = "float_accuracy_drop", comparison.accuracy_drop, rules.float_accuracy_drop
    interval = comparison.accuracy_drop_interval
    if drop is None or interval is None:
        reason = NO_FLOAT_ACCURACY if comparison.labelled else NO_LABELS
        return _skipped(name, reason)
    return _judged(
        name,
        drop,
        limit,
        "points",
        comparison.labelled,
        missed=drop > limit,
        plausible=interval[0] <= 0,
        sign="<=",
    )


def _judged(
    name: str,
    value: float,
    limit: float,
    unit: str,
    images: int,
    *,
    missed: bool,
    plausible: bool,
    sign: str,
) -> Check:
    """missed: the value alone is beyond the limit; plausible: chance may have done that."""
    demand = f"{value:.4g} {unit} (demanded: {sign} {limit:.4g})"
    reason, verdict = "", _verdict(missed and not plausible, images)
    if verdict == "failed":
        reason = demand
    elif verdict == "skipped":
        reason = f"{images} images (needed: at least {MIN_IMAGES})"
    elif missed:
        reason = f"{demand}, which {images} images do not tell from chance"
    return Check(
        name=name,
        group="quantization",
        verdict=verdict,
        value=value,
        limit=limit,
        unit=unit,
        reason=reason,
    )


def _verdict(failed: bool, images: int) -> Verdict:
    if failed:
        return "failed"
    return "passed" if images >= MIN_IMAGES else "skipped"


def _skipped(name: str, reason: str) -> Check:
    return Check(name=name, group="quantization", verdict="skipped", reason=reason)


def binomial_tail(successes: int, trials: int, share: float) -> float:
    """Probability of at most so many successes among `trials` of probability `share` each."""
    if successes >= trials:
        return 1.0
    if share in (0.0, 1.0):
        return 1.0 - share
    counts = np.arange(successes + 1)
    logs = np.array([math.lgamma(trials + 1)]) - _log_factorial(counts)
    logs = logs - _log_factorial(trials - counts)
    logs = logs + counts * math.log(share) + (trials - counts) * math.log1p(-share)
    return float(min(1.0, np.exp(logs).sum()))


def _log_factorial(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([math.lgamma(count + 1) for count in counts.tolist()])
