"""Benchmarks: what is measured, when it is skipped, and when a regression is called."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from artifacts import profile, write_artifact
from graphs import residual_net

from eqnet.backend.machine.host import describe_host
from eqnet.backend.machine.timing import summarize_samples
from eqnet.spec.errors import ArtifactError, UsageError
from eqnet.spec.reports import BenchReport
from eqnet.stages.bench import bench, run, to_bencher, to_github_action
from eqnet.stages.bench.gate import gate, greater_by_chance, regression


@pytest.fixture
def artifact(tmp_path):
    write_artifact(tmp_path / "net", residual_net(asymmetric=True), profile())
    return tmp_path / "net"


def report(ratio: float = 0.5, spread: float = 0.01, n: int = 60, seed: int = 0, **changes):
    """A report whose paired ratios scatter around `ratio`."""
    rng = np.random.default_rng(seed)
    float32 = rng.normal(10, 0.5, n)
    quantized = float32 * rng.normal(ratio, spread, n)
    content = {
        "artifact": "a",
        "model": "hand",
        "input_shape": (3, 8, 8),
        "profile": "by_hand",
        "backend": "onnxruntime",
        "verdict": "passed",
        "batch": 1,
        "threads": 2,
        "quantized": summarize_samples(quantized.tolist(), 1),
        "float32": summarize_samples(float32.tolist(), 1),
        "ratio": float(np.median(quantized / float32)),
        "ratio_interval": (ratio - spread, ratio + spread),
        "host": describe_host(),
    }
    return BenchReport(**{**content, **changes})


def saved(path, made: BenchReport):
    path.write_text(made.model_dump_json())
    return path


def test_both_models_are_timed_in_pairs(artifact):
    made = bench(artifact, repeats=7, batch=3, threads=1)
    assert made.verdict == "passed"
    assert made.quantized is not None
    assert made.float32 is not None
    assert len(made.quantized.samples) == len(made.float32.samples) == 7
    assert made.ratio_interval is not None
    low, high = made.ratio_interval
    assert 0 < low <= made.ratio <= high
    assert (made.batch, made.threads) == (3, 1)
    assert made.host["machine"] == describe_host()["machine"]


def test_settings_default_to_the_profiles(tmp_path):
    rules = {"batch": 2, "threads": 1, "repeats": 5}
    write_artifact(tmp_path / "net", residual_net(asymmetric=True), profile(bench=rules))
    made = bench(tmp_path / "net")
    assert made.quantized is not None
    assert (made.batch, made.threads, len(made.quantized.samples)) == (2, 1, 5)


def test_progress_reaches_its_total(artifact):
    class Listener:
        def __init__(self) -> None:
            self.total, self.done, self.open = 0, 0, 0

        def start(self, task, total):
            self.total, self.open = total, self.open + 1

        def advance(self, n=1, **info):
            self.done += n

        def finish(self):
            self.open -= 1

    listener = Listener()
    bench(artifact, repeats=43, threads=1, progress=listener)
    assert (listener.done, listener.total, listener.open) == (43, 43, 0)


def test_few_images_fill_a_large_batch(artifact):
    made = bench(artifact, repeats=5, batch=100, threads=1)
    assert made.quantized is not None
    assert made.quantized.throughput == pytest.approx(100_000 / made.quantized.median)


class Elsewhere:
    """An exporter whose runtime is not on this machine."""

    name = "elsewhere"

    def unavailable(self, profile=None):
        return "no NVIDIA GPU to run on"


def test_skipped_with_the_reason_where_the_runtime_cannot_execute(artifact, monkeypatch):
    monkeypatch.setattr(run, "find_exporter", lambda name: Elsewhere())
    made = bench(artifact)
    assert (made.verdict, made.reason, made.ratio) == ("skipped", "no NVIDIA GPU to run on", None)
    assert to_github_action(made) == []
    assert to_bencher(made) == {}


def test_a_cpu_without_the_targets_instructions_is_told(tmp_path):
    # int8 activations are exact on every CPU, so that nothing but the name speaks.
    activations = {"symmetry": "asymmetric", "storage": "int8"}
    target = profile(isa="no_such_isa", activations=activations)
    write_artifact(tmp_path / "net", residual_net(asymmetric=True), target)
    made = bench(tmp_path / "net", repeats=5, threads=1)
    assert made.verdict == "passed"
    assert made.reason.startswith("not the target's latency")
    assert "no_such_isa" in made.reason


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"repeats": 4}, "repeats 4 (allowed: 5 to 100000)"),
        ({"batch": 0}, "batch 0 (allowed: 1 to 1024)"),
        ({"threads": 257}, "threads 257 (allowed: 1 to 256)"),
        ({"max_regression": -0.1}, "max_regression -0.1 (allowed: 0 or more)"),
    ],
)
def test_settings_out_of_range(artifact, settings, said):
    with pytest.raises(UsageError) as error:
        bench(artifact, **settings)
    assert str(error.value) == said


def test_a_changed_model_is_refused(artifact):
    with (artifact / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match=r"model\.onnx: changed or corrupt"):
        bench(artifact)


def test_a_folder_that_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match=r"manifest\.json: cannot read"):
        bench(tmp_path)


def test_the_same_model_passes_against_itself(artifact, tmp_path):
    first = bench(artifact, repeats=40, threads=1)
    path = saved(tmp_path / "base.json", first)
    again = bench(artifact, baseline=path, max_regression=1.0, repeats=40, threads=1)
    assert again.verdict == "passed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": {"machine": "other", "cpu": "Z80"}}, "measured on another machine, Z80"),
        ({"host": {}}, "measured on another machine, unknown"),
        ({"threads": 7}, "threads 7 (allowed: 2, as is measured now)"),
        ({"batch": 64}, "batch 64 (allowed: 1"),
        ({"model": "eqnet:resnet20"}, "model eqnet:resnet20 (allowed: hand, as is measured"),
        ({"model": None}, "it does not say which model it is of (allowed: hand)"),
        ({"input_shape": (3, 32, 32)}, "input shape 3x32x32 (allowed: 3x8x8, as is"),
        ({"float_precision": "bfloat16"}, "float precision bfloat16 (allowed: float32, as is"),
        ({"profile": "tensorrt_int8"}, "profile tensorrt_int8 (allowed: by_hand"),
        (
            {"quantized": None, "ratio": None, "verdict": "skipped", "reason": "no GPU"},
            "holds no measurement (no GPU)",
        ),
    ],
)
def test_a_baseline_of_something_else_is_refused(artifact, tmp_path, changes, said):
    path = saved(tmp_path / "base.json", report().model_copy(update=changes))
    with pytest.raises(UsageError) as error:
        bench(artifact, baseline=path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ((), "0 pairs of samples (allowed: 5 or more)"),
        ((1.0,) * 4, "4 pairs of samples"),
        ((0.0,) * 5, "a sample of 0.0 ms (allowed: above 0)"),
        ((1.0, 2.0, -3.0, 1.0, 1.0), "a sample of -3.0 ms"),
        ((1.0, float("inf"), 1.0, 1.0, 1.0), "finite number (found: inf)"),
        ((1.0, float("nan"), 1.0, 1.0, 1.0), "finite number (found: nan)"),
    ],
)
@pytest.mark.parametrize("side", ["quantized", "float32"])
def test_a_damaged_baseline_passes_nothing(artifact, tmp_path, side, samples, said):
    content = json.loads(report().model_dump_json())
    for name in ("quantized", "float32"):
        content[name]["samples"] = [1.0] * len(samples)
    content[side]["samples"] = list(samples)
    path = tmp_path / "base.json"
    path.write_text(json.dumps(content))  # with Infinity and NaN, as Python writes them
    with pytest.raises(UsageError) as error:
        bench(artifact, baseline=path)
    assert said in str(error.value)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"schema_version": 99}'])
def test_a_baseline_that_is_no_report_is_refused(artifact, tmp_path, content):
    path = tmp_path / "base.json"
    path.write_text(content)
    with pytest.raises(UsageError, match="not a bench report") as error:
        bench(artifact, baseline=path)
    assert "\n" not in str(error.value)


def test_a_missing_baseline_is_refused(artifact, tmp_path):
    with pytest.raises(UsageError, match="cannot read the baseline"):
        bench(artifact, baseline=tmp_path / "none.json")


def test_within_the_threshold_nothing_is_repeated():
    def never() -> BenchReport:
        raise AssertionError("measured again")

    now = report(0.51, seed=1)
    made = gate(now, report(0.5), 0.05, never)
    assert made.quantized == now.quantized
    assert made.verdict == "passed"
    assert re.match(
        r"within the baseline: 0\.\d+ .* against 0\.\d+, .* \(allowed: \+5\.0%\)", made.reason
    )


def test_another_supernet_of_the_same_network_is_compared_and_told(artifact, tmp_path):
    first = bench(artifact, repeats=20, threads=1)
    assert (first.model, first.input_shape, first.supernet) == ("hand", (3, 8, 8), "0" * 64)
    path = saved(tmp_path / "base.json", first.model_copy(update={"supernet": "1" * 64}))
    again = bench(artifact, baseline=path, max_regression=100.0, repeats=20, threads=1)
    assert again.verdict == "passed"
    assert again.reason.endswith("; the baseline is of another supernet")


def test_a_confirmed_regression_fails():
    made = gate(report(0.6, seed=1), report(0.5), 0.05, lambda: report(0.61, seed=2))
    assert made.verdict == "failed"
    assert "confirmed by a second run" in made.reason
    assert "(allowed: +5.0%; p = " in made.reason


def test_a_regression_that_does_not_come_back_passes():
    made = gate(report(0.6, seed=1), report(0.5), 0.05, lambda: report(0.5, seed=2))
    assert made.verdict == "passed"
    assert "did not confirm" in made.reason


def test_beyond_the_threshold_but_within_the_noise_is_no_regression():
    noisy = report(0.56, spread=0.4, n=8, seed=5)
    before = report(0.5, spread=0.4, n=8, seed=0)
    growth = np.median(np.divide(noisy.quantized.samples, noisy.float32.samples)) / np.median(
        np.divide(before.quantized.samples, before.float32.samples)
    )
    assert growth > 1.05, "the sample must be beyond the threshold, or the test shows nothing"
    assert regression(noisy, before, 0.05) is None


def test_rank_test_against_exact_values():
    a, b = np.array([6.0, 7, 8, 9, 10]), np.array([1.0, 2, 3, 4, 5])
    # U = 25, mean 12.5, variance 5*5*11/12; with continuity z = 12/sqrt(22.9167) = 2.50672.
    assert greater_by_chance(a, b) == pytest.approx(0.0060929, abs=1e-6)
    assert greater_by_chance(b, a) > 0.99
    assert greater_by_chance(a, a) > 0.4
    # Ties: ranks 1.5, 1.5, 4, 4, 4, 6, 7, 8; U = 13, variance 16/12 * (9 - 30/56) = 11.2857.
    tied = greater_by_chance(np.array([2.0, 2, 4, 5]), np.array([1.0, 1, 2, 3]))
    assert tied == pytest.approx(0.0902, abs=1e-4)
    assert greater_by_chance(np.ones(5), np.ones(5)) == 1.0


def test_github_action_format():
    entries = json.loads(json.dumps(to_github_action(report(0.5))))
    assert [entry["unit"] for entry in entries] == ["ratio", "ms", "ms"]
    assert all(set(entry) == {"name", "unit", "value", "range", "extra"} for entry in entries)
    assert entries[0]["value"] == pytest.approx(0.5, abs=0.01)
    assert entries[1]["name"] == "by_hand: quantized"


def test_bencher_format():
    made = report(0.5)
    content = json.loads(json.dumps(to_bencher(made)))
    assert set(content) == {"by_hand/quantized", "by_hand/float32"}
    latency = content["by_hand/float32"]["latency"]
    assert latency["value"] == pytest.approx(made.float32.median * 1e6)
    assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]
