"""Servers that are unfit on purpose: a real one behind a proxy that spoils one property."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from reliability import fault_proxy as faults
from reliability.fault_proxy import Exchange, Fault, FaultProxy, fault_proxy

from dermascan.settings import StorageSettings
from dermascan.stack import doctor, storage_checks
from dermascan.stack.findings import Finding
from dermascan.storage import Store


@pytest.fixture
def proxy(store: Store) -> Iterator[FaultProxy]:
    assert store.settings.endpoint_url
    with fault_proxy(store.settings.endpoint_url) as it:
        yield it


@pytest.fixture
def only(monkeypatch):
    """Return a function that leaves out all checks but some: a sound server passes them anyway."""

    def choose(names: set[str]) -> None:
        checks = storage_checks.STORAGE_CHECKS
        chosen = [check for check in checks if check.name in names | BASICS]
        assert len(chosen) >= len(names)
        monkeypatch.setattr(storage_checks, "STORAGE_CHECKS", chosen)

    return choose


def examined(store: Store, **changes: object) -> dict[str, Finding]:
    settings = store.settings.model_copy(update={"bucket": store.bucket, **changes})
    return {finding.check: finding for finding in doctor.examine_storage(settings)}


class TwoSteps:
    """Does conditional writes in two steps, as a gateway does whose storage cannot do them."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}

    def __call__(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method != "PUT":
            faults.untouched(exchange)
            return
        present, wanted = self.tags.get(request.path), request.header("If-Match")
        if (request.header("If-None-Match") and present) or (wanted and wanted != present):
            faults.status(412, "PreconditionFailed")(exchange)
            return
        time.sleep(0.2)
        kept = [pair for pair in request.headers if not pair[0].lower().startswith("if-")]
        response = exchange.forward(replace(request, headers=tuple(kept)))
        self.tags[request.path] = dict(response.headers).get("Etag", "")
        exchange.answer(response)


def without_metadata(exchange: Exchange) -> None:
    response = exchange.forward()
    kept = [pair for pair in response.headers if not pair[0].lower().startswith("x-amz-meta")]
    exchange.answer(replace(response, headers=tuple(kept)))


def accept_all(exchange: Exchange) -> None:
    """Say yes to a write whatever its checksum."""
    if exchange.request.method == "PUT" and exchange.forward().status == 400:
        exchange.answer(faults.Response(200, "OK", (("Content-Length", "0"), ("ETag", '"x"')), b""))
    else:
        faults.untouched(exchange)


def at(moment: datetime) -> Fault:
    return faults.answer_headers(Date=format_datetime(moment, usegmt=True))


BASICS = {"S3 read after write", "S3 list after write"}
NOW = datetime.now(UTC)
UNFIT: dict[str, tuple[Fault, str, set[str]]] = {
    "no If-None-Match": (
        faults.without_headers("If-None-Match"),
        "problem",
        {"S3 create once (If-None-Match)", "S3 create race"},
    ),
    "no If-Match": (
        faults.without_headers("If-Match"),
        "problem",
        {"S3 compare and swap (If-Match)", "S3 replace race"},
    ),
    "two steps": (TwoSteps(), "problem", {"S3 create race", "S3 replace race"}),
    "no ranges": (faults.without_headers("Range"), "problem", {"S3 ranged read"}),
    "no checksums": (accept_all, "problem", {"S3 checksum"}),
    "no metadata": (without_metadata, "problem", {"S3 metadata"}),
    "clock ahead": (at(NOW + timedelta(hours=1)), "problem", {"S3 clock"}),
    "clock a little behind": (
        at(NOW - timedelta(minutes=4)),
        "warning",
        {"S3 clock to the minute"},
    ),
}


@pytest.mark.parametrize("lack", UNFIT)
def test_examine_storage_when_the_server_is_unfit_says_what_it_lacks_and_how_to_mend_it(
    lack: str, store: Store, proxy: FaultProxy, only
):
    fault, level, expected = UNFIT[lack]
    only(expected)
    proxy.strike_always(fault)

    findings = examined(store, endpoint_url=proxy.url)

    assert {name for name, finding in findings.items() if finding.level == level} == expected
    assert all(findings[name].remedy for name in expected)
    assert {findings[name].level for name in BASICS} == {"ok"}


@pytest.mark.parametrize(
    ("path", "check"), [("list-type=", "S3 list after write"), ("/read", "S3 read after write")]
)
def test_examine_storage_when_a_cache_is_in_front_notices(
    path: str, check: str, store: Store, proxy: FaultProxy, only
):
    only({check})
    proxy.strike_always(faults.Stale(), method="GET", path=path)

    findings = examined(store, endpoint_url=proxy.url)

    assert findings[check].is_problem
    assert "caches" in findings[check].remedy


def test_examine_storage_when_the_clock_is_so_wrong_that_requests_are_refused_says_so(
    store: Store, proxy: FaultProxy
):
    proxy.strike_always(faults.status(403, "RequestTimeTooSkewed"))

    (finding,) = examined(store, endpoint_url=proxy.url).values()

    assert finding.is_problem
    assert "clock" in finding.detail


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("PUT", "", "s3:PutObject"),
        ("GET", "/rights", "s3:GetObject"),
        ("GET", "list-type=", "s3:ListBucket"),
        ("POST", "delete", "s3:DeleteObject"),
    ],
)
def test_examine_storage_when_an_action_is_denied_names_it_and_tries_nothing_more(
    method: str, path: str, action: str, store: Store, proxy: FaultProxy
):
    proxy.strike_always(faults.status(403, "AccessDenied"), method=method, path=path)

    findings = examined(store, endpoint_url=proxy.url)

    assert findings["S3 permissions"].detail == f"denied: {action}"
    assert set(findings) == {"S3 access", "S3 permissions", "S3 cannot promise"}


def test_examine_storage_when_the_bucket_keeps_versions_or_locks_says_what_follows(
    store: Store, only
):
    writes = {"S3 create once (If-None-Match)", "S3 compare and swap (If-Match)"}
    only({"S3 versioning", "S3 object lock"} | writes)
    locked = store.in_bucket(f"locked-{store.bucket}")
    locked._s3.create_bucket(Bucket=locked.bucket, ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 30}}
    locked._s3.put_object_lock_configuration(
        Bucket=locked.bucket,
        ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule},
    )

    findings = examined(locked)

    assert findings["S3 versioning"].level == "warning"
    assert "versioning is enabled" in findings["S3 versioning"].detail
    assert findings["S3 object lock"].level == "warning"
    assert "locked for 30 days (governance)" in findings["S3 object lock"].detail
    assert not any(finding.is_problem for finding in findings.values())


def test_plain_http_when_the_server_is_on_another_machine_warns(store: Store):
    def flaw(url: str | None) -> str | None:
        settings = StorageSettings(bucket="anything", endpoint_url=url)
        return storage_checks.plain_http(Store(settings), "")

    assert flaw("http://storage.example.org") is not None
    assert [flaw("https://storage.example.org"), flaw(None), flaw("http://127.0.0.1:1")] == [
        None,
        None,
        None,
    ]
