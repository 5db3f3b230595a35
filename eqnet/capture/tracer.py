"""Tracing: a float model as a torch.fx graph in which only the number of images is open.

Each value is computed along, as a shape without data, for two numbers of images. What is the
same for both (heights, widths, channels, numbers of dimensions) is a plain Python number to the
model's code, so branches and loops over it are taken once and for all. What differs stays a node
of the graph, so that the graph serves any number of images.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.utils import parametrize

from eqnet.capture.attention import self_attention
from eqnet.capture.source_lines import first_line, line_of_frame
from eqnet.capture.writes import PLAIN_OPERATORS, Writes, share_memory, tensors_in

PROBES = "eqnet_probes"  # node.meta: the node's value for each number of images in BATCHES
WRITTEN = "eqnet_written"  # node.meta: what it writes of its inputs, for each such number
LINE = "eqnet_line"  # node.meta: file:line of the model's code
BATCHES = (1, 3)
SCRIPTED = (
    "a TorchScript module hides its operations (allowed: the nn.Module that it was made from)"
)
PLAIN = (int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


class Sizes(tuple[Any, ...]):
    """A shape, some of whose sizes are nodes of the graph."""

    def numel(self) -> Any:
        """The product of the sizes."""
        product: Any = 1
        for size in self:
            product = product * size
        return product

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        if isinstance(key, slice):
            return Sizes(item)
        return item


class DataDependentError(TypeError):
    """The model's code asks for a value that only the images decide."""


class OperationError(ValueError):
    """An operation that does not work on the shapes that it gets."""


class ShapedProxy(fx.Proxy):
    """A value under tracing that knows its shape."""

    tracer: ShapedTracer

    def __getattr__(self, k: str) -> Any:
        return self.tracer.attribute(self, k)

    def __len__(self) -> int:
        return len(list(self.tracer.iter(self)))

    def __iter__(self) -> Iterator[Any]:
        return self.tracer.iter(self)

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError(
            f"the model's code assigns to a part of '{self.node.name}', which the graph cannot show"
        )

    def __int__(self) -> int:
        raise self.tracer.depends(self)

    __float__ = __int__
    __index__ = __int__


def _augmented(operation: Any) -> Callable[[ShapedProxy, Any], Any]:
    """The method of `x += y`, which fx.Proxy lacks: it would be traced as `x = x + y`."""

    def method(proxy: ShapedProxy, other: Any) -> Any:
        if not isinstance(proxy.tracer.values(proxy)[0], torch.Tensor):
            return NotImplemented  # numbers do not change: Python takes `x + y`
        name = PLAIN_OPERATORS[operation].__name__
        return proxy.tracer.create_proxy("call_function", operation, (proxy, other), {}, name)

    return method


for _operation in PLAIN_OPERATORS:
    setattr(ShapedProxy, f"__{_operation.__name__}__", _augmented(_operation))


class ShapedTracer(fx.Tracer):
    """torch.fx's tracer, with the shape of every value at hand."""

    def __init__(self, input_shape: tuple[int, int, int], defaults: dict[str, Any]) -> None:
        super().__init__()
        self.input_shape, self.defaults = input_shape, defaults
        self.failed_in = ""
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._evaluating = False
        self._constants: dict[int, torch.Tensor] = {}

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that knows its shape."""
        return ShapedProxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Modules of torch.nn are one node each, but for those that their code explains better."""
        if m._forward_hooks or m._forward_pre_hooks or "parametrizations" in m._modules:
            return False
        if isinstance(m, parametrize.ParametrizationList):
            return False
        if isinstance(m, nn.Conv2d) and m.padding_mode != "zeros":
            return False
        if isinstance(m, nn.SyncBatchNorm):
            return False
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: dict[str, Any]
    ) -> Any:
        """As torch.fx does, but for attention, which is written out; remembers where it failed."""
        if self._evaluating:
            return forward(*args, **kwargs)
        try:
            if isinstance(m, torch.jit.ScriptModule):
                raise TypeError(SCRIPTED)
            if type(m) is nn.MultiheadAttention:
                return self_attention(m, *args, **kwargs)
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A parameter is a node, except while shapes are computed."""
        if self._evaluating:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        """As torch.fx does; a parameter that is not registered (in a list, say) is a constant."""
        if isinstance(a, nn.Parameter) and id(a) not in self._registered():
            a = self._constants.setdefault(id(a), a.detach())
        return super().create_arg(a)

    def _registered(self) -> set[int]:
        return {id(parameter) for parameter in self.root.parameters()}

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any
    ) -> Any:
        """A node with its shape, or the plain value of one that no image decides."""
        if kind == "call_method" and target == "size":
            return self._size(*args, **kwargs)
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        node = proxy.node
        node.meta[LINE] = line_of_frame(sys._getframe(1))
        node.meta[PROBES] = self._values(node)
        first, second = node.meta[PROBES]
        check = first is None and "assert" in str(getattr(target, "__name__", target))
        settled = isinstance(first, PLAIN) and type(first) is type(second) and first == second
        if kind == "placeholder" or not (check or settled):
            return proxy
        self.graph.erase_node(node)
        return first

    def _size(self, proxy: ShapedProxy, dim: int | None = None) -> Any:
        sizes = self._sizes(proxy)
        return sizes if dim is None else sizes[dim]

    def _sizes(self, proxy: ShapedProxy) -> Any:
        first, second = (value.shape for value in self.values(proxy))
        if len(first) != len(second):
            raise DataDependentError(
                f"the number of dimensions of '{proxy.node.name}' depends on the number of images"
            )
        if first == second:
            return first
        create = super().create_proxy
        sizes = []
        for dim, values in enumerate(zip(first, second, strict=True)):
            size: Any = values[0]
            if values[0] != values[1]:
                size = create("call_method", "size", (proxy, dim), {})
                size.node.meta[PROBES] = values
            sizes.append(size)
        return Sizes(sizes)

    def attribute(self, proxy: ShapedProxy, name: str) -> Any:
        """`proxy.name`: a method, a shape, a plain value, or a node."""
        if name == "shape":
            return self._sizes(proxy)
        with self._probing():
            values = self.values(proxy)
            if not all(hasattr(value, name) for value in values):
                raise AttributeError(f"'{proxy.node.name}' has no attribute '{name}'")
            first, second = (getattr(value, name) for value in values)
        if callable(first) and not isinstance(first, torch.Tensor):
            return fx.proxy.Attribute(proxy, name)
        if first is None or (isinstance(first, PLAIN) and first == second):
            return first
        return self.create_proxy("call_function", getattr, (proxy, name), {})

    def values(self, proxy: fx.Proxy) -> tuple[Any, Any]:
        """The value of a proxy for each number of images."""
        values: tuple[Any, Any] = proxy.node.meta[PROBES]
        return values

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The items of a tuple, or of a tensor whose first size is not the number of images."""
        first, second = self.values(obj)
        if len(first) != len(second):
            raise self.depends(obj)
        return iter([obj[index] for index in range(len(first))])  # type: ignore[index]  # traced

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Refuse: whatever no image decides is no proxy any more."""
        raise self.depends(obj)

    def depends(self, proxy: fx.Proxy) -> DataDependentError:
        """The refusal of a value that the model's code wants as a plain number."""
        by_images = isinstance(self.values(proxy)[0], torch.Tensor)
        what = _decided_by(proxy.node) if by_images else "the number of images"
        return DataDependentError(
            f"the model's code takes the value of '{proxy.node.name}', which depends on {what}, "
            "as a plain number"
        )

    @contextmanager
    def _probing(self) -> Iterator[None]:
        self._evaluating = True
        try:
            with self._mode, torch.no_grad():
                yield
        finally:
            self._evaluating = False

    def _values(self, node: fx.Node) -> tuple[Any, Any]:
        try:
            with self._probing():
                if node.op == "placeholder":
                    return self._placeholder(node)
                first, second = (self._observed(node, index) for index in range(len(BATCHES)))
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise DataDependentError(
                f"the result or the shape of '{node.name}' depends on {_decided_by(node)}"
            ) from error
        except Exception as error:  # whatever an operation may refuse
            raise OperationError(
                f"operation '{node.name}' fails with an input of shape "
                f"{list(self.input_shape)}: {first_line(error)}"
            ) from error
        return first, second

    def _placeholder(self, node: fx.Node) -> tuple[Any, Any]:
        name = re.sub(r"_\d+$", "", str(node.target))
        if name in self.defaults:
            return self.defaults[name], self.defaults[name]
        first, second = (torch.zeros(count, *self.input_shape) for count in BATCHES)
        return first, second

    def _observed(self, node: fx.Node, index: int) -> Any:
        """The value of a node; what it writes of its inputs is noted."""
        with Writes() as seen:
            value = self._value(node, index)
        inputs = []
        for source in node.all_input_nodes:
            inputs += tensors_in(source.meta[PROBES][index])
        written = [tensor for tensor in seen.tensors if _shares_memory(tensor, inputs)]
        node.meta.setdefault(WRITTEN, []).append(written)
        return value

    def _value(self, node: fx.Node, index: int) -> Any:
        def probe(source: fx.Node) -> Any:
            if PROBES not in source.meta:
                value = _attribute(self.root, str(source.target))
                source.meta[PROBES] = (value, value)
            return source.meta[PROBES][index]

        args, kwargs = fx.node.map_arg(node.args, probe), fx.node.map_arg(node.kwargs, probe)
        if node.op == "get_attr":
            return _attribute(self.root, str(node.target))
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]  # a function
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return self.root.get_submodule(str(node.target))(*args, **kwargs)


def _shares_memory(tensor: torch.Tensor, others: list[torch.Tensor]) -> bool:
    return any(share_memory(tensor, other) for other in others)


def _decided_by(node: fx.Node) -> str:
    """What decides the values of a node's tensor."""
    seen, waiting = {node}, [node]
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder":
            return "the content of the images"
        more = set(node.all_input_nodes) - seen
        seen |= more
        waiting += more
    return "trained parameters (a buffer's value may be taken)"


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
