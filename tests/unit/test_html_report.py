"""The HTML report without a browser: what goes into it, what is refused, and what no name can do."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakline.errors import InvalidRequest, ParseError
from leakline.model.faults import FaultMoment
from leakline.model.finding import Evidence, Subject
from leakline.model.page import Page
from leakline.model.stack import Frame, SourceLocation
from leakline.present.html.payload import embedded, fault_data, map_data
from leakline.present.json import to_json
from leakline.session.html_page import gather, html_report, page_of_faults, page_of_reports
from leakline.session.source_excerpts import excerpts_of
from leakline.store.extremes import extremes_of, telling_places
from leakline.store.reader import RecordingReader
from tests.conftest import Leakline
from tests.findings import finding, frame, report
from tests.pages import PID, UGLY, faults, mappings, some_findings, write_all, write_recording


class Elements(HTMLParser):
    """All tags with what is special about them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on") or name == "style"]
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]


def payload_of(page: bytes) -> dict[str, list[dict[str, object]]]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.decode(), re.DOTALL)
    assert found is not None
    decoded: dict[str, list[dict[str, object]]] = json.loads(found[1])
    return decoded


def test_of_all_kinds_of_files_one_page_is_made(tmp_path: Path, leakline: Leakline) -> None:
    out = tmp_path / "page.html"
    done = leakline("report", *write_all(tmp_path), "-o", out)
    assert f"the page is in {out}" in done.err
    text = out.read_text()
    for section in ("verdict", "findings", "trend", "composition", "stacks", "space", "faults", "system", "slabs", "about"):
        assert f'<section id="{section}"' in text
    assert "exists" in leakline("report", tmp_path / "maps.json", "-o", out, status=2).err
    leakline("report", tmp_path / "maps.json", "-o", out, "--force", "-q")
    assert '<section id="trend"' not in out.read_text()


def test_it_goes_to_stdout_too_and_fails_on_what_it_shows(tmp_path: Path, leakline: Leakline) -> None:
    files = write_all(tmp_path)
    done = leakline("report", *files, "--format", "html", "--fail-on", "high", status=1)
    assert done.out.startswith("<!DOCTYPE html>")
    assert "leaky leaks at leaky.c:6" in done.out


def test_what_does_not_go_together_is_refused(tmp_path: Path, leakline: Leakline) -> None:
    files = write_all(tmp_path)
    assert "--limit" in leakline("report", *files, "-o", tmp_path / "x.html", "-n", "3", status=2).err
    assert "-o FILE.html" in leakline("report", files[1], "--no-source", status=2).err
    assert "no such series" in leakline("report", files[0], "-o", tmp_path / "x.html", "--series", "nobody", status=2).err
    assert "no regular" in leakline("report", files[0], "-o", tmp_path / "x.html", "--series", "(", status=2).err.replace(
        "not a", "no"
    )


def test_what_cannot_be_read_is_said_and_the_rest_is_shown(tmp_path: Path, leakline: Leakline) -> None:
    files = write_all(tmp_path)
    broken = tmp_path / "broken.json"
    broken.write_text('{"schema":"leakline.maps/1","pid":1}')
    done = leakline("report", *files, broken, "-o", tmp_path / "x.html")
    assert "broken.json" in done.err
    leakline("report", broken, "-o", tmp_path / "y.html", status=6)
    assert not (tmp_path / "y.html").exists()


def test_any_command_with_findings_writes_it(tmp_path: Path, leakline: Leakline) -> None:
    out = tmp_path / "x.html"
    leakline("report", write_all(tmp_path)[1], "--format", "html", "-o", out)
    assert "leaky leaks at" in out.read_text()


def test_suppressed_findings_are_not_in_it(tmp_path: Path, leakline: Leakline) -> None:
    rules = tmp_path / "rules.supp"
    rules.write_text("leak:lose\n")
    out = tmp_path / "x.html"
    leakline("report", write_all(tmp_path)[1], "--suppressions", rules, "-o", out)
    assert "leaky leaks at" not in out.read_text()
    assert "<h3>Suppressed</h3>" in out.read_text()


def test_a_section_without_data_is_not_there() -> None:
    page = html_report(Page(title="x", files=(), made=0.0)).decode()
    assert re.findall(r'<section id="(\w+)"', page) == ["verdict", "about"]
    assert "Nothing was found" in page


@given(st.text(max_size=60))
def test_no_text_leaves_its_place_in_the_data(text: str) -> None:
    data = embedded({"x": text})
    assert not re.search(r"[<>&\u2028\u2029]", data)
    assert json.loads(data) == {"x": text}


nasty = st.sampled_from(
    [UGLY, "</script>", "<!--", "{{ 7 }}", '"><img src=x>', "\x00", "\udc80", "\u202e", "&lt;", "']"]
) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=40)
@given(nasty, nasty, nasty)
def test_no_name_becomes_an_element(first: str, second: str, third: str) -> None:
    """The same elements come out, whatever the names are."""

    def made(a: str, b: str, c: str) -> Elements:
        stack = (Frame(function=a, file=b, line=3, module=c, address=1), frame("main"))
        one = finding(
            subject=Subject(type="heap", name=c),
            stack=stack,
            evidence=(Evidence(method=b, text=a, values={}),),
            fingerprint=c,
            location=SourceLocation(function=a, file=b, line=3),
        )
        pages = page_of_reports([report((one,), command=a, definite=(100, 2))])
        return Elements(html_report(msgspec.structs.replace(pages, title=b, files=(c,), mappings=(mappings(a),))).decode())

    elements, plain = made(first, second, third), made("a", "b", "c")
    assert elements.tags == plain.tags
    assert elements.links == plain.links
    assert elements.handlers == []


def test_nothing_in_it_points_elsewhere(tmp_path: Path) -> None:
    page = html_report(gather(write_all(tmp_path), print)).decode()
    elements = Elements(page)
    assert all(link.startswith("#") for link in elements.links)
    assert elements.handlers == []
    assert elements.tags.count("script") == 2
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]


def test_source_is_shown_where_it_is_source(tmp_path: Path) -> None:
    source = tmp_path / "leaky.c"
    found = some_findings(source)
    page = html_report(page_of_reports(found.targets)).decode()
    assert "int line_6 = 6;" in page
    assert "int line_11" not in page
    assert "int line_6 = 6;" not in html_report(page_of_reports(found.targets, source=False)).decode()


@pytest.mark.parametrize("name", ["secret", "key.pem", "link.c", "folder.c", "binary.c", "pipe.c"])
def test_no_other_file_comes_into_it(tmp_path: Path, name: str) -> None:
    """Whoever wrote the findings chose the names in them."""
    import os

    secret = tmp_path / name
    (tmp_path / "shadow").write_text("root:x\n" * 20)
    match name:
        case "link.c":
            secret.symlink_to(tmp_path / "shadow")
        case "folder.c":
            secret.mkdir()
        case "binary.c":
            secret.write_bytes(b"\0root:x\n" * 20)
        case "pipe.c":
            os.mkfifo(secret)
        case _:
            secret.write_text("root:x\n" * 20)
    stack = (frame("f", 3, str(secret)),)
    assert excerpts_of([report((finding(stack=stack),))]) == {}


def test_peaks_and_processes_are_in_the_data(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x", ticks=2000)
    data = payload_of(html_report(gather([path], print)))
    (steady,) = [one for one in data["series"] if one["name"] == "steady (4712)"]
    assert max(steady["hi"]) == 30 * 1024  # type: ignore[call-overload]
    assert len(steady["t"]) == 480  # type: ignore[arg-type]
    assert {one["name"] for one in data["stacks"]} == {"leaky (4711)", "MemTotal", "slab"}


def test_owners_add_up_at_each_moment(tmp_path: Path) -> None:
    page = gather([write_recording(tmp_path / "x")], print)
    (system,) = [one.system for one in page.recordings if one.system is not None]
    assert all(sum(values) == 8 << 30 for values in zip(*system.parts.values(), strict=True))


def test_a_process_without_a_name_has_its_number() -> None:
    page = html_report(page_of_reports([report((finding(),), command="?", pid=1447, definite=(100, 2))])).decode()
    assert "<h2>Process 1447 leaks at a.c:6</h2>" in page
    assert "? (1447)" not in page


def test_the_kernel_is_no_process() -> None:
    page = html_report(page_of_reports([report((finding(),), target=None, definite=(100, 2))])).decode()
    assert "<h2>The kernel loses what is allocated at a.c:6</h2>" in page


def test_many_mappings_are_few_boxes() -> None:
    table = mappings()
    many = tuple(msgspec.structs.replace(row, start=row.start + n) for n in range(300) for row in table.vmas or ())
    data = map_data(msgspec.structs.replace(table, vmas=many))
    boxes = [box for kind in data["kinds"] for box in kind["boxes"]]
    assert len(boxes) < 700
    for measure in ("rss", "size"):
        assert sum(box[measure] for box in boxes) == sum(getattr(row, measure) for row in many)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("maps.json", '"rss": 2048', f'"rss": {10**400}'),
        ("maps.json", '"rss": 2048', '"rss": -1'),
        ("faults.json", '"count": 900', f'"count": {10**400}'),
        ("faults.json", '"seconds": 10.0', '"seconds": 1e300'),
        ("faults.json", '"seconds": 10.0', '"seconds": -1'),
        ("faults.json", '"timeline"', '"time"'),
    ],
)
def test_amounts_that_no_machine_has_are_refused(tmp_path: Path, name: str, old: str, new: str) -> None:
    write_all(tmp_path)
    path = tmp_path / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ParseError):
        gather([path], print)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 40000), st.binary(min_size=1, max_size=8))
def test_a_damaged_recording_is_read_or_refused(tmp_path: Path, at: int, junk: bytes) -> None:
    whole = tmp_path / "x.leakline"
    if not whole.exists():
        write_recording(whole, ticks=12)
    data = bytearray(whole.read_bytes())
    at %= len(data)
    data[at : at + len(junk)] = junk
    damaged = tmp_path / "damaged.leakline"
    damaged.write_bytes(data)
    with suppress(InvalidRequest, ParseError):
        html_report(gather([damaged], lambda _text: None))


def test_hundreds_of_causes_are_a_dozen_bands() -> None:
    report = faults()
    moments = tuple(FaultMoment(seconds=n + 1.0, counts={f"cause-{m}": m for m in range(300)}) for n in range(1000))
    data = fault_data(msgspec.structs.replace(report, timeline=moments))
    assert data is not None
    assert len(data["parts"]) == 13
    assert len(data["t"]) <= 400
    assert sum(sum(part["v"]) for part in data["parts"]) == 1000 * sum(range(300))


def test_page_faults_alone() -> None:
    page = html_report(page_of_faults([faults()])).decode()
    assert f"leaky ({PID}) asked for 930 pages" in page
    assert '<section id="faults"' in page


@given(
    st.lists(st.floats(0, 1e9) | st.just(math.nan), min_size=1, max_size=80),
    st.integers(1, 30),
    st.lists(st.integers(0, 1), min_size=80, max_size=80),
)
def test_extremes_keep_the_least_and_the_most(samples: list[float], stretches: int, jumps: list[int]) -> None:
    times, values = np.arange(len(samples), dtype=float), np.array(samples)
    epochs = np.cumsum(np.array(jumps[: len(samples)]))
    times_of, lows, highs = extremes_of(times, values, epochs, stretches)
    known = [value for value in samples if math.isfinite(value)]
    if not known:
        assert not times_of
        return
    assert min(low for low in lows if math.isfinite(low)) == min(known)
    assert max(high for high in highs if math.isfinite(high)) == max(known)
    assert list(times_of) == sorted(times_of)
    assert len(times_of) <= 2 * (stretches + len(set(epochs.tolist()))) + len(set(epochs.tolist()))


@given(st.lists(st.floats(0, 1e9) | st.just(math.nan), max_size=80), st.integers(1, 20))
def test_telling_places_keep_the_least_and_the_most(samples: list[float], stretches: int) -> None:
    values = np.array(samples, dtype=float)
    places = telling_places(np.arange(len(values), dtype=float), values, stretches)
    known = [value for value in samples if math.isfinite(value)]
    chosen = [samples[at] for at in places]
    assert len(chosen) <= 2 * stretches + 2
    assert (min(chosen), max(chosen)) == (min(known), max(known)) if known else not chosen


def test_moments_are_of_one_process(tmp_path: Path) -> None:
    with RecordingReader(write_recording(tmp_path / "x")) as reader:
        assert reader.mapped_processes() == ["leaky (4711)"]
        moments = reader.moments("mapping", 10, process="leaky (4711)")
        assert moments is not None
        assert moments.values["[heap]"][0] == 3 << 20
        assert moments.values["[heap]"][-1] == (3 << 20) + 239 * 12288
        assert reader.moments("mapping", 10, process="steady (4712)") is None
        assert reader.began == 1.7e9
        assert reader.machine == ("host", "6.12")


def test_an_empty_recording_is_a_page(tmp_path: Path) -> None:
    page = html_report(gather([write_recording(tmp_path / "x", ticks=1)], print)).decode()
    assert "Too few samples to judge" in page


def test_a_recording_without_a_tick_has_no_table(tmp_path: Path) -> None:
    path = write_recording(tmp_path / "x", ticks=0)
    page = html_report(gather([path], print)).decode()
    assert "Too few samples to judge" in page
    assert '<section id="trend"' not in page


def test_findings_survive_their_own_json(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    path.write_text(to_json(some_findings(tmp_path / "leaky.c")))
    assert len(gather([path], print).reports) == 2
