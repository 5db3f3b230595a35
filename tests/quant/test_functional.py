"""The project's numerics: q = clamp(round_half_even(x / s) + z, lo, hi), x' = (q - z) * s."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eqnet.quant.functional import fake_quantize, quantize
from eqnet.quant.ops import dequantize, quantize_dequantize
from eqnet.spec.scheme import BITS, Symmetry, activation_range, weight_range

FLOATS = st.floats(-1e4, 1e4, width=32)


def spans():
    weights = st.builds(weight_range, st.sampled_from(BITS), st.sampled_from(Symmetry))
    activations = st.builds(
        activation_range, st.sampled_from(BITS), st.sampled_from(Symmetry), st.booleans()
    )
    return weights | activations


@given(
    values=st.lists(FLOATS, min_size=1, max_size=24),
    scale=st.floats(2.0**-12, 64.0, width=32),
    span=spans(),
    share=st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_forward_equals_the_formula(values, scale, span, share):
    zero = span.lo + round(share * (span.hi - span.lo))
    x = np.array(values, np.float32)
    s = np.float32(scale)
    q = np.clip(np.rint(x / s) + np.float32(zero), span.lo, span.hi).astype(np.float32)
    expected = (q - np.float32(zero)) * s
    args = (torch.from_numpy(x), torch.tensor(s), torch.tensor(float(zero)), span.lo, span.hi)
    np.testing.assert_array_equal(quantize(*args).numpy(), q)
    once = fake_quantize(*args)
    np.testing.assert_array_equal(once.numpy(), expected)
    np.testing.assert_array_equal(fake_quantize(once, *args[1:]).numpy(), expected)
    integers = quantize(*args)
    assert torch.equal(integers, integers.round())
    assert integers.min() >= span.lo
    assert integers.max() <= span.hi


@given(
    share=st.floats(-0.5, 1.5),
    scale=st.floats(2.0**-12, 64.0, width=32),
    span=spans(),
    place=st.floats(0, 1),
)
@settings(max_examples=150, deadline=None)
def test_inside_the_range_the_error_is_half_a_step_at_most_and_zero_is_exact(
    share, scale, span, place
):
    zero = span.lo + round(place * (span.hi - span.lo))
    grid = (torch.tensor(scale), torch.tensor(float(zero)), span.lo, span.hi)
    low, high = (span.lo - zero) * scale, (span.hi - zero) * scale
    x = torch.tensor([low + share * (high - low), 0.0])
    found = fake_quantize(x, *grid)
    assert found[1] == 0.0
    assert low <= found[0] <= high
    # The range's ends reach half a step further; float32 knows x itself to 2^-24 of its size.
    beyond = max(0.0, low - float(x[0]), float(x[0]) - high)
    assert abs(float(found[0] - x[0])) <= beyond + scale / 2 + 2.0**-22 * abs(float(x[0]))


def test_without_gradients_the_values_are_the_same_and_the_input_is_kept():
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(9))
    before = x.clone()
    args = (torch.full((3, 1), 0.07), torch.tensor([[2.4], [0.0], [15.0]]), 0, 15)
    with torch.no_grad():
        found = fake_quantize(x, *args)
    assert torch.equal(found, fake_quantize(x, *args))
    assert torch.equal(x, before)


def test_half_is_rounded_to_even():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    found = quantize(x, torch.tensor(1.0), torch.tensor(0.0), -8, 7)
    assert found.tolist() == [-2, -2, 0, 0, 2, 2]


@pytest.mark.parametrize(("zero", "whole"), [(3.4, 3), (2.5, 2), (-9.0, 0), (40.0, 15)])
def test_the_zero_point_is_an_integer_inside_the_range(zero, whole):
    x = torch.tensor([0.0])
    assert quantize(x, torch.tensor(0.1), torch.tensor(zero), 0, 15).item() == whole
    assert fake_quantize(x, torch.tensor(0.1), torch.tensor(zero), 0, 15).item() == 0.0


def test_autocast_computes_in_float32():
    x = torch.linspace(-3, 3, 101)
    args = (torch.tensor(0.013), torch.tensor(7.0), 0, 255)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fake_quantize(x, *args)
    assert found.dtype == torch.float32
    assert torch.equal(found, fake_quantize(x, *args))
    half = x.to(torch.bfloat16)
    assert torch.equal(fake_quantize(half, *args), fake_quantize(half.float(), *args))


class Round(torch.autograd.Function):
    """Rounding that passes gradients on."""

    @staticmethod
    def forward(ctx, value):
        return value.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def straight_through(x, scale, zero, lo, hi):
    """Paper Eq. 1 and 2 by autograd: rounding passes gradients on, clamping stops them.

    `torch.clamp` would stop them at the bounds themselves too, which are inside the range.
    """
    z = Round.apply(zero)
    raw = Round.apply(x / scale) + z
    q = torch.where((raw >= lo) & (raw <= hi), raw, raw.detach().clamp(lo, hi))
    return (q - z) * scale


@pytest.mark.parametrize("shape", [(), (4, 1)])
@pytest.mark.parametrize(("lo", "hi", "zero"), [(-8, 7, 0.0), (0, 15, 5.0), (-2, 1, -1.0)])
def test_gradients_equal_a_straight_through_reference(shape, lo, hi, zero):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 50, generator=generator)
    grad = torch.randn(4, 50, generator=generator)
    scale = torch.full(shape, 0.21)
    point = torch.full(shape, zero)
    ours = [value.clone().requires_grad_() for value in (x, scale, point)]
    theirs = [value.clone().requires_grad_() for value in (x, scale, point)]
    fake_quantize(ours[0], ours[1], ours[2], lo, hi, 0.25).backward(grad)
    straight_through(theirs[0], theirs[1], theirs[2], lo, hi).backward(grad)
    torch.testing.assert_close(ours[0].grad, theirs[0].grad, rtol=1e-6, atol=0)
    for mine, reference in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(mine.grad, 0.25 * reference.grad, rtol=1e-4, atol=1e-5)


def test_the_scales_gradient_is_that_of_lsq():
    """LSQ (Esser et al. 2020), Eq. 3: round(x/s) - x/s inside, the bound outside."""
    s, lo, hi = 0.5, -4, 3
    for value in (-9.0, -1.26, 0.0, 0.3, 0.74, 1.4, 8.0):
        scale = torch.tensor(s, requires_grad=True)
        fake_quantize(torch.tensor([value]), scale, torch.tensor(0.0), lo, hi).backward()
        steps = value / s
        expected = lo if steps <= lo else hi if steps >= hi else round(steps) - steps
        assert scale.grad.item() == pytest.approx(expected, abs=1e-5)


def test_the_exported_operators_compute_what_training_computes():
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(0)) * 3
    scale, zero = torch.tensor(0.037), torch.tensor(100, dtype=torch.uint8)
    found = quantize_dequantize(x, scale, zero, 0, 255)
    assert torch.equal(found, fake_quantize(x, scale, zero.float(), 0, 255))
    integers = torch.randint(-8, 8, (4, 3, 2), dtype=torch.int8)
    scales, zeros = torch.rand(4) + 0.1, torch.tensor([0, 1, -2, 7], dtype=torch.int8)
    expected = (integers.float() - zeros.float()[:, None, None]) * scales[:, None, None]
    assert torch.equal(dequantize(integers, scales, zeros), expected)
