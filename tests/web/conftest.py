"""Debian's Chromium, driven by Playwright, and what every page of ours has to satisfy in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

_ARGUMENTS = [
    "--no-sandbox",  # as root Chromium has none; it opens nothing but our own pages
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
_PACKAGE = "make test-web installs it: tools/install-packages web"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a browser is no part of `make test`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@dataclass
class Visit:
    """A page that was opened, and what it did that it should not have."""

    page: Page
    console: list[str] = field(default_factory=list)
    """Errors and warnings, violations of the content security policy among them."""
    requests: list[str] = field(default_factory=list)
    """Everything that it asked for, itself included."""
    dialogs: list[str] = field(default_factory=list)
    """What a script that got in would show by alert()."""

    def refuse(self, dialog: Dialog) -> None:
        """Note what it says, and go on."""
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def violations(self) -> list[str]:
        """What axe-core finds: each rule with the first element that breaks it."""
        from axe_playwright_python.sync_playwright import Axe

        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [f"{one['id']} ({one['impact']}): {one['nodes'][0]['html'][:200]}" for one in found]


class Browse:
    """Opens pages, each in a profile of its own."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[Any] = []

    def __call__(
        self, address: str, *, width: int = 1280, height: int = 900, scheme: Literal["light", "dark"] = "light", **more: Any
    ) -> Visit:
        """Load an address until nothing more comes."""
        context = self._browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
        self._contexts.append(context)
        visit = Visit(context.new_page())
        visit.page.on("console", lambda one: visit.console.append(one.text) if one.type in ("error", "warning") else None)
        visit.page.on("pageerror", lambda one: visit.console.append(str(one)))
        visit.page.on("request", lambda one: visit.requests.append(one.url))
        visit.page.on("dialog", visit.refuse)
        visit.page.goto(address, wait_until="load")
        return visit

    def close(self) -> None:
        """End all profiles."""
        for context in self._contexts:
            context.close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The browser; one for all tests."""
    where = shutil.which("chromium")
    if where is None:
        pytest.skip(f"chromium is not installed; {_PACKAGE}")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=where, args=_ARGUMENTS, headless=True)
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Browser) -> Iterator[Browse]:
    """Opens pages."""
    browsing = Browse(chromium)
    yield browsing
    browsing.close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: LEAKLINE_PICTURES, for whoever wants to look at them."""
    folder = os.environ.get("LEAKLINE_PICTURES")
    if folder is None:
        return tmp_path_factory.mktemp("pictures")
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    return path
