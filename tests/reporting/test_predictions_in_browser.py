"""The prediction report opened from disk in a real Chromium."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scored_tables import scored_table

from dermascan.drift.comparison import AspectDrift, Drift, Shift
from dermascan.evaluation import CLASS_COLUMNS
from dermascan.imaging import small_jpeg
from dermascan.inference.digest import BatchDigest
from dermascan.inference.pictures import Picture
from dermascan.layout import image_anchor
from dermascan.reporting import BatchReport, ModelExcerpt, ReportContext, predictions_report

CHROMIUM = Path("/usr/bin/chromium")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SHOWN, LONG = 12, "long/" + "n" * 300 + ".jpg"


def predictions() -> pd.DataFrame:
    table = scored_table(SHOWN)[["isic_id", *CLASS_COLUMNS, "p_malignant"]]
    table["image_key"] = [f"new/{i}.jpg" for i in range(SHOWN - 1)] + [LONG]
    table["label"] = np.where(table["p_malignant"] >= 0.3, "malignant", "benign")
    table["warnings"] = ["blurred dark", "", "small"] * (SHOWN // 3)
    refused = pd.DataFrame({"image_key": ["bad/0"], "reason": ["truncated: " + "x" * 200]})
    both = pd.concat([table.assign(status="ok"), refused.assign(status="rejected")])
    return both.assign(threshold=0.3, model_version=20260101000000).reset_index(drop=True)


def picture(level: int) -> bytes:
    return small_jpeg(np.full((96, 128, 3), level, np.uint8), 128)


def drift() -> Drift:
    sharpness = AspectDrift("sharpness", 0.21, 0.001, "different", (Shift("sharpness", -1.4),))
    colour = AspectDrift("colour", 0.02, 0.001, "somewhat different", (Shift("lightness", 0.4),))
    content = AspectDrift("content", 0.0, 0.5, "like")
    return Drift(SHOWN, SHOWN, 600, "different", (colour, sharpness, content))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    table = predictions()
    report = BatchReport(
        BatchDigest.of(table),
        ReportContext("Batch inference", "s3://bucket/new/", (("Run", "1-a"),)),
        dict.fromkeys(table["image_key"], Picture(picture(60), picture(200))),
        datetime(2026, 1, 1, tzinfo=UTC),
        drift(),
        model=ModelExcerpt((("ROC AUC", "0.925"),), ("Not for nails.",)),
    )
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(predictions_report(report))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM.exists(), "these tests need Chromium: install it as /usr/bin/chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    opened = browser.new_page(viewport=DESKTOP)
    opened.goto(address)
    yield opened
    opened.close()


def require_heat_maps(page: Page, count: int) -> None:
    expect(page.locator(".heat:visible")).to_have_count(count)  # waits for the browser to draw


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_report_is_accessible_and_fits_the_screen(browser: Browser, address, scheme, viewport):
    page = browser.new_page(viewport=viewport, color_scheme=scheme)
    loaded: set[str] = set()
    page.on("request", lambda request: loaded.add(request.url.partition(":")[0]))
    page.goto(address)
    for summary in page.locator(
        "main section > details > summary, .card > details > summary"
    ).all():
        summary.click()
    findings = Axe().run(page).response["violations"]
    width = page.evaluate("document.documentElement.scrollWidth")
    page.close()
    assert [
        (each["id"], [node["html"][:200] for node in each["nodes"]])
        for each in findings
        if each["impact"] in {"serious", "critical"}
    ] == []
    assert width <= viewport["width"]
    assert loaded <= {"file", "data"}


def test_heat_maps_appear_for_one_image_or_for_all_by_keyboard(page: Page):
    require_heat_maps(page, 0)
    page.locator(".gallery summary").first.focus()
    page.keyboard.press("Enter")
    require_heat_maps(page, 1)
    page.locator(".switch summary").focus()
    page.keyboard.press("Space")
    require_heat_maps(page, SHOWN - 1)  # the one that was chosen is hidden again
    page.locator(".gallery summary").first.click()
    require_heat_maps(page, SHOWN)


def test_link_to_an_image_leads_to_it(browser: Browser, address: str):
    page = browser.new_page(viewport=PHONE)
    page.goto(f"{address}#{image_anchor('new/3.jpg')}")
    found = page.locator(":target")
    assert "3.jpg" in found.inner_text()
    box = found.bounding_box()
    page.close()
    assert box
    assert -1 < box["y"] < PHONE["height"]


def test_pictures_are_decoded_by_the_browser(page: Page):
    page.locator("#gallery").scroll_into_view_if_needed()
    image = page.locator(".gallery img").first
    image.wait_for(state="visible")
    page.wait_for_function("document.querySelector('.gallery img').naturalWidth == 128")
