"""The elastic step on CUDA, recorded as CUDA graphs.

A small network with a quantizer at every tensor launches thousands of tiny kernels a step, and
the host is four times slower to launch them than the GPU to run them. Recording each subnet's
forward and backward pass once and replaying it removes that cost. The random group then draws
from a few subnets that are recorded anew for every epoch.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from eqnet.spec.scheme import Form
from eqnet.spec.subnet import SubnetSpec
from eqnet.stages.train.steps.losses import guided_loss
from eqnet.stages.train.steps.step import GROUPS, ElasticStep
from eqnet.subnets.build import PlacementStyle

RECORDED_SUBNETS = 16
WARM_UP = 3


class _Recording(NamedTuple):
    """A recorded forward and backward pass; replaying it overwrites logits, loss and grads."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor
    loss: Tensor
    parameters: list[nn.Parameter]
    grads: list[Tensor]


class _Inputs(NamedTuple):
    """Where every recording reads: images, labels, and the guide's logits."""

    images: Tensor
    labels: Tensor
    guide: Tensor


class GraphedStep(ElasticStep):
    """ElasticStep whose groups are replayed CUDA graphs; all batches have one size."""

    _inputs: _Inputs | None = None

    def begin_epoch(self, rng: random.Random) -> None:
        """Draw the epoch's random subnets; they are recorded when the first batch is seen."""
        self._plans = []
        for _ in range(RECORDED_SUBNETS):
            form, style = rng.choice(self.forms), rng.choice(self.styles)
            self._plans.append((form, style, self._groups(form, style, rng)))
        self._random: dict[int, _Recording] = {}

    def backward(self, images: Tensor, labels: Tensor, rng: random.Random) -> Tensor:
        """As ElasticStep.backward; gradients end up in ``.grad`` of what the step used."""
        inputs = self._copy_in(images, labels)
        index = rng.randrange(len(self._plans))
        form, style, (high, middle, low) = self._plans[index]
        guide, guidance = self._teacher_guide(inputs.images)
        weight: float | None = None
        if guide is not None:
            inputs.guide.copy_(guide)
            weight = guidance
        first = self._uniform("high", form, style, high, weight)
        if index not in self._random:
            self._random[index] = self._record("random", middle, self.recipe.gpg.guidance)
        last = self._uniform("low", form, style, low, self.recipe.gpg.guidance)
        losses = []
        for recording in (first, self._random[index], last):
            self._replay(recording)
            losses.append(recording.loss)
            inputs.guide.copy_(recording.logits)
        return torch.cat([torch.stack(losses), self._regularize()])

    def _copy_in(self, images: Tensor, labels: Tensor) -> _Inputs:
        if self._inputs is None:
            guide = torch.zeros(len(labels), self.supernet.info.classes, device=images.device)
            self._inputs = _Inputs(images.clone(), labels.clone(), guide)
            # Recordings that share memory overwrite each other's results: within one step, each
            # group must have memory of its own.
            self._pools = {name: torch.cuda.graph_pool_handle() for name in GROUPS}
            self._fixed: dict[tuple[str, Form, str], _Recording] = {}
            self._warm_up()
        self._inputs.images.copy_(images)
        self._inputs.labels.copy_(labels)
        return self._inputs

    def _uniform(
        self, group: str, form: Form, style: PlacementStyle, spec: SubnetSpec, weight: float | None
    ) -> _Recording:
        key = (group, form, style.name)
        if key not in self._fixed:
            self._fixed[key] = self._record(group, spec, weight)
        return self._fixed[key]

    def _pass(self, spec: SubnetSpec, weight: float | None) -> tuple[Tensor, Tensor]:
        assert self._inputs is not None
        self.supernet.apply(spec)
        logits = self.supernet.graph(self._inputs.images)
        guide = None if weight is None else self._inputs.guide
        loss = guided_loss(logits, self._inputs.labels, guide, weight or 0.0)
        loss.backward()
        return logits.detach(), loss.detach()

    def _clear(self) -> None:
        for parameter in self.supernet.graph.parameters():
            parameter.grad = None

    def _warm_up(self) -> None:
        """Let libraries choose their kernels before anything is recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        saved = [buffer.clone() for buffer in self.supernet.graph.buffers()]
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._pass(self._plans[0][2][0], None)
                self._clear()
        torch.cuda.current_stream().wait_stream(stream)
        for buffer, value in zip(self.supernet.graph.buffers(), saved, strict=True):
            buffer.copy_(value)

    def _record(self, group: str, spec: SubnetSpec, weight: float | None) -> _Recording:
        pending = self._gradients()
        self._clear()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pools[group]):
            logits, loss = self._pass(spec, weight)
        grads = self._gradients()
        self._clear()
        for parameter, grad in pending.items():
            parameter.grad = grad
        return _Recording(graph, logits, loss, list(grads), list(grads.values()))

    def _gradients(self) -> dict[nn.Parameter, Tensor]:
        return {p: p.grad for p in self.supernet.graph.parameters() if p.grad is not None}

    def _replay(self, recording: _Recording) -> None:
        """Run a recording and add its gradients to those that the step has so far."""
        recording.graph.replay()
        sums, terms = [], []
        for parameter, grad in zip(recording.parameters, recording.grads, strict=True):
            if parameter.grad is None:
                parameter.grad = grad
            else:
                sums.append(parameter.grad)
                terms.append(grad)
        if sums:
            torch._foreach_add_(sums, terms)
