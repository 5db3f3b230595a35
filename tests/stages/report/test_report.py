"""The report: what it reads, what it says, and that its page needs nothing else."""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime
from hashlib import sha256
from io import StringIO
from pathlib import Path

import pytest
from report_samples import (
    benched,
    five_artifacts,
    manifest,
    search_report,
    subnet,
    verified,
    write_artifact,
)
from rich.console import Console

from eqnet.spec.errors import ArtifactError, OutputError
from eqnet.stages.report import load, report, summarize
from eqnet.stages.report.load import read_training
from eqnet.stages.report.summary import NOT_VERIFIED
from eqnet.stages.report.terminal import rows_table
from eqnet.stages.report.wording import kib, layers_text, ratio_text


def moment() -> datetime:
    return datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A page of five artifacts, a search and a training, and its picture."""
    root = tmp_path_factory.mktemp("report")
    paths = five_artifacts(root / "artifacts")
    (root / "search").mkdir()
    (root / "search" / "search.json").write_text(search_report().model_dump_json())
    (root / "run").mkdir()
    log = '{"epoch": 0, "loss": 2.5}\n{"epoch": 1, "loss": 1.5, "note": "x"}\n'
    (root / "run" / "log.jsonl").write_text(log)
    page, picture = root / "report.html", root / "docs" / "demo.png"
    report([*paths, root / "search", root / "run"], page, picture=picture, now=moment)
    return page.read_text(), picture


def test_page_loads_nothing_and_runs_one_script_alone(everything: tuple[str, Path]) -> None:
    page, _ = everything
    assert "://" not in page
    assert not re.search(r"<(iframe|object|embed|img|base|form)\b", page)
    assert not re.search(r"\son[a-z]+=", page)
    assert not re.search(r"(src|href)=\"(?!#|data:,\")", page)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.DOTALL)
    allowed = re.findall(r"script-src 'sha256-([^']+)'", page)
    assert [b64encode(sha256(script.encode()).digest()).decode() for script in scripts] == allowed
    assert len(allowed) == 1


def test_page_names_every_profile_number_and_reason(everything: tuple[str, Path]) -> None:
    page, _ = everything
    for told in (
        "custom_lowbit_w4a8",
        "5 profiles from one supernet: 5 passed.",
        "94.12 %",
        "93.77 %",
        "99.80 %",
        "3.23x faster",
        "no GPU; the same graph was checked in ONNX Runtime",
        "Search for custom_lowbit",
        "Training: run",
        "2026-01-02 03:04 UTC",
    ):
        assert told in page


def test_plots_follow_the_theme_and_are_titled(everything: tuple[str, Path]) -> None:
    page, _ = everything
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(svgs) == 8
    for svg in svgs:
        assert 'role="img"><title>' in svg
        assert "<desc>" in svg
        assert "var(--ink)" in svg or "var(--muted)" in svg
        assert "#0a0" not in svg
    assert "prefers-color-scheme:dark" in page


def test_ids_are_unique_over_all_plots(everything: tuple[str, Path]) -> None:
    page, _ = everything
    svgs = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    owners: dict[str, int] = {}
    for index, svg in enumerate(svgs):
        for name in re.findall(r'\bid="([^"]+)"', svg):
            assert owners.setdefault(name, index) == index
        for name in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg):
            assert f'id="{name[0] or name[1]}"' in svg


def test_picture_is_a_wide_png(everything: tuple[str, Path]) -> None:
    _, picture = everything
    content = picture.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4]) for at in (16, 20))
    assert width >= 1600
    assert width > 1.5 * height


def test_same_inputs_give_the_same_page(tmp_path: Path) -> None:
    paths = five_artifacts(tmp_path / "artifacts")[:2]
    pages = [report(paths, tmp_path / name, now=moment) for name in ("a.html", "b.html")]
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_text_from_files_is_escaped(tmp_path: Path) -> None:
    reason = "<script>alert(1)</script>"
    folder = write_artifact(
        tmp_path / "a",
        manifest("mine", "onnxruntime", subnet(8)),
        verified("mine", "onnxruntime", "failed", 0.9, reason),
        None,
    )
    page = report([folder], tmp_path / "r.html").read_text()
    assert page.count("<script>") == 1
    assert "&lt;script&gt;alert(1)" in page


def test_row_of_a_full_artifact(tmp_path: Path) -> None:
    artifacts = load(five_artifacts(tmp_path / "a")).artifacts
    row = summarize(artifacts)[2]
    assert row.profile == "onnxruntime_x86"
    assert row.verdict == "passed"
    assert row.reasons == ()
    assert row.accuracy_float == 0.9412
    assert row.accuracy_pytorch == 0.9405
    assert row.accuracy_runtime == 0.9403
    assert row.int8_share == pytest.approx(21 / 22)
    assert row.ratio == 0.31


def test_row_tells_why_something_was_skipped(tmp_path: Path) -> None:
    row = summarize(load(five_artifacts(tmp_path / "a")).artifacts)[4]
    assert row.verdict == "passed"
    assert any("no GPU; the same graph" in reason for reason in row.reasons)
    assert any(reason.startswith("latency skipped") for reason in row.reasons)


def test_row_of_an_artifact_that_was_never_verified(tmp_path: Path) -> None:
    made = manifest("mine", "openvino", subnet(8))
    row = summarize(load([write_artifact(tmp_path / "a", made, None, None)]).artifacts)[0]
    assert row.verdict == "skipped"
    assert row.reasons == (NOT_VERIFIED,)
    assert row.int8_share is None


def test_failed_check_and_failed_bench_fail_the_row(tmp_path: Path) -> None:
    made = manifest("mine", "openvino", subnet(8))
    bad = verified("mine", "openvino", "failed", 0.9, "3 layers ran in float")
    slow = benched("mine", "openvino", 1.2).model_copy(
        update={"verdict": "failed", "reason": "slower than the baseline"}
    )
    good = verified("mine", "openvino", "passed", 0.9)
    folders = [
        write_artifact(tmp_path / "a", made, bad, None),
        write_artifact(tmp_path / "b", made, good, slow),
    ]
    first, second = summarize(load(folders).artifacts)
    assert (first.verdict, second.verdict) == ("failed", "failed")
    assert "3 layers ran in float" in first.reasons[0]
    assert "slower than the baseline" in second.reasons[0]


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_table_fits_and_loses_nothing(tmp_path: Path, width: int) -> None:
    rows = summarize(load(five_artifacts(tmp_path / "a")).artifacts)
    console = Console(width=width, record=True, file=StringIO())
    console.print(rows_table(rows))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    assert "\u2026" not in text
    for told in ("custom_lowbit_w4a8", "onnxruntime", "93.77", "3.23x", "99.80", "passed"):
        assert told in text


def test_failures_get_rows_with_and_without_an_artifact(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a", manifest("one", "openvino", subnet(8)), None, None)
    rows = summarize(load([folder]).artifacts, {"one": "verify broke", "two": "search broke"})
    assert [(row.profile, row.verdict, row.reasons[0]) for row in rows] == [
        ("one", "failed", "verify broke"),
        ("two", "failed", "search broke"),
    ]


def test_report_of_failures_alone(tmp_path: Path) -> None:
    page = report([], tmp_path / "r.html", failures={"two": "search broke"}).read_text()
    assert "search broke" in page


def test_earlier_page_among_the_paths_is_passed_over(tmp_path: Path) -> None:
    paths = five_artifacts(tmp_path / "a")
    page = report(paths, tmp_path / "a" / "report.html")
    again = load(sorted((tmp_path / "a").iterdir()))
    assert page.is_file()
    assert len(again.artifacts) == 5


def test_folder_of_search_folders(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / "search" / name).mkdir(parents=True)
        (tmp_path / "search" / name / "search.json").write_text(search_report().model_dump_json())
    assert len(load([tmp_path / "search"]).searches) == 2


@pytest.mark.parametrize("content", ["", "{}", '{"schema_version": 2}', "[" * 10_000, "\xff"])
def test_wrong_manifest_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(ArtifactError, match=r"manifest\.json: (not|schema)") as caught:
        load([tmp_path / "a"])
    assert "\n" not in str(caught.value)


def test_paths_that_are_not_reportable(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="no such file or folder"):
        load([tmp_path / "missing"])
    with pytest.raises(ArtifactError, match="nothing to report in it"):
        load([tmp_path / "empty"])
    with pytest.raises(ArtifactError, match="nothing to report"):
        load([tmp_path / "old.html"])


def test_training_log_reads_numbers_by_epoch(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"epoch": 3, "loss": 2, "ok": true}\n\n{"epoch": 4, "loss": 1.5}\n')
    training = read_training(log)
    assert training.axis == "epoch"
    assert training.curves == {"loss": ((3.0, 2.0), (4.0, 1.5))}


@pytest.mark.parametrize(("line", "told"), [("{", "line 2: not JSON"), ("[1]", "found list")])
def test_wrong_training_log_names_the_line(tmp_path: Path, line: str, told: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(f'{{"epoch": 1}}\n{line}\n')
    with pytest.raises(ArtifactError, match=told):
        read_training(log)


def test_unwritable_page_leaves_nothing(tmp_path: Path) -> None:
    paths = five_artifacts(tmp_path / "a")[:1]
    blocker = tmp_path / "file"
    blocker.write_text("x")
    with pytest.raises(OutputError):
        report(paths, blocker / "r.html")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "file"]


def test_picture_needs_artifacts(tmp_path: Path) -> None:
    (tmp_path / "search.json").write_text(search_report().model_dump_json())
    with pytest.raises(ArtifactError, match="picture"):
        report([tmp_path / "search.json"], tmp_path / "r.html", picture=tmp_path / "p.png")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("ratio", "interval", "told"),
    [
        (0.5, (0.4, 0.8), "2.00x faster [1.25, 2.50]"),
        (1.5, (1.2, 1.6), "1.50x slower [1.20, 1.60]"),
        (0.98, (0.9, 1.1), "1.02x faster [0.91, 1.11]"),
        (0.5, None, "2.00x faster"),
        (None, None, "-"),
    ],
)
def test_ratio_in_words(
    ratio: float | None, interval: tuple[float, float] | None, told: str
) -> None:
    assert ratio_text(ratio, interval) == told


def test_sizes_and_layers_in_words() -> None:
    assert kib(2048) == "2.0 KiB"
    assert kib(3 << 20) == "3.00 MiB"
    assert layers_text(20, 22, 22) == "20 of 22"
    assert layers_text(None, 22, 22) == "22 of 22 promised"


def test_a_front_of_one_point_has_no_plot_but_its_facts(tmp_path: Path) -> None:
    from eqnet.stages.report.searches.pareto import pareto_figure
    from eqnet.stages.report.style import LIGHT, WIDE

    search = search_report()
    single = search.model_copy(update={"front": search.front[:1]})
    assert pareto_figure(single, LIGHT, WIDE) is None
    (tmp_path / "search.json").write_text(single.model_dump_json())
    page = report([tmp_path / "search.json"], tmp_path / "r.html").read_text()
    assert f"Search for {single.profile}" in page
    assert "measured" in page
