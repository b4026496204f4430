"""The pages in a real browser: clicks, the budget line, both themes, keyboard, phone and print; no error, no request.

Needs playwright (extra test) and a Chromium of the system; a folder named by AUTOSLIM_SCREENSHOTS keeps pictures.
"""

import os
import shutil
from pathlib import Path

import pytest

import studies
from autoslim import report
from autoslim.budget import Budget, Limit
from autoslim.reporting import comparison, comparison_page, picking
from autoslim.reporting.context import Material

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


def test_a_phone_sees_no_sideways_scroll_and_a_printer_sees_light_pages(browser, folder, tmp_path):
    with Watched(browser, address(folder), viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        walk(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        keep(page, "report-phone")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert not page.locator("nav").is_visible()
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
            Study.read(folder).set_fact("note", "grown")
            page.wait_for_function("before => window.autoslim && window.autoslim.data.live !== before", arg=before, timeout=20_000)
            assert page.evaluate("window.autoslim.data.live") != before
    finally:
        server.shutdown()
        server.server_close()
