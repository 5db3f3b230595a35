"""Networks that compute with values outside of their state dict, as a user's own module.

`CASES` names them; each is a callable of this module. A case is random if the values are drawn
anew whenever the network is built.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

WIDTH = 6
GLOBAL = torch.rand(WIDTH)
FIXED = torch.linspace(0.2, 2.0, WIDTH)

Make = Callable[["Net"], Any]
Use = Callable[[Any, Tensor], Tensor]  # of a network, whose parts have any type


class Case(NamedTuple):
    """How a network holds values, how its forward uses them, and which names they have."""

    make: Make
    use: Use
    random: bool = False
    names: tuple[str, ...] = ()


class Net(nn.Module):
    """A convolution, what a case does with its channels [N, WIDTH], and a linear layer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, 3, 2)
        self.fc = nn.Linear(WIDTH, 10)
        self.use = case.use
        case.make(self)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] -> [N, 10]."""
        logits: Tensor = self.fc(self.use(self, torch.relu(self.conv(x)).mean((2, 3))))
        return logits


def buffer(name: str, value: Callable[[], Tensor], persistent: bool) -> Make:
    return lambda net: net.register_buffer(name, value(), persistent=persistent)


def plain(name: str, value: Callable[[], Any]) -> Make:
    return lambda net: setattr(net, name, value())


def closure(value: Callable[[], Tensor]) -> Make:
    def make(net: Net) -> None:
        tensor = value()
        net.use = lambda net, x: x * tensor

    return make


def drawn() -> Tensor:
    return torch.rand(WIDTH)


def fixed() -> Tensor:
    return FIXED.clone()


def product(net: Any, x: Tensor) -> Tensor:
    made: Tensor = x * net.m
    return made


def listed(net: Any, x: Tensor) -> Tensor:
    made: Tensor = x * net.held[0] + net.held[1]
    return made


def keyed(net: Any, x: Tensor) -> Tensor:
    made: Tensor = x * net.held["deep"][0]
    return made


def as_number(net: Any, x: Tensor) -> Tensor:
    made: Tensor = x * float(net.m.sum()) + net.m.max().item()
    return made


def branch(net: Any, x: Tensor) -> Tensor:
    return torch.relu(x - 0.1) if net.m.sum() > 3 else torch.sigmoid(x)


def loop(net: Any, x: Tensor) -> Tensor:
    for _ in range(int(net.m.sum())):
        x = torch.relu(x - 0.01)
    return x


def part(net: Any, x: Tensor) -> Tensor:
    count = int(net.m.sum()) % WIDTH
    return torch.cat([x[:, count:], x[:, :count]], 1)


def derived(net: Any, x: Tensor) -> Tensor:
    made: Tensor = x * net.m.sqrt() + net.m.softmax(0)
    return made


def layer_of_list(net: Any, x: Tensor) -> Tensor:
    return nn.functional.linear(x, net.held[0], net.held[1])


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(torch.rand(WIDTH, WIDTH)), nn.Parameter(torch.rand(WIDTH))]


def masked(net: Any, x: Tensor) -> Tensor:
    return x * torch.softmax(net.m, 0)


def holders(value: Callable[[], Tensor], is_random: bool) -> dict[str, Case]:
    """Every place that can hold a tensor."""
    return {
        "loose": Case(buffer("m", value, False), product, is_random, ("m",)),
        "plain": Case(plain("m", value), product, is_random, ("m",)),
        "listed": Case(plain("held", lambda: [value(), value()]), listed, is_random, ("held.0",)),
        "tupled": Case(plain("held", lambda: (value(), value())), listed, is_random, ("held.1",)),
        "keyed": Case(
            plain("held", lambda: {"deep": [value()]}), keyed, is_random, ("held.deep.0",)
        ),
        "closure": Case(closure(value), product, is_random),
        "loose_number": Case(buffer("m", value, False), as_number, is_random, ("m",)),
        "plain_branch": Case(plain("m", lambda: value() * 2), branch, False),
        "derived": Case(plain("m", value), derived, is_random, ("m",)),
    }


CASES: dict[str, Case] = {
    **{f"{name}_fixed": case for name, case in holders(fixed, False).items()},
    **{f"{name}_drawn": case for name, case in holders(drawn, True).items()},
    # In the state dict, so that weights hold it; its value is read when the net is captured.
    "kept_read": Case(buffer("m", drawn, True), product),
    "number_read": Case(buffer("m", drawn, True), as_number),
    "branch_read": Case(buffer("m", drawn, True), branch),
    "loop_read": Case(buffer("m", lambda: drawn() * 2, True), loop),
    "part_read": Case(buffer("m", lambda: drawn() * 9, True), part),
    "of_module": Case(lambda net: None, lambda net, x: x * GLOBAL),
    "parameter_list": Case(plain("held", parameters), layer_of_list, True, ("held.0", "held.1")),
    "mask": Case(plain("m", lambda: torch.tensor([0.0, -torch.inf, 1, 2, 0, 0])), masked),
    "spread": Case(plain("m", lambda: torch.rand(1).expand(WIDTH)), product, True, ("m",)),
    "whole": Case(plain("m", lambda: torch.randint(1, 9, (WIDTH,))), product, True, ("m",)),
    "python_number": Case(plain("m", random.random), product, True),
    "numpy_number": Case(plain("m", lambda: float(np.random.rand())), product, True),
    "numpy_array": Case(
        plain("m", lambda: torch.from_numpy(np.random.rand(WIDTH)).float()), product, True, ("m",)
    ),
}
del CASES["plain_branch_drawn"]  # whether its branch differs from building to building is chance


def build(case: str) -> Net:
    """The network of a case."""
    return Net(CASES[case])


def __getattr__(name: str) -> Any:
    if name in CASES:
        return lambda: build(name)
    raise AttributeError(name)


def pretrained() -> Net:
    """A network with weights of its own, whatever the random state."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return Net(CASES["plain_fixed"])


def clocked() -> Net:
    """A network that is another one each time, whatever the random state."""
    return Net(Case(plain("m", lambda: time.perf_counter_ns() % 1000 / 100 + 1), product))


def scripted() -> Net:
    net: Any = Net(CASES["kept_read"])
    net.conv = torch.jit.script(net.conv)
    return cast(Net, net)


def traced() -> Net:
    net: Any = Net(CASES["kept_read"])
    net.conv = torch.jit.trace(net.conv, torch.zeros(1, 1, 28, 28))
    return cast(Net, net)


def scripted_whole() -> nn.Module:
    return cast(nn.Module, torch.jit.trace(Net(CASES["kept_read"]), torch.zeros(1, 1, 28, 28)))


def forget() -> None:
    """Let the next import run this module again, as another process would."""
    sys.modules.pop(__name__, None)
