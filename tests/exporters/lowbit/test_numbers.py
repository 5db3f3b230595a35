"""The arithmetic of integer-only programs: multipliers, shifts and rounding, against fractions."""

from fractions import Fraction

import numpy as np
import pytest
from eqnet_exporters.lowbit.integer_parts import NotIntegerOnlyError, fixed_point
from hypothesis import given
from hypothesis import strategies as st

from eqnet.backend.lowbit.integer_ops import convolution, rescale, round_shift


@given(st.lists(st.floats(1e-12, 1e8), min_size=1, max_size=6))
def test_multipliers_are_right_to_31_bits(ratios):
    (multiplier,), shift = fixed_point("op", [np.array(ratios)])
    for ratio, m, s in zip(ratios, multiplier, shift, strict=True):
        assert 0 < m < 2**31
        assert 1 <= s <= 62
        exact = Fraction(ratio)
        assert abs(Fraction(m, 2**s) - exact) <= max(exact / 2**30, Fraction(1, 2**63))


@pytest.mark.parametrize("power", [-32, -40, -62, -63, -64, -200])
def test_a_small_ratio_is_right_to_the_last_bit_of_the_longest_shift(power):
    ratio = 1.2345 * 2.0**power
    ((multiplier,),), (shift,) = fixed_point("op", [np.array([ratio])])
    assert shift == 62
    assert 0 <= multiplier < 2**31
    assert abs(Fraction(multiplier, 2**shift) - Fraction(ratio)) <= Fraction(1, 2**63)
    assert (multiplier == 0) == (power < -63)


def test_a_channel_of_multiplier_0_is_its_zero_point():
    sums = np.array([[2**31 - 1, -(2**31)]], np.int32)
    found = rescale([(sums, np.array([0, 1]))], np.array([62, 62]), 7, 0, 15)
    np.testing.assert_array_equal(found, [[7, 7]])


def test_a_scale_that_leaps_is_refused():
    with pytest.raises(NotIntegerOnlyError, match=r"2\^30 or more"):
        fixed_point("op", [np.array([2.0**31])])


@given(st.integers(-(2**62), 2**62), st.integers(1, 62))
def test_rounding_is_half_to_even(value, shift):
    found = round_shift(np.array([value]), np.array([shift]))
    assert int(found[0]) == round(Fraction(value, 2**shift))


def test_rescale_adds_before_it_rounds():
    one = np.array([[1, 3, -5]], np.int32)
    found = rescale([(one, np.array([1])), (one, np.array([1]))], np.array([2]), 10, 0, 11)
    np.testing.assert_array_equal(found, [[10, 11, 8]])


def test_a_convolution_that_does_not_fit_is_refused():
    x, weight = np.zeros((1, 3, 4, 4), np.int32), np.zeros((2, 4, 3, 3), np.int32)
    with pytest.raises(ValueError, match="3 channels"):
        convolution(x, weight, [1, 1], [0] * 4, [1, 1], 1)
