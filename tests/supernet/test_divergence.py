"""KL between the classes' probabilities of two networks."""

from __future__ import annotations

import pytest
import torch

from eqnet.supernet.measure import kl_divergence, logits
from eqnet.supernet.session import open_session


def test_equals_pytorchs() -> None:
    torch.manual_seed(0)
    reference, found = torch.randn(7, 10), torch.randn(7, 10)
    due = torch.nn.functional.kl_div(
        found.double().log_softmax(1),
        reference.double().log_softmax(1),
        reduction="none",
        log_target=True,
    ).sum(1)
    torch.testing.assert_close(kl_divergence(reference, found), due)


def test_a_single_logit_is_that_of_a_positive_class() -> None:
    reference, found = torch.tensor([[0.5], [-2.0]]), torch.tensor([[1.5], [-2.0]])
    p, q = reference.double().sigmoid(), found.double().sigmoid()
    due = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())[:, 0]
    torch.testing.assert_close(kl_divergence(reference, found), due)


def test_extreme_logits_stay_finite() -> None:
    reference, found = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert kl_divergence(reference, found).item() == pytest.approx(1e4)
    assert kl_divergence(reference, reference).item() == 0.0


def test_a_supernet_without_its_float_model_is_compared_with_8_bits() -> None:
    session = open_session(None)
    images = session.batches(session.dataset.validation(), 16)
    reference = session.reference_logits(images)
    assert session.float_logits(images) is None
    torch.testing.assert_close(reference, logits(session.supernet.graph, images))
