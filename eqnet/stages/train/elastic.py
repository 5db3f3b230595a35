"""Training a supernet from a recipe: float model, calibration, elastic training."""

from __future__ import annotations

import contextlib
import copy
import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eqnet.backend.files import write_file
from eqnet.data import Dataset, Images, open_dataset
from eqnet.models.loader import load_model
from eqnet.spec.errors import CheckpointError, UsageError
from eqnet.spec.progress import Progress, Silent
from eqnet.stages.train.feed import Feed, require_batch
from eqnet.stages.train.float_training import fit_float
from eqnet.stages.train.recipe import ElasticRecipe, Recipe, StaticRecipe, load_recipe
from eqnet.stages.train.resume import (
    LOG_FILE,
    finished,
    load_float,
    read_log,
    require_own_state,
    save_float,
)
from eqnet.stages.train.state import STATE_FILE, load_state, save_state
from eqnet.stages.train.steps.cuda_graphs import GraphedStep
from eqnet.stages.train.steps.step import ElasticStep, StaticStep
from eqnet.subnets.build import load_style
from eqnet.supernet.checkpoint import SUPERNET_FILE, Header, save_supernet
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.measure import Batches, accuracy
from eqnet.supernet.supernet import Supernet


def train(
    recipe: Path,
    out: Path,
    *,
    data: Path | None = None,
    seed: int | None = None,
    static: StaticRecipe | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the supernet of a recipe into the folder `out`; returns a summary.

    data: dataset folder (None: where the system has it). seed: instead of the recipe's.
    static: train for this form at this bit-width alone; other subnets of `out` mean nothing.
    resume: go on from `out` after an interruption; the result is the same as without one on
    the same machine, and a supernet that this recipe has finished there is kept as it is.
    device: "auto", "cpu" or "cuda".
    Raises ProfileError, UsageError, DataError, CheckpointError, CaptureError or OutputError.
    """
    plan = load_recipe(recipe)
    if seed is not None:
        plan = plan.model_copy(update={"seed": seed})
    if static is not None:
        elastic = plan.elastic.model_copy(update={"static": static})
        plan = plan.model_copy(update={"elastic": elastic})
    run = _Run(plan, out, pick_device(device), open_dataset(plan.dataset, data), resume, progress)
    return run.go()


def pick_device(name: str) -> torch.device:
    """The device of that name. Raises UsageError where it does not exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda': no CUDA device found (allowed here: auto, cpu)")
    if name not in ("cpu", "cuda"):
        raise UsageError(f"unknown device '{name}' (allowed: auto, cpu, cuda)")
    return torch.device(name)


def make_optimizer(supernet: Supernet, recipe: ElasticRecipe) -> torch.optim.Adam:
    """Adam without weight decay, with rates of their own for scales and zero-points."""
    groups: dict[str, list[nn.Parameter]] = {"weight": [], "log_scale": [], "zero_point": []}
    for name, parameter in supernet.graph.named_parameters():
        groups[_kind(name)].append(parameter)
    return torch.optim.Adam(
        [
            {"params": groups["weight"], "lr": recipe.learning_rate},
            {"params": groups["log_scale"], "lr": recipe.scale_learning_rate},
            {"params": groups["zero_point"], "lr": recipe.zero_point_learning_rate},
        ],
        fused=True,
    )


def _kind(name: str) -> str:
    """The optimizer's group of a parameter of this name."""
    for kind in ("weight", "log_scale", "zero_point"):
        if f".{kind}." in name:
            return kind
    return "weight"


class _Run:
    """One training run in one folder."""

    def __init__(
        self,
        plan: Recipe,
        out: Path,
        device: torch.device,
        dataset: Dataset,
        resume: bool,
        progress: Progress | None,
    ) -> None:
        self.plan, self.out, self.device, self.dataset = plan, out, device, dataset
        self.resume, self.progress = resume, progress or Silent()
        self.log: list[dict[str, Any]] = []
        torch.manual_seed(plan.seed)

    def go(self) -> dict[str, Any]:
        """Train, save, and summarize."""
        header = finished(self.out, self.plan) if self.resume else None
        if header is None:
            header = self._train()
        else:
            with contextlib.suppress(CheckpointError):  # told if it is there, needed by nothing
                self.log = read_log(self.out, self.plan.elastic.epochs)
        return {
            "supernet": str(self.out / SUPERNET_FILE),
            "float_accuracy": header.float_accuracy,
            "log": self.log[-1:],
        }

    def _train(self) -> Header:
        for batch in (self.plan.float_model.batch, self.plan.elastic.batch):
            require_batch(self.dataset.train(), batch)
        classes, channels = len(self.dataset.classes), self.dataset.input_shape[0]
        model = load_model(self.plan.model, classes=classes, in_channels=channels)
        model.to(self.device)
        self._float(model)
        teacher = copy.deepcopy(model)
        supernet = Supernet(model.cpu(), self.dataset.input_shape)
        supernet.graph.to(self.device)
        calibration = self._batches(self.dataset.calibration())
        calibrate(supernet, calibration.inputs(), self.progress)
        self._elastic(supernet, teacher, calibration)
        header = self._header(teacher)
        save_supernet(self.out, supernet, header)
        (self.out / STATE_FILE).unlink(missing_ok=True)
        return header

    def _header(self, float_model: nn.Module) -> Header:
        test, parity = self.dataset.test(), self.dataset.parity()
        return Header(
            model=self.plan.model,
            input_shape=self.dataset.input_shape,
            classes=len(self.dataset.classes),
            dataset=self.plan.dataset,
            preprocessing=self.dataset.preprocessing,
            method="elastic",
            styles=self.plan.elastic.styles,
            seed=self.plan.seed,
            float_accuracy=accuracy(float_model, self._batches(test)),
            test_images=test.name,
            float_parity_accuracy=accuracy(float_model, self._batches(parity)),
            recipe=self.plan.model_dump(mode="json"),
        )

    def _batches(self, images: Images) -> Batches:
        pixels, labels = images.take(len(images))
        return Batches.of(pixels, labels, self.dataset.preprocessing, self.device)

    def _feed(self, batch: int) -> Feed:
        return Feed(
            self.dataset.train(),
            self.dataset.preprocessing,
            batch=batch,
            seed=self.plan.seed,
            augment=self.plan.augment,
            device=self.device,
        )

    def _float(self, model: nn.Module) -> None:
        restored = self.resume and load_float(self.out, model, self.plan)
        if self.resume:
            require_own_state(self.out, self.plan)
        # Only now: the folder of another run must stay as it was.
        write_file(self.out / "recipe.json", self.plan.model_dump_json(indent=2))
        if not restored:
            recipe = self.plan.float_model
            fit_float(model, self._feed(recipe.batch), recipe, self.progress)
            save_float(self.out, model, self.plan)

    def _elastic(self, supernet: Supernet, teacher: nn.Module, calibration: Batches) -> None:
        recipe = self.plan.elastic
        feed = self._feed(recipe.batch)
        optimizer = make_optimizer(supernet, recipe)
        identity = self.plan.model_dump_json()
        done = 0
        if self.resume and (self.out / STATE_FILE).is_file():
            done = load_state(self.out / STATE_FILE, supernet, optimizer, identity)
            self.log = read_log(self.out, done)
        past, total = done * len(feed), recipe.epochs * len(feed)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: _cosine(past + step, total)
        )
        styles = [load_style(name) for name in recipe.styles]
        step = self._step_of(recipe)(supernet, teacher, recipe, styles)
        self.progress.start("elastic training", recipe.epochs)
        for epoch in range(done, recipe.epochs):
            losses = self._epoch(supernet, step, feed, optimizer, schedule, epoch)
            self.log.append({"epoch": epoch + 1, **losses})
            write_file(self.out / LOG_FILE, "".join(json.dumps(r) + "\n" for r in self.log))
            save_state(self.out / STATE_FILE, supernet, optimizer, epoch + 1, identity)
            self.progress.advance(1, **losses)
        self.progress.finish()
        supernet.apply_float()
        supernet.recalibrate(calibration.inputs())

    def _step_of(self, recipe: ElasticRecipe) -> type[ElasticStep]:
        if recipe.static is not None:
            return StaticStep
        return GraphedStep if self.device.type == "cuda" else ElasticStep

    def _epoch(
        self,
        supernet: Supernet,
        step: ElasticStep,
        feed: Feed,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LambdaLR,
        epoch: int,
    ) -> dict[str, float]:
        rng = random.Random(f"{self.plan.seed}/{epoch}")  # noqa: S311  (not for secrets)
        # What a network draws itself (dropout) must not depend on where a run was resumed.
        torch.manual_seed(self.plan.seed * 1_000_003 + epoch)
        parameters = list(supernet.graph.parameters())
        total = torch.zeros(len(step.losses), device=self.device)
        supernet.graph.train()
        step.begin_epoch(rng)
        for images, labels in feed.epoch(epoch):
            optimizer.zero_grad(set_to_none=True)
            total += step.backward(images, labels, rng)
            nn.utils.clip_grad_value_(parameters, self.plan.elastic.gradient_clip)
            optimizer.step()
            schedule.step()
            supernet.project()
        means = (total / max(1, len(feed))).tolist()
        return dict(zip(step.losses, means, strict=True))


def _cosine(step: int, total: int) -> float:
    return 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * min(1.0, step / max(1, total))))))
