"""The pages in a real browser, from a file: they load, sort, filter, show the worst layer, and complain of nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_model import feeds, saved, small_model

import tpu_deploy
from tpu_deploy.reports.page import render
from tpu_deploy.reports.record import read

pytestmark = pytest.mark.slow

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
if not CHROMIUM:
    pytest.skip("no chromium on PATH (apt-get install chromium)", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("browser")
    model = saved(small_model(), made / "model.onnx")
    table = tpu_deploy.calibrate(model, feeds(8))
    entry = table["relu1"]
    bad = replace(table, entries={**table.entries, "relu1": replace(entry, threshold=entry.threshold / 5)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TPU_MLIR_HOME", str(made / "no-chip-model"))
        tpu_deploy.report(model, made / "good", table, inputs=feeds(4))
        tpu_deploy.report(model, made / "bad", bad, inputs=feeds(4), gate=-1.0)
    tpu_deploy.diff(made / "good", made / "bad", made / "difference")
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        sandbox = [] if hasattr(os, "geteuid") and os.geteuid() else ["--no-sandbox"]
        made = started.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield made
        made.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page that fails the test when anything is written to its console, fails or is fetched."""
    context = browser.new_context(color_scheme=request.param, viewport={"width": 1280, "height": 900}, offline=True)
    made, complaints = context.new_page(), []
    made.on("console", lambda message: complaints.append(message.text))
    made.on("pageerror", lambda error: complaints.append(str(error)))
    made.on("request", lambda each: each.url.startswith("file:") or complaints.append(each.url))
    yield made
    context.close()
    assert complaints == []


def column(page: Any, index: int) -> list[str]:
    found: list[str] = page.eval_on_selector_all(
        "#layers tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{index}].textContent)"
    )
    return found


def test_the_worst_layer_is_shown_with_its_remedy(page: Any, folder: Path) -> None:
    page.goto((folder / "bad" / "index.html").as_uri())
    first = page.locator("ol.worst li").first
    assert first.locator("a").inner_text() == "relu1"
    assert "clipping" in first.locator(".cause").inner_text()
    assert "on relu1" in first.locator(".remedy").inner_text()
    assert page.locator("#inspector h3.name").inner_text() == "relu1"
    assert page.locator("#layers tr[aria-selected=true]").get_attribute("data-name") == "relu1"


def test_layers_sort_by_every_kind_of_column(page: Any, folder: Path) -> None:
    page.goto((folder / "good" / "index.html").as_uri())
    names = column(page, 1)
    head = page.locator("#layers th")
    head.nth(1).click()
    assert column(page, 1) == sorted(names)
    head.nth(6).click()
    levels = [float("inf") if text == "exact" else float(text.split()[0]) for text in column(page, 6)]
    assert levels == sorted(levels) and head.nth(6).get_attribute("aria-sort") == "ascending"
    head.nth(6).press("Enter")
    assert column(page, 6)[0] == "exact"


def test_layers_are_filtered_by_name_operation_and_suspicion(page: Any, folder: Path) -> None:
    page.goto((folder / "bad" / "index.html").as_uri())
    everything = column(page, 1)
    page.fill("#filter", "RELU")
    assert column(page, 1) == ["relu1", "relu2"] and page.inner_text("#shown") == f"2 of {len(everything)}"
    page.fill("#filter", "")
    page.select_option("#operation", "MatMul")
    assert column(page, 1) == ["scores"]
    page.select_option("#operation", "")
    page.check("#suspicious")
    assert "relu1" in column(page, 1) and len(column(page, 1)) < len(everything)


def test_the_chart_has_views_and_chooses_a_tensor(page: Any, folder: Path) -> None:
    page.goto((folder / "good" / "index.html").as_uri())
    for view in ("Born and passed on", "Blame for the output", "What it comes from", "Nearness"):
        page.get_by_role("button", name=view).click()
        assert page.locator("#chart rect.bar").count() > 3, view
    page.locator("#chart rect.hit").nth(2).hover()
    assert "conv2" in page.locator(".drawing .tip").first.inner_text()
    page.locator("#chart rect.hit").nth(2).click()
    assert page.locator("#inspector h3.name").inner_text() == "conv2"
    assert page.locator("#inspector svg").count() == 2
    page.keyboard.press("ArrowRight")
    assert page.locator("#inspector h3.name").inner_text() == "relu2"


def test_the_page_of_a_difference_shows_what_moved(page: Any, folder: Path) -> None:
    page.goto((folder / "difference" / "difference.html").as_uri())
    page.locator("#layers th").nth(4).click()
    changes = [float(text.removesuffix(" dB") or 0) for text in column(page, 4)]
    assert changes == sorted(changes) and changes[0] < -3 and column(page, 1)[0] != "image"
    page.fill("#filter", "matmul")
    assert column(page, 1) == ["scores"]
    assert page.locator("#chart rect.hit").count() == 7


def test_a_search_over_precisions_is_drawn(page: Any, folder: Path) -> None:
    record = read(folder / "good")
    points = [
        {
            "cycles": 100 + 50 * k,
            "similarity": 0.9 + 0.03 * k,
            "float_operations": k,
            "chosen": k == 2,
            "label": f"plan {k}",
        }
        for k in range(4)
    ]
    record["search"] = {"target": "similarity >= 0.95", "points": points}
    (folder / "search.html").write_text(render(record))
    page.goto((folder / "search.html").as_uri())
    assert page.locator("#front circle").count() == 4
    page.locator("#front circle").nth(2).hover()
    assert "plan 2" in page.locator(".drawing:has(#front) .tip").inner_text()


def test_pages_do_not_scroll_sideways(page: Any, folder: Path) -> None:
    for width in (1280, 800, 420):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto((folder / "bad" / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
