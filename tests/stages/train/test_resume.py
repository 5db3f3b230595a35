"""Resuming: what is done is kept, and what belongs to another run is refused and left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nets import TinyData
from recipe_tools import InterruptedRunError, StopAfter, write_recipe
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eqnet.cli.main import main
from eqnet.spec.errors import CheckpointError, DataError
from eqnet.spec.manifest import Preprocessing
from eqnet.spec.progress import Silent
from eqnet.stages.train.elastic import train
from eqnet.stages.train.feed import Feed
from eqnet.stages.train.recipe import load_recipe
from eqnet.stages.train.resume import (
    FLOAT_FILE,
    FLOAT_STATE,
    IDENTITY_KEY,
    LOG_FILE,
    float_identity,
    read_log,
)
from eqnet.stages.train.state import STATE_FILE
from eqnet.stages.train.workers import Workers

SUPERNET = "supernet.safetensors"


class Tasks(Silent):
    """Remembers what was started."""

    def __init__(self):
        self.started = []

    def start(self, task, total):
        self.started.append(task)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    return write_recipe(tmp_path, monkeypatch)


@pytest.fixture
def interrupted(recipe, tmp_path):
    """The folder of a run that was stopped after its first elastic epoch."""
    out = tmp_path / "out"
    with pytest.raises(InterruptedRunError):
        train(recipe, out, device="cpu", progress=StopAfter(1))
    return out


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_interrupted_in_the_predictor_keeps_its_supernet(
    recipe, tmp_path, monkeypatch, capsys
):
    calls = []

    def predictor(out, **options):
        calls.append((out / SUPERNET).stat().st_mtime_ns)
        if len(calls) == 1:
            raise CheckpointError("interrupted")
        return {"kendall_tau": 0.5}

    monkeypatch.setattr("eqnet.stages.search.accuracy.predictor.make_predictor", predictor)
    out = tmp_path / "out"
    command = ["train", "--recipe", str(recipe), "--out", str(out), "--device", "cpu", "--json"]
    assert main([*command, "-q"]) == CheckpointError.exit_code
    before = content(out)
    assert SUPERNET in before
    assert main([*command, "-q", "--resume"]) == 0
    assert content(out) == before
    assert calls[0] == calls[1]
    assert '"kendall_tau": 0.5' in capsys.readouterr().out


def test_a_finished_run_trains_nothing_and_tells_the_same(recipe, tmp_path):
    summary = train(recipe, tmp_path / "out", device="cpu")
    tasks = Tasks()
    again = train(recipe, tmp_path / "out", device="cpu", resume=True, progress=tasks)
    assert again == summary
    assert tasks.started == []
    (tmp_path / "out" / LOG_FILE).unlink()
    again = train(recipe, tmp_path / "out", device="cpu", resume=True, progress=tasks)
    assert again == {**summary, "log": []}


def test_float_training_goes_on_where_it_was(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("epochs: 1, batch: 8", "epochs: 3, batch: 8"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(recipe, whole, device="cpu")
    for stop in (StopAfter(1, "float training"), StopAfter(2, "float training")):
        with pytest.raises(InterruptedRunError):
            train(recipe, parts, device="cpu", resume=True, progress=stop)
        assert (parts / FLOAT_STATE).is_file()
        assert not (parts / FLOAT_FILE).exists()
    train(recipe, parts, device="cpu", resume=True)
    assert not (parts / FLOAT_STATE).exists()
    for name in (FLOAT_FILE, SUPERNET):
        first, second = (load_file(folder / name) for folder in (whole, parts))
        assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.parametrize("left", [FLOAT_STATE, STATE_FILE])
def test_a_state_that_outlived_its_result_is_removed_and_another_runs_stays(
    recipe, tmp_path, monkeypatch, left
):
    # What a run that was killed leaves between writing its result and removing its state.
    recipe.write_text(recipe.read_text().replace("epochs: 1, batch: 8", "epochs: 2, batch: 8"))
    out, unlink = tmp_path / "out", Path.unlink

    def stop(path, **options):
        if path.name == left:
            raise InterruptedRunError
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", stop)
    with pytest.raises(InterruptedRunError):
        train(recipe, out, device="cpu")
    monkeypatch.setattr(Path, "unlink", unlink)
    assert (out / left).is_file()
    kept = (out / left).read_bytes()
    train(recipe, out, device="cpu", resume=True)
    assert not (out / left).exists()
    (out / left).write_bytes(kept)
    resave(out / left, lambda tensors: None, recipe='{"seed": 99}')
    train(recipe, out, device="cpu", resume=True)
    assert (out / left).exists()


def test_a_state_of_another_float_training_is_refused(recipe, tmp_path):
    recipe.write_text(recipe.read_text().replace("epochs: 1, batch: 8", "epochs: 3, batch: 8"))
    out = tmp_path / "out"
    with pytest.raises(InterruptedRunError):
        train(recipe, out, device="cpu", progress=StopAfter(1, "float training"))
    recipe.write_text(recipe.read_text().replace("learning_rate: 0.02", "learning_rate: 0.03"))
    with pytest.raises(CheckpointError, match=rf"{FLOAT_STATE}: made with another recipe"):
        train(recipe, out, device="cpu", resume=True)


def test_a_supernet_of_another_recipe_is_not_taken_for_this_one(recipe, tmp_path):
    train(recipe, tmp_path / "out", device="cpu")
    recipe.write_text(recipe.read_text().replace("batch: 10", "batch: 12"))
    tasks = Tasks()
    train(recipe, tmp_path / "out", device="cpu", resume=True, progress=tasks)
    assert "elastic training" in tasks.started
    assert "float training" not in tasks.started  # the float recipe is the same


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize(
    ("old", "new"), [("seed: 5", "seed: 6"), ("learning_rate: 0.02", "learning_rate: 0.03")]
)
def test_a_foreign_float_model_is_refused_and_nothing_is_written(
    recipe, interrupted, state, old, new
):
    if not state:
        (interrupted / STATE_FILE).unlink()
    before = content(interrupted)
    recipe.write_text(recipe.read_text().replace(old, new))
    with pytest.raises(CheckpointError, match=rf"{FLOAT_FILE}: made with another recipe"):
        train(recipe, interrupted, device="cpu", resume=True)
    assert content(interrupted) == before


def test_a_foreign_state_is_refused_before_anything_is_written(recipe, interrupted):
    before = content(interrupted)
    recipe.write_text(recipe.read_text().replace("batch: 10", "batch: 12"))
    with pytest.raises(CheckpointError, match=rf"{STATE_FILE}: made with another recipe"):
        train(recipe, interrupted, device="cpu", resume=True)
    assert content(interrupted) == before


@pytest.mark.parametrize("damage", ["another network", "no identity", "identity not JSON"])
def test_a_damaged_float_model_is_one_line(recipe, interrupted, damage):
    path = interrupted / FLOAT_FILE
    tensors, identity = load_file(path), float_identity(load_recipe(recipe))
    if damage == "another network":
        tensors["head.weight"] = torch.zeros(3, 3)
        save_file(tensors, path, {IDENTITY_KEY: identity})
    elif damage == "no identity":
        save_file(tensors, path)
    else:
        save_file(tensors, path, {IDENTITY_KEY: identity[:-3]})
    before = content(interrupted)
    with pytest.raises(CheckpointError) as caught:
        train(recipe, interrupted, device="cpu", resume=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(interrupted) == before


def test_a_log_shorter_than_the_state_is_refused(recipe, interrupted):
    (interrupted / LOG_FILE).write_text("")
    with pytest.raises(CheckpointError, match=rf"{LOG_FILE}: 0 epochs"):
        train(recipe, interrupted, device="cpu", resume=True)
    for content, told in (("[" * 100_000, "cannot read the log"), ("3", "not the log of a run")):
        (interrupted / LOG_FILE).write_text(content)
        with pytest.raises(CheckpointError, match=rf"{LOG_FILE}: {told}"):
            train(recipe, interrupted, device="cpu", resume=True)


@pytest.mark.parametrize("images", [7, 9])
def test_fewer_images_than_a_batch_are_refused_before_training(tmp_path, monkeypatch, images):
    # 7 fill neither batch; 9 fill the float model's batch of 8, not the supernet's of 10.
    recipe, tasks, out = write_recipe(tmp_path, monkeypatch, images), Tasks(), tmp_path / "out"
    batch = 8 if images == 7 else 10
    told = rf"tiny train, {images} images: fewer than one batch of {batch}"
    with pytest.raises(DataError, match=told):
        train(recipe, out, device="cpu", progress=tasks)
    assert tasks.started == []
    assert not out.exists()


def test_a_feed_holds_at_least_one_batch():
    def feed(images):
        rule = Preprocessing(mean=(0.3,), std=(0.4,))
        return Feed(
            TinyData(images).train(),
            rule,
            batch=10,
            seed=0,
            augment=False,
            workers=Workers(torch.device("cpu")),
        )

    assert len(list(feed(10).epoch(0))) == len(feed(10)) == 1
    with pytest.raises(DataError, match="tiny train, 9 images"):
        feed(9)


def resave(path, change, **metadata):
    """Change a tensor of a file, and what else it says, such as its epoch."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        before = dict(file.metadata())
    change(tensors)
    save_file(tensors, path, {**before, **metadata})


def some(tensors, prefix):
    return next(name for name in sorted(tensors) if name.startswith(prefix))


SPOILED = {
    "NaN weight": ("net.", lambda value: torch.full_like(value, torch.nan)),
    "NaN moment": ("exp_avg.", lambda value: torch.full_like(value, torch.nan)),
    "negative squares": ("exp_avg_sq.", lambda value: value - 1),
    "infinite step": ("step.", lambda value: torch.full_like(value, torch.inf)),
    "other shape": ("exp_avg.", lambda value: torch.zeros(3)),
    "bfloat16": ("exp_avg.", lambda value: value.to(torch.bfloat16)),
}


@pytest.mark.parametrize("damage", [*SPOILED, "epoch -5", "epoch 0", "epoch many"])
def test_a_state_that_no_training_leaves_is_refused(recipe, interrupted, damage):
    path, told = interrupted / STATE_FILE, {}
    if damage in SPOILED:
        prefix, spoil = SPOILED[damage]

        def change(tensors):
            name = some(tensors, prefix)
            tensors[name] = spoil(tensors[name])
    else:
        told = {"epoch": damage.removeprefix("epoch ")}

        def change(tensors):
            pass

    resave(path, change, **told)
    before = content(interrupted)
    with pytest.raises(CheckpointError) as caught:
        train(recipe, interrupted, device="cpu", resume=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert content(interrupted) == before


@pytest.mark.parametrize("spoil", [lambda v: v * torch.nan, lambda v: v.to(torch.float64)])
def test_a_float_model_of_no_numbers_is_refused(recipe, interrupted, spoil):
    path = interrupted / FLOAT_FILE
    resave(path, lambda tensors: tensors.update({"head.weight": spoil(tensors["head.weight"])}))
    with pytest.raises(CheckpointError, match=rf"{FLOAT_FILE}: tensor 'head.weight'"):
        train(recipe, interrupted, device="cpu", resume=True)


def test_tensorboard_gets_each_loss_once_and_the_weights_before_and_after(recipe, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "out"
    with pytest.raises(InterruptedRunError):
        train(recipe, out, device="cpu", tensorboard=True, progress=StopAfter(1))
    train(recipe, out, device="cpu", tensorboard=True, resume=True)
    events = accumulator.EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    log = read_log(out, 2)
    for name in ("high", "low", "kurtosis"):
        points = events.Scalars(f"loss/{name}")
        assert [point.step for point in points] == [1, 2]
        assert [point.value for point in points] == pytest.approx([row[name] for row in log])
    steps = {point.step for point in events.Scalars("kurtosis/conv1")}
    assert {0, 2} <= steps
    assert {"weight/stem", "weight/head"} <= set(events.Tags()["histograms"])
