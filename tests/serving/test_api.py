import asyncio
import base64
import hashlib
import io
import logging
import sys
import threading
import uuid

import httpx
import numpy as np
import pytest
from hostile import encoded, hostile_images, photograph
from PIL import Image
from serving.service import (
    GENEROUS,
    GOOD,
    MODEL,
    SHARE_OF_VERSION,
    THRESHOLD,
    VERSION,
    StandInScorer,
    images,
    predict,
    publish,
    serving,
)

from dermascan import DISCLAIMER
from dermascan.imaging import decode
from dermascan.quality import measure
from dermascan.serving.middleware import SECURITY_HEADERS
from dermascan.storage import Store

PROBLEM = "application/problem+json"
BOUNDARY = "boundary"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
PATIENT = "Jane Doe 1970-01-01.jpg"


def grey(level: int) -> bytes:
    return encoded(Image.new("RGB", (200, 150), (level, level, level)), "PNG")


@pytest.fixture(scope="module")
def client(storage_settings, tmp_path_factory):
    store = Store(storage_settings, f"serving-{uuid.uuid4().hex[:12]}")
    store.ensure_bucket()
    publish(store, tmp_path_factory.mktemp("published"), 0)
    with serving(store) as client:
        yield client


@pytest.fixture
def limited(store: Store, tmp_path):
    """Return what serves under other limits."""
    publish(store, tmp_path, 0)

    def limited(**limits):
        return serving(store, GENEROUS.model_copy(update=limits))

    return limited


def part(data: bytes, disposition: str = 'form-data; name="images"; filename="a.jpg"') -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def require_problem(response: httpx.Response, status: int) -> str:
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "detail"}
    assert problem["status"] == status
    return problem["detail"]


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


def wait_for(condition, seconds: float = 20) -> None:
    ready = threading.Event()
    for _ in range(int(seconds / 0.05)):
        if condition():
            return
        ready.wait(0.05)
    raise AssertionError("it did not happen")


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
    publish(store, tmp_path, 0)
    with serving(store) as client:
        answers = asyncio.run(ask_during(str(client.base_url), lambda: publish(store, tmp_path, 1)))

    assert len(answers) >= 200
    assert {answer.status_code for answer in answers} == {200}
    bodies = [answer.json() for answer in answers]
    assert {body["model"]["version"] for body in bodies} == {VERSION, VERSION + 1}
    for body in bodies:
        extra = SHARE_OF_VERSION * (body["model"]["version"] - VERSION)
        risks = [result["p_malignant"] for result in body["results"]]
        np.testing.assert_allclose(risks, [100 / 512 + extra, 40 / 512 + extra], atol=1e-6)


async def ask_during(url: str, change) -> list[httpx.Response]:
    """Let 50 clients ask again and again, while something changes and a little longer."""
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=50)
    asked, changed, answers = asyncio.Event(), asyncio.Event(), []
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60) as client:

        async def ask() -> None:
            last = 3
            while last:
                answers.append(await client.post("/v1/predict", files=images(grey(100), grey(40))))
                asked.set()
                last -= changed.is_set()

        asking = [asyncio.create_task(ask()) for _ in range(50)]
        await asked.wait()
        await asyncio.to_thread(change)
        version = None
        while version != VERSION + 1:
            version = (await client.get("/v1/models/current")).json()["version"]
        changed.set()
        await asyncio.gather(*asking)
    return answers


# Requests that are not answered


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"nonsense", "cannot be told apart"),
        (b"", "ends before its last part"),
        (part(GOOD), "ends before its last part"),
        (form(part(GOOD, "attachment")), "a part has no name"),
        (form(part(GOOD, "form-data; filename=a.jpg")), "a part has no name"),
        (b"--boundary\r\n" + b"X: y\r\n" * 50 + b"\r\n", "cannot be told apart"),
        (b"--boundary\r\nX: " + b"y" * 20_000, "cannot be told apart"),
    ],
)
def test_predict_when_the_form_is_malformed_is_400(client, body, words):
    answer = client.post("/v1/predict", content=body, headers=HEADERS)

    assert words in require_problem(answer, 400)


@pytest.mark.parametrize("boundary", ["", ";boundary=", f";boundary={'b' * 300}"])
def test_predict_when_the_boundary_is_none_is_400(client, boundary):
    headers = {"Content-Type": f"multipart/form-data{boundary}"}

    assert "boundary" in require_problem(
        client.post("/v1/predict", content=form(part(GOOD)), headers=headers), 400
    )


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "image/jpeg"},
        {"Content-Type": "application/json"},
        {**HEADERS, "Content-Encoding": "gzip"},
    ],
)
def test_predict_when_the_body_is_of_another_type_is_415(client, headers):
    answer = client.post("/v1/predict", content=form(part(GOOD)), headers=headers)

    assert "multipart/form-data" in require_problem(answer, 415)


def test_predict_when_there_is_no_image_or_a_wrong_param_is_422(client):
    no_image = client.post("/v1/predict", files=images(GOOD, field="pictures"))
    no_answer = predict(client, GOOD, params={"explain": "perhaps"})

    assert "field `images`" in require_problem(no_image, 422)
    assert "explain" in require_problem(no_answer, 422)
    assert "perhaps" not in no_answer.text


def test_predict_when_there_is_too_much_is_413(limited):
    with limited(images=2, request_bytes=20_000) as client:
        assert predict(client, GOOD, GOOD).status_code == 200
        many = predict(client, GOOD, GOOD, GOOD)
        announced = predict(client, b"x" * 20_001)
        parts = form(*[part(b"", f'form-data; name="{n}"') for n in range(100)])
        fields = client.post("/v1/predict", content=parts, headers=HEADERS)

    assert "at most 2 images" in require_problem(many, 413)
    assert "20,000 bytes" in require_problem(announced, 413)
    assert require_problem(fields, 413)


def test_predict_when_a_stream_never_ends_stops_at_the_limit(limited):
    with limited(request_bytes=100_000) as client:
        body = (part(b"")[:-2], *(b"x" * 10_000 for _ in range(11)))

        answer = client.post("/v1/predict", content=iter(body), headers=HEADERS)

    assert "100,000 bytes" in require_problem(answer, 413)


def test_predict_when_one_image_is_too_large_rejects_that_one(limited):
    with limited(image_bytes=len(GOOD), image_pixels=200 * 100) as client:
        pixels, size, good = predict(client, grey(1), GOOD + b"x", GOOD).json()["results"]

    assert pixels["reason"] == "too_large: 200 x 150 pixels, 20,000 are accepted"
    assert size["reason"].startswith("too_large: ")
    assert good["status"] == "ok"


def test_predict_when_the_client_asks_too_often_is_429_until_it_has_waited(limited):
    with limited(requests_per_minute=60, burst=2) as client:
        codes = [predict(client, GOOD).status_code for _ in range(3)]
        refused = client.get("/v1/models/current")
        free = [client.get(path).status_code for path in ("/", "/healthz", "/readyz", "/metrics")]

    assert codes == [200, 200, 429]
    assert require_problem(refused, 429)
    assert refused.headers["Retry-After"] == "1"
    assert free == [200] * 4


def test_api_when_a_key_is_wanted_lets_only_those_in_who_show_it(store, tmp_path):
    publish(store, tmp_path, 0)
    with serving(store, key="correct horse battery") as client:
        without = predict(client, GOOD)
        wrong = predict(client, GOOD, headers={"X-API-Key": "correct horse batterz"})
        odd = predict(client, GOOD, headers={"X-API-Key": b"\xff"})
        described = client.get("/v1/models/current")
        right = predict(client, GOOD, headers={"X-API-Key": "correct horse battery"})
        page = client.get("/")

    for answer in (without, wrong, odd, described):
        assert "X-API-Key" in require_problem(answer, 401)
    assert (right.status_code, page.status_code) == (200, 200)


# Too much to do


@pytest.fixture
def slow(store: Store, tmp_path):
    """Return what serves a model that waits until it is let."""
    publish(store, tmp_path, 0)
    let = threading.Event()
    let.set()  # for warming up

    class Slow(StandInScorer):
        def score(self, images, batch_size=32):
            let.wait(20)
            return super().score(images, batch_size)

    def slow(**limits):
        return serving(store, GENEROUS.model_copy(update=limits), load=Slow), let

    return slow


def test_predict_when_it_takes_too_long_is_504_and_the_server_goes_on(slow):
    service, let = slow(seconds=0.5)
    with service as client:
        let.clear()
        late = predict(client, GOOD)
        alive = client.get("/healthz")
        let.set()
        later = predict(client, GOOD)

    assert "0.5 s" in require_problem(late, 504)
    assert (alive.status_code, later.status_code) == (200, 200)


def test_predict_when_the_upload_takes_too_long_is_504(slow):
    def dripping():
        yield part(b"")[:-2]
        for _ in range(30):
            yield b"x"
            threading.Event().wait(0.1)

    service, _ = slow(seconds=0.5)
    with service as client:
        answer = client.post("/v1/predict", content=dripping(), headers=HEADERS)

    assert "0.5 s" in require_problem(answer, 504)


@pytest.mark.parametrize(
    "limits", [{"requests": 2}, {"waiting_images": 1}, {"buffered_bytes": 3 * len(GOOD)}]
)
def test_predict_when_there_is_too_much_to_do_is_503_and_answers_again_later(slow, limits):
    service, let = slow(**limits)
    with service as client:
        let.clear()
        answers: list[httpx.Response] = []
        asking = [
            threading.Thread(target=lambda: answers.append(predict(client, GOOD))) for _ in range(8)
        ]
        for thread in asking:
            thread.start()
        wait_for(lambda: any(answer.status_code == 503 for answer in answers))
        busy, alive = answers[0], client.get("/healthz")
        let.set()
        for thread in asking:
            thread.join()
        again = predict(client, GOOD)

    assert "too much to do" in require_problem(busy, 503)
    assert int(busy.headers["Retry-After"]) > 0
    assert {answer.status_code for answer in answers} == {200, 503}
    assert (alive.status_code, again.status_code) == (200, 200)


def test_predict_when_the_model_breaks_down_is_500_without_details(store, tmp_path, caplog):
    class Broken(StandInScorer):
        calls = 0

        def score(self, images, batch_size=32):
            self.calls += 1
            if self.calls > 1:
                raise RuntimeError("the wires are crossed")
            return super().score(images, batch_size)

    publish(store, tmp_path, 0)
    with serving(store, load=Broken) as client:
        answer = predict(client, GOOD)
        alive = client.get("/healthz")

    assert "wires" not in require_problem(answer, 500) + str(answer.headers)
    assert "wires" in caplog.text
    assert alive.status_code == 200


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
