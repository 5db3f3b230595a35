"""A verify report in the forms that CI services show: JUnit XML and Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

from eqnet.spec.errors import one_line
from eqnet.spec.judging.comparison import Location, OutputComparison
from eqnet.spec.reports import Check, VerifyReport

NUMBERS = {
    "agreement": "agreement",
    "top1": "top-1",
    "top5": "top-5",
    "accuracy_drop": "lost points",
    "accuracy_drop_interval": "95% interval",
    "kl": "KL",
    "error_mean": "mean error, steps",
    "error_p99": "99th percentile",
    "error_max": "largest",
}
MARKS = {"passed": "✅", "failed": "❌", "skipped": "⚪"}


def to_junit(report: VerifyReport) -> str:
    """JUnit XML: a test suite of the artifact, a test case for each check, its value as output."""
    verdicts = [check.verdict for check in report.checks]
    counts = {
        "tests": str(len(verdicts)),
        "failures": str(verdicts.count("failed")),
        "skipped": str(verdicts.count("skipped")),
        "errors": "0",
    }
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": f"eqnet {report.artifact}", **counts}
    )
    facts = ElementTree.SubElement(suite, "properties")
    for name, value in (
        ("profile", report.profile),
        ("runtime", report.runtime),
        ("digest", report.digest or ""),
        ("cpu", report.host.get("cpu", "")),
    ):
        ElementTree.SubElement(facts, "property", {"name": name, "value": value})
    for row in report.outputs:
        for key, number in _numbers(row).items():
            name = f"{row.run}.{row.against}.{key} ({row.source})"
            ElementTree.SubElement(facts, "property", {"name": name, "value": number})
    for check in report.checks:
        _add_case(suite, report, check)
    if report.location is not None:
        ElementTree.SubElement(suite, "system-out").text = _located(report.location)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_case(suite: ElementTree.Element, report: VerifyReport, check: Check) -> None:
    name = {"classname": f"{report.profile}.{check.group}", "name": check.name}
    case = ElementTree.SubElement(suite, "testcase", name)
    if check.verdict == "failed":
        failure = {"message": check.reason or "failed", "type": check.group}
        ElementTree.SubElement(case, "failure", failure)
    elif check.verdict == "skipped":
        ElementTree.SubElement(case, "skipped", {"message": check.reason})
    if check.value is not None:
        ElementTree.SubElement(case, "system-out").text = _measured(check)


def to_markdown(report: VerifyReport) -> str:
    """A heading with the verdict, and a table of the checks."""
    lines = [
        f"### {MARKS[report.verdict]} verify {_cell(report.artifact)}: {report.verdict}",
        "",
        f"{_cell(report.profile)} in {_cell(report.runtime)}, {report.images} images",
        "",
        "| check | | measured | why |",
        "|---|---|---|---|",
    ]
    for check in report.checks:
        row = (check.name, MARKS[check.verdict], _measured(check), check.reason)
        lines.append("| " + " | ".join(_cell(text) for text in row) + " |")
    lines += ["", "| run | against | on | " + " | ".join(NUMBERS.values()) + " |"]
    lines.append("|---" * (3 + len(NUMBERS)) + "|")
    for row_of in report.outputs:
        numbers = _numbers(row_of)
        cells = [row_of.run, row_of.against, row_of.source]
        cells += [numbers.get(key, "") for key in NUMBERS]
        lines.append("| " + " | ".join(_cell(text) for text in cells) + " |")
    if report.location is not None:
        lines += ["", _cell(_located(report.location))]
    return "\n".join([*lines, ""])


def _numbers(row: OutputComparison) -> dict[str, str]:
    """What is known of a comparison, by the keys of `NUMBERS`."""
    found = {}
    for key in NUMBERS:
        value = getattr(row, key)
        if isinstance(value, tuple):
            found[key] = f"[{value[0]:.4g}, {value[1]:.4g}]"
        elif value is not None:
            found[key] = f"{value:.6g}"
    return found


def _located(location: Location) -> str:
    """The first wrong tensor in one line."""
    if location.tensor is None:
        return f"no tensor of {len(location.tensors)} is beyond its tolerance"
    first = location.beyond[0]
    layer = f", layer {location.layer}" if location.layer else ""
    added = "no number" if first.added is None else f"up to {first.added:.3g} steps"
    return f"first wrong tensor: {location.tensor}{layer}, {added}; {location.cause}"


def _measured(check: Check) -> str:
    if check.value is None:
        return ""
    limit = "" if check.limit is None else f" (limit {check.limit:.4g})"
    return f"{check.value:.4g} {check.unit}".strip() + limit


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
