"""Elastic training: steps, resuming bit for bit, and files that are not a run's state."""

from __future__ import annotations

import json
import random

import pytest
import torch
from nets import SmallNet, images, small_supernet
from pydantic import ValidationError
from recipe_tools import InterruptedRunError, StopAfter, write_recipe
from safetensors.torch import load_file, save_file

from eqnet.cli.options import parse_static
from eqnet.spec.errors import CheckpointError, ProfileError, TrainingError, UsageError
from eqnet.spec.scheme import Form, Granularity, Symmetry
from eqnet.stages.train.devices import pick_device
from eqnet.stages.train.elastic import make_optimizer, train
from eqnet.stages.train.recipe import (
    ElasticRecipe,
    GpgRecipe,
    StaticRecipe,
    builtin_recipes,
    load_recipe,
)
from eqnet.stages.train.resume import FLOAT_FILE, LOG_FILE
from eqnet.stages.train.state import STATE_FILE, load_state, save_state
from eqnet.stages.train.steps.step import ElasticStep, StaticStep
from eqnet.subnets.build import PAPER_STYLE, load_style
from eqnet.supernet.checkpoint import load_supernet

SUPERNET = "supernet.safetensors"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    return write_recipe(tmp_path, monkeypatch)


def test_an_interrupted_run_ends_as_one_that_was_not(recipe, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    summary = train(recipe, whole, device="cpu")
    with pytest.raises(InterruptedRunError):
        train(recipe, parts, device="cpu", progress=StopAfter(1))
    assert (parts / STATE_FILE).is_file()
    assert not (parts / SUPERNET).exists()
    assert train(recipe, parts, device="cpu", resume=True)["log"] == summary["log"]
    first, second = (load_file(folder / SUPERNET) for folder in (whole, parts))
    assert set(first) == set(second)
    differing = [name for name in first if not torch.equal(first[name], second[name])]
    assert differing == []
    assert (whole / LOG_FILE).read_text() == (parts / LOG_FILE).read_text()
    assert not (parts / STATE_FILE).exists()
    assert len((whole / LOG_FILE).read_text().splitlines()) == 2
    with pytest.raises(CheckpointError, match="another recipe or seed"):
        train_with_state(recipe, parts, whole)


def test_a_trained_supernet_keeps_the_float_network_that_it_began_as(recipe, tmp_path):
    train(recipe, tmp_path / "out", device="cpu")
    net = SmallNet(10, in_channels=1)
    net.load_state_dict(load_file(tmp_path / "out" / FLOAT_FILE))
    supernet = load_supernet(tmp_path / "out", allow_code=True)[0]
    supernet.apply_float()
    x = images(4, (1, 28, 28))
    with torch.no_grad():
        exact, kept, trained = net.eval()(x), supernet.original(x), supernet.graph(x)
    torch.testing.assert_close(kept, exact, rtol=1e-3, atol=1e-3)
    assert (trained - exact).abs().max() > 1e-2


def train_with_state(recipe, folder, whole):
    """Resume `folder` with another seed, from a state that belongs to the first."""
    with pytest.raises(InterruptedRunError):
        train(recipe, whole, device="cpu", progress=StopAfter(1))
    train(recipe, whole, device="cpu", resume=True, seed=6)


@pytest.fixture
def step():
    net = small_supernet()
    recipe = ElasticRecipe(gpg=GpgRecipe(guidance=0.5))
    return ElasticStep(net, None, recipe, [PAPER_STYLE, load_style("openvino_asym")])


def test_a_step_gives_finite_losses_and_moves_only_what_it_used(step):
    net = step.supernet
    net.graph.train()
    labels = torch.tensor([0, 1, 2, 3])
    losses = step.backward(images(4), labels, random.Random(2))
    assert step.losses == ("high", "random", "low", "skewness", "kurtosis")
    assert losses.shape == (5,)
    assert torch.isfinite(losses).all()
    got = {name for name, p in net.graph.named_parameters() if p.grad is not None}
    assert {"stem.weight", "head.weight", "bn1.weight"} <= got
    scales = [name for name in got if name.startswith("conv1.weight_quantizer.log_scale")]
    forms = {name.rsplit(".", 1)[1].rsplit("_", 1)[0] for name in scales}
    bits = {int(name.rsplit("_", 1)[1]) for name in scales}
    assert len(forms) == 1
    assert {2, 8} <= bits <= set(range(2, 9))
    assert len(bits) <= 3


def test_a_step_depends_on_its_generator_alone(step):
    labels = torch.tensor([0, 1, 2, 3])
    step.supernet.graph.eval()
    first = step.backward(images(4), labels, random.Random(2))
    assert torch.equal(first, step.backward(images(4), labels, random.Random(2)))
    assert not torch.equal(first, step.backward(images(4), labels, random.Random(3)))


def test_balanced_groups_count_by_the_share_of_their_loss(step):
    step.supernet.graph.eval()
    labels = torch.tensor([0, 1, 2, 3])

    def gradients(balance):
        gpg = GpgRecipe(guidance=0.5, balance=balance)
        step.recipe = step.recipe.model_copy(update={"gpg": gpg})
        step.supernet.graph.zero_grad(set_to_none=True)
        losses = step.backward(images(4), labels, random.Random(2))
        named = step.supernet.graph.named_parameters()
        return losses, {name: p.grad for name, p in named if p.grad is not None}

    losses, alike = gradients(0.0)
    again, shared = gradients(1.0)
    torch.testing.assert_close(again, losses)
    low = [name for name in alike if name.startswith("conv1.") and name.endswith("_2")]
    assert low  # scales of 2 bits, which the lowest group alone has
    for name in low:
        torch.testing.assert_close(shared[name], alike[name] * losses[0] / losses[2])


def test_training_on_a_batch_lowers_the_losses_of_all_groups():
    net = small_supernet()
    recipe = ElasticRecipe(learning_rate=5e-3, wdr={"skewness": 0, "kurtosis": 0})
    step = ElasticStep(net, None, recipe, [PAPER_STYLE])
    optimizer = make_optimizer(net, recipe)
    batch, labels = images(16), torch.arange(16) % 5
    rng = random.Random(0)
    net.graph.train()
    losses = []
    for _ in range(40):
        optimizer.zero_grad(set_to_none=True)
        losses.append(step.backward(batch, labels, rng))
        optimizer.step()
        net.project()
    first, last = torch.stack(losses[:5]).mean(0), torch.stack(losses[-5:]).mean(0)
    assert (last[:3] < first[:3]).all()


def test_scales_and_zero_points_have_learning_rates_of_their_own(step):
    recipe = ElasticRecipe(learning_rate=1.0, scale_learning_rate=2.0, zero_point_learning_rate=3.0)
    groups = make_optimizer(step.supernet, recipe).param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in step.supernet.graph.named_parameters():
        rate = 2.0 if ".log_scale." in name else 3.0 if ".zero_point." in name else 1.0
        assert rates[id(parameter)] == rate


def state(tmp_path, step):
    optimizer = make_optimizer(step.supernet, step.recipe)
    path = tmp_path / STATE_FILE
    save_state(path, step.supernet.graph, optimizer, 3, '{"a": 1}')
    return path, optimizer


def test_a_state_round_trip(tmp_path, step):
    path, optimizer = state(tmp_path, step)
    assert load_state(path, step.supernet.graph, optimizer, '{"a": 1}') == 3


@pytest.mark.parametrize("damage", ["truncated", "lacks a tensor", "no epoch", "another recipe"])
def test_a_damaged_state_is_one_line(tmp_path, step, damage):
    path, optimizer = state(tmp_path, step)
    tensors, metadata = load_file(path), {"epoch": "3", "recipe": '{"a": 1}'}
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:5000])
    elif damage == "lacks a tensor":
        tensors.pop("net.stem.weight")
        save_file(tensors, path, metadata)
    elif damage == "no epoch":
        save_file(tensors, path, {"recipe": metadata["recipe"]})
    else:
        save_file(tensors, path, {**metadata, "recipe": json.dumps({"a": 2})})
    with pytest.raises(CheckpointError) as caught:
        load_state(path, step.supernet.graph, optimizer, '{"a": 1}')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("colour: red", "colour"),
        ("seed: many", "seed"),
        ("schema_version: 2", "schema_version"),
        ("elastic: {bits: [1, 8]}", "elastic.bits"),
        ("elastic: {epochs: 0}", "elastic.epochs"),
        ("model: [", "not valid YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path, line, part):
    path = tmp_path / "r.yaml"
    path.write_text(f"schema_version: 1\nmodel: eqnet:resnet20\n{line}\n")
    with pytest.raises(ProfileError) as caught:
        load_recipe(path)
    assert part in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recipes_have_names():
    assert {"fashion_mnist_resnet20", "fine_tuning"} <= set(builtin_recipes())
    for name in builtin_recipes():
        assert load_recipe(name).schema_version == 1
    with pytest.raises(ProfileError, match=r"did you mean 'fine_tuning'\? \(allowed: fashion"):
        load_recipe("fine_tunin")
    with pytest.raises(ProfileError, match=r"none\.yaml"):
        load_recipe("none.yaml")


def test_unknown_devices_are_refused():
    with pytest.raises(UsageError, match="allowed"):
        pick_device("tpu")
    assert pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a CUDA device")
def test_recorded_steps_give_the_gradients_of_plain_ones():
    from eqnet.stages.train.steps.cuda_graphs import GraphedStep

    net = small_supernet()
    net.graph.to("cuda").eval()
    recipe = ElasticRecipe(wdr={"skewness": 0, "kurtosis": 0})
    batch, labels = images(4).cuda(), torch.tensor([0, 1, 2, 3]).cuda()
    recorded = GraphedStep(net, None, recipe, [PAPER_STYLE])
    recorded.begin_epoch(random.Random(1))
    found = recorded.backward(batch, labels, random.Random(2))
    grads = {n: p.grad.clone() for n, p in net.graph.named_parameters() if p.grad is not None}
    _, chosen, specs = recorded._plans[random.Random(2).randrange(len(recorded._plans))]
    net.graph.zero_grad(set_to_none=True)
    plain = ElasticStep(net, None, recipe, [chosen])
    plain._groups = lambda *args: specs  # type: ignore[method-assign]
    expected = plain.backward(batch, labels, random.Random(2))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    for name, parameter in net.graph.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda net: net.layer("conv1").weight.data.view(-1)[0].fill_(float("nan")),
            "'conv1.weight'",
        ),
        (lambda net: net.graph.get_submodule("bn2").running_var.fill_(-1.0), "layer 'bn2'"),
    ],
)
def test_a_loss_that_is_no_number_names_its_subnet_and_layer(step, spoil, told):
    step.supernet.graph.eval()
    labels = torch.tensor([0, 1, 2, 3])
    fine = step.backward(images(4), labels, random.Random(2))
    assert step.problem_of(fine, images(4)) is None
    spoil(step.supernet)
    broken = step.backward(images(4), labels, random.Random(2))
    problem = step.problem_of(broken, images(4))
    assert problem.startswith("loss of the subnet 'high' (")
    assert "8 bits" in problem
    assert told in problem


def test_a_run_that_diverges_ends_in_one_line_and_keeps_its_last_epoch(
    recipe, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    with pytest.raises(InterruptedRunError):
        train(recipe, out, device="cpu", progress=StopAfter(1))
    whole = (out / STATE_FILE).read_bytes()
    plain = ElasticStep.backward

    def backward(self, *arguments):
        return plain(self, *arguments) * float("nan")

    monkeypatch.setattr(ElasticStep, "backward", backward)
    with pytest.raises(
        TrainingError, match=r"epoch 2, step 1: loss of the subnet 'high'.*--resume"
    ):
        train(recipe, out, device="cpu", resume=True)
    assert (out / STATE_FILE).read_bytes() == whole


def test_float_training_that_diverges_ends_in_one_line(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("learning_rate: 0.02", "learning_rate: 1.0e+30"))
    with pytest.raises(TrainingError, match="float training, epoch 1: the loss is not finite"):
        train(recipe, tmp_path / "out", device="cpu")


def test_a_static_step_moves_one_form_alone_and_a_float_one_none(step):
    net = step.supernet
    net.graph.train()
    labels = torch.tensor([0, 1, 2, 3])
    form = Form(weight_granularity=Granularity.PER_TENSOR, weight_symmetry=Symmetry.SYMMETRIC)
    for static, keys in (
        (StaticRecipe(weight_bits=4, activation_bits=3, form=form), {"per_tensor_symmetric_4"}),
        (StaticRecipe(), set()),
    ):
        recipe = step.recipe.model_copy(update={"static": static})
        alone = StaticStep(net, None, recipe, [PAPER_STYLE])
        net.graph.zero_grad(set_to_none=True)
        losses = alone.backward(images(4), labels, random.Random(2))
        assert losses.shape == (len(alone.losses),)
        assert torch.isfinite(losses).all()
        got = {name for name, p in net.graph.named_parameters() if p.grad is not None}
        scales = {name for name in got if name.startswith("conv1.weight_quantizer.log_scale")}
        assert {name.rsplit(".", 1)[1] for name in scales} == keys
        assert {"stem.weight", "head.weight", "bn1.weight"} <= got


def test_a_static_run_is_a_recipe_of_its_own_and_goes_on(recipe, tmp_path):
    static = StaticRecipe(weight_bits=4, activation_bits=4)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    summary = train(recipe, whole, device="cpu", static=static)
    with pytest.raises(InterruptedRunError):
        train(recipe, parts, device="cpu", static=static, progress=StopAfter(1))
    assert train(recipe, parts, device="cpu", static=static, resume=True)["log"] == summary["log"]
    assert set(summary["log"][0]) == {"epoch", "static"}
    first, second = (load_file(folder / SUPERNET) for folder in (whole, parts))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    with pytest.raises(InterruptedRunError):
        train(recipe, parts, device="cpu", static=static, progress=StopAfter(1))
    with pytest.raises(CheckpointError, match="another recipe or seed"):
        train(recipe, parts, device="cpu", resume=True)


@pytest.mark.parametrize("bits", [{"weight_bits": 4}, {"activation_bits": 4}, {"weight_bits": 9}])
def test_a_static_recipe_has_both_bits_or_none(bits):
    with pytest.raises(ValidationError):
        StaticRecipe(**bits)


def test_static_is_spelled_as_bits_and_a_form():
    assert parse_static("float") == StaticRecipe()
    found = parse_static("w3a5:per_tensor:asymmetric/symmetric")
    assert (found.weight_bits, found.activation_bits) == (3, 5)
    assert found.form.label() == "per_tensor:asymmetric/symmetric"
    assert parse_static("w4a4").form.label() == "per_channel:symmetric/asymmetric"
    for text in ("w1a4", "w4a4:rows", "w4a4:per_tensor:odd", "int8", ""):
        with pytest.raises(UsageError, match="--static: found"):
            parse_static(text)
