"""What a visitor does on the page, and what must never happen meanwhile."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Locator, Page, Request, expect

# Chromium's own line about an answer of 4xx or 5xx, or about a network that is down.
EXPECTED = "Failed to load resource"


@dataclass
class Visit:
    """One page in one browser context.

    Attributes:
        page: the page.
        server: the only address that it may talk to.
        errors: what the browser complained about.
        strangers: requests to other addresses.
    """

    page: Page
    server: str
    errors: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._on_request)

    def _on_console(self, message):
        if message.type in {"error", "warning"} and not message.text.startswith(EXPECTED):
            self.errors.append(message.text)

    def _on_request(self, request: Request):
        if not request.url.startswith((f"{self.server}/", f"blob:{self.server}/", "data:")):
            self.strangers.append(request.url)

    def check(self) -> None:
        """Fail if the browser complained, refused something, or was sent elsewhere."""
        assert self.errors == []
        assert self.page.evaluate("window.violations") == []
        assert self.strangers == []

    def choose(self, *files: dict | Path) -> None:
        self.page.set_input_files("#files", list(files))

    def cards(self) -> Locator:
        return self.page.locator(".card")

    def card(self, name: str) -> Locator:
        return self.page.locator(".card").filter(has=self.page.get_by_text(name, exact=True))

    def wait_for(self, states: Sequence[str]) -> None:
        """Wait until the cards, in the order shown, are in these states."""
        expect(self.cards()).to_have_count(len(states))
        for index, state in enumerate(states):
            expect(self.cards().nth(index)).to_have_attribute("data-state", state)

    def names(self) -> list[str]:
        return self.page.locator(".card h3").all_inner_texts()

    def scrolls_sideways(self) -> bool:
        return self.page.evaluate(
            "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        )

    def press(self, action: str) -> None:
        self.page.locator(f'[data-action="{action}"]:visible').first.click()


def lesion(seed: int, height: int = 150, width: int = 200) -> bytes:
    """Draw a spot on speckled skin, as JPEG."""
    random = np.random.default_rng(seed)
    image = random.normal((165, 180, 225), 12, (height, width, 3)).clip(0, 255).astype(np.uint8)
    axes = (int(width * random.uniform(0.1, 0.3)), int(height * random.uniform(0.1, 0.3)))
    cv2.ellipse(image, (width // 2, height // 2), axes, 20, 0, 360, (60, 75, 120), -1)
    return cv2.imencode(".jpg", image)[1].tobytes()


def upload(name: str, data: bytes, kind: str = "image/jpeg") -> dict:
    return {"name": name, "mimeType": kind, "buffer": data}


def lesions(count: int) -> list[dict]:
    return [upload(f"lesion-{seed}.jpg", lesion(seed)) for seed in range(1, count + 1)]
