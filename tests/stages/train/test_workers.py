"""Two processes that train one network give what one of them would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fine_tuning_tools import INPUT_FLAGS, TUNING, picture

from eqnet.spec.errors import UsageError
from eqnet.stages.train.workers import Workers, open_workers

TOOLS = Path(__file__).parents[2] / "tools"
SCRIPT = """
import random, sys
import torch
from nets import TinyData, randomize, SmallNet, supernet_of
from eqnet.stages.train.feed import Feed
from eqnet.stages.train.recipe import ElasticRecipe, GpgRecipe
from eqnet.stages.train.steps.step import ElasticStep
from eqnet.stages.train.workers import open_workers
from eqnet.subnets.build import PAPER_STYLE

workers = open_workers("cpu")
data = TinyData()
net = supernet_of(randomize(SmallNet(10, in_channels=1)), data.input_shape)
net.graph.eval()
step = ElasticStep(net, None, ElasticRecipe(gpg=GpgRecipe(guidance=0.5)), [PAPER_STYLE])
feed = Feed(data.train(), data.preprocessing, batch=8, seed=1, augment=True, workers=workers)
found = {}
for number, (images, labels) in enumerate(feed.epoch(0)):
    assert len(images) == 8 // workers.count
    losses = step.backward(images, labels, random.Random(number))
    found[f"losses{number}"] = workers.average(losses)
workers.average_gradients(net.graph.parameters())
for name, parameter in net.graph.named_parameters():
    if parameter.grad is not None:
        found[name] = parameter.grad
if workers.first:
    torch.save(found, sys.argv[1])
"""


def launch(*arguments, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    paths = os.pathsep.join([str(TOOLS), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command += ["--master_port", "0", "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=400
    )


def test_gradients_and_losses_are_those_of_one_process(tmp_path):
    script = tmp_path / "step.py"
    script.write_text(SCRIPT)
    results = []
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pt"
        done = launch(str(script), str(out), processes=processes)
        assert done.returncode == 0, done.stderr
        results.append(torch.load(out, weights_only=True))
    one, two = results
    assert one.keys() == two.keys()
    assert "losses4" in one
    assert "conv1.weight" in one
    # Scales' gradients are scaled by images in the batch, so that they are compared as they are.
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_a_run_of_two_processes_ends_as_one_supernet(tmp_path):
    for index in range(30):
        picture(tmp_path / "photographs" / f"{index}.png", index)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TUNING)
    command = ["-m", "eqnet", "train", "--recipe", str(recipe), "--model", "eqnet:resnet20"]
    command += ["--data", str(tmp_path / "photographs"), "--device", "cpu", "--json", "-q"]
    command += [*INPUT_FLAGS, "--epochs", "1", "--batch", "6", "--out", str(tmp_path / "out")]
    done = launch(*command)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)  # one process tells it
    assert summary["supernet"] == str(tmp_path / "out" / "supernet.safetensors")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "recipe.json",
        "supernet.safetensors",
        "train.jsonl",
    }


def test_a_batch_is_divided_evenly():
    workers = Workers(torch.device("cpu"), 1, 3)
    assert workers.part_of(9) == 3
    with pytest.raises(UsageError, match="a batch of 8 for 3 processes"):
        workers.part_of(8)


def test_without_a_launcher_there_is_one(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert open_workers("cpu") == Workers(torch.device("cpu"))
