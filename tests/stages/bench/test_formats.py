"""What continuous-benchmark services read, held to their own schemas."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from eqnet.backend.machine.timing import summarize_samples
from eqnet.spec.reports import BenchReport, FloatTwin
from eqnet.stages.bench import to_bencher, to_github_action, to_markdown

# https://bencher.dev/bmf.json, and what docs/reference/bencher-metric-format says of names.
BENCHER = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 1024},
    "patternProperties": {
        ".+": {
            "type": "object",
            "propertyNames": {"minLength": 1, "maxLength": 64},
            "patternProperties": {
                ".+": {
                    "type": "object",
                    "properties": {
                        "value": {"type": "number"},
                        "lower_value": {"type": "number"},
                        "upper_value": {"type": "number"},
                    },
                    "required": ["value"],
                    "additionalProperties": False,
                }
            },
        }
    },
}
# The interface BenchmarkResult of src/extract.ts in benchmark-action/github-action-benchmark.
GITHUB_ACTION = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "value": {"type": "number"},
            "unit": {"type": "string"},
            "range": {"type": "string"},
            "extra": {"type": "string"},
        },
        "required": ["name", "value", "unit"],
        "additionalProperties": False,
    },
}


def report(batch: int = 1, **changes: Any) -> BenchReport:
    slow, fast = summarize_samples([4.0, 4.2, 4.4], batch), summarize_samples([2.0, 2.1], batch)
    content = {
        "artifact": "deploy/net",
        "profile": "by_hand",
        "backend": "onnxruntime",
        "verdict": "passed",
        "batch": batch,
        "threads": 2,
        "quantized": fast,
        "float32": slow,
        "ratio": 0.5,
        "ratio_interval": (0.45, 0.55),
        "host": {"cpu": "Z80"},
    }
    return BenchReport(**{**content, **changes})


SKIPPED: dict[str, Any] = {
    "quantized": None,
    "float32": None,
    "ratio": None,
    "ratio_interval": None,
}
KINDS = {
    "one batch": report(),
    "two batches": report(more=(report(8),)),
    "another precision": report(
        other_floats=(
            FloatTwin(
                precision="bfloat16",
                latency=summarize_samples([5.0, 5.1], 1),
                ratio=0.4,
                ratio_interval=(0.3, 0.5),
            ),
        )
    ),
    "without an interval": report(ratio_interval=None),
    "skipped": report(**SKIPPED),
}


@pytest.mark.parametrize("kind", KINDS)
def test_documents_fit_the_services_schemas(kind):
    made = KINDS[kind]
    jsonschema.validate(json.loads(json.dumps(to_bencher(made))), BENCHER)
    jsonschema.validate(json.loads(json.dumps(to_github_action(made))), GITHUB_ACTION)
    assert (to_bencher(made) == {}) == (to_github_action(made) == []) == (kind == "skipped")


def test_github_action_begins_with_the_ratio():
    entries = to_github_action(KINDS["two batches"])
    assert [(entry["name"], entry["unit"]) for entry in entries] == [
        ("by_hand: quantized / float", "ratio"),
        ("by_hand: quantized", "ms"),
        ("by_hand: float32", "ms"),
        ("by_hand batch 8: quantized / float", "ratio"),
        ("by_hand batch 8: quantized", "ms"),
        ("by_hand batch 8: float32", "ms"),
    ]
    assert (entries[0]["value"], entries[0]["range"]) == (0.5, "0.4500 - 0.5500")
    assert entries[0]["extra"] == "batch 1, 2 threads, Z80"


def test_a_series_keeps_its_name_when_another_batch_joins():
    alone, joined = (set(to_bencher(KINDS[kind])) for kind in ("one batch", "two batches"))
    assert alone == {"by_hand/quantized", "by_hand/float32"}
    assert joined - alone == {"by_hand/batch8/quantized", "by_hand/batch8/float32"}
    names = [{entry["name"] for entry in to_github_action(KINDS[kind])} for kind in
             ("one batch", "two batches")]  # fmt: skip
    assert names[0] < names[1]


def test_bencher_takes_nanoseconds():
    latency = to_bencher(report())["by_hand/float32"]["latency"]
    assert latency["value"] == pytest.approx(4.2e6)
    assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]


def test_markdown_has_a_table_for_each_batch():
    text = to_markdown(KINDS["two batches"])
    assert text.count("| model | median ms | p90 | p99 | images/s |") == 2
    assert "batch 8, 2 threads, Z80" in text
    assert "| bfloat16 | 5.050 |" in to_markdown(KINDS["another precision"])
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {6}
