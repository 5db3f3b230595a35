"""Training recipes: YAML files that say everything that a training run depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from eqnet.spec.errors import ProfileError, UsageError, unknown
from eqnet.spec.fields import first_problem
from eqnet.spec.hardware.limits import MAX_SEED
from eqnet.spec.hardware.load import read_yaml
from eqnet.spec.inputs import Inputs
from eqnet.spec.scheme import BITS, Form, Frozen
from eqnet.stages.train.steps.losses import TERMS

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class FloatRecipe(Frozen):
    """The float model: SGD with momentum, cosine schedule; 0 epochs for weights that are given."""

    epochs: Annotated[int, Field(ge=0)] = 40
    batch: Annotated[int, Field(ge=2)] = 128
    learning_rate: Positive = 0.1
    momentum: Share = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4


# Factors of the terms of the Weight Distribution Regularization loss.
WDR = {"skewness": 1.0, "kurtosis": 0.015}


class GpgRecipe(Frozen):
    """Group Progressive Guidance: lambda of the guided groups, and of a float teacher for H.

    balance: how far the groups of lower bits, whose losses are larger, count less: a group's
    gradient is multiplied by (loss of H / its own loss) to this power. At 0 all count alike, as
    in the paper; at 1 each is judged by the share of its own loss that it wins or loses.
    """

    guidance: Share = 0.5
    teacher: Share = 0.0
    balance: Share = 0.0


Bits = Annotated[int, Field(ge=BITS[0], le=BITS[-1])]


class StaticRecipe(Frozen):
    """One form at one bit-width: the network that a supernet's subnet is compared with.

    weight_bits, activation_bits: 2 to 8, or both None: the float network on the same budget.
    """

    weight_bits: Bits | None = None
    activation_bits: Bits | None = None
    form: Form = Form()

    @model_validator(mode="after")
    def _both_or_none(self) -> StaticRecipe:
        if (self.weight_bits is None) != (self.activation_bits is None):
            raise ValueError("weight_bits and activation_bits: both, or neither (float)")
        return self


class ElasticRecipe(Frozen):
    """The elastic supernet: Adam, cosine schedule, one optimizer step for the three groups.

    styles: built-in profiles whose placement is sampled, or "paper" (Conv and Linear inputs).
    batch_norm: "batch" normalizes by each batch, and a subnet's statistics are collected for it,
    as in the paper; "own" keeps the statistics that a pretrained network came with, and corrects
    in every batch, as for the subnet later, what quantization shifts.
    static: train for this form alone, with everything else the same (LSQ, arXiv 1902.08153).
    """

    epochs: Annotated[int, Field(ge=1)] = 60
    batch: Annotated[int, Field(ge=2)] = 256
    learning_rate: Positive = 1e-3
    scale_learning_rate: Positive = 1e-3
    zero_point_learning_rate: Positive = 1e-2
    gradient_clip: Positive = 1.0
    bits: tuple[Bits, ...] = BITS
    styles: tuple[str, ...] = ("onnxruntime_x86", "openvino_asym", "tensorrt_int8", "paper")
    wdr: dict[str, Annotated[float, Field(ge=0)]] = Field(default_factory=lambda: dict(WDR))
    gpg: GpgRecipe = GpgRecipe()
    batch_norm: Literal["batch", "own"] = "batch"
    static: StaticRecipe | None = None

    @field_validator("wdr")
    @classmethod
    def _known_terms(cls, value: dict[str, float]) -> dict[str, float]:
        """A factor for each term; those that are not given keep their default."""
        for name in value:
            if name not in TERMS:
                raise ValueError(unknown("term", name, TERMS))
        return {name: value.get(name, WDR.get(name, 0.0)) for name in TERMS}


class CqapRecipe(Frozen):
    """The accuracy predictor: how many subnets are measured for it, and how it is fitted."""

    subnets: Annotated[int, Field(ge=20)] = 1000
    images: Annotated[int, Field(ge=100)] = 2000
    epochs: Annotated[int, Field(ge=1)] = 150
    seeds: Annotated[int, Field(ge=1)] = 3


class Recipe(Frozen):
    """One training run, from a float network to a supernet with its predictor.

    model, weights, weights_key, data, dataset, inputs: the network and its images, as of
    `eqnet.stages.train.begin.start.Network`; what a recipe leaves open the caller says.
    weights_sha256: what the file of weights must hold. cqap: null for none; a search then measures
    subnets.
    """

    schema_version: Literal[1]
    model: str | None = None
    weights: Path | None = None
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    weights_key: str | None = None
    data: Path | None = None
    dataset: str | None = None
    inputs: Inputs = Inputs()
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0
    augment: bool = True
    float_model: FloatRecipe = FloatRecipe()
    elastic: ElasticRecipe = ElasticRecipe()
    cqap: CqapRecipe | None = CqapRecipe()

    def identity(self) -> dict[str, Any]:
        """All that the result depends on; not where files lie."""
        return self.model_dump(mode="json", exclude={"weights", "data"})


def recipes_dir() -> Path:
    """Folder of the built-in recipes: inside a wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parents[2]
    inside = package / "recipes"
    return inside if inside.is_dir() else package.parent / "recipes"


def builtin_recipes() -> list[str]:
    """Names of the built-in recipes, sorted."""
    return sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def _file_of(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return path
    if str(name_or_path) not in builtin_recipes():
        raise ProfileError(unknown("recipe", str(name_or_path), builtin_recipes()))
    return recipes_dir() / f"{name_or_path}.yaml"


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by its file or a built-in one's name; its paths are from its folder.

    Raises ProfileError naming the file, the key, and what is allowed.
    """
    path = _file_of(name_or_path)
    try:
        recipe = Recipe.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ProfileError(f"{path}: {first_problem(error)}") from error
    except UsageError as error:
        raise ProfileError(f"{path}: inputs: {error}") from error
    found = {}
    for name in ("weights", "data"):
        stated = getattr(recipe, name)
        if stated is not None:
            found[name] = path.parent / stated
    return recipe.model_copy(update=found)
