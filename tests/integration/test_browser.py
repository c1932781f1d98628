"""Pages in a real headless Chromium: reports of made-up runs, and the viewer."""

import csv
import json
import threading

import numpy as np
import pandas as pd
import pytest
from helpers.browser import open_browser, opened
from helpers.fake_runs import fake_run
from playwright.sync_api import expect

from onnxloc.report import write_report
from onnxloc.view import ViewServer

pytestmark = pytest.mark.integration

READY = "html[data-ready]"
DRAWN = "html[data-drawn]"
# The bars of the report of the hidden units of all MLPs of a 135M model: 30 blocks of 1,536.
MAX_BYTES, MAX_SECONDS = 6_000_000, 3.0


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    fake_run(folder / "large", blocks=30, width=1536, roles=("mlp.hidden",))
    fake_run(
        folder / "several",
        blocks=12,
        width=64,
        sizes=(0.5, 1.0),
        prefix="<b>",
        seed=1,
        n_controls=5,
    )
    write_report(folder / "large")
    write_report(folder / "several")
    return folder


@pytest.fixture(scope="module")
def large(runs):
    return runs / "large" / "report.html"


@pytest.fixture(scope="module")
def several(runs):
    return runs / "several" / "report.html"


@pytest.fixture
def server(runs):
    with ViewServer([runs]) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def column(page, index):
    """What a column of the table of units shows, rows that are hidden left out."""
    return page.eval_on_selector_all(
        "#units tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{index}].textContent)"
    )


def width(page):
    return page.evaluate("document.documentElement.scrollWidth")


def test_a_large_run_opens_quickly(browser, large, figure):
    size = large.stat().st_size
    wall, work = [], []
    for _ in range(3):
        with opened(browser, "about:blank") as page:
            # Time of the page's own thread: that of the clock is also other programs' doing.
            metrics = page.context.new_cdp_session(page)
            metrics.send("Performance.enable", {"timeDomain": "threadTicks"})
            page.goto(large.as_uri(), wait_until="commit")
            page.wait_for_selector(READY, state="attached")
            page.wait_for_selector("#where .main-svg")
            wall.append(page.evaluate("performance.now()") / 1000)
            found = metrics.send("Performance.getMetrics")["metrics"]
            work.append(next(m["value"] for m in found if m["name"] == "TaskDuration"))
            # It answers: a press of a button sorts.
            page.get_by_role("button", name="Unit", exact=True).click()
            assert page.locator("#units [role=status]").text_content() == "sorted by Unit, rising"
    figure("report of a 46,080-unit run, bytes", size)
    figure("report of a 46,080-unit run, seconds until it is interactive", min(wall))
    figure("the same, seconds of work of the page's thread", min(work))
    assert size <= MAX_BYTES
    assert min(work) <= MAX_SECONDS


def test_every_chart_is_drawn(browser, large, several):
    for report in (large, several):
        with opened(browser, report) as page:
            page.wait_for_selector(DRAWN, state="attached")
            plots = page.locator(".plot")
            assert plots.count() >= 8
            for i in range(plots.count()):
                assert plots.nth(i).locator(".main-svg").count() >= 1


def test_hovering_tells_the_unit(browser, runs, large):
    table = pd.read_parquet(runs / "large" / "units.parquet")
    with opened(browser, large) as page:
        page.locator("#heat").scroll_into_view_if_needed()
        area = page.locator("#heat .plot .nsewdrag").first
        area.wait_for()
        box = area.bounding_box()
        page.mouse.move(box["x"] + 3, box["y"] + box["height"] - 3)
        page.mouse.move(box["x"] + 5, box["y"] + box["height"] - 5)
        label = page.locator("#heat .hoverlayer .hovertext")
        label.wait_for()
        said = label.text_content()
    # The lowest row is block 0, with its largest t to the left.
    block = table[(table["block"] == 0) & table["t"].notna()].sort_values("t", ascending=False)
    unit = int(said.split("unit ")[1].split(",")[0])
    rank = int(said.split("ranked ")[1].split("t")[0])
    assert said.startswith("block 0, unit ")
    assert rank <= 20
    assert block["unit"].iloc[rank - 1] == unit


def test_sorting_and_filtering_with_the_keyboard_alone(browser, large):
    with opened(browser, large) as page:
        page.wait_for_selector(READY, state="attached")
        head = page.locator("#units th", has=page.get_by_role("button", name="t", exact=True))
        head.get_by_role("button").focus()
        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "ascending"
        assert column(page, 0)[:3] == ["500", "499", "498"]
        page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "descending"
        assert column(page, 0)[:3] == ["1", "2", "3"]
        sites = column(page, 1)
        page.get_by_label("Filter: The 500 units").focus()
        page.keyboard.type("block.7.mlp")
        wanted = [site for site in sites if site.startswith("block.7.mlp")]
        assert column(page, 1) == wanted
        assert wanted
        status = page.locator("#units [role=status]")
        assert status.text_content() == f"{len(wanted)} of 500 rows"


def test_the_table_goes_out_as_csv(browser, runs, large, tmp_path):
    with opened(browser, large, accept_downloads=True) as page:
        page.wait_for_selector(READY, state="attached")
        with page.expect_download() as waiting:
            page.locator("#units").get_by_role("button", name="Download CSV").click()
        waiting.value.save_as(tmp_path / "units.csv")
        assert waiting.value.suggested_filename == "the-500-units-with-the-largest-t.csv"
    got = pd.read_csv(tmp_path / "units.csv", encoding="utf-8-sig")
    table = pd.read_parquet(runs / "large" / "units.parquet")
    top = table.sort_values("t", ascending=False, kind="stable").head(500)
    assert got["Site"].tolist() == top["site"].tolist()
    assert got["Unit"].tolist() == top["unit"].tolist()
    np.testing.assert_array_equal(got["t"], top["t"])


def test_a_formula_in_a_name_is_no_formula_in_the_csv(browser, tmp_path):
    run = fake_run(tmp_path / "run", blocks=2, width=8, prefix='=1+1,"', items=4)
    with opened(browser, write_report(run), accept_downloads=True) as page:
        page.wait_for_selector(READY, state="attached")
        with page.expect_download() as waiting:
            page.locator("#units").get_by_role("button", name="Download CSV").click()
        waiting.value.save_as(tmp_path / "units.csv")
    with (tmp_path / "units.csv").open(encoding="utf-8-sig", newline="") as file:
        sites = [row["Site"] for row in csv.DictReader(file)]
    assert sites
    assert all(site.startswith("'=1+1,\"block.") for site in sites)


def test_dark_and_light(browser, several):
    colours = {}
    tick = "#where .plot .xtick text"
    for scheme in ("light", "dark"):
        with opened(browser, several, color_scheme=scheme) as page:
            page.wait_for_selector("#where .main-svg")
            fill = "e => getComputedStyle(e).fill"
            colours[scheme] = (
                page.evaluate("getComputedStyle(document.body).backgroundColor"),
                page.eval_on_selector(tick, fill),
                page.eval_on_selector("#where .plot .bars path", fill),
            )
    assert all(a != b for a, b in zip(colours["light"], colours["dark"], strict=True))
    # A change while the page is open is followed.
    with opened(browser, several, color_scheme="light") as page:
        page.wait_for_selector("#where .main-svg")
        page.emulate_media(color_scheme="dark")
        expect(page.locator(tick).first).to_have_css("fill", colours["dark"][1])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser, several, scheme):
    with opened(browser, several, color_scheme=scheme) as page:
        pairs = page.evaluate("""() => {
            const style = getComputedStyle(document.documentElement);
            const one = (name) => style.getPropertyValue(name).trim();
            return [["--ink", "--paper"], ["--soft", "--paper"], ["--soft", "--card"],
                    ["--link", "--paper"], ["--link", "--card"], ["--warn", "--warn-paper"]]
                .map((pair) => pair.map(one));
        }""")

    def light(colour):
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for pair in pairs:
        low, high = sorted(map(light, pair))
        # WCAG 2.1, success criterion 1.4.3.
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair


def test_the_first_tab_skips_to_the_content(browser, several):
    with opened(browser, several) as page:
        page.wait_for_selector(READY, state="attached")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        page.keyboard.press("Enter")
        assert page.url.endswith("#content")
        page.keyboard.press("Tab")
        inside = "document.querySelector('main').contains(document.activeElement)"
        assert page.evaluate(inside)


def test_nothing_is_wider_than_a_phone(browser, several, server):
    for address in (several, server.url):
        with opened(browser, address, viewport={"width": 360, "height": 740}) as page:
            page.wait_for_selector(DRAWN, state="attached")
            assert width(page) <= 360


def test_charts_follow_the_window(browser, several):
    with opened(browser, several) as page:
        page.wait_for_selector(DRAWN, state="attached")
        drawing = page.locator("#where .plot .main-svg").first
        widths = [drawing.bounding_box()["width"]]
        for wide in (800, 360, 1000):
            page.set_viewport_size({"width": wide, "height": 700})
            expect(drawing).not_to_have_attribute("width", str(round(widths[-1])))
            widths.append(drawing.bounding_box()["width"])
            assert width(page) <= wide
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < widths[3] < 1000


def test_sizes_are_chosen(browser, several):
    with opened(browser, several) as page:
        page.locator("#differences-1").scroll_into_view_if_needed()
        figure = page.locator("figure", has=page.locator("#differences-1"))
        figure.locator(".main-svg").first.wait_for()
        before = figure.locator(".plot").get_attribute("aria-label")
        page.select_option("#differences-1", label="0.5\u202f%")
        after = figure.locator(".plot").get_attribute("aria-label")
    assert "1\u202f% of the units" in before
    assert "0.5\u202f% of the units" in after


def test_it_prints(browser, several):
    with opened(browser, several, color_scheme="dark") as page:
        page.wait_for_selector(DRAWN, state="attached")
        pdf = page.pdf(format="A4")
        assert pdf.startswith(b"%PDF-")
        assert 3 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 60
        page.emulate_media(media="print")
        assert page.locator("nav").is_visible() is False
        assert page.locator("#units .tools").is_visible() is False
        assert page.locator("#units .on-paper").is_visible()


# The viewer


def test_searching_and_comparing_runs(browser, server):
    with opened(browser, server.url) as page:
        page.wait_for_selector(READY, state="attached")
        page.get_by_label("Search the runs").fill("46,080")
        names = page.locator("tbody tr:not([hidden]) th")
        assert names.all_text_contents() == ["large"]
        page.get_by_label("Search the runs").fill("")
        page.get_by_label("Compare large").check()
        page.get_by_label("Compare several").check()
        page.get_by_role("button", name="Compare the ticked runs").click()
        page.wait_for_selector(READY, state="attached")
        said = page.locator("main").text_content()
        assert "The runs side by side" in said
        for name in ("large", "several"):
            assert page.get_by_role("columnheader", name=name, exact=True).first.is_visible()
        page.get_by_role("link", name="All runs").click()
        page.get_by_role("link", name="several", exact=True).click()
        page.wait_for_selector("#where .main-svg")
        assert "<b>made-up-135m" in page.locator("h1").text_content()


def test_a_stored_page_cannot_read_the_others(browser, runs, server):
    folder = runs / "stranger"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "onnxloc": "0", "steps": []}))
    (folder / "compare.html").write_text(
        "<!doctype html><title>x</title><p id=out>-</p><script>"
        "fetch('/').then(() => out.textContent = 'read', () => out.textContent = 'refused')"
        "</script>"
    )
    address = server.pages.answer("/").html.split("/page/")[1].split('"')[0]
    page = browser.new_page()
    page.goto(f"{server.url}page/{address}")
    page.wait_for_selector("#out:has-text('refused')")
    page.close()
