"""WDR and GPG against the formulas of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from eqnet.stages.train.recipe import ElasticRecipe
from eqnet.stages.train.steps import losses
from eqnet.stages.train.steps.losses import (
    guided_loss,
    kurtosis,
    skewness,
    weight_distribution_loss,
)


def moments(values):
    """Skewness and kurtosis from their definitions, in float64."""
    x = values.double().numpy().ravel()
    z = (x - x.mean()) / x.std()
    return (z**3).mean(), (z**4).mean()


def test_a_uniform_distribution_has_no_skew_and_kurtosis_1_8():
    values = (torch.arange(100_000) + 0.5) / 100_000 * 3 - 1
    assert skewness(values).item() == pytest.approx(0.0, abs=1e-3)
    assert kurtosis(values).item() == pytest.approx(1.8, abs=1e-3)
    assert wdr([values]).item() == pytest.approx(0.0, abs=1e-5)


def wdr(weights, skew=1.0, kurt=1.0):
    return weight_distribution_loss(weights, {"skewness": skew, "kurtosis": kurt}).sum()


@pytest.mark.parametrize("seed", range(3))
def test_moments_equal_their_definitions(seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(8, 4, 3, 3, generator=generator) ** (seed + 1) * 0.02
    expected = moments(values)
    assert skewness(values).item() == pytest.approx(expected[0], abs=1e-3)
    assert kurtosis(values).item() == pytest.approx(expected[1], rel=1e-3)
    # Both are free of the unit of the weights.
    assert kurtosis(values * 50).item() == pytest.approx(kurtosis(values).item(), rel=1e-3)


def test_wdr_is_the_weighted_mean_over_layers_and_pulls_towards_uniform():
    generator = torch.Generator().manual_seed(7)
    layers = [torch.randn(400, generator=generator) + 1, torch.rand(300, generator=generator) ** 3]
    expected = np.mean([2 * s**2 + 0.5 * (k - 1.8) ** 2 for s, k in map(moments, layers)])
    found = wdr(layers, 2.0, 0.5)
    assert found.item() == pytest.approx(expected, rel=1e-3)
    weight = layers[1].clone().requires_grad_()
    for _ in range(200):
        (grad,) = torch.autograd.grad(wdr([weight]), weight)
        weight = (weight - 0.5 * grad).detach().requires_grad_()
    assert wdr([weight]) < 0.2 * wdr([layers[1]])


def test_constant_weights_have_finite_losses():
    weight = torch.full((10,), 0.3, requires_grad=True)
    loss = wdr([weight])
    loss.backward()
    assert torch.isfinite(loss)
    assert weight.grad is not None
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize("guidance", [0.0, 0.3, 1.0])
def test_guided_loss_is_kl_and_cross_entropy(guidance):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 4, generator=generator, requires_grad=True)
    guide = torch.randn(5, 4, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 1])
    student = np.exp(logits.detach().double().numpy())
    student /= student.sum(1, keepdims=True)
    teacher = np.exp(guide.detach().double().numpy())
    teacher /= teacher.sum(1, keepdims=True)
    # As in distillation: KL(guide || student), the expectation under the guide.
    divergence = (teacher * np.log(teacher / student)).sum(1).mean()
    entropy = -np.log(student[np.arange(5), labels.numpy()]).mean()
    loss = guided_loss(logits, labels, guide, guidance)
    assert loss.item() == pytest.approx(guidance * divergence + (1 - guidance) * entropy, rel=1e-5)
    loss.backward()
    assert guide.grad is None
    assert logits.grad is not None


def test_without_a_guide_the_loss_is_cross_entropy():
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert guided_loss(logits, labels, None, 0.7) == expected


def test_a_new_term_is_one_entry_that_step_and_log_read(monkeypatch):
    monkeypatch.setitem(losses.TERMS, "decay", lambda weight: weight.square().mean())
    recipe = ElasticRecipe(wdr={"decay": 0.25})
    assert recipe.wdr == {"skewness": 1.0, "kurtosis": 0.015, "decay": 0.25}
    weight = torch.tensor([1.0, -1.0, 3.0], requires_grad=True)
    terms = losses.weight_distribution_loss([weight], recipe.wdr | {"skewness": 0, "kurtosis": 0})
    assert terms.tolist() == pytest.approx([0, 0, 0.25 * 11 / 3])


def test_an_unknown_term_is_one_line():
    with pytest.raises(ValidationError, match="unknown term 'kurtois'; did you mean 'kurtosis'"):
        ElasticRecipe(wdr={"kurtois": 1.0})
