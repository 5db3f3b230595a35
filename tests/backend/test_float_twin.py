"""In which precisions a float model is timed beside an artifact."""

from __future__ import annotations

from typing import Any

import pytest

from eqnet.backend.discovery import find_exporter
from eqnet.backend.machine import float_twin
from eqnet.backend.machine.float_twin import float_precisions, open_float_twins
from eqnet.backend.machine.isa import Cpu
from eqnet.spec.hardware.load import load_profile

PLAIN, NATIVE = Cpu(frozenset({"avx2"})), Cpu(frozenset({"avx2", "avx512_bf16"}))


@pytest.mark.parametrize(
    ("profile", "cpu", "expected"),
    [
        ("onnxruntime_x86", NATIVE, ["float32"]),
        ("openvino_asym", PLAIN, ["float32"]),
        ("openvino_asym", NATIVE, ["float32", "bfloat16"]),
        ("openvino_bf16", PLAIN, ["float32"]),
        ("custom_lowbit", NATIVE, ["float32"]),
        ("tensorrt_int8", PLAIN, ["float32", "float16"]),
    ],
)
def test_those_that_a_user_would_run_here(profile, cpu, expected, monkeypatch):
    monkeypatch.setattr(float_twin, "cpu_of", lambda _: cpu)
    rules = load_profile(profile)
    assert float_precisions(find_exporter(rules.backend), rules) == expected


def test_openvino_takes_float16_on_a_gpu_alone(monkeypatch):
    monkeypatch.setattr(float_twin, "cpu_of", lambda _: PLAIN)
    rules = load_profile("openvino_asym").model_copy(update={"device": "GPU"})
    assert float_precisions(find_exporter("openvino"), rules) == ["float32", "float16"]


def test_each_is_opened_with_that_remainder(monkeypatch, tmp_path):
    asked = []

    class Exporter:
        capabilities = find_exporter("openvino").capabilities

        def refusals(self, profile):
            return ["remainder: float16 on the CPU"] if profile.remainder == "float16" else []

        def open(self, model, *, threads, profile):
            asked.append((model, threads, profile.remainder))
            return profile.remainder

    monkeypatch.setattr(float_twin, "cpu_of", lambda _: NATIVE)
    rules = load_profile("openvino_asym")
    exporter: Any = Exporter()
    opened: dict[Any, Any] = {**open_float_twins(exporter, tmp_path, rules, 3)}
    assert opened == {"float32": "float32", "bfloat16": "bfloat16"}
    assert asked == [(tmp_path, 3, "float32"), (tmp_path, 3, "bfloat16")]
