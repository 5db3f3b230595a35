"""Where a network can be cut into a float stem and a quantized rest.

Where a network is wide and high, time goes into element-wise work rather than multiplication
(Swish at full resolution), and there integers may cost more than they save. Going from float to
integers costs one pass over the tensor in between, so cuts lie where it is small.
"""

from __future__ import annotations

from eqnet.spec.network import LayerInfo, NetworkInfo


def stem_cuts(info: NetworkInfo) -> tuple[str, ...]:
    """For each resolution but the last, the layer before which to cut, in graph order.

    That is the last of those that read the smallest tensor at this resolution. The network's
    first layer counts for none, as before it there is nothing.
    """
    sizes = _resolutions(info)
    stages: dict[int, list[LayerInfo]] = {size: [] for size in sizes}
    for layer, size in zip(info.layers[1:], sizes[1:], strict=True):
        if _positions(layer) == size:
            stages[size].append(layer)
    del stages[sizes[-1]]
    return tuple(_last_of_least_input(info, stage).name for stage in stages.values() if stage)


def _last_of_least_input(info: NetworkInfo, stage: list[LayerInfo]) -> LayerInfo:
    # min takes the first of several that are equal.
    return min(reversed(stage), key=lambda layer: info.tensor(layer.input).elements)


def _positions(layer: LayerInfo) -> int:
    """Output positions of one image: height x width, or 1 for a classifier."""
    return layer.macs // layer.weights


def _resolutions(info: NetworkInfo) -> list[int]:
    """For each layer the positions of its stage: the most of what it and later layers have.

    So the convolutions of a squeeze, with one position, belong to the stage around them.
    """
    most, sizes = 0, []
    for layer in reversed(info.layers):
        most = max(most, _positions(layer))
        sizes.append(most)
    return sizes[::-1]


def before(info: NetworkInfo, cut: str | None) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the layers before `cut`, and of the tensors before its input.

    Nothing for None. Raises KeyError for a layer that the network has not.
    """
    if cut is None:
        return frozenset(), frozenset()
    first = info.layer(cut)
    place = info.layers.index(first)
    tensor = info.tensors.index(info.tensor(first.input))
    layers = frozenset(info.layer_names()[:place])
    return layers, frozenset(item.name for item in info.tensors[:tensor])
