"""The search as a whole on a small network: budgets, baselines, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from artifacts import profile
from nets import small_supernet
from search_tools import ALL_PAIRS, BitsPredictor, lowbit, session_of, space_of

import eqnet.search.search as module
from eqnet.cli.main import main
from eqnet.search.cqap import fit, load_cqap, save_cqap
from eqnet.search.features import encode, feature_size
from eqnet.search.labels import Labels
from eqnet.search.reach import require_cost
from eqnet.search.scoring import Scorer
from eqnet.spec.errors import InfeasibleError, ProfileError
from eqnet.spec.progress import Silent
from eqnet.spec.reports import SearchReport
from eqnet.spec.subnet import load_subnet

SMALL = {"generations": 12, "population": 24}


@pytest.fixture(scope="module")
def supernet():
    return small_supernet()


class World:
    """A search in the small network, with a predictor that grows with bits and counts calls."""

    def __init__(self, folder, supernet, monkeypatch):
        self.folder, self.patch = folder, monkeypatch
        self.session = session_of(folder, supernet)
        self.info = supernet.info
        self.predictor = BitsPredictor(supernet.info)
        self.accuracy = None
        self.measured = []
        monkeypatch.setattr(module, "open_session", lambda *_, **__: self.session)
        monkeypatch.setattr(module, "_predictor", lambda *_: self.predictor)

    def write(self, rules):
        path = self.folder / f"{rules.name}.yaml"
        path.write_text(rules.model_dump_json(exclude_none=True))
        return str(path)

    def measure_as(self, accuracy):
        """Let finalists have accuracy(spec), without running them."""
        def measure(session, finalists, progress):
            self.measured = list(finalists)
            return [module._Winner(one, accuracy(one.spec), 40) for one in finalists]

        self.patch.setattr(module, "_measure", measure)

    def __call__(self, rules=None, budgets=None, seed=0, **options):
        path = self.write(rules or lowbit())
        return module.search(
            profile=path, budgets=budgets, out=self.folder / "out", seed=seed,
            **{**SMALL, **options},
        )  # fmt: skip


@pytest.fixture
def world(tmp_path, supernet, monkeypatch):
    return World(tmp_path, supernet, monkeypatch)


def test_the_result_is_measured_and_written(world):
    report = world(budgets={"avg_weight_bits": 5, "avg_activation_bits": 6})
    best = report.best
    assert best.avg_weight_bits <= 5
    assert best.avg_activation_bits <= 6
    assert report.budgets == {"avg_weight_bits": 5, "avg_activation_bits": 6}
    assert best.measured.images == 40
    assert 0 <= best.measured.accuracy <= 1
    assert best.predicted.cost == best.measured.cost == pytest.approx(module_size(world, best))
    assert report.unit == best.measured.unit == "KiB"
    assert report.evaluations == world.predictor.subnets
    out = world.folder / "out"
    assert load_subnet(out / "subnet.json") == best
    assert SearchReport.model_validate_json((out / "search.json").read_bytes()) == report
    assert sorted(path.name for path in out.iterdir()) == ["search.json", "subnet.json"]


def module_size(world, spec):
    return sum(layer.weights * spec.weights[layer.name] for layer in world.info.layers) / 8192


def test_the_measured_accuracy_is_that_of_the_deployed_integers(world):
    from eqnet.supernet.extract import extract
    from eqnet.supernet.measure import accuracy

    best = world(budgets={"avg_weight_bits": 5}).best
    session = session_of(world.folder)
    session.settle(best, session.calibration())
    images = session.batches(session.dataset.validation())
    assert best.measured.accuracy == accuracy(extract(session.supernet, best), images)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("avg_weight_bits", 4.5, 8), ("avg_activation_bits", 4.5, 8), ("size_kib", 0.6, 0.95)],
)
def test_a_tighter_budget_never_gives_more_bits(world, name, low, high):
    world.measure_as(lambda spec: sum(map(float, [spec.avg_weight_bits, spec.avg_activation_bits])))
    values = []
    for limit in np.linspace(high, low, 4):
        best = world(budgets={name: float(limit)}).best
        values.append(getattr(best, name, module_size(world, best)))
        assert values[-1] <= limit * (1 + 1e-9)
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0]


def test_a_cost_budget_holds_for_the_result_and_the_front(world):
    rules = lowbit(cost={"model": "bit_serial"})
    cheapest, widest = (world(rules).front[place].cost for place in (0, -1))
    limit = (cheapest + widest) / 2
    report = world(rules, {"cost": limit})
    assert cheapest < report.best.measured.cost <= limit
    assert all(point.cost <= limit for point in report.front)


@pytest.mark.parametrize(
    ("name", "limit", "nearest"),
    [
        # All free layers at 2 bits, the pinned ones at 8: (2 x 696 + 8 x 286) / 982.
        ("avg_weight_bits", 3, "3.747"),
        ("avg_activation_bits", 1, "4.043"),
        ("size_kib", 0.1, "0.4492"),
        ("cost", 0.1, "0.4492"),
    ],
)
def test_an_infeasible_budget_ends_before_anything_is_predicted(world, name, limit, nearest):
    started = []
    world.patch.setattr(module, "evolve", lambda *_, **__: started.append("evolve"))
    world.patch.setattr(module, "_predictor", lambda *_: started.append("predictor"))
    with pytest.raises(InfeasibleError, match=rf"{name}={limit:g}.*nearest reachable: {nearest}"):
        world(budgets={name: limit})
    assert started == []
    assert not (world.folder / "out").exists()


def test_the_nearest_reachable_value_is_reachable(world):
    with pytest.raises(InfeasibleError) as caught:
        world(budgets={"avg_weight_bits": 1})
    nearest = float(str(caught.value).rpartition(" ")[2].rstrip(")"))
    found = world(budgets={"avg_weight_bits": nearest * 1.001}).best
    assert found.avg_weight_bits == pytest.approx(nearest, rel=1e-3)


def test_bits_budgets_are_checked_before_latency_is_measured(world):
    world.patch.setattr(module, "measure_latency", lambda *_: pytest.fail("timed"))
    rules = profile(bits=[[8, 8]], cost={"model": "measured"})
    with pytest.raises(InfeasibleError, match="avg_weight_bits"):
        world(rules, {"avg_weight_bits": 4})


def test_an_infeasible_budget_is_exit_8_and_one_line(world, capsys):
    path = world.write(lowbit())
    arguments = ["search", "-p", path, "--budget", "size_kib=0.01", "--out"]
    assert main([*arguments, str(world.folder / "out"), "-q"]) == 8
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "nearest reachable: 0.4492" in captured.err
    assert not (world.folder / "out").exists()


def test_budgets_that_cannot_be_met_together_are_refused(world):
    rules = lowbit(bits=[[2, 8], [8, 2]], pinned=[])
    with pytest.raises(InfeasibleError, match="each can be met, but no subnet found meets all"):
        world(rules, {"avg_weight_bits": 3, "avg_activation_bits": 3})


def test_without_budgets_the_cheapest_within_the_slack_wins(world):
    world.predictor.weights = np.zeros(10)
    world.predictor.weights[0] = 1  # every subnet is predicted alike but for the pinned layer
    accuracy = {2: 0.80, 3: 0.893, 4: 0.897, 8: 0.9}
    world.measure_as(lambda spec: accuracy[spec.weights["conv1"]])

    def predict(features):
        bits = features[:, -80:].reshape(-1, 10, 8)[:, 1].argmax(1) + 1
        return np.float32([accuracy[b] for b in bits])

    world.predictor.predict = predict
    best = world(lowbit(bits=[[2, 8], [3, 8], [4, 8], [8, 8]])).best
    assert (best.weights["conv1"], best.weights["conv2"]) == (4, 2)
    assert best.measured.accuracy == 0.897


def test_the_cheapest_is_compared_with_the_most_accurate(world):
    """Many candidates lie close together: the top one is measured beside the cheap ones."""
    space = space_of(world.info, lowbit(bits=[[b, 8] for b in range(2, 9)]))
    world.predictor.predict = lambda features: np.float32(
        0.9 + 0.001 * (features[:, -80:].reshape(-1, 10, 8)[:, 1].argmax(1))
    )
    world.measure_as(lambda spec: {8: 0.95}.get(spec.weights["conv1"], 0.90))
    best = world(space.target.profile, generations=30).best
    assert len(world.measured) == module.FINALISTS
    assert best.weights["conv1"] == 8


def test_the_uniform_baseline_is_among_the_finalists_and_can_win(world):
    uniform = {4}
    world.measure_as(lambda spec: 0.9 if {spec.weights[n] for n in FREE} == uniform else 0.5)
    best = world(budgets={"avg_weight_bits": 5.2, "avg_activation_bits": 8}).best
    assert best.measured.accuracy == 0.9
    assert {best.weights[name] for name in FREE} == uniform
    assert len({one.genome for one in world.measured}) == len(world.measured)


FREE = ("conv1", "depthwise", "conv2")


def test_the_same_seed_gives_the_same_subnet(world):
    budgets = {"avg_weight_bits": 5}
    first = world(budgets=budgets, seed=7)
    text = (world.folder / "out/subnet.json").read_bytes()
    again = world(budgets=budgets, seed=7)
    assert (world.folder / "out/subnet.json").read_bytes() == text
    assert again.front == first.front


def test_the_front_holds_only_what_nothing_dominates(world):
    front = world().front
    costs = [point.cost for point in front]
    accuracies = [point.accuracy_predicted for point in front]
    assert len(front) > 3
    assert costs == sorted(costs)
    assert accuracies == sorted(accuracies)
    assert len(set(accuracies)) == len(front)


def test_a_small_space_is_tried_whole(world):
    report = world(lowbit(bits=[[2, 2], [8, 8]]))
    assert report.evaluations == 8
    assert report.stop_reason == "all 8 subnets of the space were tried"


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        (profile("tensorrt"), "asymmetric"),
        (profile("openvino", weights={"granularity": "per_channel", "symmetry": "asymmetric"}),
         "weights.symmetry"),
        (profile("onnxruntime", bits=[[4, 4], [8, 8]]), "bits"),
        (lowbit(remainder="float16"), "remainder"),
    ],
)  # fmt: skip
def test_a_profile_that_its_target_cannot_execute_is_refused(world, rules, told):
    world.patch.setattr(module, "open_session", lambda *_, **__: pytest.fail("opened"))
    with pytest.raises(ProfileError, match=told) as caught:
        world(rules)
    assert rules.backend in str(caught.value)
    assert "\n" not in str(caught.value)


def test_measuring_a_large_space_is_refused(world):
    with pytest.raises(ProfileError, match="117649 subnets to time .*at most 64; use 'lookup'"):
        world(lowbit(cost={"model": "measured"}))


def test_measured_cost_times_each_subnet_once(world):
    def times(supernet, exporter, rules, specs, progress):
        assert len({spec.sha256() for spec in specs}) == 4
        return [1.0 if spec.weights["head"] == 8 else 0.25 for spec in specs]

    world.patch.setattr(module, "measure_latency", times)
    world.measure_as(lambda spec: 0.9)
    rules = profile(cost={"model": "measured"}, search_groups=["depthwise_conv", "linear"])
    best = world(rules, {"cost": 0.3}).best
    assert best.weights["head"] == "remainder"
    assert (best.measured.cost, best.measured.unit) == (0.25, "ms")


def write_table(folder, info):
    """A table whose cheapest subnet is a mixture that no uniform subnet comes near."""
    table = {layer.name: {f"w{w}a{a}": 10.0 for w, a in ALL_PAIRS} for layer in info.layers}
    for name, pair in {"conv1": "w3a7", "depthwise": "w8a2", "conv2": "w5a5"}.items():
        table[name][pair] = 1.0
    (folder / "table.json").write_text(json.dumps(table))


def test_a_cost_that_only_a_mixture_reaches_is_found(world):
    write_table(world.folder, world.info)
    rules = lowbit(cost={"model": "lookup", "table": "table.json"})
    best = world(rules, {"cost": 23}).best
    assert best.predicted.cost == 23
    assert [best.weights[name] for name in FREE] == [3, 8, 5]
    with pytest.raises(InfeasibleError, match=r"cost=22: .*nearest reachable: 23\)"):
        world(rules, {"cost": 22})


def test_the_way_to_the_cheapest_mixture_is_bounded(world):
    space, asked = space_of(world.info, lowbit()), []

    def cost(spec):
        asked.append(spec)
        return 1e6 - len(asked)  # always "cheaper"

    with pytest.raises(InfeasibleError):
        require_cost(space, 1.0, cost)
    assert len(asked) < 49 + 10 * 3 * 49


def test_scorer_remembers_and_counts_relative_excess(world):
    rules = lowbit(bits=[[2, 2], [4, 4], [8, 8]])
    space = space_of(world.info, rules)
    budgets = {"avg_weight_bits": 4.0, "cost": 2.0}
    scorer = Scorer(space, world.predictor, lambda spec: spec.avg_weight_bits / 2, budgets)
    genomes = [(0, 0, 0), (2, 2, 2), (0, 0, 0)]
    found = scorer.evaluate(genomes)
    assert world.predictor.subnets == 2
    scorer.evaluate(genomes)
    assert world.predictor.calls == 1
    average = [space.subnet(genome).avg_weight_bits for genome in genomes]
    assert found.violations == pytest.approx(np.array([[a / 4 - 1, a / 4 - 1] for a in average]))
    assert found.objectives[:, 1] == pytest.approx([a / 2 for a in average])
    assert [scorer.feasible(one) for one in scorer.score(genomes)] == [True, False, True]


def test_the_predictor_beside_the_supernet_is_used_and_made_where_there_is_none(
    tmp_path, supernet, monkeypatch
):
    session, made = session_of(tmp_path, supernet), []
    monkeypatch.setattr(module, "open_session", lambda *_, **__: session)

    def make(folder, **options):
        made.append(options["subnets"])
        space = space_of(supernet.info, lowbit())
        specs = [space.subnet(genome) for genome in space.uniform_genomes()]
        features = np.stack([encode(supernet.info, spec) for spec in specs])
        known = Labels(features, np.linspace(0.5, 0.9, len(specs), dtype=np.float32))
        save_cqap(folder, fit(
            known, supernet=session.identity, images=1, epochs=1, members=1, seed=0,
            progress=Silent(),
        ))  # fmt: skip

    monkeypatch.setattr(module, "make_predictor", make)
    path = tmp_path / "p.yaml"
    path.write_text(lowbit(bits=[[2, 8], [8, 8]]).model_dump_json(exclude_none=True))
    for _ in range(2):
        report = module.search(profile=str(path), out=tmp_path / "out", **SMALL)
    assert made == [module.QUICK_SUBNETS]
    header = load_cqap(tmp_path, session.identity, feature_size(supernet.info)).header
    assert report.kendall_tau == header.kendall_tau
