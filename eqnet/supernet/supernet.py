"""The supernet: shared float weights, and the choices of one subnet applied to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from eqnet.capture.capture import capture
from eqnet.capture.rebuild import plain_values
from eqnet.quant.layers import ELASTIC, BatchNorm, ElasticLayer
from eqnet.quant.quantizers import QUANTIZERS, ActivationQuantizer, WeightQuantizer
from eqnet.spec.errors import CaptureError, CheckpointError, DataError
from eqnet.spec.network import NetworkInfo
from eqnet.spec.scheme import Scales
from eqnet.spec.subnet import REMAINDER, SubnetSpec


class Supernet:
    """A captured network with elastic layers; `apply` makes it compute as one subnet.

    graph: the torch.fx module, from float32 [N, C, H, W] to logits [N, K].
    info: the layers and tensors that it has. plain: what the model's code may have read as plain
    values when it was captured, by the model's names.
    """

    def __init__(self, model: nn.Module, input_shape: tuple[int, int, int]) -> None:
        # Pixels, uint8 [N, C, H, W], that a post-training network's subnets are settled on.
        self.calibration: Tensor | None = None
        # Where training changed the weights: the float network's, by the graph's names.
        self.origin: dict[str, Tensor] | None = None
        self.plain: dict[str, Tensor] = plain_values(model)
        graph, info = capture(model, input_shape)
        self.graph: fx.GraphModule = graph
        self.info: NetworkInfo = info
        self._layers = {layer.name: self._weight_quantizer(layer.name) for layer in info.layers}
        self._norm_of = {layer.name: layer.batch_norm for layer in info.layers}
        self._tensors = {tensor.name: self.activation(tensor.name) for tensor in info.tensors}

    def layer(self, name: str) -> ElasticLayer:
        """The elastic layer of that name."""
        layer = self.graph.get_submodule(name)
        assert isinstance(layer, ELASTIC)
        return layer

    def _weight_quantizer(self, name: str) -> WeightQuantizer:
        return self.layer(name).weight_quantizer

    def activation(self, name: str) -> ActivationQuantizer:
        """The quantizer of the tensor of that name."""
        quantizer = self.graph.get_submodule(f"{QUANTIZERS}.{name}")
        assert isinstance(quantizer, ActivationQuantizer)
        return quantizer

    def apply(self, spec: SubnetSpec) -> None:
        """Compute as `spec` from now on. Raises CheckpointError if it names other layers.

        Powers of two as weight scales depend on the batch norm statistics that are in force.
        """
        self._check_names(spec)
        for name, weight in self._layers.items():
            choice = spec.weights[name]
            weight.bits = None if choice == REMAINDER else int(choice)
            weight.granularity = spec.form.weight_granularity
            weight.symmetry = spec.form.weight_symmetry
            weight.snapped = None
            if spec.weight_scales is Scales.POWER_OF_TWO and weight.bits is not None:
                self._snap(name)
        for name, tensor in self._tensors.items():
            tensor.carrier_bits = spec.carriers.get(name)
            tensor.narrow_bits = spec.activations.get(name)
            tensor.symmetry = spec.form.activation_symmetry
            tensor.scales = spec.activation_scales

    @torch.no_grad()
    def _snap(self, name: str) -> None:
        """Let a layer's scales be powers of two once its batch norm, as it is, is absorbed."""
        layer, norm = self.layer(name), self._norm_of[name]
        if norm is None:
            factor = layer.weight.new_ones(layer.weight_quantizer.channels, dtype=torch.float64)
        else:
            module = self.graph.get_submodule(norm)
            assert isinstance(module, BatchNorm)
            factor = factor_of(module, norm)
        layer.weight_quantizer.snap(factor)

    def correct(self, corrections: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Set each layer's (gain, shift), [C] each; layers that are not named have none."""
        for name in self._layers:
            self.layer(name).correct(*corrections.get(name, (None, None)))

    def _correction(self, name: str) -> tuple[Tensor | None, Tensor | None]:
        layer = self.layer(name)
        return layer.gain, layer.shift

    def apply_float(self) -> None:
        """Compute in float from now on, without corrections."""
        self.correct({})
        for weight in self._layers.values():
            weight.bits = None
        for tensor in self._tensors.values():
            tensor.carrier_bits = tensor.narrow_bits = None

    def to(self, device: torch.device | str) -> None:
        """Move all that it computes with."""
        self.graph.to(device)
        if self.origin is not None:
            self.origin = {name: tensor.to(device) for name, tensor in self.origin.items()}

    def keep_origin(self) -> None:
        """Remember the float network as it is now, before training changes its weights."""
        self.origin = {}
        for name, tensor in (*self.graph.named_parameters(), *self.graph.named_buffers()):
            if ".weight_quantizer." not in name and not name.startswith(f"{QUANTIZERS}."):
                self.origin[name] = tensor.detach().clone()

    def original(self, images: Tensor) -> Tensor:
        """Logits [N, K] of the float network that this began as; `apply_float` comes first.

        images: float32 [N, C, H, W].
        """
        values = self.origin or {}
        logits: Tensor = functional_call(self.graph, values, (images,))
        return logits

    @torch.no_grad()
    def float_logits(self, images: Tensor) -> Tensor:
        """Logits [N, K] of the network as it is, in float32; the subnet in force stays so.

        images: float32 [N, C, H, W].
        """
        with self._in_float():
            logits: Tensor = self.graph(images)
            return logits.float()

    @contextmanager
    def _in_float(self) -> Iterator[None]:
        """Within: evaluation in float, without corrections."""
        weights = [(weight, weight.bits) for weight in self._layers.values()]
        corrections = [(self.layer(name), *self._correction(name)) for name in self._layers]
        tensors = [(each, each.carrier_bits, each.narrow_bits) for each in self._tensors.values()]
        training = self.graph.training
        self.apply_float()
        try:
            # Convolutions of cuDNN may compute in TF32, the rest of CUDA does not unless told.
            with torch.backends.cudnn.flags(enabled=False):
                self.graph.eval()
                yield
        finally:
            self.graph.train(training)
            for layer, gain, shift in corrections:
                layer.correct(gain, shift)
            for weight, bits in weights:
                weight.bits = bits
            for tensor, carrier, narrow in tensors:
                tensor.carrier_bits, tensor.narrow_bits = carrier, narrow

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
            if isinstance(module, BatchNorm):
                yield module

    def _norms_with_statistics(self) -> list[nn.BatchNorm2d | nn.BatchNorm1d]:
        return [norm for norm in self.batch_norms() if norm.track_running_stats]

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
        norms = self._norms_with_statistics()
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
        depend on what was evaluated before. For weight scales that are powers of two they are
        collected twice: the variances with the scales as they were learned, and then, as each
        scale follows from a variance, the means alone. An image that is a batch of its own joins
        a neighbour. Raises DataError for one image in all, where a batch norm sees one value
        a channel of it.
        """
        self.graph.eval()
        snapped = []
        for name, weight in self._layers.items():
            if weight.snapped is not None:
                snapped.append(name)
                weight.snapped = None
        batches = _of_two_or_more(batches)
        if snapped:
            batches = list(batches)
        self._collect(batches)
        if snapped:
            for name in snapped:
                self._snap(name)
            self._collect_means(batches)

    def _collect(self, batches: Iterable[Tensor]) -> None:
        with self._normalizing_by_batch() as norms:
            pooled = [_Pooled() for _ in norms]
            for batch in batches:
                self._normalize_by(batch)
                for norm, statistics in zip(norms, pooled, strict=True):
                    statistics.add(norm, len(batch))
        for norm, statistics in zip(norms, pooled, strict=True):
            statistics.store(norm)

    def _normalize_by(self, batch: Tensor) -> None:
        try:
            self.graph(batch)
        except ValueError as error:
            if len(batch) > 1:
                raise
            raise DataError(
                "one calibration image has no batch norm statistics in this network (allowed: 2 "
                "or more)"
            ) from error

    def _collect_means(self, batches: Iterable[Tensor]) -> None:
        """Means of the batch norms' inputs, each batch centred by its own, variances kept."""
        norms = self._norms_with_statistics()
        pooled = [_Pooled() for _ in norms]
        hooks = [norm.register_forward_pre_hook(_center) for norm in norms]
        for batch in batches:
            self.graph(batch)
            for norm, statistics in zip(norms, pooled, strict=True):
                statistics.add(norm, len(batch))
        for hook in hooks:
            hook.remove()
        for norm, statistics in zip(norms, pooled, strict=True):
            statistics.store_mean(norm)


def _of_two_or_more(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Batches [N, C, H, W] in their order, each single image joined to a neighbour.

    One image alone may have one value a channel (1 x 1 maps), which has no variance.
    """
    held: list[Tensor] = []
    single: list[Tensor] = []
    for batch in batches:
        if len(batch) == 1 and not single:
            single = [batch]
            continue
        if held:
            yield torch.cat(held)
        held, single = [*single, batch], []
    if held or single:
        yield torch.cat([*held, *single])


def factor_of(norm: nn.BatchNorm2d | nn.BatchNorm1d, name: str) -> Tensor:
    """gamma / sigma of a batch norm, float64 [C]. Raises CaptureError if it has no statistics."""
    if norm.running_mean is None or norm.running_var is None:
        raise CaptureError(f"'{name}': batch norm without running statistics")
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is None:
        return factor
    return factor * norm.weight.double()


def _center(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Let a batch norm in eval mode subtract this batch's mean: inputs [N, C, ...]."""
    assert isinstance(module, BatchNorm)
    assert module.running_mean is not None
    (x,) = inputs
    module.running_mean.copy_(x.mean([axis for axis in range(x.dim()) if axis != 1]))


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

    def store_mean(self, norm: nn.BatchNorm2d | nn.BatchNorm1d) -> None:
        """Write the mean alone into `norm`; without any batch, leave it as it is."""
        if self.images and norm.running_mean is not None:
            norm.running_mean.copy_(torch.as_tensor(self.mean) / self.images)
