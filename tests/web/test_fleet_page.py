"""The fleet's report in Chromium."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from benchmarks import fleet_series

from leakline.model.fleet import FleetReport
from leakline.present.html.fleet import fleet_page
from tests.pages import UGLY
from tests.web.conftest import Browse


def _report() -> FleetReport:
    """A release that begins to leak, names that nobody would choose, a limit, an answer that is partial."""
    rng = np.random.default_rng(8)
    values = fleet_series.clean(rng, 300)
    labels = [{"job": f"job{n % 9}", "instance": f"h{n}", "version": "1.0"} for n in range(300)]
    half = fleet_series.SAMPLES // 2
    for n in range(200, 300):
        labels[n] = {"job": "shop", "instance": f"s{n % 50}", "version": f"2.{n // 250}"}
        values[n] = 2e8 + rng.standard_normal(fleet_series.SAMPLES) * 1e5
        if n >= 250:
            values[n] += 2e5 * np.arange(fleet_series.SAMPLES)
            values[n, :half] = np.nan
        else:
            values[n, half:] = np.nan
    labels[0]["job"] = UGLY
    values[0] = 1e8 + 1e6 * np.arange(fleet_series.SAMPLES)
    report = fleet_series.judged(values, labels)
    limited = msgspec.structs.replace(report.services[0], limit=round(report.services[0].floors[-1] or 0) + 10**7)
    coverage = msgspec.structs.replace(report.coverage, partial=(f"2 series are missing: {UGLY}",))
    return msgspec.structs.replace(report, services=(limited, *report.services[1:]), coverage=coverage)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("fleet") / "fleet.html"
    path.write_text(fleet_page(_report(), "1"), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280, 3840])
def test_it_loads_asks_for_nothing_fits_and_can_be_read_by_all(
    page: str, browse: Browse, pictures: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    visit = browse(page, width=width, scheme=scheme)
    assert (visit.console, visit.dialogs, visit.requests) == ([], [], [page])
    assert visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert visit.page.locator("script").count() == 0
    assert visit.violations() == []
    visit.page.screenshot(path=str(pictures / f"fleet-{width}-{scheme}.png"), full_page=True)


def test_it_says_what_there_is(page: str, browse: Browse) -> None:
    visit = browse(page)
    assert visit.page.locator(".card.leak.first h2").inner_text() == "shop leaks since 2.1"
    assert visit.page.locator("#releases tbody tr").first.inner_text().startswith("BEGINS")
    assert visit.page.locator(".card.suspect").first.inner_text().startswith("Partial")
    assert visit.page.locator(".floors .limit").count() == 1
    assert visit.page.locator("#ranking tbody tr").count() == 250
    for place in visit.page.locator("[tabindex='0']").all():
        place.focus()
        assert place.evaluate("place => place === document.activeElement")
