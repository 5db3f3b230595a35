"""Models and recipes that cannot be used, through `eqnet train`: one line, nothing written."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.usefixtures("bundled_data_only")

MODELS = """\
import torch
from torch import nn


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.middle(self.conv(x)).mean((2, 3)))


class Branch(Base):
    def middle(self, x):
        if x.sum() > 0:  # the branch
            return x
        return -x


class Pixels(Base):
    def forward(self, x):
        return self.conv(x)


def branch(): return Branch()
def pixels(): return Pixels()
def no_module(): return "net"
def fails(): raise ValueError("two\\nlines")
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The user's own module in the current folder, forgotten after the test."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "own_models.py").write_text(MODELS)
    yield ["train", "--post-training", "--out", "new", "-q", "--model"]
    sys.modules.pop("own_models", None)


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("branch", 7, ["own_models.py:17", "torch.fx"]),
        ("pixels", 7, ["logits [N, classes]"]),
        ("no_module", 2, ["returned str"]),
        ("fails", 2, ["ValueError: two lines"]),
        ("brunch", 2, ["did you mean 'branch'"]),
    ],
)
def test_a_model_that_capture_cannot_take_names_the_operation(refused, models, name, code, told):
    refused([*models, f"own_models:{name}", "--allow-code"], code, *told)


def test_own_code_is_not_run_unasked(refused, models, tmp_path):
    (tmp_path / "own_models.py").write_text("raise SystemExit('it ran')")
    refused([*models, "own_models:branch"], 2, "--allow-code")


def test_unknown_models_and_weights(refused, models, tmp_path):
    refused([*models, "torchvision:resnet81"], 2, "resnet81")
    refused([*models, "eqnet:resnet21"], 2, "resnet21")
    refused([*models, "no_module_here:build", "--allow-code"], 2, "no_module_here")
    refused([*models, "eqnet:resnet20", "--weights", tmp_path / "no.pt"], 4, "no.pt")
    refused([*models, "eqnet:resnet20", "--weights-key", "ema"], 2, "'ema' without weights")
    (tmp_path / "pointer.pth").write_text("version https://git-lfs.github.com/spec/v1\n")
    refused([*models, "eqnet:resnet20", "--weights", "pointer.pth"], 4, "a Git LFS pointer")
    (tmp_path / "bad.safetensors").write_bytes(b"\x00" * 20)
    refused(
        [*models, "eqnet:resnet20", "--weights", tmp_path / "bad.safetensors"], 4, "bad.safetensors"
    )


@pytest.mark.parametrize(
    "content", ["", "[]", "a: &a [1]\nb: *a", "colour: red", "model: 7", "{"], ids=repr
)
def test_a_wrong_recipe(refused, tmp_path, content):
    (tmp_path / "recipe.yaml").write_text(content)
    refused(["train", "--recipe", "recipe.yaml", "--out", "new", "-q"], 3, "recipe.yaml")
