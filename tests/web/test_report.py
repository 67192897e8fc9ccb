"""The HTML report in Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

from tests.conftest import Build, Leakline
from tests.pages import UGLY, write_all, write_recording
from tests.programs import EXAMPLE
from tests.web.conftest import Browse, Visit

WIDTHS = (320, 1280, 3840)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, leakline: Leakline) -> str:
    """A page of all that a page can show."""
    folder = tmp_path_factory.mktemp("page")
    page = folder / "page.html"
    leakline("report", *write_all(folder), "-o", page)
    return page.as_uri()


def settled(visit: Visit) -> Visit:
    """With all charts drawn, those too that lie below the screen."""
    visit.page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    for box in visit.page.locator(".plot, .flame, .treemap").all():
        box.scroll_into_view_if_needed()
        box.locator("svg").first.wait_for(state="attached")
    visit.page.evaluate("scrollTo(0, 0)")
    return visit


def focused(visit: Visit) -> str:
    """What the keyboard is at."""
    return str(
        visit.page.evaluate("document.activeElement.id || document.activeElement.className || document.activeElement.tagName")
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_loads_asks_for_nothing_and_fits(
    whole: str, browse: Browse, pictures: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    visit = settled(browse(whole, width=width, scheme=scheme))
    assert visit.console == []
    assert visit.dialogs == []
    assert visit.requests == [whole]
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.page.locator(".plot > svg").count() == visit.page.locator(".plot").count() >= 5
    visit.page.screenshot(path=str(pictures / f"report-{width}-{scheme}.png"), full_page=True)


def test_the_answer_is_on_the_first_screen(whole: str, browse: Browse) -> None:
    visit = browse(whole, width=1280, height=720)
    card = visit.page.locator(".card").first
    assert "leaky leaks at leaky.c:6" in card.inner_text()
    for words in ("12.0 KiB/s", "72.0 KiB", "high"):
        assert words in card.inner_text()
    box = card.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] <= 720


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_axe_finds_nothing(whole: str, browse: Browse, width: int, scheme: Literal["light", "dark"]) -> None:
    assert settled(browse(whole, width=width, scheme=scheme)).violations() == []


def test_names_are_text(whole: str, browse: Browse) -> None:
    page = browse(whole).page
    assert page.locator("script").count() == 2
    assert page.locator("img, iframe, object, link").count() == 0
    assert page.get_by_text(f"{UGLY}: no proof of a leak").count() == 1
    assert page.evaluate("document.querySelectorAll('[onerror],[onclick],[style]').length === 0")
    assert "49" not in page.locator(".finding.possible .why").inner_text()


def test_the_policy_stops_a_script_that_got_in(whole: str, browse: Browse) -> None:
    visit = browse(whole)
    visit.page.evaluate(
        "() => { const one = document.createElement('script'); one.textContent = 'window.caught = 1'; document.body.append(one);"
        " const two = document.createElement('img'); two.src = 'https://example.com/x.png'; document.body.append(two); }"
    )
    assert visit.page.evaluate("window.caught") is None
    visit.page.wait_for_function("() => [...document.images].every(one => one.complete)")
    stopped = [line for line in visit.console if "Content Security Policy" in line]
    assert any("script-src" in line for line in stopped)
    assert any("https://example.com/x.png" in line for line in stopped)


def test_the_keyboard_gets_everywhere(whole: str, browse: Browse) -> None:
    visit = browse(whole)
    keys = visit.page.keyboard
    keys.press("Tab")
    assert focused(visit) == "skip"
    keys.press("/")
    assert focused(visit) == "search"
    keys.type("level_3")
    visit.page.wait_for_function("() => document.querySelector('#found').textContent.startsWith('1 finding or row,')")
    assert "% of the stacks" in visit.page.locator("#found").inner_text()
    assert visit.page.locator(".finding:visible").count() == 1
    keys.press("Escape")
    assert focused(visit) == "BODY"
    assert visit.page.locator(".finding:visible").count() == 3
    first = visit.page.evaluate("document.documentElement.dataset.theme")
    keys.press("t")
    assert visit.page.evaluate("document.documentElement.dataset.theme") == "dark" != first
    reached = set()
    for _ in range(150):
        keys.press("Tab")
        reached.add(visit.page.evaluate("document.activeElement.closest('section')?.id ?? ''"))
    assert reached >= {"findings", "trend", "composition", "stacks", "space", "faults", "system", "slabs"}


def test_a_name_opens_its_chart(whole: str, browse: Browse) -> None:
    page = browse(whole).page
    button = page.get_by_role("button", name="steady (4712)")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    page.locator("tr.open .plot > svg").wait_for()
    page.keyboard.press("Enter")
    assert page.locator("tr.open").count() == 0


def test_the_cursor_reads_values(whole: str, browse: Browse) -> None:
    visit = settled(browse(whole))
    plot = visit.page.locator("#composition .plot").first
    plot.focus()
    visit.page.keyboard.press("Home")
    assert "in all" in plot.locator(".tip").text_content().lower()  # type: ignore[union-attr]
    assert visit.page.locator("#composition [data-head]").first.inner_text() == "At 0 s"
    assert visit.page.locator("#composition [data-part='0']").first.inner_text() == "3.0 MiB"
    visit.page.keyboard.press("End")
    assert visit.page.locator("#composition [data-part='0']").first.inner_text() == "5.8 MiB"


def test_a_peak_of_one_sample_is_drawn(tmp_path: Path, browse: Browse, leakline: Leakline) -> None:
    page = tmp_path / "page.html"
    leakline("report", write_recording(tmp_path / "x.leakline", ticks=3000), "--series", "^steady", "-o", page)
    visit = settled(browse(page.as_uri()))
    plot = visit.page.locator("#trend .plot").first
    plot.focus()
    visit.page.keyboard.press("Home")
    texts = set()
    for _ in range(40):
        texts.add(plot.locator(".tip").text_content())
        visit.page.keyboard.press("ArrowRight")
    assert any(text is not None and "20.0 MiB to 50.0 MiB" in text for text in texts)


def test_the_flame_graph_zooms_inverts_and_flips(whole: str, browse: Browse) -> None:
    visit = settled(browse(whole))
    page, boxes = visit.page, visit.page.locator(".flame g[role=button]")
    labels = [one.get_attribute("aria-label") or "" for one in boxes.all()]
    assert any(label.startswith("lose at leaky.c:6: 76.0 KiB in 8 blocks") for label in labels)
    page.get_by_role("button", name="Growing").click()
    assert boxes.count() == 14
    page.locator(".flame g[aria-label^='level_5 ']").click()
    assert page.locator("#unzoom").is_enabled()
    assert page.locator(".flame g.above").count() == 8
    page.keyboard.press("Escape")
    assert page.locator(".flame g.above").count() == 7
    page.locator("#unzoom").click()
    page.locator(".flame g[tabindex='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert str(page.evaluate("document.activeElement.getAttribute('aria-label')")).startswith("level_11 at deep.cc:12")
    page.get_by_role("button", name="From the allocation").click()
    second = boxes.nth(1).get_attribute("aria-label") or ""
    assert second.startswith("level_0 at deep.cc:1")
    page.get_by_role("button", name="Flames").click()
    assert page.get_by_role("button", name="Flames").get_attribute("aria-pressed") == "true"
    assert visit.console == []


def test_the_treemap_takes_other_measures(whole: str, browse: Browse) -> None:
    visit = settled(browse(whole))
    page = visit.page
    assert page.locator(".treemap g").count() == 40
    page.get_by_role("button", name="In swap").click()
    assert "nothing" in (page.locator(".treemap").text_content() or "")
    page.get_by_role("button", name="Address space").click()
    assert page.locator(".treemap g").count() == 40
    page.locator(".treemap g").first.focus()
    page.keyboard.press("ArrowRight")
    assert "of addresses" in page.locator("#space .readout").inner_text()


def test_a_page_without_a_script_still_says_it(whole: str, browse: Browse) -> None:
    page = browse(whole, java_script_enabled=False).page
    assert page.get_by_role("heading", name="leaky leaks at leaky.c:6").is_visible()
    assert page.locator(".finding").count() == 3


def test_it_prints(whole: str, browse: Browse, pictures: Path) -> None:
    page = browse(whole, scheme="dark").page
    data = page.pdf(path=str(pictures / "report.pdf"), format="A4", print_background=True)
    assert data.startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator(".tools").is_visible()


def test_three_commands_lead_to_the_line(tmp_path: Path, browse: Browse, build: Build, leakline: Leakline, pictures: Path) -> None:
    """What a new user does: record, diagnose, report; and then reads."""
    program = tmp_path / "three-commands"
    shutil.copy(build(str(EXAMPLE)), program)
    recording, findings, page = tmp_path / "x.leakline", tmp_path / "x.json", tmp_path / "x.html"
    command = [
        sys.executable,
        "-m",
        "leakline",
        "record",
        "-i",
        "100ms",
        "-v",
        "--maps",
        "every=500ms",
        "-o",
        recording,
        "--",
        program,
    ]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True) as recorder:
        assert recorder.stderr is not None
        assert "is safe" in recorder.stderr.readline()
        leakline("diagnose", "--name", "^three-commands$", "-o", findings)
        os.killpg(recorder.pid, signal.SIGINT)
        recorder.communicate(timeout=60)
    leakline("report", recording, findings, "-o", page)
    visit = settled(browse(page.as_uri()))
    assert visit.console == []
    card = visit.page.locator(".card").first.inner_text()
    assert "three-commands leaks at leak-example.c:6" in card
    assert "KiB/s" in card
    assert "malloc(4096*3)" in visit.page.locator(".source .hit").first.inner_text()
    assert visit.page.locator("#composition h3").first.inner_text().startswith("three-commands (")
    visit.page.screenshot(path=str(pictures / "three-commands.png"))


def test_a_crash_is_explained(tmp_path: Path, browse: Browse, build: Build, leakline: Leakline) -> None:
    page = tmp_path / "x.html"
    leakline("faults", "-o", page, "--", build(str(EXAMPLE.with_name("segv-example.c"))), status=139)
    visit = browse(page.as_uri())
    assert visit.page.locator("h2").first.inner_text().endswith("died of SIGSEGV at segv-example.c:17")
    assert "settings->port" in visit.page.locator("#faults .source .hit").inner_text()
    assert "is NULL" in visit.page.locator(".card .text").inner_text()
    assert visit.console == []
    assert visit.violations() == []


def test_several_of_each_make_one_page(tmp_path: Path, browse: Browse, leakline: Leakline) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    files = [*write_all(tmp_path / "a"), *write_all(tmp_path / "b")]
    page = tmp_path / "page.html"
    leakline("report", *files, "-o", page)
    visit = settled(browse(page.as_uri()))
    assert visit.console == []
    assert visit.violations() == []
    assert visit.page.locator("table.series").count() == visit.page.locator(".treemap").count() == 2
    assert visit.page.locator(".finding").count() == 3  # the same findings are one


def test_findings_alone_make_a_page_without_empty_sections(tmp_path: Path, browse: Browse, leakline: Leakline) -> None:
    files = write_all(tmp_path)
    page = tmp_path / "page.html"
    leakline("report", files[1], "-o", page)
    visit = browse(page.as_uri())
    assert [one.get_attribute("id") for one in visit.page.locator("section").all()] == ["verdict", "findings", "stacks", "about"]
    assert visit.console == []
    assert visit.violations() == []
