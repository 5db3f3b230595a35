"""Supernet checkpoints: a folder with one safetensors file, its header in JSON, no pickle."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from eqnet.backend.files import write_file
from eqnet.capture.channel_scale import expect_channel_scales
from eqnet.capture.rebuild import (
    CHECK,
    CHECK_IMAGES,
    MODEL,
    RebuildError,
    check_images,
    fill_model,
    graph_tensors,
    with_model_values,
)
from eqnet.models.loader import LIBRARIES, load_model
from eqnet.models.outside import seeded, set_values
from eqnet.models.weights import valid
from eqnet.spec.collection import uncollected
from eqnet.spec.errors import CaptureError, CheckpointError, UsageError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.hardware.limits import MAX_SEED
from eqnet.spec.manifest import Classes, InputShape, Preprocessing
from eqnet.spec.scheme import Frozen
from eqnet.spec.texts import parse_json
from eqnet.supernet.float_checks import MAX_DIFFERENCE, relative_difference
from eqnet.supernet.settling.settle import Method
from eqnet.supernet.supernet import Supernet

SCHEMA_VERSION = 1
SUPERNET_FILE = "supernet.safetensors"
CALIBRATION = "calibration.pixels"
ORIGIN = "origin."
ROUNDING = "weight_quantizer.rounding"
HEADER_KEY = "eqnet"


class Header(Frozen):
    """What a checkpoint says of itself.

    model: source of the float architecture. float_accuracy: of the float model that it began
    as, in [0, 1] on `test_images`; float_parity_accuracy: the same on the dataset's parity
    images, which runtimes are compared on. preprocessing: of its images; None is the dataset's
    usual. styles: the placements that training sampled. random_weights: no weights were given,
    so that accuracy means nothing. note: what the recipe does not tell of this run.
    """

    schema_version: Literal[1] = 1
    model: str
    input_shape: InputShape
    classes: Classes
    dataset: str
    data_root: str | None = None
    preprocessing: Preprocessing | None = None
    method: Method
    styles: tuple[str, ...] = ()
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    float_accuracy: float | None = None
    test_images: str | None = None
    float_parity_accuracy: float | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    random_weights: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _reads_its_inputs(self) -> Header:
        rules = self.preprocessing
        if rules is not None:
            shape = (rules.channels, *(rules.size or self.input_shape[1:]))
            if shape != self.input_shape:
                raise ValueError(
                    f"preprocessing: inputs {list(shape)} (allowed: {list(self.input_shape)}, as "
                    "in input_shape)"
                )
        return self


def bundled_supernet() -> Path:
    """Folder of the trained supernet that travels with the package."""
    return Path(__file__).resolve().parent / "bundled"


def save_supernet(folder: Path, supernet: Supernet, header: Header) -> Path:
    """Write `folder/supernet.safetensors` whole or not at all. Raises OutputError."""
    path = folder / SUPERNET_FILE
    content = save(_tensors_of(supernet), metadata={HEADER_KEY: header.model_dump_json()})
    write_file(path, content)
    return path


def _tensors_of(supernet: Supernet) -> dict[str, Tensor]:
    """All that `_restore` needs: the graph's tensors, the model's, and logits as a check."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    everything = with_model_values(graph_tensors(supernet.graph), supernet.plain)
    images = check_images(supernet.info.input_shape)
    everything[CHECK] = supernet.float_logits(images.to(_device(supernet)))
    if supernet.calibration is not None:
        everything[CALIBRATION] = supernet.calibration
    for name, value in (supernet.origin or {}).items():
        everything[f"{ORIGIN}{name}"] = value
    for name, value in everything.items():
        tensor = value.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        if memory in seen:
            # A file cannot say that two names are one tensor: each has its values.
            tensor = tensor.clone()
        tensors[name] = tensor
        seen.add(memory)
    return tensors


def _device(supernet: Supernet) -> torch.device:
    return next(iter(supernet.graph.parameters())).device


def checkpoint_sha256(path: Path) -> str:
    """The identity of a supernet: the hash of its file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. Raises CheckpointError with one line."""
    if not path.is_file():
        raise CheckpointError(
            f"{path}: no such checkpoint (allowed: a folder with {SUPERNET_FILE})"
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged or not safetensors: {error}") from error


def parse_header(path: Path, metadata: dict[str, str]) -> Header:
    """The header of a checkpoint. Raises CheckpointError with one line."""
    if HEADER_KEY not in metadata:
        raise CheckpointError(f"{path}: not an eqnet supernet: the header '{HEADER_KEY}' is absent")
    try:
        content = parse_json(metadata[HEADER_KEY])
        version = content.get("schema_version") if isinstance(content, dict) else None
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise CheckpointError(
                f"{path}: schema_version {version} is of a newer eqnet (allowed: {SCHEMA_VERSION})"
            )
        return Header.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path}: header: {first_problem(error)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: header is not JSON: {one_line(error)}") from error


@uncollected()
def load_supernet(
    folder: Path | None = None, *, allow_code: bool = False, device: torch.device | str = "cpu"
) -> tuple[Supernet, Header, str]:
    """Load a supernet folder (None: the bundled one): the net, its header, its sha256.

    allow_code: let a checkpoint of a `module:callable` model import that module.
    Raises CheckpointError for a missing, damaged, foreign or newer file.
    """
    path = (folder or bundled_supernet()) / SUPERNET_FILE
    metadata, tensors = read_tensors(path)
    header = parse_header(path, metadata)
    supernet = _restore(path, header, tensors, allow_code)
    supernet.to(device)
    supernet.graph.eval()
    return supernet, header, checkpoint_sha256(path)


def require_restorable(supernet: Supernet, header: Header) -> None:
    """A supernet of the user's own code is the same when it is loaded.

    Raises CaptureError where the code builds another network each time.
    """
    try:
        _restore(Path(header.model), header, _tensors_of(supernet), allow_code=True)
    except CheckpointError as error:
        line = str(error).removeprefix(f"{header.model}: ")
        raise CaptureError(f"{header.model}: cannot be built a second time: {line}") from error


def _restore(path: Path, header: Header, tensors: dict[str, Tensor], allow_code: bool) -> Supernet:
    """The supernet that was saved as `tensors`. Raises CheckpointError if it is another."""
    check = tensors.get(CHECK)
    if check is not None:
        wanted = (CHECK_IMAGES, header.classes)
        if check.dtype is not torch.float32 or tuple(check.shape) != wanted:
            raise CheckpointError(
                f"{path}: tensor '{CHECK}' is {_plain(check.dtype)} {list(check.shape)} "
                f"(allowed: float32 {list(wanted)}, by the header's classes)"
            )
    supernet = _build(path, header, tensors, allow_code)
    beside = (MODEL, CHECK, CALIBRATION, ORIGIN)
    read = {name: tensor for name, tensor in tensors.items() if not name.startswith(beside)}
    expect_channel_scales(supernet.graph, read)
    _expect_rounding(supernet, read)
    _fill(path, supernet, read, header.model)
    supernet.calibration = _pixels(path, tensors.get(CALIBRATION), header)
    supernet.origin = _origin(path, supernet, tensors, header.model)
    if check is not None:
        _require_same_logits(path, supernet, check, header.model)
    return supernet


def _origin(
    path: Path, supernet: Supernet, tensors: dict[str, Tensor], model: str
) -> dict[str, Tensor] | None:
    """The float network's values, where training changed them."""
    stored = {}
    for name, tensor in tensors.items():
        if name.startswith(ORIGIN):
            stored[name.removeprefix(ORIGIN)] = tensor
    if not stored:
        return None
    supernet.keep_origin()
    targets = supernet.origin or {}
    _check(path, targets, stored, model)
    return stored


def _pixels(path: Path, pixels: Tensor | None, header: Header) -> Tensor | None:
    """The images that a post-training network's subnets are settled on, uint8 [N, C, H, W]."""
    if pixels is None:
        return None
    shape = tuple(pixels.shape[1:])
    if pixels.dtype is not torch.uint8 or shape != header.input_shape or not len(pixels):
        raise CheckpointError(
            f"{path}: tensor '{CALIBRATION}' is {_plain(pixels.dtype)} "
            f"{list(pixels.shape)} (allowed: uint8 [N, {', '.join(map(str, header.input_shape))}])"
        )
    return pixels


def _expect_rounding(supernet: Supernet, tensors: dict[str, Tensor]) -> None:
    """Make room for the forms that were reconstructed, as the names in the file say."""
    for layer in supernet.info.layers:
        elastic = supernet.layer(layer.name)
        for key in elastic.weight_quantizer.log_scale:
            if f"{layer.name}.{ROUNDING}.{key}" in tensors:
                elastic.weight_quantizer.set_rounding(key, torch.zeros_like(elastic.weight))


def _require_same_logits(path: Path, supernet: Supernet, saved: Tensor, model: str) -> None:
    if not bool(torch.isfinite(saved).all()):
        return
    logits = supernet.float_logits(check_images(supernet.info.input_shape))
    apart = relative_difference(saved, logits)
    if not apart <= MAX_DIFFERENCE:
        raise CheckpointError(
            f"{path}: the code of {model} builds another network than the one that was saved: "
            f"float logits differ by {apart:.2g} of their size (allowed: {MAX_DIFFERENCE})"
        )


def _build(path: Path, header: Header, tensors: dict[str, Tensor], allow_code: bool) -> Supernet:
    """The supernet that a header describes, captured with the values that it was captured with.

    Its parameters are still the initial ones, by the same random numbers.
    """
    try:
        with seeded(header.seed):
            model = load_model(
                header.model,
                classes=header.classes,
                in_channels=header.input_shape[0],
                weights=None,
                allow_code=allow_code,
            )
        fill_model(model, tensors)
        return Supernet(model, header.input_shape)
    except RebuildError as error:
        raise CheckpointError(
            f"{path}: not a supernet of {header.model}: as its code builds it now, {error}"
        ) from error
    except CaptureError as error:
        raise CheckpointError(f"{path}: header: {error}") from error
    except UsageError as error:
        if not allow_code and header.model.partition(":")[0] not in LIBRARIES:
            raise  # it says which flag lets the user's own model load
        raise CheckpointError(f"{path}: header: {error}") from error


def require_like(path: Path, name: str, value: Tensor, target: Tensor) -> None:
    """A tensor of a file can stand for `target`: of its type and shape, and of numbers alone.

    Raises CheckpointError.
    """
    for what, found, allowed in (
        ("type", _plain(value.dtype), _plain(target.dtype)),
        ("shape", list(value.shape), list(target.shape)),
    ):
        if found != allowed:
            raise CheckpointError(
                f"{path}: tensor '{name}' has {what} {found} (allowed: {allowed})"
            )
    if not bool(valid(value, target).all()):
        raise CheckpointError(f"{path}: tensor '{name}' holds NaN or infinity")


def _plain(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _fill(path: Path, supernet: Supernet, tensors: dict[str, Tensor], model: str) -> None:
    targets = graph_tensors(supernet.graph)
    _check(path, targets, tensors, model)
    for name, value in tensors.items():
        set_values(targets[name], value)


def _check(path: Path, targets: dict[str, Tensor], tensors: dict[str, Tensor], model: str) -> None:
    """The tensors stand for those of `targets`, all of them. Raises CheckpointError."""
    for name in sorted(set(targets) ^ set(tensors)):
        side = "lacks" if name in targets else "has the unknown"
        raise CheckpointError(f"{path}: not a supernet of {model}: it {side} tensor '{name}'")
    for name, value in tensors.items():
        require_like(path, name, value, targets[name])
