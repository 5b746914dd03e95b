"""The page in a real Chromium, in front of a server that `server` names.

Override `server` to run the same tests against another server of the contract.
"""

import shutil
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright
from serving_page.driver import Visit
from serving_page.stand_in import create_app

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation",
  (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
DESKTOP = {"width": 1366, "height": 850}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Base URL of a server of the contract: here the stand-in."""
    config = uvicorn.Config(create_app(), host="127.0.0.1", port=0, log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not running.started:
        assert thread.is_alive(), "the stand-in did not start"
        assert time.monotonic() < deadline, "the stand-in does not get ready"
        time.sleep(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    assert program, "these tests need Chromium: install the package `chromium`"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Browser, server: str):
    """Open the page as a visitor does; what goes wrong unseen fails the test at its end."""
    contexts: list[BrowserContext] = []
    visits: list[Visit] = []

    def visit(path: str = "/", **options) -> Visit:
        context = browser.new_context(**{"viewport": DESKTOP, "locale": "en-GB"} | options)
        contexts.append(context)
        context.set_default_timeout(10_000)
        context.add_init_script(VIOLATIONS)
        page: Page = context.new_page()
        visits.append(Visit(page, server))
        page.goto(server + path)
        return visits[-1]

    yield visit
    for each in visits:
        each.check()
    for context in contexts:
        context.close()


@pytest.fixture
def visit(open_page) -> Visit:
    return open_page()
