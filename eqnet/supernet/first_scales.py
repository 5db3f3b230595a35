"""First scales and zero-points of every form, from the weights and a few hundred images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from eqnet.quant.quantizers import MAX_SAMPLES, ActivationQuantizer
from eqnet.spec.progress import Progress, Silent
from eqnet.supernet.settling.image_weights import image_weights
from eqnet.supernet.supernet import Supernet


class _Collector:
    """A sample of the values of one tensor, what each value's image counts, the true range."""

    def __init__(self, per_batch: int) -> None:
        self.per_batch = per_batch
        self.values: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.low, self.high = 0.0, 0.0

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        x = inputs[0].detach()
        flat = x.reshape(-1).float()
        self.low = min(self.low, float(flat.min()))
        self.high = max(self.high, float(flat.max()))
        # A fixed stride that is odd does not lock onto rows or channels of even size.
        stride = max(1, flat.numel() // self.per_batch) | 1
        # A copy: a view would keep the whole tensor alive, and see what later happens in place.
        self.values.append(flat[::stride].clone().cpu())
        weights = image_weights(x).float().cpu()
        image = torch.arange(0, flat.numel(), stride) // (flat.numel() // len(weights))
        self.weights.append(weights[image])


@torch.no_grad()
def calibrate(
    supernet: Supernet, batches: Iterable[Tensor], progress: Progress | None = None
) -> None:
    """Set the parameters of every quantizer in every form by clip search (least squared error).

    batches: preprocessed images, float32 [N, C, H, W]; a few hundred images are enough.
    """
    progress = progress or Silent()
    supernet.apply_float()
    supernet.graph.eval()
    images = list(batches)
    collectors = {}
    hooks = []
    for tensor in supernet.info.tensors:
        collectors[tensor.name] = _Collector(MAX_SAMPLES // max(1, len(images)))
        quantizer = supernet.activation(tensor.name)
        hooks.append(quantizer.register_forward_hook(collectors[tensor.name]))
    for batch in images:
        supernet.graph(batch)
    for hook in hooks:
        hook.remove()
    progress.start("clip search", len(supernet.info.layers) + len(collectors))
    for layer in supernet.info.layers:
        elastic = supernet.layer(layer.name)
        elastic.weight_quantizer.initialize(elastic.weight)
        progress.advance()
    for name, collector in collectors.items():
        _initialize(supernet.activation(name), collector)
        progress.advance()
    progress.finish()


def _initialize(quantizer: ActivationQuantizer, collector: _Collector) -> None:
    device = next(quantizer.parameters()).device
    values = torch.cat(collector.values).to(device)
    weights = torch.cat(collector.weights).to(device)
    quantizer.initialize(values, collector.low, collector.high, weights / weights.mean())
