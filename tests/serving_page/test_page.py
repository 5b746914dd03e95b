"""From a file to a result that can be read, compared and taken away."""

import csv
import io
import json
import re

import pytest
from playwright.sync_api import expect
from serving_page.driver import lesion, lesions, upload
from serving_page.stand_in import THRESHOLD, VERSION, current_model, scores

from dermascan.inference.batch import PREDICTIONS_SCHEMA
from dermascan.taxonomy import CLASS_NAMES, Taxonomy

HOSTILE_NAMES = (
    "<img src=x onerror=alert(1)>.jpg",
    '"><script>alert(2)</script>.jpg',
    "\u202egpj.lesion\u202c مريض.jpg",
    "n" * 250 + ".jpg",
    '=HYPERLINK("http://evil.example","x").jpg',
)


def risk_of(data: bytes) -> float:
    return sum(scores(data)[code] for code in Taxonomy().malignant)


def drop(visit, *paths):
    """Drop files or folders from outside the browser, as an operating system does."""
    session = visit.page.context.new_cdp_session(visit.page)
    files = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 200, "data": files})


def test_images_when_chosen_are_shown_at_once_and_scored(visit):
    files = lesions(6)

    visit.choose(*files)

    expect(visit.cards().locator("img")).to_have_count(6)
    visit.wait_for(["done"] * 6)
    for file in files:
        risk = f"{risk_of(file['buffer']):.1%}"
        above = risk_of(file["buffer"]) >= THRESHOLD
        card = visit.card(file["name"])
        expect(card.locator(".risk strong")).to_have_text(risk)
        expect(card.locator(".verdict")).to_contain_text("At or above" if above else "Below")
        spoken = f"Probability of malignancy {risk}; the threshold is {THRESHOLD:.1%}"
        expect(card.get_by_role("img", name=spoken)).to_be_visible()


def test_result_names_all_classes_and_the_model(visit):
    visit.choose(*lesions(1))
    visit.wait_for(["done"])

    card = visit.cards().first
    assert sorted(card.locator("dt").all_inner_texts()) == sorted(CLASS_NAMES.values())
    shares = [float(text.strip("<>% ")) for text in card.locator("dd .figure").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.5)
    expect(card.locator(".facts")).to_contain_text(f"150 JPEG, model {VERSION}")


def test_threshold_when_marked_stands_at_its_place_on_the_bar(visit):
    visit.choose(*lesions(1))
    visit.wait_for(["done"])

    bar, mark, fill = (
        visit.cards().first.locator(part).bounding_box()
        for part in (".risk-bar", ".risk-bar .mark", ".risk-bar .fill")
    )

    middle = mark["x"] + mark["width"] / 2
    assert (middle - bar["x"]) / bar["width"] == pytest.approx(THRESHOLD, abs=0.01)
    risk = risk_of(lesions(1)[0]["buffer"])
    assert fill["width"] / bar["width"] == pytest.approx(risk, abs=0.02)


def test_files_when_dropped_from_outside_are_taken_also_from_folders(visit, tmp_path):
    folder = tmp_path / "patient" / "left arm"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(lesion(1))
    (folder / "b.PNG").write_bytes(lesion(2))
    (folder.parent / "notes.csv").write_text("not sent")
    single = tmp_path / "single.jpg"
    single.write_bytes(lesion(3))

    drop(visit, single, folder.parent)

    visit.wait_for(["done"] * 3)
    assert visit.names() == ["single.jpg", "a.jpg", "b.PNG"]


def test_image_when_pasted_is_scored(open_page):
    visit = open_page(permissions=["clipboard-read", "clipboard-write"])
    visit.page.evaluate("""async () => {
      const canvas = new OffscreenCanvas(120, 90);
      canvas.getContext("2d").fillRect(20, 20, 40, 40);
      const png = await canvas.convertToBlob({ type: "image/png" });
      await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
    }""")

    visit.page.keyboard.press("Control+V")

    expect(visit.cards()).to_have_count(1)
    assert visit.names() == ["Pasted image 1"]


def test_many_images_when_chosen_together_go_in_small_groups_under_no_name(visit):
    bodies = []
    visit.page.on("request", lambda request: request.method == "POST" and bodies.append(request))

    visit.choose(*lesions(30))

    visit.wait_for(["done"] * 30)
    assert len(bodies) == 8
    expect(visit.page.locator(".summary")).to_contain_text("30 images")
    assert visit.page.evaluate("""async () => {
      const names = [];
      const append = FormData.prototype.append;
      FormData.prototype.append = function (field, file, name) {
        names.push(name);
        return append.call(this, field, file, name);
      };
      const { predict } = await import("/static/api.js");
      const file = new File(["x"], "Jane Doe 1970.jpg");
      const options = { explain: false, signal: new AbortController().signal, onProgress() {} };
      const { results } = await predict([file], options);
      return [...names, results[0].filename];
    }""") == ["image-1", "image-1"]


def test_progress_of_a_slow_upload_is_shown(visit):
    session = visit.page.context.new_cdp_session(visit.page)
    session.send("Network.enable")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 300_000}
    session.send("Network.emulateNetworkConditions", slow)

    visit.choose(upload("large.jpg", lesion(1, 1200, 1600)))

    bar = visit.page.get_by_role("progressbar", name="Progress of large.jpg")
    expect(visit.cards().first).to_contain_text(re.compile(r"Sending, [1-9]\d?%"))
    expect(bar).to_have_attribute("value", re.compile(r"0\.\d+"))
    visit.wait_for(["done"])


def test_file_when_rejected_says_why_and_what_to_do(visit):
    visit.choose(
        upload("letter.txt", b"Dear colleague", "text/plain"),
        upload("empty.jpg", b""),
        upload("cut.jpg", lesion(1)[:2000]),
        *lesions(1),
    )

    visit.wait_for(["rejected", "rejected", "rejected", "done"])
    letter = visit.card("letter.txt")
    expect(letter).to_contain_text("This is not an image. Send a JPEG or PNG file.")
    expect(letter).to_contain_text("No preview")
    expect(visit.card("empty.jpg")).to_contain_text("The file is empty.")
    expect(visit.card("cut.jpg")).to_contain_text("cut off")
    expect(visit.page.locator(".summary")).to_contain_text("3 rejected")


def test_warning_when_known_is_in_the_pages_words_and_else_in_the_servers(visit):
    import cv2  # noqa: PLC0415  # only here
    import numpy as np  # noqa: PLC0415

    bright = cv2.imencode(".png", np.full((90, 120, 3), 250, np.uint8))[1].tobytes()

    visit.choose(upload("bright.png", bright, "image/png"))

    visit.wait_for(["done"])
    warnings = visit.cards().first.get_by_role("list", name="Image quality")
    expect(warnings).to_contain_text("Blurred: out of focus or moved.")
    expect(warnings).to_contain_text("A warning <b>newer</b> than the page.")


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_file_name_when_hostile_is_shown_as_text(visit, name):
    visit.choose(upload(name, lesion(1)))

    visit.wait_for(["done"])
    shown = visit.page.evaluate("document.querySelector('.card h3 bdi').textContent")
    assert shown == name
    assert visit.page.locator(".card h3 *").count() == 1
    assert not visit.scrolls_sideways()


def test_sort_by_risk_puts_the_highest_first_and_those_without_a_score_last(visit):
    letter = upload("letter.txt", b"Dear colleague", "text/plain")
    files = [letter, *lesions(5)]
    visit.choose(*files)
    visit.wait_for(["rejected"] + ["done"] * 5)

    visit.page.select_option("#sort", "risk")

    scored = sorted(files[1:], key=lambda file: -risk_of(file["buffer"]))
    assert visit.names() == [file["name"] for file in [*scored, letter]]
    visit.page.select_option("#sort", "order")
    assert visit.names() == [file["name"] for file in files]


def test_heat_map_when_asked_for_lies_over_the_image_and_goes_again(visit):
    visit.choose(*lesions(2))
    visit.wait_for(["done"] * 2)
    card = visit.cards().first
    expect(visit.page.locator("canvas")).to_have_count(0)

    card.locator('[data-action="heat"]').click()

    expect(card.locator("canvas.heat")).to_have_count(1)
    expect(card.locator('[data-action="heat"]')).to_have_attribute("aria-pressed", "true")
    expect(card.locator(".heat-words")).to_contain_text("Evidence for: ")
    expect(visit.cards().nth(1).locator("canvas")).to_have_count(0)
    card.locator('[data-action="heat"]').click()
    expect(card.locator("canvas")).to_have_count(0)


def test_heat_maps_when_switched_on_for_all_come_with_later_images_too(visit):
    visit.choose(*lesions(2))
    visit.wait_for(["done"] * 2)

    visit.page.get_by_label("Heat maps", exact=True).check()
    expect(visit.page.locator(".card canvas")).to_have_count(2)
    visit.choose(upload("later.jpg", lesion(9)))
    expect(visit.page.locator(".card canvas")).to_have_count(3)

    visit.page.get_by_label("Opacity of the heat maps").fill("30")
    opacity = visit.page.locator(".card canvas").first.evaluate(
        "canvas => getComputedStyle(canvas).opacity"
    )
    assert float(opacity) == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("photo", "part"),
    [
        ({"width": 800, "height": 600}, {"turned": False, "width": 800, "height": 600}),
        ({"width": 600, "height": 800}, {"turned": True, "width": 800, "height": 600}),
        ({"width": 800, "height": 800}, {"turned": False, "width": 800, "height": 600}),
        ({"width": 1600, "height": 600}, {"turned": False, "width": 800, "height": 600}),
        ({"width": 600, "height": 1600}, {"turned": True, "width": 800, "height": 600}),
    ],
)
def test_heat_map_lies_where_the_model_looked(visit, photo, part):
    seen = visit.page.evaluate(
        """async (photo) => {
          const { seenPart } = await import("/static/heat.js");
          return seenPart(photo, { width: 256, height: 192 });
        }""",
        photo,
    )

    assert seen == pytest.approx(part)


def test_heat_map_of_an_upright_photograph_is_turned_back(visit):
    visit.choose(upload("upright.jpg", lesion(1, height=400, width=300)))
    visit.wait_for(["done"])
    visit.press("heat")
    canvas = visit.page.locator(".card canvas")
    expect(canvas).to_have_count(1)

    hottest = canvas.evaluate("""(canvas) => {
      const { width, height } = canvas;
      const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
      let best = 0;
      for (let i = 3; i < data.length; i += 4) if (data[i] > data[best * 4 + 3]) best = (i - 3) / 4;
      return [(best % width) / width, Math.floor(best / width) / height];
    }""")

    assert hottest == pytest.approx([0.5, 0.7], abs=0.02)


def test_comparison_shows_the_chosen_images_side_by_side(visit):
    visit.choose(*lesions(3))
    visit.wait_for(["done"] * 3)
    expect(visit.page.locator('[data-action="compare"]')).to_be_disabled()
    for index in (0, 2):
        visit.cards().nth(index).get_by_label("Compare").check()

    visit.page.get_by_role("button", name="Compare (2)").click()

    dialog = visit.page.get_by_role("dialog", name="Side by side")
    names = dialog.get_by_role("columnheader").all_inner_texts()
    assert [name for name in names if name] == ["lesion-1.jpg", "lesion-3.jpg"]
    risks = dialog.locator(".risk-figure").all_inner_texts()
    assert risks == [f"{risk_of(lesion(seed)):.1%}" for seed in (1, 3)]
    visit.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(visit.page.get_by_role("button", name="Compare (2)")).to_be_focused()


def downloaded(visit, action: str) -> str:
    with visit.page.expect_download() as download:
        visit.press(action)
    return download.value.path().read_text(encoding="utf-8")


def test_csv_has_the_columns_of_the_prediction_table_and_no_formula(visit):
    files = [
        upload('=cmd|"/c calc"!A0.jpg', lesion(1)),
        upload("  @SUM(1).jpg", lesion(2)),
        upload("a,\u00e9.txt", b"Dear colleague", "text/plain"),
    ]
    visit.choose(*files)
    visit.wait_for(["done", "done", "rejected"])

    text = downloaded(visit, "csv")

    assert text.startswith("\ufeff")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    known = {"filename", "width", "height", "quality_warnings"}
    assert set(rows[0]) - known == set(PREDICTIONS_SCHEMA.names) - {"image_key", "isic_id"}
    assert [row["filename"] for row in rows] == [
        """'=cmd|"/c calc"!A0.jpg""",
        "'  @SUM(1).jpg",
        "a,\u00e9.txt",
    ]
    assert float(rows[0]["p_malignant"]) == pytest.approx(risk_of(lesion(1)), abs=1e-12)
    assert rows[2]["status"] == "rejected"
    assert rows[2]["reason"].startswith("not_an_image")
    assert rows[2]["p_malignant"] == ""


def test_json_has_names_of_this_browser_and_the_disclaimer(visit):
    visit.choose(*lesions(2))
    visit.wait_for(["done"] * 2)
    visit.press("heat")
    expect(visit.page.locator(".card canvas")).to_have_count(1)

    saved = json.loads(downloaded(visit, "json"))

    assert "Not a medical device" in saved["disclaimer"]
    assert [each["filename"] for each in saved["results"]] == ["lesion-1.jpg", "lesion-2.jpg"]
    first = saved["results"][0]
    assert first["p_malignant"] == pytest.approx(risk_of(lesion(1)), abs=1e-12)
    assert first["model"]["version"] == VERSION
    assert "explanation" not in first


@pytest.mark.parametrize("secure", [True, False])
def test_csv_when_copied_is_on_the_clipboard(open_page, secure):
    visit = open_page(permissions=["clipboard-read", "clipboard-write"])
    visit.choose(*lesions(1))
    visit.wait_for(["done"])
    if not secure:
        visit.page.evaluate("""() => {
          window.clipboard = navigator.clipboard;
          Object.defineProperty(navigator, "clipboard", { value: undefined });
        }""")

    visit.press("copy")

    expect(visit.page.locator("#say")).to_have_text("Copied.")
    text = visit.page.evaluate("(window.clipboard ?? navigator.clipboard).readText()")
    assert text.splitlines()[1].startswith("lesion-1.jpg,")


def test_model_box_says_which_model_serves_and_how_good_it_is(visit):
    box = visit.page.locator("#model")

    for text in ("dermascan", str(VERSION), "2 Jan 2026", "27.6%", "0.953", "1,502", "90%"):
        expect(box).to_contain_text(text)
    for each in current_model()["classes"]:
        expect(box).to_contain_text(each["name"])
    address = box.get_by_role("link", name="API reference").get_attribute("href")
    assert visit.page.request.get(f"{visit.server}/{address}").ok


def test_page_stores_nothing_and_says_so(visit):
    visit.choose(*lesions(1))
    visit.wait_for(["done"])

    kept = visit.page.evaluate("""async () => ({
      local: localStorage.length, session: sessionStorage.length, cookies: document.cookie,
      databases: (await indexedDB.databases()).length, caches: (await caches.keys()).length,
      workers: (await navigator.serviceWorker.getRegistrations()).length })""")

    assert not any(kept.values())
    assert visit.page.context.cookies() == []
    expect(visit.page.locator(".privacy")).to_contain_text("Nothing is stored")


def test_clearing_removes_everything(visit):
    visit.choose(*lesions(2))
    visit.wait_for(["done"] * 2)

    visit.press("clear")

    expect(visit.cards()).to_have_count(0)
    expect(visit.page.locator("#results")).to_be_hidden()
    expect(visit.page.locator('[data-action="choose"]')).to_be_focused()
