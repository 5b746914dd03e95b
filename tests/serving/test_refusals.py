import threading

import httpx
import pytest
from serving.service import (
    GENEROUS,
    GOOD,
    HEADERS,
    StandInScorer,
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

from dermascan.storage import Store


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
