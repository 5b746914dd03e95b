import asyncio
import base64
import hashlib
import io
import logging
import sys

import httpx
import numpy as np
import pytest
from hostile import encoded, hostile_images, photograph
from PIL import Image
from serving.service import (
    GOOD,
    HEADERS,
    MODEL,
    SHARE_OF_VERSION,
    THRESHOLD,
    VERSION,
    StandInScorer,
    ask_during,
    form,
    grey,
    images,
    part,
    predict,
    publish,
    require_problem,
    serving,
    wait_for,
)

from dermascan import DISCLAIMER
from dermascan.imaging import decode
from dermascan.quality import measure
from dermascan.serving.middleware import SECURITY_HEADERS

PATIENT = "Jane Doe 1970-01-01.jpg"


# Answers


def test_predict_when_images_are_good_says_all_that_is_known_of_each_in_order(client):
    dark, bright = grey(100), grey(240)

    answer = predict(client, bright, dark)

    assert answer.status_code == 200
    body = answer.json()
    assert body["model"]["name"] == MODEL
    assert body["model"]["version"] == VERSION
    assert body["threshold"] == THRESHOLD
    assert body["disclaimer"] == DISCLAIMER
    malignant, benign = body["results"]
    assert (malignant["label"], benign["label"]) == ("malignant", "benign")
    assert malignant["p_malignant"] == pytest.approx(240 / 512, abs=1e-6)
    assert benign["sha256"] == hashlib.sha256(dark).hexdigest()
    assert list(benign["probabilities"]) == body["model"]["classes"]
    assert sum(benign["probabilities"].values()) == pytest.approx(1)
    assert benign["reason"] is benign["explanation"] is None
    assert benign["filename"] == "1.jpg"


def test_predict_measures_quality_as_ingest_does_and_warns(client):
    (result,) = predict(client, GOOD).json()["results"]

    facts = measure(GOOD, decode(GOOD))
    for name in ("width", "height", "format", "sharpness", "brightness", "clipped_fraction"):
        assert result["quality"][name] == getattr(facts, name)
    assert "small" in [warning["code"] for warning in result["quality"]["warnings"]]


def test_predict_when_an_image_is_refused_gives_its_reason_and_scores_the_others(client):
    answer = predict(client, b"no image", GOOD, hostile_images()["cmyk_jpeg"])

    first, second, third = answer.json()["results"]
    assert answer.status_code == 200
    assert [first["status"], second["status"], third["status"]] == ["rejected", "ok", "rejected"]
    assert first["reason"].startswith("not_an_image: ")
    assert third["reason"].startswith("wrong_mode: ")
    assert first["p_malignant"] is first["quality"] is first["probabilities"] is None


def test_predict_when_all_images_are_refused_needs_no_model_run(client):
    assert predict(client, b"", b"x").json()["results"][1]["status"] == "rejected"


def test_predict_when_asked_to_explain_draws_evidence_alone_in_the_models_proportions(client):
    (result,) = predict(client, grey(240), params={"explain": "true"}).json()["results"]

    assert result["explanation"]["image_class"] == "akiec"
    with Image.open(io.BytesIO(base64.b64decode(result["explanation"]["png"]))) as picture:
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGBA", (64, 48))
        alpha = np.asarray(picture)[..., 3]
    assert max(alpha[0, 0], alpha[-1, -1]) < 5
    assert alpha[24, 32] == alpha.max() > 100


def test_predict_gives_back_nothing_of_what_a_camera_wrote(client):
    exif = Image.Exif()
    exif[0x010E], exif[0x8298] = "Jane Doe, born 1970", "Dr Secret"
    photo = encoded(photograph(300, 200), "JPEG", exif=exif, comment=b"ward seven")

    answer = predict(client, photo, params={"explain": "true"})

    (result,) = answer.json()["results"]
    seen = answer.content + base64.b64decode(result["explanation"]["png"])
    assert result["status"] == "ok"
    for secret in (b"Jane", b"Secret", b"ward seven", b"Exif"):
        assert secret in photo or secret == b"Secret"
        assert secret not in seen


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("<img onerror=alert(1)>.jpg", "<img onerror=alert(1)>.jpg"),
        ("mélanome \u202egpj.exe", "mélanome \u202egpj.exe"),
        ("../../etc/passwd", "../../etc/passwd"),
        ("n" * 2000, "n" * 2000),
    ],
)
def test_predict_gives_back_the_name_as_it_came(client, sent, seen):
    body = form(part(GOOD, f'form-data; name="images"; filename="{sent}"'))

    answer = client.post("/v1/predict", content=body, headers=HEADERS)

    assert answer.json()["results"][0]["filename"] == seen


def test_predict_when_the_name_is_missing_or_no_utf8_gives_what_there_is(client):
    nameless = part(GOOD, 'form-data; name="images"')
    garbled = part(GOOD, 'form-data; name="images"; filename="@"').replace(b"@", b"\xff\xfe")

    answer = client.post("/v1/predict", content=form(nameless, garbled), headers=HEADERS)

    assert [result["filename"] for result in answer.json()["results"]] == ["", "\ufffd\ufffd"]


def test_predict_when_the_body_comes_byte_by_byte_reads_the_same(client):
    body = form(part(b"other", 'form-data; name="note"'), part(grey(9)), part(GOOD))

    whole = client.post("/v1/predict", content=body, headers=HEADERS)
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    divided = client.post("/v1/predict", content=pieces, headers=HEADERS)

    assert divided.json() == whole.json()
    assert [result["status"] for result in whole.json()["results"]] == ["ok", "ok"]


def test_current_model_describes_the_version_that_answers(client):
    body = client.get("/v1/models/current").json()

    assert (body["name"], body["version"], body["published_by"]) == (MODEL, VERSION, "a test")
    assert body["runtime"] == "a stand-in 1.0"
    assert body["image_size"] == {"height": 48, "width": 64}
    assert {found["code"] for found in body["classes"] if found["malignant"]} == {
        "akiec",
        "bcc",
        "mel",
    }
    assert {"code": "mel", "name": "Melanoma", "malignant": True} in body["classes"]
    assert body["metrics"] is body["operating_specificity"] is None
    assert body["disclaimer"] == DISCLAIMER


# A model that is not there, or comes later


def test_without_a_model_everything_but_scoring_answers_until_one_is_promoted(store, tmp_path):
    with serving(store) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        for answer in (
            client.get("/readyz"),
            client.get("/v1/models/current"),
            predict(client, GOOD),
        ):
            assert "no champion" in require_problem(answer, 503)
            assert int(answer.headers["Retry-After"]) > 0
        assert client.get("/").status_code == 200

        publish(store, tmp_path, 0)
        wait_for(lambda: client.get("/readyz").is_success)

        assert predict(client, GOOD).status_code == 200


def test_ready_when_a_newer_champion_cannot_be_loaded_says_so_and_goes_on(store, tmp_path):
    def load(folder):
        scorer = StandInScorer(folder)
        if scorer.number == 1:
            raise RuntimeError("an operation that is not known")
        return scorer

    publish(store, tmp_path, 0)
    with serving(store, load=load) as client:
        assert client.get("/readyz").json()["warning"] is None
        publish(store, tmp_path, 1)
        wait_for(lambda: client.get("/readyz").json()["warning"])

        ready = client.get("/readyz").json()

        assert ready["version"] == VERSION
        assert f"champion {VERSION + 1} cannot be served" in ready["warning"]
        assert "dermascan_model_swap_failures_total 1.0" in client.get("/metrics").text
        assert predict(client, GOOD).json()["model"]["version"] == VERSION


def test_predict_when_the_champion_changes_drops_no_request_and_mixes_no_versions(store, tmp_path):
    async def ask(client: httpx.AsyncClient, number: int) -> httpx.Response:
        return await client.post("/v1/predict", files=images(grey(100), grey(40)))

    publish(store, tmp_path, 0)
    with serving(store) as client:
        url = str(client.base_url)
        answers = asyncio.run(
            ask_during(url, ask, lambda: publish(store, tmp_path, 1), VERSION + 1)
        )

    assert len(answers) >= 200
    assert {answer.status_code for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    assert {body["model"]["version"] for body in bodies} == {VERSION, VERSION + 1}
    for body in bodies:
        extra = SHARE_OF_VERSION * (body["model"]["version"] - VERSION)
        risks = [result["p_malignant"] for result in body["results"]]
        np.testing.assert_allclose(risks, [100 / 512 + extra, 40 / 512 + extra], atol=1e-6)


# What is seen from outside


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/static/index.html", 200),
        ("GET", "/nothing", 404),
        ("GET", "/static/..%2f..%2fapp.py", 404),
        ("GET", "/static/../app.py", 404),
        ("DELETE", "/v1/predict", 405),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 200),
        ("GET", "/metrics", 200),
        ("POST", "/v1/predict", 415),
    ],
)
def test_every_answer_has_the_security_headers(client, method, path, status):
    answer = client.request(method, path)

    assert answer.status_code == status
    if status >= 400:
        require_problem(answer, status)
    for name, value in SECURITY_HEADERS.items():
        assert answer.headers[name] == value
    assert "server" not in answer.headers


def test_predictions_are_kept_by_no_cache_and_the_page_is_asked_for_again(client):
    page = client.get("/")
    again = client.get("/", headers={"If-None-Match": page.headers["ETag"]})
    changed = client.get("/", headers={"If-None-Match": '"another"'})

    assert predict(client, GOOD).headers["Cache-Control"] == "no-store"
    assert page.headers["Cache-Control"] == "no-cache"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert (again.status_code, again.content) == (304, b"")
    assert changed.status_code == 200
    assert client.get("/static/index.html").content == page.content


def test_metrics_count_what_was_done_and_hold_nothing_that_a_client_sent(limited):
    with limited() as client:
        predict(client, GOOD, b"x")
        client.request("PROPFIND", "/jane-doe")
        client.get("/static/jane-doe.js", params={"jane": "doe"})
        text = client.get("/metrics").text

    for line in (
        'dermascan_images_total{outcome="ok"} 1.0',
        'dermascan_images_total{outcome="not_an_image"} 1.0',
        'dermascan_http_requests_total{route="/v1/predict",status="200"} 1.0',
        'dermascan_http_requests_total{route="other",status="404"} 1.0',
        'dermascan_http_request_seconds_count{route="/v1/predict"} 1.0',
        "dermascan_queue_images 0.0",
        f'dermascan_model_info{{model="{MODEL}",version="{VERSION}"}} 1.0',
    ):
        assert line in text.splitlines()
    assert "jane" not in text.lower()


def test_logs_hold_no_name_and_no_byte_of_an_upload(client, caplog):
    caplog.set_level(logging.DEBUG)
    form = [("images", (PATIENT, GOOD)), ("images", (PATIENT, b"patient seven"))]

    client.post("/v1/predict", files=form, params={"explain": "Jane Doe"})
    client.post("/v1/predict", files=form)

    ours = "\n".join(record.getMessage() for record in caplog.records if "httpx" not in record.name)
    assert "/v1/predict 200" in ours
    assert "Jane" not in ours
    assert "patient seven" not in ours


def test_uploads_touch_no_disk(client):
    written: list[object] = []
    watching = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event.startswith("tempfile."):
            written.append((event, arguments))
        if watching and event == "open" and str(arguments[1])[:1] in "wax+":
            written.append((event, arguments))

    sys.addaudithook(watch)  # stays; it does nothing when the test is over
    large = encoded(photograph(2000, 1500), "PNG", compress_level=0)
    answer = predict(client, large, GOOD)
    watching = False

    assert len(large) > 8_000_000
    assert [result["status"] for result in answer.json()["results"]] == ["ok", "ok"]
    assert written == []
