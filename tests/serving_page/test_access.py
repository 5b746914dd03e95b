"""The page for everybody: keyboard, screen reader, small screen, dark, in English and French."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from serving_page.driver import lesion, lesions, upload
from serving_page.stand_in import PAGE

PHONE = {
    "viewport": {"width": 360, "height": 740},
    "is_mobile": True,
    "has_touch": True,
}
SCREENS = {"desktop": {}, "phone": PHONE}


def serious(visit) -> list[str]:
    found = Axe().run(visit.page).response["violations"]
    return [
        f"{each['id']}: {node['html']}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]


def show_everything(visit) -> None:
    """Bring the page into a state that has every kind of card and notice."""
    long_name = upload("lesion " + "x" * 200 + ".jpg", lesion(7))
    letter = upload("letter.txt", b"Dear colleague", "text/plain")
    visit.choose(*lesions(3), long_name, letter)
    visit.wait_for(["done"] * 4 + ["rejected"])
    visit.press("heat")
    expect(visit.page.locator(".card canvas")).to_have_count(1)
    visit.page.route("**/v1/predict*", lambda route: route.fulfill(status=500), times=1)
    visit.choose(upload("unlucky.jpg", lesion(8)))
    visit.wait_for(["done"] * 4 + ["rejected", "failed"])
    visit.page.route("**/v1/predict*", lambda route: route.fulfill(status=429))
    visit.choose(upload("waiting.jpg", lesion(9)))
    expect(visit.page.locator("#hold")).to_be_visible()
    for details in visit.page.locator("aside details").all():
        details.evaluate("details => { details.open = true; }")


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, screen, scheme):
    visit = open_page(color_scheme=scheme, **SCREENS[screen])
    assert serious(visit) == []

    show_everything(visit)

    assert serious(visit) == []
    assert not visit.scrolls_sideways()
    for index in (0, 1):
        visit.cards().nth(index).get_by_label("Compare").check()
    visit.press("compare")
    assert serious(visit) == []
    assert not visit.scrolls_sideways()


@pytest.mark.parametrize(("width", "locale"), [(320, "fr-FR"), (360, "en-GB"), (768, "en-GB")])
def test_page_when_narrow_never_scrolls_sideways(open_page, locale, width):
    visit = open_page(locale=locale, viewport={"width": width, "height": 700})
    assert not visit.scrolls_sideways()

    show_everything(visit)

    assert not visit.scrolls_sideways()


def test_disclaimer_stays_in_view_wherever_one_scrolls(open_page):
    visit = open_page(**PHONE)
    visit.choose(*lesions(4))
    visit.wait_for(["done"] * 4)

    visit.page.evaluate("window.scrollTo(0, document.body.scrollHeight)")

    disclaimer = visit.page.locator(".top .disclaimer")
    expect(disclaimer).to_be_in_viewport(ratio=1)
    expect(disclaimer).to_contain_text("Not a medical device, not a diagnosis.")
    visit.press("enlarge")
    expect(visit.page.locator("dialog .disclaimer")).to_be_in_viewport(ratio=1)


def test_phone_offers_the_camera_and_a_desk_does_not(open_page):
    phone, desk = open_page(**PHONE), open_page()

    expect(phone.page.get_by_role("button", name="Take a photograph")).to_be_visible()
    expect(desk.page.get_by_role("button", name="Take a photograph")).to_be_hidden()
    camera = phone.page.locator("#camera")
    assert camera.get_attribute("capture") == "environment"


def focus(visit) -> str:
    return visit.page.evaluate("document.activeElement.dataset.action ?? document.activeElement.id")


def tab_to(visit, wanted: str, most: int = 40) -> None:
    for _ in range(most):
        visit.page.keyboard.press("Tab")
        if focus(visit) == wanted:
            return
    raise AssertionError(f"{most} times Tab did not reach {wanted}")


def test_everything_can_be_done_with_the_keyboard_alone(visit, tmp_path):
    files = [tmp_path / f"{seed}.jpg" for seed in (1, 2)]
    for seed, path in enumerate(files, 1):
        path.write_bytes(lesion(seed))
    keys = visit.page.keyboard
    visit.page.on("filechooser", lambda chooser: chooser.set_files(files))

    keys.press("Tab")
    expect(visit.page.get_by_role("link", name="Skip to the results")).to_be_focused()
    tab_to(visit, "choose")
    keys.press("Enter")
    visit.wait_for(["done", "done"])
    tab_to(visit, "sort")
    keys.press("ArrowDown")
    tab_to(visit, "enlarge")
    keys.press("Enter")
    expect(visit.page.get_by_role("dialog", name="One image")).to_be_visible()
    keys.press("Escape")
    assert focus(visit) == "enlarge"
    tab_to(visit, "heat")
    keys.press("Space")
    expect(visit.page.locator(".card canvas")).to_have_count(1)
    assert focus(visit) == "heat"
    tab_to(visit, "choose")
    keys.press("Space")
    tab_to(visit, "choose")
    keys.press("Space")
    keys.press("Shift+Tab")
    for _ in range(40):
        if focus(visit) == "compare":
            break
        keys.press("Shift+Tab")
    keys.press("Enter")
    expect(visit.page.get_by_role("dialog", name="Side by side")).to_be_visible()
    tab_to(visit, "close")
    keys.press("Enter")
    assert focus(visit) == "compare"


def test_focus_when_a_card_is_removed_goes_to_its_neighbour(visit):
    visit.choose(*lesions(2))
    visit.wait_for(["done"] * 2)

    visit.page.get_by_role("button", name="Remove: lesion-1.jpg").press("Enter")
    expect(visit.cards().first).to_be_focused()
    visit.page.get_by_role("button", name="Remove: lesion-2.jpg").press("Enter")
    expect(visit.page.locator('[data-action="choose"]')).to_be_focused()


def test_screen_readers_are_told_what_came_in_and_what_came_out(visit):
    visit.page.evaluate("""() => {
      window.said = [];
      const watch = () => window.said.push(document.getElementById("say").textContent);
      new MutationObserver(watch).observe(document.getElementById("say"), { childList: true });
    }""")

    visit.choose(*lesions(2))
    visit.wait_for(["done"] * 2)

    expect(visit.page.locator("#say")).to_contain_text("Finished: 2 images,")
    assert "2 images added." in " ".join(visit.page.evaluate("window.said"))
    expect(visit.page.get_by_role("status")).to_have_count(1)


def test_trouble_is_told_at_once(visit):
    visit.page.route("**/v1/predict*", lambda route: route.fulfill(status=429))

    visit.choose(*lesions(1))

    expect(visit.page.get_by_role("alert")).to_contain_text("too many requests")


def test_above_and_below_differ_in_words_and_sign_not_in_colour_alone(visit):
    visit.choose(*lesions(6))
    visit.wait_for(["done"] * 6)

    verdicts = set(visit.page.locator(".verdict").all_inner_texts())

    assert {"".join(text.split()) for text in verdicts} == {
        "▲Atorabovethethreshold",
        "▽Belowthethreshold",
    }


def test_motion_when_unwanted_is_left_out(open_page):
    visit = open_page(reduced_motion="reduce")
    visit.choose(*lesions(1))
    visit.wait_for(["done"])

    fill = visit.page.locator(".risk-bar .fill")

    assert fill.evaluate("fill => getComputedStyle(fill).transitionDuration") == "0s"


def test_french_browser_gets_french_and_the_switch_changes_it_in_place(open_page):
    visit = open_page(locale="fr-FR")
    visit.choose(*lesions(1))
    visit.wait_for(["done"])
    card = visit.cards().first
    expect(visit.page.locator("html")).to_have_attribute("lang", "fr")
    expect(card).to_contain_text("Probabilité de malignité")
    expect(card).to_contain_text("Nævus mélanocytaire")
    expect(visit.page.locator(".top .disclaimer")).to_contain_text("Ni dispositif médical")

    visit.page.get_by_role("button", name="English").click()

    expect(card).to_contain_text("Probability of malignancy")
    expect(card).to_contain_text("Melanocytic nevus")
    assert visit.page.url.endswith("?lang=en")
    expect(visit.page.get_by_role("button", name="English")).to_have_attribute(
        "aria-pressed", "true"
    )


def test_both_languages_say_the_same_things(visit):
    texts = visit.page.evaluate("""async () => (await import("/static/text.js")).LANGUAGES""")

    english, french = texts["en"], texts["fr"]
    assert english.keys() == french.keys()
    for key, text in english.items():
        assert places(text) == places(french[key]), key
        assert not isinstance(text, dict) or text.keys() == french[key].keys()
        assert (
            french[key] != text or key.startswith(("model.name", "model.version")) or shared(text)
        )


def places(text) -> set[str]:
    texts = text.values() if isinstance(text, dict) else [text]
    return set(re.findall(r"\{\w+\}", " ".join(texts)))


def shared(text) -> bool:
    """Whether a text may be the same in both: figures and words that the languages share."""
    bare = re.sub(r"\{\w+\}", "", text["other"] if isinstance(text, dict) else text)
    return bare.strip(" ,()") in {"", "Images", "images", "image", "Image", "Classes"}


def test_every_sentence_that_the_page_asks_for_exists_and_none_is_left_over(visit):
    texts = visit.page.evaluate(
        """async () => Object.keys((await import("/static/text.js")).LANGUAGES.en)"""
    )
    sources = [path for path in PAGE.iterdir() if path.suffix in {".js", ".html"}]
    code = "\n".join(path.read_text() for path in sources if not path.name.startswith("text."))

    asked = set(re.findall(r'data-(?:text|label)="([\w.]+)"', code))
    asked |= set(re.findall(r'\bt\("([\w.]+)"', code))
    begun = set(re.findall(r"`([a-z.]+\.)\$\{", code))

    assert asked <= set(texts)
    left_over = {
        key for key in texts if f'"{key}"' not in code and not key.startswith(tuple(begun))
    }
    assert left_over == set()
