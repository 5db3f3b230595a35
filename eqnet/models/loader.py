"""Float classifiers by source: ``eqnet:NAME``, ``torchvision:NAME``, ``timm:NAME`` or one's own."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from eqnet.models.mobilenet import SmallMobileNet
from eqnet.models.resnet20 import ResNet20
from eqnet.models.unwrap import unwrap
from eqnet.models.user_code import build_from_code
from eqnet.models.weights import load_weights
from eqnet.spec.errors import MissingExtraError, UsageError, unknown

Builder = Callable[[int | None, int | None], nn.Module]
FORMS = "eqnet:NAME, torchvision:NAME, timm:NAME, or module:callable for your own code"


def load_model(
    source: str,
    *,
    classes: int | None = None,
    in_channels: int | None = None,
    weights: Path | None = None,
    weights_key: str | None = None,
    allow_code: bool = False,
) -> nn.Module:
    """Build a float classifier and load its weights; it is returned in evaluation mode.

    `classes` and `in_channels` default to what the architecture has. Without `weights` it has
    the initial weights of its architecture; nothing is downloaded. `weights_key` says which
    weights of a checkpoint with several are meant. ``module:callable`` imports and calls the
    user's own code, which is done only with `allow_code`. `torch.compile`, DataParallel and the
    like around the model or around parts of it are taken off.

    Raises UsageError for an unknown source, CheckpointError for weights that do not fit and
    MissingExtraError where the library of the source is not installed.
    """
    for value, what in ((classes, "classes"), (in_channels, "input channels")):
        if value is not None and value < 1:
            raise UsageError(f"{value} {what} (allowed: 1 or more)")
    model = unwrap(_build(source, classes, in_channels, allow_code))
    if weights is not None:
        load_weights(model, weights, weights_key)
    return model.eval()


def _build(
    source: str, classes: int | None, in_channels: int | None, allow_code: bool
) -> nn.Module:
    library, colon, name = source.partition(":")
    if not (colon and library and name):
        raise UsageError(f"unknown model source '{source}'{_hint(source)} (allowed: {FORMS})")
    if library in LIBRARIES:
        return LIBRARIES[library](name, classes, in_channels)
    if not allow_code:
        near = difflib.get_close_matches(library, LIBRARIES, n=1, cutoff=0.7)
        hint = ""
        if near:
            hint = f"; did you mean '{near[0]}:{name}'?"
        raise UsageError(
            f"model source '{source}' would run code of your own module '{library}'{hint} "
            "(allowed: eqnet:NAME, torchvision:NAME, timm:NAME, or module:callable together with "
            "--allow-code, in Python allow_code=True)"
        )
    return build_from_code(library, name, classes, in_channels)


def _eqnet(name: str, classes: int | None, in_channels: int | None) -> nn.Module:
    if name not in EQNET_MODELS:
        raise UsageError(unknown("eqnet model", name, EQNET_MODELS))
    return EQNET_MODELS[name](in_channels or 1, classes or 10)


def _torchvision(name: str, classes: int | None, in_channels: int | None) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise _missing("torchvision", "train") from error
    names = models.list_models(module=models)
    if name not in names:
        raise _unknown_name("torchvision", name, names)
    options: dict[str, Any] = {}
    if classes is not None:
        options["num_classes"] = classes
    model: nn.Module = models.get_model(name, weights=None, **options)
    if in_channels is not None:
        _set_in_channels(name, model, in_channels)
    return model


def _timm(name: str, classes: int | None, in_channels: int | None) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise _missing("timm", "timm") from error
    names = timm.list_models()
    if name.partition(".")[0] not in names:  # after the dot stands a tag of pretrained weights
        raise _unknown_name("timm", name, names)
    options: dict[str, Any] = {}
    if classes is not None:
        options["num_classes"] = classes
    if in_channels is not None:
        options["in_chans"] = in_channels
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"timm:{name}: {' '.join(str(error).split())}") from error
    return model


def _set_in_channels(name: str, model: nn.Module, in_channels: int) -> None:
    """Rebuild the first convolution, which is where torchvision fixes three channels."""
    path, first = _first_convolution(model)
    if first.in_channels == in_channels:
        return
    if first.groups != 1:
        raise UsageError(f"torchvision:{name}: {in_channels} input channels (allowed: 3)")
    parent, _, attribute = path.rpartition(".")
    replacement = nn.Conv2d(
        in_channels,
        first.out_channels,
        (first.kernel_size[0], first.kernel_size[1]),
        (first.stride[0], first.stride[1]),
        padding=first.padding,  # type: ignore[arg-type]  # torch types sizes loosely
        bias=first.bias is not None,
    )
    nn.init.kaiming_normal_(replacement.weight, mode="fan_out", nonlinearity="relu")
    setattr(model.get_submodule(parent), attribute, replacement)


def _first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return path, module
    raise AssertionError("every classifier of torchvision has a convolution")


def _unknown_name(library: str, name: str, names: Iterable[str]) -> UsageError:
    classifiers = list(names)
    near = difflib.get_close_matches(name, classifiers, n=5, cutoff=0.3)
    shown = ", ".join(near or classifiers[:5])
    return UsageError(
        f"unknown {library} model '{name}' "
        f"(allowed: its {len(classifiers)} classifiers, such as {shown})"
    )


def _hint(source: str) -> str:
    for library, name in (("eqnet", "resnet20"), ("torchvision", "resnet18"), ("timm", "resnet18")):
        if source == name:
            return f"; did you mean '{library}:{name}'?"
    return ""


def _missing(library: str, extra: str) -> MissingExtraError:
    return MissingExtraError(f"{library} is not installed (pip install 'eqnet[{extra}]')")


EQNET_MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "mobilenet_small": SmallMobileNet,
    "resnet20": ResNet20,
}
LIBRARIES: dict[str, Callable[[str, int | None, int | None], nn.Module]] = {
    "eqnet": _eqnet,
    "torchvision": _torchvision,
    "timm": _timm,
}
