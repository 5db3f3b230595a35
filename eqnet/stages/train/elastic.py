"""Training a supernet from a recipe: float model, calibration, elastic training."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eqnet.backend.files import write_file
from eqnet.ptq.equalize import equalize
from eqnet.spec.errors import CheckpointError, DataError, TrainingError, UsageError
from eqnet.spec.inputs import Inputs
from eqnet.spec.progress import Progress, Silent
from eqnet.stages.train.begin.start import Network, Start
from eqnet.stages.train.board import FOLDER, open_board
from eqnet.stages.train.feed import Feed, require_batch
from eqnet.stages.train.float_training import Kept, cosine, fit_float
from eqnet.stages.train.post_training import kept_pixels, rescaling_note
from eqnet.stages.train.recipe import (
    ElasticRecipe,
    Recipe,
    StaticRecipe,
    load_recipe,
)
from eqnet.stages.train.resume import (
    FLOAT_STATE,
    LOG_FILE,
    finished,
    float_identity,
    load_float,
    read_log,
    remove_states,
    require_own_state,
    save_float,
)
from eqnet.stages.train.state import STATE_FILE, load_state, save_state
from eqnet.stages.train.steps.cuda_graphs import GraphedStep
from eqnet.stages.train.steps.step import ElasticStep, StaticStep
from eqnet.stages.train.workers import Workers, open_workers
from eqnet.subnets.build import load_style
from eqnet.supernet.checkpoint import SUPERNET_FILE, Header, save_supernet
from eqnet.supernet.first_scales import calibrate
from eqnet.supernet.supernet import Supernet

# Values of the images that scales are searched on: 256 of 224 x 224 pixels, 10,000 of 28 x 28.
MAX_CALIBRATION_VALUES = 256 * 3 * 224 * 224
DISTILLED = "the images have no labels of this network's: it learns from the float model alone"


def train(
    recipe: str | Path,
    out: Path,
    *,
    model: str | None = None,
    weights: Path | None = None,
    weights_key: str | None = None,
    data: Path | None = None,
    dataset: str | None = None,
    inputs: Inputs | None = None,
    seed: int | None = None,
    epochs: int | None = None,
    batch: int | None = None,
    static: StaticRecipe | None = None,
    resume: bool = False,
    device: str = "auto",
    allow_code: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train the supernet of a recipe into the folder `out`; returns a summary.

    recipe: a file, or the name of a built-in one such as "fine_tuning".
    model, weights, weights_key, data, dataset, inputs, allow_code: as of
    `eqnet.stages.train.begin.start.Network`, each instead of the recipe's. A network with weights
    is not trained in float. Images without labels of the network's classes are learned from by
    distillation alone. seed, epochs, batch: instead of the recipe's; epochs and batch are those
    of elastic training.
    static: train for this form at this bit-width alone; other subnets of `out` mean nothing.
    resume: go on from `out` after an interruption; the result is the same as without one on
    the same machine, and a supernet that this recipe has finished there is kept as it is.
    device: "auto", "cpu" or "cuda". tensorboard: write losses and distributions of weights to
    ``out/tensorboard``.
    Raises ProfileError, UsageError, DataError, CheckpointError, CaptureError, TrainingError,
    MissingExtraError or OutputError.
    """
    stated = {
        "model": model,
        "weights": weights,
        "weights_key": weights_key,
        "data": data,
        "dataset": dataset,
        "inputs": inputs if inputs and inputs.named() else None,
        "seed": seed,
    }
    plan = load_recipe(recipe)
    if weights is not None:
        plan = plan.model_copy(update={"weights_sha256": None})
    plan = _with_weights(plan.model_copy(update=_said(stated)))
    changed = {"epochs": epochs, "batch": batch, "static": static}
    elastic = plan.elastic.model_copy(update=_said(changed))
    plan = plan.model_copy(update={"elastic": elastic})
    workers = open_workers(device)
    board = out / FOLDER if tensorboard and workers.first else None
    return _Run(plan, out, workers, allow_code, resume, progress, board).go()


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _with_weights(plan: Recipe) -> Recipe:
    """The plan with the hash of its weights, which take the place of float training.

    Raises UsageError where it has no model.
    """
    if plan.model is None:
        raise UsageError("the recipe names no model (allowed: model in it, or --model)")
    if plan.weights is None:
        return plan
    return plan.model_copy(
        update={
            "weights_sha256": _checked_hash(plan.weights, plan.weights_sha256),
            "float_model": plan.float_model.model_copy(update={"epochs": 0}),
        }
    )


def _checked_hash(weights: Path, wanted: str | None) -> str:
    try:
        with weights.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{weights}: cannot read: {error.strerror}") from error
    if wanted not in (None, found):
        raise CheckpointError(f"{weights}: sha256 is {found} (allowed: {wanted}, by the recipe)")
    return found


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
        workers: Workers,
        allow_code: bool,
        resume: bool,
        progress: Progress | None,
        board: Path | None,
    ) -> None:
        self.plan, self.out, self.workers, self.allow_code = plan, out, workers, allow_code
        self.device, self.resume = workers.device, resume
        self.progress = progress if progress and workers.first else Silent()
        self.recipe, self.board = plan.elastic, board
        self.log: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def go(self) -> dict[str, Any]:
        """Train, save, and summarize."""
        header = finished(self.out, self.plan) if self.resume else None
        if header is None:
            header = self._train()
        else:
            remove_states(self.out, self.plan, FLOAT_STATE, STATE_FILE)
            with contextlib.suppress(CheckpointError):  # told if it is there, needed by nothing
                self.log = read_log(self.out, self.plan.elastic.epochs)
        summary: dict[str, Any] = {
            "supernet": str(self.out / SUPERNET_FILE),
            "float_accuracy": header.float_accuracy,
            "log": self.log[-1:],
            "notes": self.notes,
        }
        if self.warnings:
            summary["warning"] = "; ".join(self.warnings)
        return summary

    def _train(self) -> Header:
        start = self._start()
        self._float(start)
        teacher = copy.deepcopy(start.net)
        header = start.header("elastic", self.progress, self.device.type)
        start.warn_of_labels(header)
        start.net.cpu()
        supernet = start.capture()
        supernet.graph.to(self.device)
        calibration = self._calibration(start)
        if self.recipe.batch_norm == "own":
            rescaled = equalize(supernet, calibration)
            if rescaled:
                start.notes.append(rescaling_note(rescaled))
            supernet.calibration = kept_pixels(start.dataset.calibration())
        self.notes, self.warnings = start.notes, start.warnings
        supernet.keep_origin()
        calibrate(supernet, calibration, self.progress)
        self._elastic(supernet, teacher, start)
        if self.recipe.batch_norm == "batch":
            supernet.recalibrate(calibration)
        header = self._header(header)
        if self.workers.first:
            save_supernet(self.out, supernet, header)
            (self.out / STATE_FILE).unlink(missing_ok=True)
        self.workers.wait()
        return header

    def _start(self) -> Start:
        """The network as it was given or initialized, and its images."""
        plan = self.plan
        assert plan.model is not None
        network = Network(
            plan.model,
            plan.weights,
            plan.weights_key,
            plan.data,
            plan.dataset,
            plan.inputs,
            allow_code=self.allow_code,
        )
        start = Start(network, plan.seed)
        images = start.dataset.train()
        labelled = start.labelled and bool((images.take(1)[1] >= 0).all())
        if plan.float_model.epochs:
            require_batch(images, plan.float_model.batch)
            if not labelled:
                raise DataError(
                    f"{images.name}: no labels of the network's classes to train a float model by "
                    "(allowed: labelled images, or a network with weights)"
                )
            start.random = False
        else:
            start.warn_of_weights()
        require_batch(images, plan.elastic.batch)
        if not labelled:
            start.notes.append(DISTILLED)
            gpg = plan.elastic.gpg.model_copy(update={"guidance": 1.0, "teacher": 1.0})
            self.recipe = plan.elastic.model_copy(update={"gpg": gpg})
        return start

    def _header(self, header: Header) -> Header:
        """The header of the trained supernet."""
        method = "elastic" if self.recipe.batch_norm == "batch" else "fine_tuned"
        return header.model_copy(
            update={
                "method": method,
                "styles": self.recipe.styles,
                "recipe": self.plan.identity(),
            }
        )

    def _calibration(self, start: Start) -> list[Tensor]:
        images = start.dataset.calibration()
        channels, height, width = start.dataset.input_shape
        count = max(1, MAX_CALIBRATION_VALUES // (channels * height * width))
        return [part.to(self.device) for part in start.inputs(images, count)]

    def _feed(self, start: Start, batch: int) -> Feed:
        return Feed(
            start.dataset.train(),
            start.dataset.preprocessing,
            batch=batch,
            seed=self.plan.seed,
            augment=self.plan.augment,
            workers=self.workers,
        )

    def _float(self, start: Start) -> None:
        model = start.net.to(self.device)
        restored = self.resume and load_float(self.out, model, self.plan)
        if self.resume:
            require_own_state(self.out, self.plan)
        # Only now: the folder of another run must stay as it was.
        if self.workers.first:
            write_file(self.out / "recipe.json", self.plan.model_dump_json(indent=2))
        if restored and self.workers.first:
            remove_states(self.out, self.plan, FLOAT_STATE)
        if not restored and self.plan.float_model.epochs:
            recipe, path = self.plan.float_model, self.out / FLOAT_STATE
            kept = Kept(path, float_identity(self.plan), self.resume)
            fit_float(model, self._feed(start, recipe.batch), recipe, self.progress, kept)
            if self.workers.first:
                save_float(self.out, model, self.plan)
                path.unlink(missing_ok=True)

    def _elastic(self, supernet: Supernet, teacher: nn.Module, start: Start) -> None:
        recipe = self.recipe
        feed = self._feed(start, recipe.batch)
        optimizer = make_optimizer(supernet, recipe)
        identity = json.dumps(self.plan.identity())
        done = 0
        if self.resume and (self.out / STATE_FILE).is_file():
            done = load_state(self.out / STATE_FILE, supernet.graph, optimizer, identity)
            self.log = read_log(self.out, done)
        past, total = done * len(feed), recipe.epochs * len(feed)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: cosine(past + step, total)
        )
        styles = [load_style(name) for name in recipe.styles]
        step = self._step_of(recipe)(supernet, teacher, recipe, styles)
        board = open_board(self.board, done + 1 if done else 0)
        board.weights(done, supernet)
        self.progress.start("elastic training", recipe.epochs)
        for epoch in range(done, recipe.epochs):
            losses = self._epoch(supernet, step, feed, optimizer, schedule, epoch)
            self.log.append({"epoch": epoch + 1, **losses})
            if self.workers.first:
                write_file(self.out / LOG_FILE, "".join(json.dumps(r) + "\n" for r in self.log))
                save_state(self.out / STATE_FILE, supernet.graph, optimizer, epoch + 1, identity)
            board.losses(epoch + 1, losses)
            self.progress.advance(1, **losses)
        self.progress.finish()
        board.weights(recipe.epochs, supernet)
        supernet.apply_float()

    def _step_of(self, recipe: ElasticRecipe) -> type[ElasticStep]:
        if recipe.static is not None:
            return StaticStep
        plain = recipe.batch_norm == "batch" and recipe.gpg.balance == 0.0
        graphed = self.device.type == "cuda" and plain
        return GraphedStep if graphed else ElasticStep

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
        supernet.graph.train(self.recipe.batch_norm == "batch")
        step.begin_epoch(rng)
        for number, (images, labels) in enumerate(feed.epoch(epoch), 1):
            optimizer.zero_grad(set_to_none=True)
            losses = step.backward(images, labels, rng)
            if number % self._look == 0 or number == len(feed):
                self._require_finite(step, losses, images, f"epoch {epoch + 1}, step {number}")
            total += losses
            self.workers.average_gradients(parameters)
            nn.utils.clip_grad_value_(parameters, self.recipe.gradient_clip)
            optimizer.step()
            schedule.step()
            supernet.project()
        means = (self.workers.average(total) / max(1, len(feed))).tolist()
        return dict(zip(step.losses, means, strict=True))

    @property
    def _look(self) -> int:
        """Steps from one look at the losses to the next: a GPU would wait for each."""
        return 100 if self.device.type == "cuda" else 1

    def _require_finite(
        self, step: ElasticStep, losses: Tensor, images: Tensor, place: str
    ) -> None:
        problem = step.problem_of(losses, images)
        if problem is None:
            return
        kept = (
            ""
            if not (self.out / STATE_FILE).is_file()
            else "; --resume goes on from the epoch before"
        )
        raise TrainingError(
            f"{place}: {problem} is not finite (allowed: numbers; try lower learning rates{kept})"
        )
