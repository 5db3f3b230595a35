"""A verify report in the forms that CI services show: JUnit XML and Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

from eqnet.spec.errors import one_line
from eqnet.spec.reports import Check, VerifyReport

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
    for check in report.checks:
        _add_case(suite, report, check)
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
    return "\n".join([*lines, ""])


def _measured(check: Check) -> str:
    if check.value is None:
        return ""
    limit = "" if check.limit is None else f" (limit {check.limit:.4g})"
    return f"{check.value:.4g} {check.unit}".strip() + limit


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
