"""The pages in a real browser: clicks, the budget line, both themes, keyboard, phone and print; no error, no request.

Needs playwright (extra test) and a Chromium of the system; a folder named by AUTOSLIM_SCREENSHOTS keeps pictures.
"""

import os
import shutil
from pathlib import Path

import pytest

import studies
from autoslim import recommending, report
from autoslim.budget import Budget, Drop, Limit
from autoslim.reporting import cards, comparison, comparison_page, figures, picking
from autoslim.reporting import page as pages
from autoslim.reporting.context import Material
from autoslim.reporting.summary import history, summarise

pytestmark = pytest.mark.slow
EVIL = "<script>alert('x')</script>"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install 'autoslim[test]')")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this system (apt install chromium)")
    with playwright.sync_playwright() as run:
        opened = run.chromium.launch(executable_path=found, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    report.write(studies.make(out, 120, ("stem", EVIL, "body", "head"), verify=10), out)
    return out


class Watched:
    """A page that remembers every error and every request."""

    def __init__(self, browser, address, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)
        self.page.wait_for_function("window.autoslim !== undefined")

    def __enter__(self):
        return self.page

    def __exit__(self, *_):
        self.context.close()
        assert self.errors == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:", "http://127.0.0.1"))] == []


def keep(page, name):
    if os.environ.get("AUTOSLIM_SCREENSHOTS"):
        page.screenshot(path=Path(os.environ["AUTOSLIM_SCREENSHOTS"]) / f"{name}.png", full_page=True)


def address(folder):
    return (folder / "report.html").as_uri()


def walk(page):
    """Scroll through, so that every chart is drawn."""
    for _ in range(40):
        page.mouse.wheel(0, 600)
        page.wait_for_timeout(20)
    page.wait_for_function("Object.keys(window.autoslim.charts).length === 4")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_opens_without_an_error_or_a_request_and_draws_all_charts(browser, folder, theme):
    watched = Watched(browser, address(folder), color_scheme=theme)
    with watched as page:
        walk(page)
        ink = page.evaluate("Object.values(window.autoslim.charts).map(chart => chart.getZr().storage.getDisplayList().length)")
        assert min(ink) > 5
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (paper == "rgb(255, 255, 255)") is (theme == "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
        keep(page, f"report-{theme}")
    assert len(watched.requests) == 1, "the file itself"


def test_first_paint_takes_less_than_a_second_and_a_half(browser, folder):
    """The expectation is one second on a free machine."""
    with Watched(browser, address(folder)) as page:
        page.wait_for_function("performance.getEntriesByType('paint').length > 0")
        assert page.evaluate("performance.getEntriesByType('paint')[0].startTime") < 1500


def test_the_budget_line_chooses_what_pick_chooses(browser, folder):
    from autoslim.study import Study

    material = Material(Study.read(folder))
    costs = sorted(row["latency_ms_high"] for row in material.rows)
    with Watched(browser, address(folder)) as page:
        for bound in [costs[0] * 0.99, *[(left + right) / 2 for left, right in zip(costs, costs[1:], strict=False)]]:
            page.evaluate("bound => window.autoslim.setBudget(bound, true)", bound)
            budget = Budget({**material.context["budget"].limits, "ms": Limit(bound, False)})
            found = picking.pick(material, material.context | {"budget": budget})
            assert page.locator("#verdict").get_attribute("data-key") == (found.row["key"] if found.met else "")


@pytest.mark.parametrize("root", [0.0, 0.06, 0.1, 1.0])
def test_under_a_limit_on_the_drop_the_page_chooses_what_pick_chooses(browser, tmp_path, root):
    """Expectations leave some out, all but the least, or none."""
    study = studies.make(
        tmp_path, 80, budget={"ms": Limit(9.0, False)}, max_drop=(0.003, False), verify=10, loss={"root": root, "line": 0.0}
    )
    report.write(study, tmp_path)
    material = Material(study)
    with Watched(browser, address(tmp_path)) as page:
        for bound in sorted(row["latency_ms_high"] * 1.001 for row in material.rows):
            page.evaluate("bound => window.autoslim.setBudget(bound, true)", bound)
            found = picking.pick(material, material.context | {"budget": Budget({"ms": Limit(bound, False)}, Drop(0.003, False))})
            assert page.locator("#verdict").get_attribute("data-key") == (found.row["key"] if found.met else "")


def test_a_line_on_the_ratio_is_a_share_of_the_untouched_time(browser, folder):
    from autoslim.study import Study

    material = Material(Study.read(folder))
    costs = sorted(row["latency_ratio_high"] for row in material.rows)
    with Watched(browser, address(folder)) as page:
        page.select_option("#x-axis", "latency_ratio")
        for bound in [(left + right) / 2 for left, right in zip(costs, costs[1:], strict=False)][::3]:
            page.evaluate("bound => window.autoslim.setBudget(bound, true)", bound)
            budget = Budget({**material.context["budget"].limits, "ms": Limit(bound, True)})
            found = picking.pick(material, material.context | {"budget": budget})
            assert page.locator("#verdict").get_attribute("data-key") == (found.row["key"] if found.met else "")
            assert page.locator("#pick-command").inner_text().count("%") == 1


def page_alone(study, folder):
    """report.html without the files beside it."""
    material = Material(study)
    summary, volumes = summarise(material), history(material.entries, material.context)
    numbers = figures.numbers(figures.chart_tables(material, summary, volumes))
    text = pages.render(material, summary, volumes, numbers, [cards.card_of(material, row) for row in material.rows])
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def slow_study(tmp_path, monkeypatch):
    """A study whose times have four digits, with three limits, one of them looser than every point."""
    monkeypatch.setattr(studies, "BASE_MS", 5000.0)
    study = studies.make(tmp_path, 40, budget={"ms": Limit(9000.0, False), "mb": Limit(2.4e6, False)}, max_drop=(0.05, False))
    return page_alone(study, tmp_path)


def test_a_loose_budget_is_drawn_where_the_chart_shows_it(browser, slow_study):
    with Watched(browser, address(slow_study), viewport={"width": 1200, "height": 1000}) as page:
        for axis in ("latency_ms", "latency_ratio", "size_kb", "params"):
            page.select_option("#x-axis", axis)
            for key in ("End", "Home"):
                page.locator("#budget").focus()
                page.keyboard.press(key)
                x, left, right = page.evaluate(
                    """() => { const chart = window.autoslim.charts.pareto, place = (v) => chart.convertToPixel({xAxisIndex: 0}, v), model = chart.getModel().getComponent("xAxis").axis.scale.getExtent();
                    return [place(chart.getOption().series.find((one) => one.id === "budget").markLine.data[0].xAxis), place(model[0]), place(model[1])]; }"""
                )
                assert left <= x <= right, (axis, key)
    with Watched(browser, address(slow_study)) as page:
        last, line = page.evaluate(
            "() => { const chart = window.autoslim.charts.pareto; return [chart.getModel().getComponent('xAxis').axis.scale.getExtent()[1], chart.getOption().series.find((one) => one.id === 'budget').markLine.data[0].xAxis]; }"
        )
        assert line <= last, "on opening"


def test_the_printed_command_gives_the_answer_of_the_page(browser, slow_study):
    """Run as it stands, in the folder: all limits of the study are in it, in plain digits."""
    import json
    import shlex
    import subprocess
    import sys

    with Watched(browser, address(slow_study)) as page:
        for axis, bound in (("latency_ms", 3456.7), ("size_kb", 1801.0)):
            page.select_option("#x-axis", axis)
            page.evaluate("bound => window.autoslim.setBudget(bound, true)", bound)
            told = page.locator("#pick-command").inner_text()
            assert "," not in told
            assert {"--budget-ms", "--budget-mb", "--max-drop"} <= set(told.split())
            words = [sys.executable, "-m", *shlex.split(told), "--json"]
            done = subprocess.run(words, cwd=slow_study, capture_output=True, text=True, check=True)
            assert json.loads(done.stdout)["key"] == page.locator("#verdict").get_attribute("data-key")


def test_dragging_the_line_and_the_slider_changes_the_answer_at_once(browser, folder):
    with Watched(browser, address(folder), viewport={"width": 1200, "height": 1000}) as page:
        page.locator("#chart-pareto").scroll_into_view_if_needed()
        before = page.locator("#budget-value").inner_text()
        box = page.locator("#chart-pareto").bounding_box()
        x = page.evaluate(
            "window.autoslim.charts.pareto.convertToPixel({xAxisIndex: 0}, Number(document.getElementById('budget-value').textContent.split(' ')[0]))"
        )
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + x, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + x - 150, middle, steps=5)
        page.mouse.up()
        dragged = page.locator("#budget-value").inner_text()
        assert float(dragged.split()[0]) < float(before.split()[0])
        assert "--budget-ms" in page.locator("#pick-command").inner_text()
        page.locator("#budget").focus()
        page.keyboard.press("Home")
        assert page.locator("#verdict").inner_text() == "No verified point is within this budget."
        page.keyboard.press("End")
        assert page.locator("#verdict").get_attribute("data-key")


def test_a_click_on_a_point_opens_its_card(browser, folder):
    with Watched(browser, address(folder), viewport={"width": 1200, "height": 1000}) as page:
        page.locator("#chart-pareto").scroll_into_view_if_needed()
        key, x, y = page.evaluate(
            """() => { const a = window.autoslim, row = a.data.points.find(row => row.key === a.data.chosen);
            const [x, y] = a.charts.pareto.convertToPixel({xAxisIndex: 0, yAxisIndex: 0}, [row.latency_ms, row.metric_test]); return [row.key, x, y]; }"""
        )
        box = page.locator("#chart-pareto").bounding_box()
        page.mouse.move(box["x"] + x, box["y"] + y)
        page.wait_for_timeout(200)
        told = page.evaluate("key => window.autoslim.data.points.find(row => row.key === key).summary", key)
        assert told in page.locator("#chart-pareto").inner_text(), "hovering says what was done"
        page.mouse.click(box["x"] + x, box["y"] + y)
        dialog = page.locator("#dialog")
        assert dialog.is_visible()
        assert key[:8] in dialog.inner_text()
        assert "InferenceSession" in dialog.inner_text()
        page.keyboard.press("Escape")
        assert not dialog.is_visible()


def test_every_pair_of_axes_draws(browser, folder):
    with Watched(browser, address(folder)) as page:
        names = page.evaluate("window.autoslim.data.axes.map(axis => axis.id)")
        for left in names:
            page.select_option("#x-axis", left)
            for up in names[:4]:
                page.select_option("#y-axis", up)
        page.check("#log")
        page.uncheck("#tried")


def test_costs_far_apart_begin_on_a_scale_of_doublings_and_an_accuracy_never_is(browser, folder):
    kind = "axis => window.autoslim.charts.pareto.getOption()[axis][0].type"
    with Watched(browser, address(folder)) as page:
        costs = page.evaluate("window.autoslim.data.points.map(row => row.latency_ms)")
        assert page.is_checked("#log") == (max(costs) > 8 * min(costs))
        for box, expected in ((page.check, "log"), (page.uncheck, "value")):
            box("#log")
            assert [page.evaluate(kind, axis) for axis in ("xAxis", "yAxis")] == [expected, "value"]


def test_hypervolume_is_drawn_over_evaluations_and_over_seconds(browser, folder):
    with Watched(browser, address(folder)) as page:
        walk(page)
        ends = "() => window.autoslim.charts.history.getOption().series[0].data.at(-1)"
        over = page.evaluate(ends)
        page.select_option("#history-axis", "seconds")
        timed, told = page.evaluate(ends), page.evaluate("window.autoslim.data.history_seconds.at(-1)")
        assert timed == [told, over[1]]
        assert told != over[0]


def test_points_are_reached_with_the_keyboard_alone(browser, folder):
    with Watched(browser, address(folder)) as page:
        page.locator("#chart-pareto").focus()
        page.keyboard.press("ArrowRight")
        said = page.locator("#walk").inner_text()
        assert "ms" in said
        page.keyboard.press("ArrowRight")
        assert page.locator("#walk").inner_text() != said
        page.keyboard.press("Enter")
        assert page.locator("#dialog").is_visible()


#: what a screen reader or a low sight would stumble over, as texts; rules of WCAG 2.1: 1.1.1, 1.3.1, 1.4.3, 2.4.4, 3.1.1, 4.1.1, 4.1.2
STUMBLES = """() => {
  const found = [], all = query => [...document.querySelectorAll(query)], where = node => node.outerHTML.slice(0, 90);
  const name = node => (node.getAttribute("aria-label") || (node.getAttribute("aria-labelledby") || "").split(" ").map(id => document.getElementById(id)?.textContent || "").join(" ")
    || [...(node.labels || [])].map(label => label.textContent).join(" ") || node.textContent || "").trim();
  if (!document.documentElement.lang) found.push("no language");
  if (!document.title.trim()) found.push("no title");
  if (all("main").length !== 1) found.push("not one main");
  if (all("h1").length !== 1) found.push("not one h1");
  const ids = all("[id]").map(node => node.id);
  for (const id of new Set(ids.filter((id, i) => ids.indexOf(id) !== i))) found.push("id twice: " + id);
  for (const node of all("[aria-labelledby]")) for (const id of node.getAttribute("aria-labelledby").split(" ")) if (!document.getElementById(id)) found.push("label is gone: " + id);
  for (const node of all("a[href^='#']")) if (!document.getElementById(node.getAttribute("href").slice(1))) found.push("link to nowhere: " + where(node));
  for (const node of all("a, button, select, input, summary, section, nav, dialog, [role='img'], [role='application']")) if (!name(node)) found.push("no name: " + where(node));
  for (const node of all("img")) if (!node.hasAttribute("alt")) found.push("no alt: " + where(node));
  for (const node of all("[tabindex]")) if (node.tabIndex > 0) found.push("order of its own: " + where(node));
  for (const node of all("canvas")) if (!node.closest("[role='img'], [role='application']")) found.push("bare canvas");
  for (const node of all("table")) if (!node.querySelector("th")) found.push("table without heads: " + where(node));
  for (const node of all("ul, ol")) for (const child of node.children) if (child.tagName !== "LI") found.push("no list item: " + where(child));
  let level = 0;
  for (const node of all("main h2, main h3, main h4")) { const now = Number(node.tagName[1]); if (now > Math.max(level, 1) + 1) found.push("heading skips: " + where(node)); level = now; }
  const lum = colour => { const [r, g, b] = colour.map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const paper = node => { for (let at = node; at; at = at.parentElement) { const c = parse(getComputedStyle(at).backgroundColor); if (c.length === 3 || c[3] > 0.99) return c; } return [255, 255, 255]; };
  for (const node of all("body *")) {
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.textContent.trim()) || !node.getClientRects().length || node.matches("script, style, .skip, option")) continue;
    const style = getComputedStyle(node), ink = lum(parse(style.color)), ground = lum(paper(node)), big = parseFloat(style.fontSize) >= 24;
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < (big ? 3 : 4.5)) found.push("contrast " + ratio.toFixed(2) + ": " + where(node));
  }
  return [...new Set(found)];
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_screen_reader_finds_names_roles_order_and_contrast(browser, folder, tmp_path, theme):
    found = comparison.sides([(name, Material(studies.make(tmp_path / name, 30, seed=seed))) for seed, name in enumerate(("one", "two"))])
    (tmp_path / "compare.html").write_text(comparison_page.render(found, comparison.compare(found)), encoding="utf-8")
    for file in (folder / "report.html", tmp_path / "compare.html"):
        with Watched(browser, file.as_uri(), color_scheme=theme) as page:
            if file.name == "report.html":
                walk(page)
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            stumbles = page.evaluate(STUMBLES)
            assert not stumbles, f"{file.name}: " + "\n".join(stumbles)


def test_names_of_a_users_layers_do_nothing(browser, folder):
    alerts = []
    watched = Watched(browser, address(folder))
    watched.page.on("dialog", lambda dialog: alerts.append(dialog.message))
    with watched as page:
        walk(page)
        assert EVIL in page.locator("#layer-table").inner_text()
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert "alert(" in page.locator("#ends").inner_text(), "a failure's message is shown as text"
    assert alerts == []


def hovered(page, chart, x, y):
    """The text beside a point of a chart while the mouse is on it; (x, y) in the units of its axes."""
    page.locator(f"#{chart}").scroll_into_view_if_needed()
    box = page.locator(f"#{chart}").bounding_box()
    where = page.evaluate(
        "([x, y]) => (window.autoslim.chart ?? window.autoslim.charts.pareto).convertToPixel({xAxisIndex: 0, yAxisIndex: 0}, [x, y])",
        [x, y],
    )
    page.mouse.move(box["x"] + where[0], box["y"] + where[1])
    page.wait_for_timeout(200)
    return page.locator(f"#{chart}").inner_text()


def test_energy_is_an_axis_and_has_a_line_that_chooses_within_it(browser, tmp_path):
    """The oracle is the rule of the tables on the rows that a person would leave on the list."""

    study = studies.make(tmp_path, 60, budget={"ms": Limit(8.0, False)}, verify=10)
    rows = study.fact("verified")
    for place, row in enumerate(rows):
        value = 50.0 * row["latency_ms"]["value"] / studies.BASE_MS + 3.0 * (place % 3)
        row["energy_mj"] = {"value": value, "low": 0.95 * value, "high": 1.05 * value}
    study.set_fact("verified", rows)
    material = Material(study)
    told = [row["energy_mj"] for row in material.rows]
    bounds = sorted(told)
    with Watched(browser, address(page_alone(study, tmp_path))) as page:
        page.select_option("#x-axis", "energy_mj")
        assert page.locator("#x-axis option:checked").inner_text() == "energy, mJ"
        answers = set()
        for bound in [(left + right) / 2 for left, right in zip(bounds, bounds[1:], strict=False)]:
            page.evaluate("bound => window.autoslim.setBudget(bound, true)", bound)
            best = recommending.best([row for row in material.rows if row["energy_mj"] <= bound], material.context)
            assert page.locator("#verdict").get_attribute("data-key") == (best["key"] if best else "")
            answers.add(best and best["key"])
        assert len(answers) > 1, "the line decides something"
        assert page.locator("#pick-command").inner_text() == ""
        assert "no limit on energy" in page.locator("#pick-note").inner_text()
        rules = page.evaluate(
            "window.autoslim.charts.pareto.getOption().series.filter((one) => one.type === 'custom').flatMap((one) => one.data)"
        )
        assert sorted(row[0] for row in rules) == pytest.approx(bounds, rel=1e-4)
        assert all(low < x < high for x, _, low, high, *_ in rules)
        page.locator(f'#point-table a[data-card="{material.rows[0]["key"]}"]').click()
        assert "energy of one run, mJ" in page.locator("#dialog").inner_text()


def test_a_limit_beyond_the_chart_is_told(browser, tmp_path):
    wide = page_alone(studies.make(tmp_path / "wide", 20, budget={"ms": Limit(2000.0, False)}), tmp_path / "wide")
    with Watched(browser, address(wide)) as page:
        assert "The study's own limit, 2,000 ms, lies beyond the chart" in page.locator("#pick-note").inner_text()
    near = page_alone(studies.make(tmp_path / "near", 20), tmp_path / "near")
    with Watched(browser, address(near)) as page:
        assert page.locator("#pick-note").inner_text() == ""


IMAGE = "<img src=x onerror=alert(1)>"


def hostile(folder, **options):
    """A study whose name, metric, layers and classes are markup."""
    study = studies.make(folder, 30, (EVIL, IMAGE, "body", "head"), name=EVIL, verify=6, **options)
    study.set_fact("model", {**study.fact("model"), "metric_name": IMAGE, "notes": [EVIL]})
    rows = study.fact("verified")
    for row in rows:
        row["changes"] = {
            "split": "test",
            "classes": [{"class": EVIL, "n": 5, "untouched": 1.0, "file": 0.5, "drop": 0.5, "low": 0.1, "high": 0.9}],
        }
    study.set_fact("verified", rows)
    study.set_fact("ablation", [
        {"kind": "search", "without": IMAGE, "point": "", "end": "done", "evaluations": 9, "hypervolume": 0.2, "hypervolume_whole": 0.5, "seconds": 9.0},
    ])  # fmt: skip
    return Material(study)


def test_hostile_names_of_studies_metrics_classes_and_families_are_text_on_both_pages(browser, tmp_path):
    one, two = hostile(tmp_path / "one"), hostile(tmp_path / "two", seed=1, better=0.1)
    page_alone(one.study, tmp_path / "one")
    found = comparison.sides([(EVIL, one), (IMAGE, two)])
    (tmp_path / "compare.html").write_text(comparison_page.render(found, comparison.compare(found)), encoding="utf-8")
    alerts, row = [], one.chosen
    for file, chart, x in (
        (tmp_path / "one" / "report.html", "chart-pareto", row["latency_ms"]),
        (tmp_path / "compare.html", "chart", row["latency_ratio"]),
    ):
        watched = Watched(browser, file.as_uri(), viewport={"width": 1200, "height": 1000})
        watched.page.on("dialog", lambda dialog: alerts.append(dialog.message) or dialog.dismiss())
        with watched as page:
            assert IMAGE in hovered(page, chart, x, row["metric_test"]), "the words beside the mouse are built by the script"
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            text = page.locator("body").inner_text()
            assert EVIL in text
            assert IMAGE in text
            if file.name == "report.html":
                page.locator(f'#point-table a[data-card="{row["key"]}"]').click()
                assert EVIL in page.locator("#dialog").inner_text()
                assert IMAGE in page.locator("#ablation-searches").inner_text()
                assert "+0.3000" in page.locator("#ablation-searches").inner_text(), "what the search lost without the family"
            assert page.locator("img").count() == 0
            assert page.locator("script").count() == 3, "the data, the chart library and the page's own script"
    assert alerts == []


def test_a_phone_sees_no_sideways_scroll_and_a_printer_sees_light_pages(browser, folder, tmp_path):
    with Watched(browser, address(folder), viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        walk(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        keep(page, "report-phone")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
        heads = page.locator("#point-table thead th")
        assert all(head.strip() for head in heads.all_inner_texts()), "sorting buttons print as text"
        assert page.locator("#point-table thead th button").first.is_visible()
        assert not page.locator("#theme").is_visible()
        assert page.evaluate(
            "[...document.querySelectorAll('.bar i, .bar b')].every((one) => getComputedStyle(one).printColorAdjust === 'exact')"
        )
        pdf = page.pdf(path=tmp_path / "report.pdf")
        assert pdf.startswith(b"%PDF")


def test_tables_sort_by_number(browser, folder):
    with Watched(browser, address(folder)) as page:
        page.locator("#point-table thead th", has_text="ms p50").locator("button").click()
        values = [float(text) for text in page.locator("#point-table tbody tr td:nth-child(6)").all_inner_texts()]
        assert values == sorted(values)


def test_the_theme_button_goes_round(browser, folder):
    with Watched(browser, address(folder), color_scheme="light") as page:
        seen = []
        for _ in range(3):
            page.locator("#theme").click()
            seen.append((page.locator("#theme").inner_text(), page.evaluate("getComputedStyle(document.body).backgroundColor")))
        assert [text for text, _ in seen] == ["Theme: light", "Theme: dark", "Theme: system"]
        assert seen[1][1] != seen[0][1] == seen[2][1]


def test_ten_thousand_candidates_stay_smooth(browser, tmp_path):
    """A frame of the trade-off with 10,000 points is drawn again in less than half a second on a busy machine."""
    study = studies.make(tmp_path, 40)
    report.write(study, tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    with Watched(browser, (tmp_path / "report.html").as_uri()) as page:
        spent = page.evaluate(
            """() => { const a = window.autoslim, t = a.data.trials, n = t.number.length;
            for (const name of Object.keys(t)) if (Array.isArray(t[name]) && name !== "words") { const given = t[name].slice(); while (t[name].length < 10000) t[name].push(given[t[name].length % n]); }
            for (let i = 0; i < 10000; i++) { t.key[i] += i; if (t.metric_val[i] !== null) { t.metric_val[i] += 0.001 * Math.sin(i); t.latency_ms[i] *= 1 + 0.1 * Math.cos(i); } }
            a.drawPareto(); const begun = performance.now(); for (let i = 0; i < 5; i++) { a.setBudget(5 + 0.1 * i, true); a.charts.pareto.getZr().flush(); } return (performance.now() - begun) / 5; }"""
        )
        assert spent < 500
    assert len(text) < 3_000_000


def test_the_page_of_a_comparison(browser, tmp_path):
    found = comparison.sides(
        [(name, Material(studies.make(tmp_path / name, 40, better=share))) for name, share in (("one", 0.0), ("two", 0.2))]
    )
    (tmp_path / "compare.html").write_text(comparison_page.render(found, comparison.compare(found)), encoding="utf-8")
    with Watched(browser, (tmp_path / "compare.html").as_uri()) as page:
        page.select_option("#cost", "size_ratio")
        page.locator("#theme").click()
        assert page.evaluate("window.autoslim.chart.getZr().storage.getDisplayList().length") > 20
        keep(page, "compare")
        series = page.evaluate("window.autoslim.chart.getOption().series.map((one) => ({id: one.id, type: one.type, data: one.data}))")
        points = [row for study in page.evaluate("window.autoslim.data.studies") for row in study["points"]]
        rules = [row for one in series if one["type"] == "custom" for row in one["data"]]
        assert len(rules) == len(points)
        assert all(low < y < high for _, y, _, _, low, high in rules)
        line = next(one["data"] for one in series if one["id"] == "front")
        pairs = {(row["size_ratio"], row["metric_test"]) for row in points}
        assert {tuple(pair) for pair in line} == {a for a in pairs if not any(b != a and b[0] <= a[0] and b[1] >= a[1] for b in pairs)}
        page.emulate_media(media="print", color_scheme="dark")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert page.evaluate("document.documentElement.dataset.theme") == "light", "as the reader had chosen it"


def test_a_served_page_loads_itself_again_when_the_study_grows(browser, folder):
    import threading
    from http.server import ThreadingHTTPServer

    from autoslim import watching
    from autoslim.study import Study

    handler = type("LiveHandler", (watching.Handler,), {"live": watching.Live(folder)})
    server = ThreadingHTTPServer((watching.HOST, 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with Watched(browser, f"http://{watching.HOST}:{server.server_address[1]}/") as page:
            before = page.evaluate("window.autoslim.data.live")
            hrefs = page.evaluate("[...document.querySelectorAll('a')].map((link) => link.getAttribute('href'))")
            assert [href for href in hrefs if not href.startswith("#")] == [], "files are not served, so none is linked"
            page.locator("#budget").focus()
            for _ in range(100):
                page.keyboard.press("ArrowLeft")
            page.locator("#point-table thead th", has_text="ms p50").locator("button").click()
            closed = page.locator("#cards details:not([open])").first.get_attribute("id")
            page.evaluate("id => { document.getElementById(id).open = true; }", closed)
            reader = """() => [document.getElementById("budget-value").textContent, document.getElementById("verdict").dataset.key,
                [...document.querySelectorAll("#point-table tbody tr")].map((row) => row.dataset.key), [...document.querySelectorAll("details[open]")].map((one) => one.id)]"""
            left = page.evaluate(reader)
            Study.read(folder).set_fact("note", "grown")
            page.wait_for_function("before => window.autoslim && window.autoslim.data.live !== before", arg=before, timeout=20_000)
            assert page.evaluate("window.autoslim.data.live") != before
            assert page.evaluate(reader) == left, "line, order and open cards are kept"
    finally:
        server.shutdown()
        server.server_close()
