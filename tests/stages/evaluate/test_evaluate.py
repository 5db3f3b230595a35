"""The accuracy of one subnet carries an interval."""

from __future__ import annotations

from eqnet.stages.evaluate.evaluate import interval_of


def test_interval_holds_the_accuracy_and_shrinks_with_images():
    low, high = interval_of(0.9, 10_000, seed=0)
    assert low < 0.9 < high
    # 1.96 standard errors of a proportion on each side.
    assert abs((high - low) - 2 * 1.96 * (0.9 * 0.1 / 10_000) ** 0.5) < 5e-4
    wide = interval_of(0.9, 100, seed=0)
    assert wide[1] - wide[0] > high - low


def test_interval_is_the_same_for_the_same_seed():
    assert interval_of(0.5, 50, seed=3) == interval_of(0.5, 50, seed=3)
    assert interval_of(0.5, 5000, seed=3) != interval_of(0.5, 5000, seed=4)


def test_a_certain_accuracy_has_no_width():
    assert interval_of(1.0, 100, seed=0) == (1.0, 1.0)
