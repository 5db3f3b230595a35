"""Scales that are powers of two are part of what a subnet is, and of its file."""

from __future__ import annotations

import pytest
from nets import small_supernet, style

from eqnet.spec.scheme import Form, Scales
from eqnet.spec.subnet import SubnetSpec
from eqnet.subnets.build import uniform
from eqnet.supernet.supernet import Supernet


@pytest.fixture
def net() -> Supernet:
    return small_supernet()


def test_the_choice_is_part_of_a_subnets_identity(net):
    free = uniform(net.info, style(), Form(), 4, 4)
    assert "scales" not in free.choices_json()
    assert "storage" not in free.choices_json()
    hashes = {
        free.model_copy(update=update).sha256()
        for update in (
            {},
            {"weight_scales": Scales.POWER_OF_TWO},
            {"activation_scales": Scales.POWER_OF_TWO},
            {"weight_storage_bits": 7},
        )
    }
    assert len(hashes) == 4


def test_a_subnet_of_before_loads_as_one_with_free_scales(net):
    spec = uniform(net.info, style(), Form(), 4, 4)
    left_out = {"weight_scales", "activation_scales", "weight_storage_bits"}
    loaded = SubnetSpec.model_validate_json(spec.model_dump_json(exclude=left_out))
    assert loaded == spec
    assert loaded.weight_scales is Scales.FREE
