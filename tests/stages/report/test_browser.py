"""The report's page in a real browser: nothing is loaded, everything is drawn, fits and sorts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, browser, served
from report_samples import (
    benched,
    evaluated,
    five_artifacts,
    full_search_report,
    located,
    manifest,
    subnet,
    unquantized,
    verified,
    write_artifact,
)

from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.scheme import all_forms
from eqnet.stages.report import report

PAGE = "report.html"
LONG = "a_profile_with_a_name_as_long_as_names_may_be_and_without_a_gap_"
LOOKS = [(width, scheme) for width in (360, 768, 1300) for scheme in ("light", "dark")]


def everything(root: Path) -> Path:
    """A page with every section: all verdicts, long names, a race, evaluations, a training."""
    paths = five_artifacts(root / "artifacts")
    bad = verified(LONG, "openvino", "failed", 0.4, "<b>3 layers</b> ran in float: " + "x" * 200)
    comparison = FloatComparison(
        images=2000,
        agreement=0.12,
        snr_db=0.5,
        labelled=2000,
        float_accuracy=0.94,
        accuracy_drop=43.95,
        accuracy_drop_interval=(41.2, 46.7),
        paired=True,
    )
    bad = bad.model_copy(
        update={
            "against_float": comparison,
            "export_verdict": "failed",
            "quantization_verdict": "failed",
        }
    )
    made = manifest(LONG, "openvino", subnet(None, 1, ("fc",)))
    slow = benched(LONG, "openvino", 40.0)
    paths.append(write_artifact(root / "artifacts" / "bad", made, located(bad), slow))
    plain = unquantized("in_float", "onnxruntime")
    paths.append(write_artifact(root / "artifacts" / "float", plain, None, None))
    run = root / "run"
    run.mkdir()
    lines = [f'{{"epoch": {at}, "loss": {9 / at}, "high": {at}}}' for at in range(1, 9)]
    (run / "train.jsonl").write_text("\n".join(lines))
    (run / "search.json").write_text(full_search_report().model_dump_json())
    for bits, form in zip((2, 4, 8), all_forms(), strict=False):
        (run / f"eval-w{bits}.json").write_text(evaluated(bits, form).model_dump_json())
    return report([*paths, run], root / PAGE, title=f"Report of {LONG}")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, list[str]]]:
    """The page in a window, and what was asked of its server."""
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        page = everything(tmp_path_factory.mktemp("page"))
        with served(page.parent) as (address, asked):
            opened.console()
            opened.requests()
            opened.open(f"{address}/{PAGE}")
            opened.run("for (const one of document.querySelectorAll('details')) one.open = true")
            assert opened.requests() == [f"{address}/{PAGE}"]
            yield opened, asked


@pytest.fixture
def window(shown: tuple[Browser, list[str]]) -> Browser:
    return shown[0]


def test_nothing_is_loaded_and_nothing_complained_of(shown: tuple[Browser, list[str]]) -> None:
    window, asked = shown
    assert asked == [f"/{PAGE}"]
    assert window.console() == []


def test_the_policy_stops_what_would_load_or_run(shown: tuple[Browser, list[str]]) -> None:
    """The page asks for nothing; and it could not, should a text ever get through as markup."""
    window, asked = shown
    window.run(
        """
        const image = new Image(); image.src = "/image.png"; document.body.append(image);
        const script = document.createElement("script");
        script.textContent = "document.title = 'taken'"; document.body.append(script);
        image.remove(); script.remove();
        return fetch("/data.json").catch(() => null);
        """
    )
    told = "\n".join(window.console())
    for blocked in ("img-src data:", "script-src 'sha256-", "connect-src"):
        assert blocked in told
    assert window.run("return document.title") != "taken"
    assert asked == [f"/{PAGE}"]


OVERFLOW = """
const wide = document.documentElement.clientWidth;
const summary = document.querySelector("#summary .box");
return {
  page: [document.documentElement.scrollWidth, document.body.scrollWidth, wide],
  summary: [summary.scrollWidth, summary.clientWidth],
  out: [...document.querySelectorAll("main *")].filter((one) => {
    const box = one.getBoundingClientRect();
    return box.width && box.right > wide + 1 && !one.closest(".box, svg");
  }).map((one) => one.outerHTML.slice(0, 80)),
};
"""


@pytest.mark.parametrize(("width", "scheme"), [*LOOKS, (320, "light"), (1241, "light")])
def test_nothing_is_wider_than_the_window(window: Browser, width: int, scheme: str) -> None:
    window.look(width, scheme)
    found = window.run(OVERFLOW)
    assert found["out"] == []
    *inner, outer = found["page"]
    assert max(inner) == outer <= width
    table, box = found["summary"]
    assert table <= box


DRAWN = """
return [...document.querySelectorAll(".plot")].map((plot) => {
  const shown = [...plot.querySelectorAll("svg")].filter((one) => one.getClientRects().length);
  return shown.map((svg) => {
    const box = svg.getBoundingClientRect();
    const inks = new Set();
    const seen = [...svg.querySelectorAll("path, use")].filter((part) => {
      const style = getComputedStyle(part);
      if (part.closest("defs, clipPath")) return false;
      inks.add(style.fill); inks.add(style.stroke);
      const size = part.getBoundingClientRect();
      return size.width || size.height;
    });
    const cut = [...svg.querySelectorAll("g[id*='text_'], g[id*='legend_']")].filter((part) => {
      const size = part.getBoundingClientRect();
      return size.width && (size.left < box.left - 1 || size.right > box.right + 1 ||
        size.top < box.top - 1 || size.bottom > box.bottom + 1);
    });
    return {
      title: svg.querySelector("title").textContent,
      width: box.width, height: box.height, parts: seen.length, inks: inks.size,
      wide: plot.getBoundingClientRect().width, cut: cut.map((part) => part.id),
    };
  });
});
"""


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_every_plot_is_drawn_once(window: Browser, width: int, scheme: str) -> None:
    window.look(width, scheme)
    plots = window.run(DRAWN)
    assert all(len(shown) == 1 for shown in plots)
    titles = [shown[0]["title"] for shown in plots]
    assert titles == [
        "Accuracy against size and speed",
        "Accuracy against each cost",
        "Sensitivities",
        "Predicted and measured",
        "Progress over generations",
        "Error by depth",
        "Latency distributions",
        "Training: run",
    ]
    for (plot,) in plots:
        assert 200 < plot["width"] <= plot["wide"]
        assert plot["height"] > 100
        assert plot["parts"] > 30
        assert plot["inks"] >= 4
        assert plot["cut"] == []
    strips = window.run(
        "return [...document.querySelectorAll('.strip li')].map((one) => one.offsetWidth)"
    )
    assert len(strips) > 250
    assert min(strips) >= 15


TEXTS = """
const parse = (colour) => {
  const found = colour.match(/[\\d.]+/g).map(Number);
  return found.length > 3 ? found : [...found, 1];
};
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map((one) => {
    const value = one / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const colour = parse(getComputedStyle(one).backgroundColor);
    if (colour[3] === 1) return colour;
    if (colour[3] !== 0) throw new Error("half transparent: " + one.outerHTML.slice(0, 80));
  }
  throw new Error("nothing behind");
};
const contrast = (a, b) => {
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
const found = { html: 0, svg: 0, bad: [] };
const judge = (kind, element, colour, text) => {
  found[kind] += 1;
  const ratio = contrast(parse(colour), behind(element));
  if (ratio < 4.5) found.bad.push([kind, text.trim().slice(0, 40), ratio]);
};
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, element = node.parentElement;
  if (!node.textContent.trim() || element.closest("script, svg")) continue;
  if (!element.getClientRects().length) continue;
  judge("html", element, getComputedStyle(element).color, node.textContent);
}
for (const glyph of document.querySelectorAll("svg g[id*='text_'] use")) {
  if (!glyph.getClientRects().length) continue;
  judge("svg", glyph, getComputedStyle(glyph).fill, glyph.closest("g[id*='text_']").id);
}
return found;
"""


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_text_stands_out(window: Browser, width: int, scheme: str) -> None:
    """WCAG 2 AA, 4.5 to 1, for every text of the page and of its plots."""
    window.look(width, scheme)
    found = window.run(TEXTS)
    assert found["bad"] == []
    assert found["html"] > 500
    assert found["svg"] > 300


def test_schemes_differ(window: Browser) -> None:
    colours = []
    for scheme in ("light", "dark"):
        window.look(1300, scheme)
        colours.append(
            window.run(
                "const glyph = document.querySelector('.plot .wide svg g[id*=text_] use');"
                "return [getComputedStyle(document.body).backgroundColor,"
                " getComputedStyle(glyph).fill]"
            )
        )
    (light_page, light_ink), (dark_page, dark_ink) = colours
    assert light_page != dark_page
    assert light_ink != dark_ink


SORTED = """
const read = (table, column) => ({
  sort: table.tHead.rows[0].cells[column].getAttribute("aria-sort"),
  cells: [...table.tBodies[0].rows].map((row) => {
    const cell = row.cells[column];
    return [cell.dataset.sort ?? null, cell.textContent.trim()];
  }),
});
return [...document.querySelectorAll("table")].map((table) => {
  const heads = [...table.tHead.rows[0].cells];
  return heads.map((head, column) => {
    heads[(column + 1) % heads.length].querySelector("button").click();
    const states = [read(table, column)];
    for (const time of [1, 2]) {
      head.querySelector("button").click();
      states.push(read(table, column));
    }
    const marked = heads.filter((one) => one.getAttribute("aria-sort") !== "none");
    return { name: table.getAttribute("aria-label"), states, marked: marked.length };
  });
});
"""


def test_every_table_sorts_by_every_column(window: Browser) -> None:
    window.look(1300, "light")
    tables = window.run(SORTED)
    assert len(tables) > 25
    assert len({columns[0]["name"] for columns in tables}) == len(tables)
    numeric = unknown = 0
    for column in (column for columns in tables for column in columns):
        before, up, down = column["states"]
        assert [state["sort"] for state in column["states"]] == ["none", "ascending", "descending"]
        assert column["marked"] == 1
        missing = [cell for cell in before["cells"] if cell[0] is None and cell[1] in ("", "-")]
        for state in (up, down):
            assert sorted(map(str, state["cells"])) == sorted(map(str, before["cells"]))
            assert all(
                cell in missing for cell in state["cells"][len(up["cells"]) - len(missing) :]
            )
        rising, falling = ordered(up["cells"]), ordered(down["cells"])
        assert falling == sorted(falling, reverse=True)
        assert rising == sorted(rising) == falling[::-1]
        numeric += isinstance(next(iter(rising), None), float)
        unknown += bool(missing)
    assert numeric > 30
    assert unknown > 5


def ordered(cells: list[list[str | None]]) -> list[float] | list[list[tuple[int, int | str]]]:
    """What a column's known cells are ordered by: numbers, or texts with numbers in them."""
    keys = [key for key, _ in cells if key is not None]
    if keys:
        return [float(key) for key in keys]
    texts = [text for _, text in cells if text not in (None, "", "-")]
    return [natural(str(text)) for text in texts]


def natural(text: str) -> list[tuple[int, int | str]]:
    """A text so that layer2 stands before layer10, and signs before digits before letters."""
    parts = re.findall(r"\d+|[^\W\d_]+|.", text.casefold())
    return [
        (1, int(part)) if part.isdigit() else (2 if part.isalpha() else 0, part) for part in parts
    ]


def test_sizes_sort_by_bytes_and_not_by_their_text(window: Browser) -> None:
    window.look(1300, "light")
    script = """
    const table = document.querySelector("#summary table");
    const column = [...table.tHead.rows[0].cells].findIndex((one) => one.textContent === "Size");
    const head = table.tHead.rows[0].cells[column];
    while (head.getAttribute("aria-sort") !== "ascending") head.firstChild.click();
    return [...table.tBodies[0].rows].map((row) => Number(row.cells[column].dataset.sort));
    """
    found = window.run(script)
    assert len(found) == 7
    assert found == sorted(found)


@pytest.mark.parametrize("width", [360, 1300])
def test_a_table_sorts_by_keyboard(window: Browser, width: int) -> None:
    """Tab reaches each header, Enter and Space sort, and a reader is told by roles and states."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    window.look(width, "light")
    first = "const button = document.querySelector('#summary thead button');"
    window.run(f"{first} button.click(); button.focus()")
    state = (
        "const head = document.activeElement.closest('th');"
        "return [head?.textContent, head?.getAttribute('aria-sort'), head?.getAttribute('role'),"
        " getComputedStyle(document.activeElement).outlineStyle]"
    )
    for title, key, wanted in (
        ("Verdict", Keys.ENTER, "ascending"),
        ("Average bits", Keys.SPACE, "ascending"),
    ):
        ActionChains(window.driver).send_keys(Keys.TAB).send_keys(key).perform()
        assert window.run(state) == [title, wanted, "columnheader", "solid"]
        ActionChains(window.driver).send_keys(key).perform()
        assert window.run(state)[1] == "descending"
    others = window.run(
        "return [...document.querySelectorAll('#summary thead th')].map((one) =>"
        " one.getAttribute('aria-sort'))"
    )
    assert others.count("none") == len(others) - 1


def test_verdicts_sort_the_worst_first(window: Browser) -> None:
    window.look(1300, "light")
    script = """
    const table = document.querySelector("#summary table");
    const head = table.tHead.rows[0].cells[1];
    while (head.getAttribute("aria-sort") !== "ascending") head.firstChild.click();
    return [...table.querySelectorAll("tbody .verdict")].map((one) => one.textContent);
    """
    assert window.run(script) == ["failed", "skipped", *["passed"] * 5]


def test_texts_are_texts(window: Browser) -> None:
    """Markup in a reason is told as it stands."""
    assert window.run("return document.querySelectorAll('main b').length") == 0
    assert "<b>3 layers</b>" in window.run("return document.querySelector('#summary').innerText")
