"""`import eqnet` offers what users need: lazily, and whatever else has been imported."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

import eqnet

FUNCTIONS = [name for name in eqnet.__all__ if name != "__version__"]
# Offers every function, then imports every module of the package, and offers them again.
TWICE = """
import importlib, pkgutil, sys
import eqnet
heavy = [name for name in ("torch", "onnx", "openvino", "numpy")
         if name in sys.modules]
assert not heavy, heavy
names = [name for name in eqnet.__all__ if name != "__version__"]
first = [getattr(eqnet, name) for name in names]
for module in pkgutil.walk_packages(eqnet.__path__, "eqnet."):
    if "bundled" not in module.name and not module.name.startswith("eqnet.testing"):
        importlib.import_module(module.name)
assert [getattr(eqnet, name) for name in names] == first
assert all(callable(function) for function in first)
print(len(first))
"""


def test_the_functions_are_the_same_before_and_after_any_import():
    done = subprocess.run(
        [sys.executable, "-c", TWICE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == len(FUNCTIONS) == 16


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_is_documented_and_typed(name):
    function = getattr(eqnet, name)
    assert inspect.getdoc(function)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not inspect.Parameter.empty, parameter


def test_no_package_takes_the_name_of_a_function():
    inside = {module.name for module in pkgutil.iter_modules(eqnet.__path__)}
    assert not inside & set(FUNCTIONS)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        eqnet.nothing  # noqa: B018
    assert set(dir(eqnet)) == set(eqnet.__all__)
    assert importlib.import_module("eqnet").__version__ == eqnet.__version__
