"""Elastic quantizers: clip search, every form, and parameters that only their own form moves."""

from __future__ import annotations

import itertools

import pytest
import torch

from eqnet.quant.clip_search import _grid, search_clip
from eqnet.quant.functional import quantize
from eqnet.quant.quantizers import ActivationQuantizer, WeightQuantizer
from eqnet.quant.static import IntegerWeight
from eqnet.spec.scheme import BITS, Granularity, Symmetry, activation_range, weight_range

FORMS = list(itertools.product(Granularity, Symmetry, BITS))


def weight(seed: int = 0) -> torch.Tensor:
    """Heavy tails and an offset, so that clipping and asymmetry both matter. [6, 4, 3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(6, 4, 3, 3, generator=generator) ** 3 * 0.1
    return values + torch.linspace(-0.1, 0.2, 6).view(-1, 1, 1, 1)


def error(values, scale, zero, span):
    """Mean squared error of each row."""
    restored = (quantize(values, scale[:, None], zero[:, None], *span) - zero[:, None]) * scale[
        :, None
    ]
    return (restored - values).square().mean(1)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_clip_search_is_no_worse_than_the_range_or_than_a_plain_sweep(bits, symmetric):
    rows = weight().reshape(6, -1)
    span = weight_range(bits, Symmetry.SYMMETRIC if symmetric else Symmetry.ASYMMETRIC)
    low, high = rows.amin(1), rows.amax(1)
    found = search_clip(rows, low, high, span, symmetric=symmetric)
    best = error(rows, found.scale, found.zero_point, span)
    start, end = low.clamp(max=0.0), high.clamp(min=0.0)
    sweep = [_grid(start * ratio / 80, end * ratio / 80, span, symmetric) for ratio in range(8, 81)]
    errors = torch.stack([error(rows, s, z, span) for s, z in sweep])
    assert (best <= errors[-1] * (1 + 1e-5)).all()
    # The two-stage search may miss the best of the 80 levels by a little, never by much.
    assert (best <= errors.min(0).values * 1.1).all()
    assert (found.scale > 0).all()
    assert torch.equal(found.zero_point, found.zero_point.round())


@pytest.mark.parametrize("factor", [3.0, 30.0, 300.0])
def test_a_skewed_search_keeps_the_short_end_of_what_is_far_out_at_the_other(factor):
    """As behind SiLU: nothing below -0.28, and single values far above all others."""
    x = torch.nn.functional.silu(
        2 * torch.randn(1, 9000, generator=torch.Generator().manual_seed(0))
    )
    x[0, ::1501] *= factor
    span = weight_range(8, Symmetry.ASYMMETRIC)
    weights = torch.ones(9000)
    weights[::1501] = factor**-2

    def lost(skewed):
        found = search_clip(
            x, x.amin(1), x.amax(1), span, symmetric=False, weights=weights, skewed=skewed
        )
        scale, zero = found.scale[:, None], found.zero_point[:, None]
        restored = (quantize(x, scale, zero, *span) - zero) * scale
        return float(((restored - x).square() * weights).mean())

    assert lost(True) <= 1.01 * lost(False)
    if factor > 30:
        assert lost(True) < 0.6 * lost(False)


def test_clip_search_of_zeros_gives_a_positive_scale():
    rows = torch.zeros(2, 9)
    found = search_clip(
        rows, rows[:, 0], rows[:, 0], weight_range(8, Symmetry.ASYMMETRIC), symmetric=False
    )
    assert (found.scale > 0).all()
    assert torch.isfinite(found.scale).all()


@pytest.mark.parametrize(("granularity", "symmetry", "bits"), FORMS)
def test_weights_lie_on_the_grid_of_the_form_in_force(granularity, symmetry, bits):
    quantizer = WeightQuantizer(6)
    values = weight()
    quantizer.initialize(values)
    quantizer.granularity, quantizer.symmetry, quantizer.bits = granularity, symmetry, bits
    integers, scale, zero = quantizer.integers(values)
    span = weight_range(bits, symmetry)
    assert integers.min() >= span.lo
    assert integers.max() <= span.hi
    assert symmetry is Symmetry.ASYMMETRIC or not zero.any()
    if granularity is Granularity.PER_TENSOR:
        assert len(scale.unique()) == len(zero.unique()) == 1
    else:
        assert len(scale.unique()) == 6
    expected = (integers - zero.view(-1, 1, 1, 1)).float() * scale.view(-1, 1, 1, 1)
    assert torch.equal(quantizer(values), expected)
    stored = IntegerWeight(integers, scale, zero, bits)
    torch.testing.assert_close(stored(), expected, rtol=0, atol=0)
    error = (expected - values).square().mean() / values.square().mean()
    assert error < {2: 0.6, 3: 0.3, 4: 0.1}.get(bits, 0.03)


def test_symmetric_weights_are_narrow_at_8_bits_and_full_below():
    quantizer = WeightQuantizer(1)
    quantizer.granularity = Granularity.PER_TENSOR
    values = torch.linspace(-1, 1, 512).reshape(1, -1)
    with torch.no_grad():
        for parameter in quantizer.log_scale.values():
            parameter.fill_(-9.0)
    for bits, lowest in ((8, -127), (7, -64), (2, -2)):
        quantizer.bits = bits
        assert quantizer.integers(values)[0].min() == lowest


def test_an_inactive_weight_quantizer_is_transparent_and_has_no_integers():
    quantizer = WeightQuantizer(6)
    values = weight()
    assert quantizer(values) is values
    with pytest.raises(ValueError, match="remainder"):
        quantizer.integers(values)


@pytest.mark.parametrize(("granularity", "symmetry", "bits"), FORMS[::5])
def test_only_the_form_in_force_gets_gradients(granularity, symmetry, bits):
    quantizer = WeightQuantizer(6)
    values = weight().requires_grad_()
    quantizer.initialize(values)
    quantizer.granularity, quantizer.symmetry, quantizer.bits = granularity, symmetry, bits
    quantizer(values).square().sum().backward()
    moved = {name for name, value in quantizer.named_parameters() if value.grad is not None}
    key = WeightQuantizer.key(granularity, symmetry, bits)
    expected = {f"log_scale.{key}"}
    if symmetry is Symmetry.ASYMMETRIC:
        expected.add(f"zero_point.{key}")
    assert moved == expected
    assert values.grad is not None


@pytest.mark.parametrize("symmetry", Symmetry)
@pytest.mark.parametrize("non_negative", [True, False])
def test_activations_of_every_form(symmetry, non_negative):
    values = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(4)) + 0.4
    values = values.relu() if non_negative else values
    quantizer = ActivationQuantizer(non_negative)
    quantizer.initialize(values.reshape(-1), float(values.min()), float(values.max()))
    quantizer.symmetry = symmetry
    for bits in BITS:
        quantizer.narrow_bits = bits
        carrier, narrow = quantizer(values)
        assert carrier is values
        scale, zero, span = quantizer.parameters_of(bits)
        assert span == activation_range(bits, symmetry, non_negative)
        steps = narrow / scale + zero
        torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
        assert steps.min() >= span.lo - 1e-3
        assert steps.max() <= span.hi + 1e-3
        if non_negative or symmetry is Symmetry.SYMMETRIC:
            assert zero == 0


def test_a_carrier_is_requantized_for_narrow_readers_and_equal_bits_are_one_tensor():
    values = torch.rand(2, 30, generator=torch.Generator().manual_seed(5))
    quantizer = ActivationQuantizer(True)
    quantizer.initialize(values.reshape(-1), 0.0, 1.0)
    quantizer.carrier_bits, quantizer.narrow_bits = 8, 3
    carrier, narrow = quantizer(values)
    assert torch.equal(narrow, quantizer._quantize(carrier, 3))
    assert len(carrier.unique()) > len(narrow.unique())
    quantizer.narrow_bits = 8
    carrier, narrow = quantizer(values)
    assert carrier is narrow


@pytest.mark.parametrize("bits", BITS)
def test_a_grid_stays_inside_the_bound_of_relu6(bits):
    quantizer = ActivationQuantizer(True, upper=6.0)
    with torch.no_grad():
        for parameter in quantizer.log_scale.values():
            parameter.fill_(3.0)
    scale, _, span = quantizer.parameters_of(bits)
    assert scale * span.hi <= 6.0 * (1 + 1e-6)
    quantizer.narrow_bits = bits
    assert quantizer(torch.tensor([[6.0]]))[1].item() == pytest.approx(6.0, rel=1e-6)


def test_a_scale_at_its_bound_can_still_shrink():
    quantizer = ActivationQuantizer(True, upper=6.0)
    quantizer.narrow_bits = 4
    log_scale = quantizer.log_scale["unsigned_4"]
    with torch.no_grad():
        log_scale.fill_(2.0)
    quantizer.project()
    assert log_scale.exp().item() == pytest.approx(6 / 15, rel=1e-6)
    # Small values want a finer grid than 0.4: the error falls with the scale.
    values = torch.rand(1, 500, generator=torch.Generator().manual_seed(6))
    (quantizer(values)[1] - values).square().sum().backward()
    assert log_scale.grad.item() > 0


@pytest.mark.parametrize("columns", [9, 700])
@pytest.mark.parametrize("symmetric", [True, False])
def test_clip_search_does_not_depend_on_how_it_is_cut_into_blocks(monkeypatch, symmetric, columns):
    rows = torch.randn(6, columns, generator=torch.Generator().manual_seed(3))
    span = weight_range(4, Symmetry.SYMMETRIC if symmetric else Symmetry.ASYMMETRIC)
    found = []
    for block in (columns, 5 * columns, 1 << 20):
        monkeypatch.setattr("eqnet.quant.clip_search.CPU_BLOCK", block)
        found.append(search_clip(rows, rows.amin(1), rows.amax(1), span, symmetric=symmetric))
    for other in found[1:]:
        assert torch.equal(other.scale, found[0].scale)
        assert torch.equal(other.zero_point, found[0].zero_point)


def test_a_range_whose_squares_overflow_is_not_taken():
    rows = torch.linspace(-3e19, 3e19, 50)[None]
    weights = torch.zeros(50)  # infinity times 0 is no number
    found = search_clip(
        rows,
        rows.amin(1),
        rows.amax(1),
        activation_range(8, Symmetry.SYMMETRIC, False),
        symmetric=True,
        weights=weights,
        skewed=True,
    )
    assert float(found.scale) == pytest.approx(6e19 / 255, rel=1e-3)
