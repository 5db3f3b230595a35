"""Partial passes: what a change in a few places makes of the logits, without a whole pass.

The values of every node of the graph are kept for one batch of images; after a change only the
nodes downstream of it are computed again. Batches are small enough that the values fit in memory.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from eqnet.quant.quantizers import QUANTIZERS
from eqnet.supernet.supernet import Supernet

KEPT_BYTES = 512 << 20
"""Memory for the values of one batch."""


def quantizer_of(tensor: str) -> str:
    """The module that quantizes a tensor, as the graph calls it."""
    return f"{QUANTIZERS}.{tensor}"


class PartialPasses:
    """A supernet's graph with the values of one batch, as `load` computed them.

    The network is in evaluation mode; which subnet is in force is the caller's matter.
    """

    def __init__(self, supernet: Supernet) -> None:
        self._graph = supernet.graph
        self._nodes = list(supernet.graph.graph.nodes)
        self._output = self._nodes[-1]
        self._above = _sources(self._nodes)
        self._calls: dict[str, list[int]] = {}
        for index, node in enumerate(self._nodes):
            if node.op == "call_module":
                self._calls.setdefault(str(node.target), []).append(index)
        self._last_user = _last_users(self._nodes)
        self._values: dict[fx.Node, Any] = {}

    @torch.no_grad()
    def load(self, images: Tensor) -> Tensor:
        """Keep the values of a batch, float32 [N, C, H, W]; returns its logits [N, K]."""
        self._values = {}
        runner = _Runner(self._graph, images)
        for node in self._nodes:
            runner.env = self._values
            self._values[node] = runner.run_node(node)
        logits: Tensor = self._values[self._output]
        return logits

    def value(self, module: str) -> Tensor:
        """What a module gave in the loaded batch. Raises KeyError for one that is not called."""
        found: Tensor = self._values[self._nodes[self._calls[module][-1]]]
        return found

    def kept_bytes(self) -> int:
        """Bytes of all values that are kept, each memory counted once."""
        sizes = {}
        for value in self._values.values():
            for tensor in value if isinstance(value, tuple) else (value,):
                if isinstance(tensor, Tensor):
                    storage = tensor.untyped_storage()
                    sizes[storage.data_ptr()] = storage.nbytes()
        return sum(sizes.values())

    def rerun(self, changed: Iterable[str]) -> Tensor:
        """Logits [N, K] of the loaded batch after a change in the modules `changed`."""
        roots = self._roots(changed)
        if not self._is_below(self._output, roots):
            unchanged: Tensor = self._values[self._output]
            return unchanged
        ((_, found),) = self._recompute(roots, {self._output})
        logits: Tensor = found
        return logits

    def outputs(self, changed: Iterable[str], modules: Iterable[str]) -> Mapping[str, Tensor]:
        """What `modules` give after a change in the modules `changed`; no more is computed."""
        wanted = {self._nodes[self._calls[name][-1]]: name for name in modules}
        roots = self._roots(changed)
        found = {name: self._values[node] for node, name in wanted.items()}
        for node, value in self._recompute(roots, set(wanted)):
            found[wanted[node]] = value
        return found

    def _roots(self, changed: Iterable[str]) -> int:
        roots = 0
        for name in changed:
            for index in self._calls[name]:
                roots |= 1 << index
        return roots

    def _is_below(self, node: fx.Node, roots: int) -> bool:
        return bool(self._above[node] & roots)

    @torch.no_grad()
    def _recompute(self, roots: int, wanted: set[fx.Node]) -> Iterator[tuple[fx.Node, Any]]:
        """Compute anew what lies between `roots` and `wanted`, both included, in graph order.

        Yields the wanted nodes with their values.
        """
        needed = 0
        for node in wanted:
            needed |= self._above[node]
        fresh: dict[fx.Node, Any] = {}
        runner = _Runner(self._graph, None)
        runner.env = ChainMap(fresh, self._values)  # type: ignore[assignment]  # is read alone
        for index, node in enumerate(self._nodes):
            if not needed >> index & 1 or not self._is_below(node, roots):
                continue
            fresh[node] = runner.run_node(node)
            if node in wanted:
                yield node, fresh[node]
            for done in self._last_user.get(node, ()):
                fresh.pop(done, None)


class _Runner(fx.Interpreter):
    """Runs single nodes with the values of `env`."""

    def __init__(self, graph: fx.GraphModule, images: Tensor | None) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self._images = images

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The images."""
        return self._images


def _sources(nodes: list[fx.Node]) -> dict[fx.Node, int]:
    """For each node itself and the nodes that it is computed from, as bits by place in `nodes`."""
    above: dict[fx.Node, int] = {}
    for index, node in enumerate(nodes):
        above[node] = 1 << index
        for source in node.all_input_nodes:
            above[node] |= above[source]
    return above


def _last_users(nodes: list[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node the nodes whose value nothing after it reads."""
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            last[source] = node
    users: dict[fx.Node, list[fx.Node]] = {}
    for source, user in last.items():
        users.setdefault(user, []).append(source)
    return users


def images_within(supernet: Supernet, limit: int = KEPT_BYTES) -> int:
    """How many images [C, H, W] one batch may have so that the kept values take `limit` bytes.

    Takes the subnet in force, whose quantized values are kept beside the others.
    """
    passes = PartialPasses(supernet)
    weight = next(supernet.graph.parameters())
    passes.load(torch.zeros(1, *supernet.info.input_shape, device=weight.device))
    return max(1, min(64, limit // max(1, passes.kept_bytes())))
