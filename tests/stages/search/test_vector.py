"""Many genomes at once against one after another, for random genomes and every shipped profile."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from gated_nets import Gated
from hypothesis import given, settings
from hypothesis import strategies as st
from nets import small_supernet, supernet_of
from search_tools import ALL_PAIRS, BitsPredictor, cost_function, lowbit, space_of

from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.load import load_profile, profiles_dir
from eqnet.spec.progress import Silent
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.search.accuracy.features import encode
from eqnet.stages.search.evolution.genetic import Breeding, evolve
from eqnet.stages.search.evolution.seeds import Sensitivities, seeds
from eqnet.stages.search.reachable import within_all
from eqnet.stages.search.scoring import Scorer, Totals, matrix, rows
from eqnet.stages.search.vector.choices import Choices
from eqnet.stages.search.vector.encoding import Encoder
from eqnet.stages.search.vector.totals import layer_sum, quantities
from eqnet.subnets.budgets import quantities as slow_quantities
from eqnet.subnets.membership import first_difference
from eqnet.supernet.checkpoint import bundled_supernet, load_supernet


def typed(predictor: BitsPredictor) -> Any:
    return predictor


SHIPPED = sorted(path.stem for path in profiles_dir().glob("*.yaml"))


@pytest.fixture(scope="module")
def infos():
    """Captured networks: small, with gates and a stem, and the bundled ResNet-20."""
    bundled = load_supernet(bundled_supernet())[0].info
    gated = supernet_of(Gated(), shape=(3, 16, 16)).info
    return {"small": small_supernet().info, "gated": gated, "resnet": bundled}


def random_genomes(space, seed, count=12):
    rng = np.random.default_rng(seed)
    return rng.integers(0, space.choices(), (count, len(space.choices()))).astype(np.int64)


def agree(info, rules, seed):
    """Bits, quantities, costs and features of both ways."""
    space = space_of(info, rules)
    choices, genomes = Choices(space), random_genomes(space, seed)
    specs = [space.subnet(genome) for genome in genomes.tolist()]
    widths = choices.widths(genomes)
    for row, spec in enumerate(specs):
        for layer, bits in zip(info.layers, widths.weights[row], strict=True):
            assert spec.weights[layer.name] == (int(bits) or "remainder"), layer.name
        for tensor, bits in zip(info.read_tensors(), widths.reads[row], strict=True):
            assert spec.activations.get(tensor.name, 0) == bits, tensor.name
        for tensor, bits in zip(info.tensors, widths.carriers[row], strict=True):
            assert spec.carriers.get(tensor.name, 0) == bits, tensor.name
    found = quantities(choices, widths)
    for name in found:
        assert found[name].tolist() == [slow_quantities(info, rules, spec)[name] for spec in specs]
    for model in (
        {"model": "bitops"},
        {"model": "bit_serial"},
        {"model": "size"},
        {"model": "roofline", "gbps": 1.0},
    ):
        cost: Any = cost_function(info, rules.model_copy(update={"cost": cost_model(**model)}))
        assert layer_sum(choices, cost)(widths) == pytest.approx([cost(spec) for spec in specs])
    encoder = Encoder.of(choices)
    assert encoder is not None
    assert encoder.features(widths).tolist() == [encode(info, spec).tolist() for spec in specs]


def cost_model(**parameters: Any):
    return lowbit(cost=parameters).cost


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_gives_the_same_bits_and_costs(infos, name):
    for info in infos.values():
        for seed in range(4):
            agree(info, load_profile(name), seed)
            chosen_again(info, load_profile(name), seed)


def chosen_again(info, rules, seed):
    """A subnet written, read, and chosen again by its own bits is the very same subnet."""
    space = space_of(info, rules)
    for genome in random_genomes(space, seed, count=4).tolist():
        spec = space.subnet(genome)
        read = SubnetSpec.model_validate_json(spec.model_dump_json())
        assert read == spec
        assert first_difference(space.target, read) is None


RULES = st.fixed_dictionaries(
    {
        "residual_bits": st.sampled_from(["same", "8", "float"]),
        "add": st.sampled_from(["both", "skip", "none"]),
        "carriers": st.lists(
            st.sampled_from(["add", "concat", "pool", "mul", "activation", "other"]), unique=True
        ),
        "quantize": st.sampled_from(
            [["conv", "depthwise_conv", "linear"], ["conv"], ["conv", "linear"]]
        ),
    }
)
GROUPS = ["conv", "depthwise_conv", "linear", "add", "activated", "stem"]
ACTIVATIONS = st.sampled_from(
    [
        {"symmetry": "asymmetric"},
        {"symmetry": "symmetric", "storage": "int8", "zero_point": "zero"},
        {"symmetry": "symmetric", "storage": "int8", "zero_point": "zero", "unsigned": "shifted"},
    ]
)
PAIRS = st.lists(st.sampled_from(ALL_PAIRS), min_size=1, max_size=9, unique_by=tuple)
PINS = st.sampled_from(
    [[], [{"layers": "first", "bits": "remainder"}], [{"layers": "first"}, {"layers": "last"}]]
)


@settings(max_examples=60, deadline=None)
@given(
    placement=RULES,
    activations=ACTIVATIONS,
    bits=PAIRS,
    pinned=PINS,
    groups=st.lists(st.sampled_from(GROUPS), unique=True),
    net=st.sampled_from(["small", "gated", "resnet"]),
    seed=st.integers(0, 2**16),
)
def test_any_rules_give_the_same_bits_and_costs(
    infos, placement, activations, bits, pinned, groups, net, seed
):
    rules = lowbit(
        placement=placement,
        activations=activations,
        bits=bits,
        pinned=pinned,
        search_groups=groups,
        remainder="float16",
    )
    agree(infos[net], rules, seed)
    chosen_again(infos[net], rules, seed)


def test_a_pair_that_a_table_lacks_is_named(infos, tmp_path):
    info = infos["small"]
    table = {layer.name: {f"w{w}a{a}": 1.0 for w, a in ALL_PAIRS} for layer in info.layers}
    del table["conv1"]["w3a5"]
    (tmp_path / "table.json").write_text(json.dumps(table))
    rules = lowbit(cost={"model": "lookup", "table": "table.json"})
    totals = Totals(space_of(info, rules), cost_function(info, rules, tmp_path))
    fine, missing = ((ALL_PAIRS.index(pair),) * 3 for pair in ([3, 4], [3, 5]))
    assert totals.of(matrix(totals.space, [fine]))["cost"].tolist() == [5.0]
    with pytest.raises(ProfileError, match="layer 'conv1' has no 'w3a5'"):
        totals.of(matrix(totals.space, [fine, missing]))


def test_a_cost_of_someone_elses_is_asked_subnet_by_subnet(infos):
    space = space_of(infos["small"], lowbit())
    asked = []

    def cost(spec):
        asked.append(spec.sha256())
        return spec.avg_weight_bits**2

    totals = Totals(space, cost)
    genomes = random_genomes(space, 0)
    for _ in range(2):
        found = totals.of(genomes)
        assert found["cost"] == pytest.approx(found["avg_weight_bits"] ** 2)
    assert len(asked) == len({*rows(genomes)})  # each subnet once


def test_features_that_are_no_sums_are_made_one_by_one(infos, monkeypatch):
    info = infos["small"]

    def product(info, spec):
        return np.array([spec.weights["conv1"] != 8, len({*spec.weights.values()})], np.float32)

    monkeypatch.setattr("eqnet.stages.search.vector.encoding.encode", product)
    monkeypatch.setattr("eqnet.stages.search.scoring.encode", product)
    space = space_of(info, lowbit())
    assert Encoder.of(Choices(space)) is None
    seen = []

    class Watching(BitsPredictor):
        def predict(self, features):
            seen.append(features)
            return np.zeros(len(features), np.float32)

    scorer = Scorer(space, typed(Watching(info)), lambda _: 1.0, {})
    genomes = random_genomes(space, 1)
    scorer.score(genomes)
    assert seen[0].tolist() == [
        product(info, one).tolist() for one in scorer.totals.subnets(genomes)
    ]


@settings(max_examples=25, deadline=None)
@given(
    weights=st.floats(3.9, 8),
    activations=st.floats(4.2, 8),
    seed=st.integers(0, 2**31),
    population=st.integers(4, 30),
)
def test_every_child_is_feasible_and_equal_seeds_give_equal_fronts(
    infos, weights, activations, seed, population
):
    info = infos["small"]
    rules = lowbit(cost={"model": "bit_serial"})
    space, cost = space_of(info, rules), cost_function(info, rules)
    budgets = {"avg_weight_bits": weights, "avg_activation_bits": activations}
    anchor = within_all(space, budgets, cost)
    assert anchor is not None
    scorer = Scorer(space, typed(BitsPredictor(info)), cost, budgets)
    seen: list[tuple[int, ...]] = []

    def evaluate(genomes):
        seen.extend(rows(genomes))
        return scorer.evaluate(genomes)

    ends = []
    for _ in range(2):
        last = evolve(
            Breeding(space.choices(), 2, evaluate, scorer.excess),
            given=seeds(scorer, Sensitivities.of(scorer), anchor),
            population=population,
            generations=5,
            seed=seed,
            progress=Silent(),
        )
        ends.append((rows(last.genomes), last.evaluation.objectives.tolist()))
    assert ends[0] == ends[1]
    for genome in seen:
        spec = space.subnet(genome)
        assert spec.avg_weight_bits <= weights * (1 + 1e-9)
        assert spec.avg_activation_bits <= activations * (1 + 1e-9)
