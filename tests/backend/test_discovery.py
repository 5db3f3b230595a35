from importlib import metadata

import numpy as np
import pytest

from eqnet.backend import discovery
from eqnet.backend.preprocess import preprocess
from eqnet.backend.protocol import Exporter
from eqnet.spec.errors import MissingExtraError, UsageError
from eqnet.spec.manifest import Preprocessing


def test_built_in_exporters_are_found_by_entry_point():
    assert {"onnxruntime", "openvino", "tensorrt", "lowbit"} <= set(discovery.exporter_names())


@pytest.mark.parametrize("name", ["onnxruntime", "lowbit"])
def test_found_exporter_keeps_the_protocol(name):
    exporter = discovery.find_exporter(name)
    assert isinstance(exporter, Exporter)
    assert exporter.name == name


def test_unknown_exporter_suggests_the_nearest():
    with pytest.raises(UsageError, match="unknown backend 'onxruntime'; did you mean 'onnxrun"):
        discovery.find_exporter("onxruntime")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("no_such_package.x:X", MissingExtraError, "pip install"),
        ("json:NoSuchName", UsageError, "does not exist"),
        ("builtins:dict", UsageError, "is no exporter"),
    ],
)
def test_broken_entry_point_is_one_line(monkeypatch, value, error, text):
    entry = metadata.EntryPoint("broken", value, discovery.GROUP)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [entry])
    with pytest.raises(error, match=text) as caught:
        discovery.find_exporter("broken")
    assert "\n" not in str(caught.value)


def test_preprocess_is_float32_and_exact():
    rules = Preprocessing(mean=(0.1, 0.2), std=(0.3, 0.7))
    pixels = np.arange(2 * 2 * 4 * 4, dtype=np.uint8).reshape(2, 2, 4, 4)
    found = preprocess(pixels, rules)
    assert found.dtype == np.float32
    f = np.float32
    assert found[1, 1, 2, 3] == (f(pixels[1, 1, 2, 3]) / f(255) - f(0.2)) / f(0.7)
    assert np.array_equal(preprocess(pixels[:1], rules), found[:1])


@pytest.mark.parametrize(
    "pixels", [np.zeros((1, 2, 4, 4)), np.zeros((1, 3, 4, 4), np.uint8), np.zeros((2, 4), np.uint8)]
)
def test_preprocess_refuses_other_inputs(pixels):
    with pytest.raises(UsageError, match="allowed: uint8"):
        preprocess(pixels, Preprocessing(mean=(0.1, 0.2), std=(0.3, 0.7)))
