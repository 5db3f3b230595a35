"""Float architectures and the loader of models and weights."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from eqnet.models import ResNet20, load_model
from eqnet.spec.errors import CheckpointError, EqnetError, MissingExtraError, UsageError


def refused(kind: type[EqnetError], source: str, **options: object) -> str:
    """The one line with which a source is refused."""
    with pytest.raises(kind) as error:
        load_model(source, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_resnet20_is_the_network_of_the_paper() -> None:
    model = load_model("eqnet:resnet20")
    assert not model.training
    convs = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    assert len([name for name in convs if "shortcut" not in name]) == 19  # and one linear layer
    assert [name for name in convs if "shortcut" in name] == [
        "layer2.0.shortcut.conv",
        "layer3.0.shortcut.conv",
    ]
    assert convs[:3] == ["stem.conv", "layer1.0.conv1", "layer1.0.conv2"]
    # 0.27 M in the paper's table 6 (there with 3 input channels and without shortcut weights)
    assert sum(p.numel() for p in model.parameters()) == 272_186
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_resnet20_halves_the_image_twice() -> None:
    model = ResNet20(in_channels=3, classes=7).eval()
    with torch.no_grad():
        features = model.layer3(model.layer2(model.layer1(model.stem(torch.zeros(1, 3, 32, 32)))))
    assert features.shape == (1, 64, 8, 8)
    assert model.fc.out_features == 7


@pytest.mark.parametrize("source", ["torchvision:mobilenet_v2", "timm:resnet10t"])
def test_other_libraries_take_classes_and_channels(source: str) -> None:
    pytest.importorskip(source.partition(":")[0])
    model = load_model(source, classes=7, in_channels=1)
    with torch.no_grad():
        assert model(torch.zeros(2, 1, 64, 64)).shape == (2, 7)


def test_defaults_are_those_of_the_library() -> None:
    model = load_model("torchvision:squeezenet1_1")
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("resnet20", ["did you mean 'eqnet:resnet20'", "torchvision:NAME", "module:callable"]),
        ("eqnet:resnet2", ["did you mean 'resnet20'"]),
        ("torchvision:resnet81", ["'resnet81'", "resnet18"]),
        ("torchvison:resnet18", ["did you mean 'torchvision:resnet18'", "--allow-code"]),
        ("", ["eqnet:NAME"]),
        ("torchvision:", ["eqnet:NAME"]),
    ],
)
def test_unknown_sources_suggest_the_nearest(source: str, words: list[str]) -> None:
    message = refused(UsageError, source)
    assert all(word in message for word in words)


def test_unknown_timm_model_suggests_the_nearest() -> None:
    pytest.importorskip("timm")
    assert "resnet18" in refused(UsageError, "timm:resnt18")


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "eqnet[timm]" in refused(MissingExtraError, "timm:resnet18")


@pytest.mark.parametrize("options", [{"classes": 0}, {"in_channels": -1}])
def test_impossible_sizes_are_refused(options: dict[str, int]) -> None:
    assert "allowed: 1 or more" in refused(UsageError, "eqnet:resnet20", **options)


CODE = """
from pathlib import Path
import torch
Path(__file__).with_name("ran").touch()
def build(classes):
    return torch.nn.Linear(3, classes)
def plain():
    return torch.nn.Linear(3, 4)
def number():
    return 5
def broken(**options):
    raise ValueError("no such\\noption", options)
"""


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_nets_of_a_test.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_nets_of_a_test", raising=False)
    return tmp_path


def test_user_code_runs_only_when_allowed(user_code: Path) -> None:
    source = "my_nets_of_a_test:build"
    assert "--allow-code" in refused(UsageError, source, classes=6)
    assert not (user_code / "ran").exists()
    path_before = list(sys.path)
    model = load_model(source, classes=6, in_channels=1, allow_code=True)
    assert isinstance(model, nn.Linear)
    assert model.out_features == 6
    assert sys.path == path_before


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("my_nets_of_a_test:number", "returned int"),
        ("my_nets_of_a_test:broken", "raised ValueError: ('no such\\noption'"),
        ("my_nets_of_a_test:buidl", "did you mean 'build'"),
        ("my_nets_of_none:build", "ModuleNotFoundError"),
    ],
)
def test_faults_of_user_code_are_one_line(user_code: Path, source: str, words: str) -> None:
    assert words in refused(UsageError, source, allow_code=True)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    return ResNet20().state_dict()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_loaded(
    tmp_path: Path, state: dict[str, torch.Tensor], suffix: str, prefix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save({"epoch": 3, "state_dict": {prefix + k: v for k, v in state.items()}}, path)
    else:
        save_file({prefix + name: tensor for name, tensor in state.items()}, path)
    loaded = load_model("eqnet:resnet20", weights=path).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fc.weight": None}, "lacks fc.weight"),
        ({"other": torch.zeros(1)}, "has unknown other"),
        ({"fc.weight": torch.zeros(5, 64)}, "fc.weight: shape [5, 64] (allowed: [10, 64])"),
        ({"fc.bias": torch.full((10,), torch.nan)}, "fc.bias: holds NaN"),
        ({f"extra{i}": torch.zeros(1) for i in range(5)}, "extra0, extra1, extra2 and 2 more"),
    ],
)
def test_foreign_weights_are_refused(
    tmp_path: Path,
    state: dict[str, torch.Tensor],
    change: dict[str, torch.Tensor | None],
    words: str,
) -> None:
    changed = {name: value for name, value in {**state, **change}.items() if value is not None}
    save_file(changed, tmp_path / "w.safetensors")
    message = refused(CheckpointError, "eqnet:resnet20", weights=tmp_path / "w.safetensors")
    assert words in message


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "pt"])
def test_damaged_weights_are_one_line(
    tmp_path: Path, state: dict[str, torch.Tensor], suffix: str
) -> None:
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "damaged" in refused(CheckpointError, "eqnet:resnet20", weights=path)
    path.write_bytes(b"")
    assert str(path) in refused(CheckpointError, "eqnet:resnet20", weights=path)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_never_runs_code(tmp_path: Path, writer: str) -> None:
    path, ran = tmp_path / "evil.pth", tmp_path / "ran"
    if writer == "torch":
        torch.save({"weight": Evil(ran)}, path)
    else:
        path.write_bytes(pickle.dumps({"weight": Evil(ran)}, protocol=2))
    assert "could run code" in refused(CheckpointError, "eqnet:resnet20", weights=path)
    assert not ran.exists()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    for name, words in (("none.pth", "no such weights file"), ("w.onnx", "an empty file")):
        if name == "w.onnx":
            (tmp_path / name).touch()
        assert words in refused(CheckpointError, "eqnet:resnet20", weights=tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    assert "no named tensors" in refused(
        CheckpointError, "eqnet:resnet20", weights=tmp_path / "list.pth"
    )
    torch.save({"a": 1}, tmp_path / "numbers.pth")
    assert "a: int" in refused(CheckpointError, "eqnet:resnet20", weights=tmp_path / "numbers.pth")
