"""The supernet: shared float weights, and the choices of one subnet applied to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from eqnet.quant.layers import ElasticConv2d, ElasticLinear
from eqnet.quant.quantizers import ActivationQuantizer, WeightQuantizer
from eqnet.spec.errors import CheckpointError
from eqnet.spec.subnet import REMAINDER, SubnetSpec
from eqnet.supernet.capture import QUANTIZERS, capture
from eqnet.supernet.info import NetworkInfo

NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)


class Supernet:
    """A captured network with elastic layers; `apply` makes it compute as one subnet.

    graph: the torch.fx module, from float32 [N, C, H, W] to logits [N, K].
    info: the layers and tensors that it has.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        graph, info = capture(model, input_shape)
        self.graph: fx.GraphModule = graph
        self.info: NetworkInfo = info
        self._layers = {layer.name: self._weight_quantizer(layer.name) for layer in info.layers}
        self._tensors = {tensor.name: self.activation(tensor.name) for tensor in info.tensors}

    def layer(self, name: str) -> ElasticConv2d | ElasticLinear:
        """The elastic layer of that name."""
        layer = self.graph.get_submodule(name)
        assert isinstance(layer, (ElasticConv2d, ElasticLinear))
        return layer

    def _weight_quantizer(self, name: str) -> WeightQuantizer:
        return self.layer(name).weight_quantizer

    def activation(self, name: str) -> ActivationQuantizer:
        """The quantizer of the tensor of that name."""
        quantizer = self.graph.get_submodule(f"{QUANTIZERS}.{name}")
        assert isinstance(quantizer, ActivationQuantizer)
        return quantizer

    def apply(self, spec: SubnetSpec) -> None:
        """Compute as `spec` from now on. Raises CheckpointError if it names other layers."""
        self._check_names(spec)
        for name, weight in self._layers.items():
            choice = spec.weights[name]
            weight.bits = None if choice == REMAINDER else int(choice)
            weight.granularity = spec.form.weight_granularity
            weight.symmetry = spec.form.weight_symmetry
        for name, tensor in self._tensors.items():
            tensor.carrier_bits = spec.carriers.get(name)
            tensor.narrow_bits = spec.activations.get(name)
            tensor.symmetry = spec.form.activation_symmetry

    def apply_float(self) -> None:
        """Compute in float from now on."""
        for weight in self._layers.values():
            weight.bits = None
        for tensor in self._tensors.values():
            tensor.carrier_bits = tensor.narrow_bits = None

    def _check_names(self, spec: SubnetSpec) -> None:
        unknown = (set(spec.weights) ^ set(self._layers)) | (
            (set(spec.activations) | set(spec.carriers)) - set(self._tensors)
        )
        if unknown:
            raise CheckpointError(
                f"the subnet is of another network: '{sorted(unknown)[0]}' is not in both"
            )

    def batch_norms(self) -> Iterator[nn.BatchNorm2d | nn.BatchNorm1d]:
        """Every batch norm, in module order."""
        for module in self.graph.modules():
            if isinstance(module, NORMS):
                yield module

    @torch.no_grad()
    def project(self) -> None:
        """After an optimizer step: keep gammas non-negative and scales within their bounds."""
        for norm in self.batch_norms():
            if norm.weight is not None:
                norm.weight.clamp_(min=0.0)
        for tensor in self._tensors.values():
            tensor.project()

    @contextmanager
    def _normalizing_by_batch(self) -> Iterator[list[nn.BatchNorm2d | nn.BatchNorm1d]]:
        """Within: batch norms use each batch's statistics and keep only those of the last."""
        norms = [norm for norm in self.batch_norms() if norm.track_running_stats]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        try:
            yield norms
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
                norm.eval()

    @torch.no_grad()
    def recalibrate(self, batches: Iterable[Tensor]) -> None:
        """Reset the batch norm statistics and collect them for the subnet in force.

        batches: float32 [N, C, H, W], always the same images, so that the result does not
        depend on what was evaluated before.
        """
        self.graph.eval()
        with self._normalizing_by_batch() as norms:
            pooled = [_Pooled() for _ in norms]
            for batch in batches:
                self.graph(batch)
                for norm, statistics in zip(norms, pooled, strict=True):
                    statistics.add(norm, len(batch))
        for norm, statistics in zip(norms, pooled, strict=True):
            statistics.store(norm)


class _Pooled:
    """Mean and variance of one batch norm's input over several batches, in float64.

    The variance is that within the batches and that between their means: averaging the former
    alone would lose a share of it that grows as batches shrink.
    """

    def __init__(self) -> None:
        self.images = 0
        self.mean: Tensor | float = 0.0
        self.square: Tensor | float = 0.0

    def add(self, norm: nn.BatchNorm2d | nn.BatchNorm1d, images: int) -> None:
        """Take in the statistics of a batch of `images`, which `norm` holds now."""
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = norm.running_mean.double()
        self.images += images
        self.mean = self.mean + images * mean
        self.square = self.square + images * (norm.running_var.double() + mean.square())

    def store(self, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        """Write the statistics of all batches into `norm`; without any, leave it as it is."""
        if self.images == 0 or norm.running_mean is None or norm.running_var is None:
            return
        mean = torch.as_tensor(self.mean) / self.images
        variance = torch.as_tensor(self.square) / self.images - mean.square()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance.clamp_min(0.0))
