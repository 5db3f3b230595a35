"""Names of weights: a file's are brought to the model's, wherever that makes all of them fit."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

# Modules around a module that compute nothing: DataParallel, torch.compile, FSDP, checkpointing.
WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
# What scripts call the network among other things that they train or average.
NETWORKS = frozenset(("model", "net", "network", "backbone", "classifier", *WRAPPERS))
# Of batch norm and of averaged models: inference needs neither.
COUNTERS = ("num_batches_tracked", "n_averaged")
# Names that torchvision once had: DenseNet's `norm.1`, the vision transformer's `linear_1`.
OLD_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),
    (re.compile(r"(\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.mlp)\.linear_2\."), r"\1.3."),
)
Rename = Callable[[str], str]


class NameFit(NamedTuple):
    """How the tensors of a file fit a model.

    tensors: by the model's names. missing: names of the model that the file lacks; foreign:
    names of the file that the model lacks. hint: what would fit better, for a message.
    remark: what was left out, for the user's eyes. choices: prefixes that fit equally well.
    """

    tensors: dict[str, Tensor]
    missing: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    hint: str = ""
    remark: str = ""
    choices: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether all names fit, in one way."""
        return not (self.missing or self.foreign or self.choices)


class Names(NamedTuple):
    """The tensors of a model: those that a file must have, and all that it may have."""

    required: dict[str, Tensor]
    all: dict[str, Tensor]


def names_of(state: Mapping[str, Tensor], outside: Mapping[str, Tensor]) -> Names:
    """The names of a model's state dict, and those of its tensors outside of that.

    A counter is not required, nor is a second name of one tensor.
    """
    required: dict[str, Tensor] = {}
    seen: set[tuple[object, ...]] = set()
    for name, tensor in state.items():
        memory = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape)
        if not is_counter(name) and (memory not in seen or memory[0] == 0):
            required[name] = tensor
        seen.add(memory)
    return Names(required, {**outside, **state})


def is_counter(name: str) -> bool:
    """Whether a tensor only counts batches or averages."""
    return name.rpartition(".")[2] in COUNTERS


def fit_names(names: Names, tensors: Mapping[str, Tensor]) -> NameFit:
    """Bring the names of `tensors` to those of a model, in the first way that fits.

    As they are; without the names of wrappers; with a prefix less or more; and each of these
    with names that libraries once had.
    """
    first = _exactly(names, tensors, _same)
    if first.fits:
        return first
    for rename in (_plain, _modern):
        for way in (_exactly, _without_prefix, _with_prefix):
            attempt = way(names, tensors, rename)
            if attempt.fits or attempt.choices:
                return attempt
    return first._replace(hint=_hint(names, tensors, first))


def _same(name: str) -> str:
    return name


def _plain(name: str) -> str:
    """A name without the parts that wrappers add, such as `module.`."""
    *path, last = name.split(".")
    path = [part for part in path if part not in WRAPPERS]
    return ".".join([*path, last])


def _modern(name: str) -> str:
    """The plain name of today for an old one of torchvision."""
    name = _plain(name)
    for pattern, today in OLD_NAMES:
        name = pattern.sub(today, name)
    return name


def _of_file(tensors: Mapping[str, Tensor], rename: Rename) -> dict[str, str]:
    """Renamed -> name; empty where two names would become one."""
    names = {rename(name): name for name in tensors}
    if len(names) < len(tensors):
        return {}
    return names


def _of_model(tensors: Mapping[str, Tensor], rename: Rename) -> dict[str, str]:
    """As `_of_file`: a model of today has no old names."""
    if rename is not _same:
        rename = _plain
    return _of_file(tensors, rename)


def _exactly(names: Names, tensors: Mapping[str, Tensor], rename: Rename) -> NameFit:
    return _under("", names, tensors, rename)


def _under(prefix: str, names: Names, tensors: Mapping[str, Tensor], rename: Rename) -> NameFit:
    """The fit of what stands under a prefix of the file; the rest is left out and told."""
    of_model = _of_model(names.all, rename)
    fitting: dict[str, Tensor] = {}
    foreign, left = [], []
    for renamed, raw in _of_file(tensors, rename).items():
        name = renamed.removeprefix(prefix)
        if not renamed.startswith(prefix):
            left.append(raw)
        elif name in of_model:
            fitting[of_model[name]] = tensors[raw]
        elif not is_counter(raw):
            foreign.append(raw)
    missing = tuple(name for name in names.required if name not in fitting)
    remark = f"left out {few(left)}, outside of '{prefix}'" if left else ""
    return NameFit(fitting, missing, tuple(foreign), remark=remark)


def _without_prefix(names: Names, tensors: Mapping[str, Tensor], rename: Rename) -> NameFit:
    """`model.conv.weight` in the file is `conv.weight` of the model."""
    anchor = next(iter(_of_model(names.required, rename)), "")
    fits: dict[str, NameFit] = {}
    for name in _of_file(tensors, rename):
        if not name.endswith(f".{anchor}"):
            continue
        prefix = name[: -len(anchor)]
        attempt = _under(prefix, names, tensors, rename)
        if attempt.fits:
            fits[prefix] = attempt
    return _best(fits, names)


def _best(fits: dict[str, NameFit], names: Names) -> NameFit:
    """The one of several fits whose shapes fit best, or whose prefix is a network's."""
    if not fits:
        return NameFit({}, missing=tuple(names.required))

    counts = {prefix: _equal_shapes(names, attempt) for prefix, attempt in fits.items()}
    most = max(counts.values())
    best = [prefix for prefix, count in counts.items() if count == most]
    if len(best) == 1:
        return fits[best[0]]
    usual = [prefix for prefix in best if NETWORKS.issuperset(prefix[:-1].split("."))]
    if len(usual) == 1:
        return fits[usual[0]]
    return NameFit({}, choices=tuple(prefix[:-1] for prefix in best))


def _equal_shapes(names: Names, attempt: NameFit) -> int:
    """How many tensors of a fit have the shapes of the model's."""
    count = 0
    for name, tensor in attempt.tensors.items():
        if tensor.shape == names.all[name].shape:
            count += 1
    return count


def _with_prefix(names: Names, tensors: Mapping[str, Tensor], rename: Rename) -> NameFit:
    """`conv.weight` in the file is `model.conv.weight` of the model."""
    of_model, of_file = _of_model(names.all, rename), _of_file(tensors, rename)
    anchor = _first_weight(of_file)
    for name in of_model:
        if not anchor or not name.endswith(f".{anchor}"):
            continue
        prefix = name.removesuffix(anchor)
        moved = {f"{prefix}{inner}": tensors[raw] for inner, raw in of_file.items()}
        attempt = _exactly(names, moved, _plain)
        if attempt.fits:
            return attempt
    return NameFit({}, missing=tuple(names.required))


def _first_weight(of_file: Mapping[str, str]) -> str:
    """The first name, renamed, of what is no counter; empty where there is none."""
    for renamed, raw in of_file.items():
        if not is_counter(raw):
            return renamed
    return ""


def _hint(names: Names, tensors: Mapping[str, Tensor], first: NameFit) -> str:
    """How many names would fit without the prefix that suits most, where that is more."""
    of_model, counts = _of_model(names.all, _plain), Counter[str]()
    for name in _of_file(tensors, _modern):
        parts = name.split(".")
        for cut in range(1, len(parts)):
            if ".".join(parts[cut:]) in of_model:
                counts[".".join(parts[:cut])] += 1
    if not counts:
        return ""
    prefix, count = counts.most_common(1)[0]
    if count <= len(names.all) - len(first.missing):
        return ""
    lacking = _under(f"{prefix}.", names, tensors, _modern)
    told = f"{count} of {len(names.all)} names fit, and it {misfits(lacking)}"
    return f"without the prefix '{prefix}.' {told}"


def misfits(attempt: NameFit) -> str:
    """What does not fit, in words: `lacks a, b; has unknown c`."""
    parts = []
    if attempt.missing:
        parts.append(f"lacks {few(attempt.missing)}")
    if attempt.foreign:
        parts.append(f"has unknown {few(attempt.foreign)}")
    return "; ".join(parts)


def few(names: Iterable[str], shown: int = 3) -> str:
    """The first names of many, and how many more there are."""
    listed = list(names)
    text = ", ".join(listed[:shown])
    if len(listed) > shown:
        text += f" and {len(listed) - shown} more"
    return text
