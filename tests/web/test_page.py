"""The page in a real browser."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from tests.conftest import Leakline
from tests.programs import CACHE, EXAMPLE
from tests.web.conftest import Browse, Visit
from tests.web.serving import Server, serving

UNITS = ["B", "KiB", "MiB", "GiB"]
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def leak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The classic leak, a cache, and a program whose name is markup."""
    folder = tmp_path_factory.mktemp("programs")
    program, evil = folder / "leak-example", folder / "<b>evil&"
    includes = ["-include", "stdlib.h", "-include", "unistd.h"]
    subprocess.run(["cc", "-g", "-w", *includes, "-o", str(program), str(EXAMPLE)], check=True)
    evil.symlink_to("/bin/sleep")
    commands = [
        [str(program)],
        [sys.executable, "-c", CACHE],
        [sys.executable, "-c", "import time; time.sleep(900)", EVIL],
        [str(evil), "600"],
    ]
    programs = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    yield programs[0].pid
    for one in programs:
        one.kill()
        one.wait()


@pytest.fixture(scope="module")
def server(leak: int) -> Iterator[Server]:
    with serving("-i", "500ms", "--warm-up", "1s") as ours:
        yield ours


def assert_clean(visit: Visit, server: Server) -> None:
    assert visit.console == []
    assert visit.dialogs == []
    assert [one for one in visit.requests if not one.startswith(server.address)] == []


def settled(visit: Visit) -> None:
    visit.page.wait_for_selector("#rows tr")
    visit.page.wait_for_selector("#machine-chart svg")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(320, 700), (1280, 900), (3840, 2160)])
def test_it_fits_is_accessible_and_asks_nobody_else(
    browse: Browse, server: Server, leak: int, pictures: Path, width: int, height: int, scheme: Literal["light", "dark"]
) -> None:
    visit = browse(server.address, width=width, height=height, scheme=scheme)
    page = visit.page
    settled(visit)
    page.wait_for_selector("#rows tr.LEAK a:text-is('leak-example'), #rows tr.GROWING a:text-is('leak-example')", timeout=60_000)
    page.screenshot(path=pictures / f"serve-{width}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    assert visit.violations() == []
    page.fill("#filter", f"leak-example {leak}")
    page.click("#rows td.name a")
    page.wait_for_selector("#kinds tr")
    page.wait_for_selector("#kinds-chart svg")
    assert page.inner_text("#name") == f"leak-example ({leak})"
    assert "probability" in page.inner_text("#why")
    assert "heap" in page.inner_text("#kinds")
    page.screenshot(path=pictures / f"serve-process-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.violations() == []
    assert_clean(visit, server)


def test_it_goes_by_keyboard_alone(browse: Browse, server: Server, leak: int) -> None:
    visit = browse(server.address)
    page = visit.page
    settled(visit)
    page.keyboard.press("/")
    page.keyboard.type(f"leak-example {leak}")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_selector("#depth:not([hidden])")
    page.wait_for_selector("#kinds tr")
    assert page.inner_text("#name") == f"leak-example ({leak})"
    page.keyboard.press("Escape")
    page.wait_for_selector("#list:not([hidden])")
    assert page.input_value("#filter") == f"leak-example {leak}"
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.textContent") == "leak-example"
    page.keyboard.press("t")
    page.keyboard.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    settled(visit)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark", "it is kept"
    page.get_by_role("button", name="Held").focus()
    page.keyboard.press("Enter")
    assert page.get_attribute("th:has-text('Held')", "aria-sort") == "descending"
    for _ in range(20):  # while it is read, the next look may change a number
        held = [
            float(amount.replace(",", "")) * 1024 ** UNITS.index(unit)
            for amount, unit in (one.split() for one in page.locator("#rows tr td:nth-child(4)").all_inner_texts())
        ]
        if held == sorted(held, reverse=True):
            break
        page.wait_for_timeout(200)
    assert held == sorted(held, reverse=True)
    assert len(held) > 3
    assert_clean(visit, server)


def test_names_are_text_and_never_markup(browse: Browse, server: Server) -> None:
    visit = browse(server.address)
    settled(visit)
    visit.page.fill("#filter", "<b>evil&")
    visit.page.wait_for_selector("#rows tr")
    assert visit.page.inner_text("#rows td.name a") == "<b>evil&"
    visit.page.fill("#filter", EVIL)
    visit.page.click("#rows td.name a")
    visit.page.wait_for_selector("#kinds tr")
    assert EVIL in visit.page.inner_text("#line")
    assert visit.page.evaluate("document.querySelectorAll('main img, main b b').length") == 0
    assert_clean(visit, server)


def test_the_report_of_a_process_is_taken_away(browse: Browse, server: Server, leak: int) -> None:
    visit = browse(server.address)
    settled(visit)
    visit.page.fill("#filter", f"leak-example {leak}")
    visit.page.click("#rows td.name a")
    with visit.page.expect_download() as download:
        visit.page.click("text=Report as JSON")
    report = json.loads(Path(download.value.path()).read_text())
    assert (report["schema"], report["target"]["pid"]) == ("leakline.findings/1", leak)
    assert re.fullmatch(r"leakline-\d+-\d+-\d{8}T\d{6}Z\.json", download.value.suggested_filename)


def test_it_is_live_and_comes_back_after_a_sleep(browse: Browse, server: Server) -> None:
    visit = browse(server.address)
    page = visit.page
    settled(visit)
    moved = "(before) => document.querySelector('#machine-chart .curve')?.getAttribute('d') !== before"
    page.wait_for_function(moved, arg=page.get_attribute("#machine-chart .curve", "d"))
    devtools = page.context.new_cdp_session(page)
    devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    time.sleep(8)
    devtools.send("Page.setWebLifecycleState", {"state": "active"})
    path = page.get_attribute("#machine-chart .curve", "d")
    page.wait_for_function(moved, arg=path, timeout=30_000)
    page.wait_for_function("document.querySelector('#state').classList.contains('live')", timeout=30_000)
    page.context.set_offline(True)
    page.wait_for_timeout(1500)
    page.context.set_offline(False)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    path = page.get_attribute("#machine-chart .curve", "d")
    page.wait_for_function(moved, arg=path, timeout=60_000)


def test_a_token_opens_the_page_and_leaves_the_address(browse: Browse) -> None:
    with serving("--host", "0.0.0.0", "-i", "500ms") as ours:
        (token,) = re.findall(r"\?token=(\S+)", ours.said)
        here = ours.address.replace("0.0.0.0", "127.0.0.1")
        visit = browse(f"{here}/?token={token}")
        visit.page.wait_for_selector("#rows tr")
        assert visit.page.url == f"{here}/"
        assert visit.page.evaluate("document.cookie") == "", "no script sees it"
        assert sum(token in one for one in visit.requests) == 1
        visit.page.reload()
        visit.page.wait_for_selector("#rows tr")
        assert visit.console == []


def test_a_server_that_is_started_anew_is_found_again_and_a_recording_is_shown(
    browse: Browse, leakline: Leakline, leak: int, tmp_path: Path, pictures: Path
) -> None:
    path = tmp_path / "box.leakline"
    leakline("record", leak, "-i", "0.1", "-d", "5", "--maps", "1s", "-o", path, "-q")
    with serving(path) as ours:
        visit = browse(ours.address)
        visit.page.wait_for_selector("#rows tr")
        visit.page.wait_for_selector("#machine-chart .curve")
        assert visit.page.inner_text("#host") == "recording box.leakline"
        assert visit.page.inner_text("#state") == "recording"
        visit.page.click("#rows td.name a")
        visit.page.wait_for_selector("#kinds tr")
        assert "[heap]" in visit.page.inner_text("#kinds")
        visit.page.screenshot(path=pictures / "serve-recording.png", full_page=True)
        port = ours.port
    visit.page.wait_for_selector("#state.lost")
    with serving(path, "--port", port):
        visit.page.wait_for_selector("#state.live", timeout=60_000)
