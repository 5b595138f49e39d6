"""The HTML report in a real browser: it renders, sorts, filters, and what is hostile stays text."""

from __future__ import annotations

import json
import re

import pytest
from report.test_formats import HOSTILE, MATRIX, hostile_run, unpacked
from support.browser import CHROMIUM, Browser

from llmbench.plugins.discovery import discover
from llmbench.records.read import Run, read_all
from llmbench.report import Report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)")

ROWS = "[...document.querySelectorAll('#{id} tbody tr')].map(tr => [...tr.cells].map(td => td.textContent))"


@pytest.fixture(scope="module")
def render():
    return discover().get("reporter", "html").render


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(render, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(Report(read_all([MATRIX]))), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, page):
    browser.errors.clear()
    browser.open(page)
    yield browser
    assert browser.errors == []


def table_id(browser, title):
    script = (
        "[...document.querySelectorAll('section[data-table]')].find(s => s.querySelector('h2').textContent === {}).id"
    )
    return browser.evaluate(script.format(json.dumps(title)))


def rows(browser, name):
    return browser.evaluate(ROWS.format(id=name))


def click_heading(browser, name, index):
    browser.evaluate(f"document.querySelectorAll('#{name} thead button')[{index}].click()")


def test_every_row_reads_as_in_the_other_formats(opened):
    data = json.loads(opened.evaluate("document.getElementById('data').textContent"))
    ids = opened.evaluate("[...document.querySelectorAll('section[data-table]')].map(s => s.id)")
    for name, wanted in zip(ids, unpacked(data), strict=True):
        click_heading(opened, name, 0)
        found = [row[: len(wanted[0])] for row in rows(opened, name)]
        assert len(found) == min(len(wanted), 30) and all(row in wanted for row in found)


def test_it_sorts_numbers_as_numbers_both_ways(opened):
    name = table_id(opened, "Where the time goes")
    heads = opened.evaluate(f"[...document.querySelectorAll('#{name} thead button')].map(b => b.textContent)")
    at = next(i for i, text in enumerate(heads) if text.startswith("tokens/s"))
    for direction, reverse in (("ascending", False), ("descending", True)):
        click_heading(opened, name, at)
        assert opened.evaluate(f"document.querySelectorAll('#{name} th')[{at}].getAttribute('aria-sort')") == direction
        numbers = [float(row[at].replace(",", "")) for row in rows(opened, name)]
        assert numbers == sorted(numbers, reverse=reverse) and len(set(numbers)) > 10


def test_it_filters_a_table_and_the_page(opened):
    name = table_id(opened, "Where the time goes")
    type_into = "(e => {{ e.value = {text}; e.dispatchEvent(new Event('input')); }})(document.getElementById('{id}'))"
    opened.evaluate(type_into.format(id=f"{name}-f", text=json.dumps("GPT eval")))
    found = rows(opened, name)
    assert len(found) == 4 and all("gpt" in row and "eval" in row for row in found)
    assert opened.evaluate(f"document.querySelector('#{name} .count').textContent") == "4 of 27 rows"
    opened.evaluate(type_into.format(id=f"{name}-f", text='""'))
    opened.evaluate(type_into.format(id="filter-all", text='"lstm"'))
    opened.wait(ROWS.format(id=name) + ".length === 9")
    assert all("lstm" in row for row in rows(opened, name))


@pytest.mark.parametrize("width, dark", [(1280, False), (390, False), (1280, True)])
def test_it_fits_and_its_text_can_be_read(browser, page, width, dark):
    browser.open(page, width=width, height=800, dark=dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    colours = browser.evaluate(
        "[getComputedStyle(document.body).backgroundColor, ...['body', '.lead', '.finding .where', '.tag, .todo']"
        ".map(s => getComputedStyle(document.querySelector(s)).color)]"
    )
    back, *texts = [[int(n) for n in re.findall(r"\d+", colour)[:3]] for colour in colours]
    assert all(contrast(back, text) >= 4.5 for text in texts)  # WCAG 2.2, AA
    browser.evaluate("document.getElementById('charts').scrollIntoView({behavior: 'instant'})")
    browser.wait("Chart.getChart(document.querySelector('canvas')) !== undefined")
    assert browser.errors == []


def contrast(a, b):
    def light(colour):
        parts = [v / 255 for v in colour]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    return max(light(a), light(b)) / min(light(a), light(b))


def test_it_has_names_headings_and_keys_for_everybody(opened):
    levels = opened.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))
    unnamed = "[...document.querySelectorAll('input,select')].filter(e => !e.labels.length).length"
    assert opened.evaluate(unnamed) == 0
    assert opened.evaluate("[...document.querySelectorAll('canvas')].every(c => c.getAttribute('aria-describedby'))")
    assert opened.evaluate("[...document.querySelectorAll('thead button')].every(b => b.tabIndex === 0)")


def test_step_times_and_print(opened, tmp_path):
    opened.evaluate("document.getElementById('series').open = true")
    opened.wait("document.getElementById('series-text').textContent.includes('processes')")
    opened.pdf(tmp_path / "report.pdf")
    assert (tmp_path / "report.pdf").stat().st_size > 50_000


def test_hostile_text_stays_text(browser, render, tmp_path):
    (tmp_path / "hostile.html").write_text(render(Report([hostile_run()])), encoding="utf-8")
    browser.errors.clear()
    browser.open(tmp_path / "hostile.html")
    assert browser.evaluate("document.images.length") == 0 and "Page.javascriptDialogOpening" not in browser.events
    name = table_id(browser, "Where the time goes")
    click_heading(browser, name, 0)
    assert HOSTILE in rows(browser, name)[0]
    assert browser.errors == []


def filtered_ms(browser, render, folder):
    """Return the milliseconds that sorting and filtering a table of thousands of cells takes."""
    from benchmarks.many_records import records

    (folder / "many.html").write_text(render(Report([Run("many", list(records(10_000, repeats=2)))])), encoding="utf-8")
    browser.errors.clear()
    browser.open(folder / "many.html")
    assert browser.evaluate("document.getElementsByTagName('tr').length") < 1000
    name = table_id(browser, "Where the time goes")
    took = browser.evaluate(
        f"(() => {{ const t = performance.now(); const box = document.getElementById('{name}-f');"
        f" document.querySelectorAll('#{name} thead button')[3].click();"
        " box.value = 'seed=4999'; box.dispatchEvent(new Event('input')); return performance.now() - t; })()"
    )
    assert len(rows(browser, name)) == 1
    assert browser.errors == []
    return took


def test_thousands_of_cells_can_be_sorted_and_filtered(browser, render, tmp_path):
    filtered_ms(browser, render, tmp_path)


@pytest.mark.timed
def test_thousands_of_cells_can_be_used(browser, render, tmp_path):
    assert filtered_ms(browser, render, tmp_path) < 5000
