"""Benchmarks: what is measured, when it is skipped, and what it may be compared with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from artifacts import profile, write_artifact
from graphs import residual_net

from eqnet.backend.machine.host import describe_host
from eqnet.backend.machine.sampling import Enough, Sampled
from eqnet.backend.machine.timing import summarize_samples
from eqnet.spec.errors import ArtifactError, UsageError
from eqnet.spec.reports import BenchReport
from eqnet.stages.bench import bench, measure, run, to_bencher, to_github_action


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
        ({"float_precision": "bfloat16"}, "bfloat16, which is not measured here"),
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
        ((0.0,) * 5, "a sample of 0.0 ms (allowed: 1e-06 to 1e+09)"),
        ((1.0, 2.0, -3.0, 1.0, 1.0), "a sample of -3.0 ms"),
        ((1e-320,) * 5, "a sample of 1e-320 ms"),
        ((1e300,) * 5, "a sample of 1e+300 ms"),
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


def test_another_supernet_of_the_same_network_is_compared_and_told(artifact, tmp_path):
    first = bench(artifact, repeats=20, threads=1)
    assert (first.model, first.input_shape, first.supernet) == ("hand", (3, 8, 8), "0" * 64)
    path = saved(tmp_path / "base.json", first.model_copy(update={"supernet": "1" * 64}))
    again = bench(artifact, baseline=path, max_regression=100.0, repeats=20, threads=1)
    assert again.verdict == "passed"
    assert again.reason.endswith("; the baseline is of another supernet")


def test_a_report_of_another_machine_is_taken_where_that_is_allowed(artifact, tmp_path):
    elsewhere = report(ratio=1000.0).model_copy(
        update={"host": {"machine": "other", "cpu": "Z80"}, "threads": 1}
    )
    path = saved(tmp_path / "base.json", elsewhere)
    made = bench(artifact, baseline=path, allow_other_machine=True, repeats=5, threads=1)
    assert made.verdict == "passed"
    assert made.baseline is not None
    assert (made.baseline.kind, made.baseline.path) == ("report", str(path))
    assert made.baseline.first.ratio < 1


def test_how_it_was_sampled_is_told(artifact):
    made = bench(artifact, repeats=40, threads=1, pin=False)
    how = made.sampling
    assert how is not None
    assert (how.rounds, sum(how.legs), len(how.legs)) == (40, 40, 4)
    assert how.pinned == "not pinned: --no-pin"
    assert made.quantized is not None
    assert made.quantized.median_interval is not None
    assert made.quantized.mean_throughput == pytest.approx(1000 / made.quantized.mean)
    assert "governor" in made.host


def test_the_time_is_kept_where_no_number_is_asked_for(artifact):
    made = bench(artifact, precision=0.001, max_seconds=0.2, threads=1)
    assert made.sampling is not None
    assert made.sampling.rounds >= 6
    assert made.sampling.stopped.startswith(("0.2 s were spent", "precise"))


def test_several_batches_are_one_report(artifact, tmp_path):
    made = bench(artifact, repeats=5, batch=[1, 8], threads=1)
    assert [one.batch for one in made.batches] == [1, 8]
    assert [one.more for one in made.more] == [()]
    assert BenchReport.model_validate_json(made.model_dump_json()) == made
    path = saved(tmp_path / "base.json", made)
    again = bench(artifact, repeats=5, batch=8, threads=1, baseline=path, max_regression=100.0)
    assert again.verdict == "passed"
    with pytest.raises(UsageError, match=r"batch 4 \(allowed|batch 1 \(allowed: 4"):
        bench(artifact, repeats=5, batch=4, threads=1, baseline=path)
    with pytest.raises(UsageError, match=r"batch \[1, 1\] \(allowed: one or more, each once\)"):
        bench(artifact, batch=[1, 1])


class Told:
    """Sampling by decree: the models' milliseconds in the order of opening, look by look."""

    def __init__(self, *looks: tuple[float, ...]) -> None:
        self.looks = list(looks)
        self.asked: list[Enough] = []

    def __call__(self, open_sessions, enough, *, after_round=None):
        milliseconds = self.looks.pop(0)
        assert len(open_sessions(0)) == len(open_sessions(1)) == len(milliseconds)
        self.asked.append(enough)
        rng = np.random.default_rng(len(self.looks))
        times = [(each * rng.normal(1, 0.01, 60)).tolist() for each in milliseconds]
        return Sampled(times, (30, 30), 0, 1.0, "told")


def compared(artifact: Path, baseline: Path, monkeypatch, *looks, **options):
    told = Told(*looks)
    monkeypatch.setattr(measure, "sample", told)
    return bench(artifact, baseline=baseline, threads=1, **options), told


def test_a_slower_artifact_is_found_twice(artifact, tmp_path, monkeypatch):
    shutil.copytree(artifact, tmp_path / "main" / "net")
    made, told = compared(
        artifact,
        tmp_path / "main" / "net",
        monkeypatch,
        (1.1, 1.0, 2.0),
        (1.12, 1.0),
        max_seconds=3.0,
    )
    assert made.verdict == "failed"
    found = made.baseline
    assert found is not None
    assert found.confirming is not None
    assert (found.kind, found.max_regression) == ("artifact", 0.05)
    assert found.first.ratio == pytest.approx(1.1, abs=0.01)
    assert found.confirming.ratio == pytest.approx(1.12, abs=0.01)
    assert found.first.p_value < 0.01
    assert made.ratio == pytest.approx(0.55, abs=0.01)
    assert "slower than the baseline" in made.reason
    first, second = told.asked
    assert second.max_seconds == 2 * first.max_seconds
    assert second.precision < first.precision


@pytest.mark.parametrize("looks", [[(1.02, 1.0, 2.0)], [(1.1, 1.0, 2.0), (1.01, 1.0)]])
def test_an_artifact_that_is_not_slower_passes(artifact, tmp_path, monkeypatch, looks):
    shutil.copytree(artifact, tmp_path / "main" / "net")
    made, _ = compared(artifact, tmp_path / "main" / "net", monkeypatch, *looks)
    assert made.verdict == "passed"


def test_one_batch_that_is_slower_fails_the_report(artifact, tmp_path, monkeypatch):
    shutil.copytree(artifact, tmp_path / "main" / "net")
    looks = [(1.0, 1.0, 2.0), (1.3, 1.0, 2.0), (1.3, 1.0)]
    made, _ = compared(artifact, tmp_path / "main" / "net", monkeypatch, *looks, batch=[1, 8])
    assert [one.verdict for one in made.more] == ["failed"]
    assert made.verdict == "failed"
    assert made.reason.startswith("batch 8: ")
    assert "slower than the baseline" in made.reason


def test_two_copies_of_an_artifact_run_in_turns(artifact, tmp_path):
    shutil.copytree(artifact, tmp_path / "copy")
    made = bench(artifact, baseline=tmp_path / "copy", max_regression=100.0, repeats=20, threads=1)
    assert made.verdict == "passed"
    assert made.baseline is not None
    assert made.baseline.digest
    how = made.baseline.first.sampling
    assert how is not None
    assert how.rounds == 20


@pytest.mark.parametrize("form", ["itself", "by name", "only one"])
def test_where_the_baseline_artifact_may_lie(artifact, tmp_path, monkeypatch, form):
    main = tmp_path / "main"
    for name in {"itself": [""], "by name": ["net", "other"], "only one": ["elsewhere"]}[form]:
        shutil.copytree(artifact, main / name)
    made, _ = compared(artifact, main, monkeypatch, (1.0, 1.0, 2.0))
    assert made.baseline is not None
    found = Path(made.baseline.path)
    assert found == main / {"itself": "", "by name": "net", "only one": "elsewhere"}[form]


def test_a_baseline_folder_without_the_artifact_is_refused(artifact, tmp_path):
    main = tmp_path / "main"
    main.mkdir()
    with pytest.raises(UsageError, match=r"no artifact in it \(allowed: an artifact, or a folder"):
        bench(artifact, baseline=main)
    for name in ("a", "b"):
        shutil.copytree(artifact, main / name)
    with pytest.raises(UsageError, match="2 artifacts, none named 'net'"):
        bench(artifact, baseline=main)


def test_a_baseline_artifact_of_something_else_is_refused(artifact, tmp_path):
    write_artifact(tmp_path / "main", residual_net(asymmetric=True), profile(name="other"))
    with pytest.raises(UsageError, match=r"profile other \(allowed: by_hand, as is measured now"):
        bench(artifact, baseline=tmp_path / "main")


def test_a_damaged_baseline_artifact_passes_nothing(artifact, tmp_path):
    shutil.copytree(artifact, tmp_path / "main")
    with (tmp_path / "main" / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ArtifactError, match=r"main/model\.onnx: changed or corrupt"):
        bench(artifact, baseline=tmp_path / "main")


def test_in_an_older_report_the_samples_are_of_one_leg(artifact, tmp_path):
    content = json.loads(bench(artifact, repeats=20, threads=1).model_dump_json())
    for key in ("sampling", "other_floats", "more", "baseline"):
        del content[key]
    for model in ("quantized", "float32"):
        for key in ("median_interval", "mean_throughput"):
            del content[model][key]
    path = tmp_path / "base.json"
    path.write_text(json.dumps(content))
    made = bench(artifact, baseline=path, max_regression=100.0, repeats=20, threads=1)
    assert made.verdict == "passed"
