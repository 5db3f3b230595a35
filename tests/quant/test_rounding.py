"""Rounding by second moments: the error of the output falls, integers stay on the grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eqnet.quant.rounding import (
    Decomposition,
    WeightGrid,
    damped,
    near,
    output_error,
    pack,
    refitted,
    round_columns,
    unpack,
)


def problem(groups, rows, columns, seed, bits=4):
    """A weight [G, R, K], correlated inputs' moments, and the grid of its largest values."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(groups, rows, columns, generator=generator)
    mix = torch.randn(groups, columns, columns, generator=generator)
    samples = torch.randn(groups, 4 * columns, columns, generator=generator) @ mix
    moments = samples.transpose(1, 2) @ samples / samples.shape[1]
    top = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(2, keepdim=True) / top
    bounds = torch.full_like(scale, -top - 1), torch.full_like(scale, top)
    return weight, moments, WeightGrid(scale, torch.zeros_like(scale), *bounds)


def error(weight, integers, grid, moments):
    difference = grid.real(integers) - weight
    return float(((difference @ moments) * difference).sum())


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 4),
    rows=st.integers(1, 5),
    columns=st.integers(1, 150),
    bits=st.integers(2, 8),
    seed=st.integers(0, 1000),
)
def test_output_error_is_not_above_that_of_nearest_integers(groups, rows, columns, bits, seed):
    weight, moments, grid = problem(groups, rows, columns, seed, bits)
    moments = damped(moments)
    nearest = grid.nearest(weight)
    integers = round_columns(weight, grid, Decomposition.of(moments))
    assert torch.equal(integers, integers.round())
    assert bool(((integers >= grid.lo) & (integers <= grid.hi)).all())
    assert float((integers - nearest).abs().max()) <= 1
    # Up to float32's rounding.
    least = error(weight, nearest, grid, moments)
    assert error(weight, integers, grid, moments) <= 1.001 * least + 1e-9


@pytest.mark.parametrize("columns", [9, 64, 300])
def test_output_error_falls_by_half_on_correlated_inputs(columns):
    weight, moments, grid = problem(1, 16, columns, seed=1)
    moments = damped(moments, 0.01)
    integers = round_columns(weight, grid, Decomposition.of(moments))
    nearest = error(weight, grid.nearest(weight), grid, moments)
    assert error(weight, integers, grid, moments) < 0.5 * nearest


def test_uncorrelated_inputs_leave_the_nearest_integers():
    weight, _, grid = problem(1, 8, 40, seed=2)
    moments = torch.diag_embed(torch.rand(1, 40) + 0.5)
    integers = round_columns(weight, grid, Decomposition.of(moments))
    assert torch.equal(integers, grid.nearest(weight))


def test_the_refitted_scale_has_the_least_error_for_its_integers():
    weight, moments, grid = problem(2, 3, 20, seed=3)
    parts = Decomposition.of(damped(moments))
    products, squares = refitted(weight, grid, parts)
    scale = near(grid.scale[:, :, 0], products, squares)
    assert not torch.equal(scale, grid.scale[:, :, 0])

    def change(candidate):  # of the error, but for a part without the scale
        return candidate.square() * squares - 2 * candidate * products

    for factor in (0.99, 1.01):
        assert bool((change(scale) < change(scale * factor)).all())


def test_errors_that_grids_are_compared_by_are_those_of_gptqs_integers():
    weight, moments, grid = problem(2, 3, 20, seed=5)
    parts = Decomposition.of(damped(moments))
    free = grid._replace(lo=grid.lo * 100, hi=grid.hi * 100)
    coarse, fine = (
        float(output_error(weight, free._replace(scale=grid.scale * factor), parts).sum())
        for factor in (2.0, 0.25)
    )
    assert fine < coarse / 16  # errors go with the square of the scale
    direct = error(weight, round_columns(weight, free, parts), free, damped(moments))
    assert direct <= 1.001 * float(output_error(weight, free, parts).sum())


def test_moments_that_are_singular_are_no_failure():
    weight, _, grid = problem(1, 4, 12, seed=4)
    for moments in (torch.zeros(1, 12, 12), torch.ones(1, 12, 12)):
        integers = round_columns(weight, grid, Decomposition.of(damped(moments)))
        assert bool(torch.isfinite(integers).all())


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=60))
def test_offsets_come_back_from_their_packed_form(values):
    offsets = torch.tensor(values, dtype=torch.float32)
    packed = pack(offsets)
    assert packed.dtype is torch.uint8
    assert len(packed) == -(-len(values) // 5)
    assert torch.equal(unpack(packed, offsets.shape), offsets)
