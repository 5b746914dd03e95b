"""What the page does when the server refuses, is slow, is away, or says something odd."""

import json
import re

import pytest
from playwright.sync_api import Route, expect
from serving_page.driver import lesion, lesions, upload

PREDICT = "**/v1/predict*"
CURRENT = "**/v1/models/current"
UNDER_WAY = re.compile("sending|analysing")


def answer(route: Route, status: int, detail: str = "", **headers) -> None:
    problem = {"type": "about:blank", "title": "Odd", "status": status, "detail": detail}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    route.fulfill(
        status=status,
        headers={"Content-Type": "application/problem+json"} | named,
        body=json.dumps(problem),
    )


def refuse(visit, times: int, status: int, detail: str = "", **headers) -> None:
    """Answer the next requests for predictions with a problem, those after them as usual."""
    visit.page.route(PREDICT, lambda route: answer(route, status, detail, **headers), times=times)


def keep_back(visit) -> list[Route]:
    """Leave the next request for predictions without an answer."""
    stuck: list[Route] = []

    def keep(route: Route):
        stuck.append(route)

    visit.page.route(PREDICT, keep, times=1)
    return stuck


def hold(visit):
    return visit.page.locator("#hold")


def test_429_pauses_for_as_long_as_asked_and_goes_on_by_itself(visit):
    refuse(visit, 1, 429, "this client asks too often", Retry_After="2")

    visit.choose(*lesions(3))

    expect(hold(visit)).to_contain_text("too many requests in a short time")
    expect(hold(visit)).to_contain_text("The server says: this client asks too often")
    expect(hold(visit)).to_contain_text("Goes on by itself in")
    visit.wait_for(["waiting"] * 3)
    visit.wait_for(["done"] * 3)
    expect(hold(visit)).to_be_hidden()


def test_503_of_a_busy_server_can_be_tried_again_at_once(visit):
    refuse(visit, 1, 503, "too much to do", Retry_After="200")
    visit.choose(*lesions(1))
    expect(hold(visit)).to_contain_text("The server is busy.")

    visit.page.get_by_role("button", name="Try now").click()

    visit.wait_for(["done"])


def test_503_without_a_model_waits_until_there_is_one(visit):
    for address in (PREDICT, CURRENT):
        visit.page.route(address, lambda route: answer(route, 503, "no champion", Retry_After="1"))
    visit.choose(*lesions(2))
    expect(hold(visit)).to_contain_text("No model is serving yet. Train a model and promote it.")

    visit.page.unroute_all()

    visit.wait_for(["done"] * 2)
    expect(hold(visit)).to_be_hidden()
    expect(visit.page.locator("#model")).to_contain_text("Threshold")


def test_model_box_without_a_model_says_what_to_do(open_page, visit):
    visit.page.route(CURRENT, lambda route: answer(route, 503, "no champion"))
    visit.page.reload()

    expect(visit.page.locator("#model")).to_contain_text("No model is serving yet")
    visit.page.unroute_all()
    visit.page.get_by_role("button", name="Ask again").click()
    expect(visit.page.locator("#model")).to_contain_text("27.6%")


def test_offline_images_wait_and_are_sent_when_the_network_is_back(visit):
    visit.page.context.set_offline(True)
    visit.choose(*lesions(2))
    expect(hold(visit)).to_contain_text("No connection to the server.")
    expect(visit.cards().locator("img")).to_have_count(2)

    visit.page.context.set_offline(False)

    visit.wait_for(["done"] * 2)
    expect(hold(visit)).to_be_hidden()


def test_401_asks_for_the_key_and_sends_it(visit):
    def guard(route: Route):
        if route.request.headers.get("x-api-key") == "right":
            return route.continue_()
        return answer(route, 401, "send the API key as header X-API-Key")

    visit.page.route(PREDICT, guard)
    visit.choose(*lesions(1))
    field = visit.page.get_by_label("API key", exact=True)
    expect(field).to_be_focused()

    field.fill("wrong")
    field.press("Enter")
    expect(hold(visit)).to_contain_text("did not accept that key")
    field.fill("right")
    field.press("Enter")

    visit.wait_for(["done"])
    expect(hold(visit)).to_be_hidden()
    assert field.input_value() == ""
    assert "right" not in visit.page.url


def test_413_because_of_one_image_spares_the_others(visit):
    def refuse_large(route: Route):
        if len(route.request.post_data_buffer) > 50_000:
            return answer(route, 413, "more than the limit")
        return route.continue_()

    visit.page.route(PREDICT, refuse_large)
    files = lesions(3)
    files.insert(1, upload("large.jpg", lesion(8, 900, 1200)))

    visit.choose(*files)

    visit.wait_for(["done", "failed", "done", "done"])
    large = visit.card("large.jpg")
    expect(large).to_contain_text("The image is larger than the server accepts.")
    expect(large).to_contain_text("The server says: more than the limit")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, "The server failed (500)."),
        (504, "The server took too long."),
        (422, "The server found no image in the request."),
    ],
)
def test_error_when_final_is_told_and_can_be_retried(visit, status, words):
    refuse(visit, 1, status)
    visit.choose(*lesions(1))
    visit.wait_for(["failed"])
    expect(visit.cards().first).to_contain_text(words)

    visit.cards().first.get_by_role("button", name="Retry").click()

    visit.wait_for(["done"])


@pytest.mark.parametrize("body", ["<html>a proxy's page</html>", "{}", '{"results": []}', "null"])
def test_answer_when_it_is_none_is_told_and_can_be_retried(visit, body):
    visit.page.route(PREDICT, lambda route: route.fulfill(status=200, body=body), times=1)
    visit.choose(*lesions(1))
    visit.wait_for(["failed"])
    expect(visit.cards().first).to_contain_text("does not understand")

    visit.page.get_by_role("button", name="Retry 1 image").click()

    visit.wait_for(["done"])


def test_connection_when_cut_by_one_image_again_and_again_fails_that_image_only(visit):
    def cut(route: Route):
        bad = lesion(2) in route.request.post_data_buffer
        return route.abort("connectionreset") if bad else route.continue_()

    visit.page.route(PREDICT, cut)

    visit.choose(*lesions(3))

    visit.wait_for(["done", "failed", "done"])
    expect(visit.card("lesion-2.jpg")).to_contain_text("The connection broke")


def test_cancel_stops_what_is_under_way_and_retry_takes_it_up_again(visit):
    keep_back(visit)
    visit.choose(*lesions(6))
    expect(visit.cards().first).to_have_attribute("data-state", UNDER_WAY)
    expect(visit.cards().nth(5)).to_contain_text("Waiting")

    visit.press("cancel")

    visit.wait_for(["cancelled"] * 6)
    visit.page.get_by_role("button", name="Retry 6 images").click()
    visit.wait_for(["done"] * 6)


def test_image_when_removed_while_it_is_under_way_does_not_come_back(visit):
    stuck = keep_back(visit)
    visit.choose(*lesions(2))
    expect(visit.cards().nth(1)).to_have_attribute("data-state", UNDER_WAY)

    visit.page.get_by_role("button", name="Remove: lesion-1.jpg").click()
    stuck[0].continue_()

    visit.wait_for(["done"])
    assert visit.names() == ["lesion-2.jpg"]


def test_heat_map_when_asked_for_during_the_analysis_comes_after_it(visit):
    stuck = keep_back(visit)
    visit.choose(*lesions(1))
    expect(visit.cards().first).to_have_attribute("data-state", UNDER_WAY)

    visit.page.get_by_label("Heat maps", exact=True).check()
    stuck[0].continue_()

    expect(visit.page.locator(".card canvas")).to_have_count(1)


def test_heat_map_when_it_fails_leaves_the_result_and_says_so(visit):
    visit.choose(*lesions(1))
    visit.wait_for(["done"])
    refuse(visit, 1, 504)

    visit.press("heat")

    card = visit.cards().first
    expect(card).to_contain_text("The heat map could not be made. The server took too long.")
    expect(card.locator(".risk")).to_be_visible()
    visit.press("heat")
    expect(card.locator("canvas")).to_have_count(1)


def test_heat_map_when_the_model_has_none_says_so(visit):
    def without_map(route: Route):
        body = route.fetch().json()
        body["results"][0]["explanation"] = None
        route.fulfill(json=body)

    visit.choose(*lesions(1))
    visit.wait_for(["done"])
    visit.page.route(PREDICT, without_map)

    visit.press("heat")

    expect(visit.cards().first).to_contain_text("The model has no heat map of this image.")


def test_versions_when_mixed_are_pointed_out_and_the_older_results_renewed(visit):
    def older(route: Route):
        body = route.fetch().json()
        body["model"]["version"] -= 1
        route.fulfill(json=body)

    visit.page.route(PREDICT, older, times=1)
    visit.choose(*lesions(6))
    visit.wait_for(["done"] * 6)
    expect(visit.page.locator("#mixed")).to_contain_text("different versions of the model")

    visit.page.get_by_role("button", name="Analyse 4 again").click()

    expect(visit.page.locator("#mixed")).to_be_hidden()
    visit.wait_for(["done"] * 6)


def test_leaving_with_results_that_were_not_saved_asks_first(visit):
    visit.choose(*lesions(1))
    visit.wait_for(["done"])
    asked = []

    def stay(dialog):
        asked.append(dialog.type)
        dialog.dismiss()

    visit.page.on("dialog", stay)

    visit.page.close(run_before_unload=True)
    expect(visit.cards()).to_have_count(1)

    assert asked == ["beforeunload"]


def test_drop_of_text_is_left_to_the_browser_and_an_empty_choice_does_nothing(visit):
    visit.page.evaluate("""() => {
      const transfer = new DataTransfer();
      transfer.setData("text/plain", "no file");
      window.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, cancelable: true }));
    }""")

    expect(visit.cards()).to_have_count(0)
    expect(visit.page.locator("#results")).to_be_hidden()
