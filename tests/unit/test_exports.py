"""Findings in other tools' formats, each read back by an independent reader."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakline.cli.findings_output import fails
from leakline.errors import InvalidRequest, LeaklineError, ParseError
from leakline.model.finding import Cost, Evidence, Finding, FindingKind, Report, RetainedFree, Subject, Summary, Target
from leakline.model.stack import Frame, SourceLocation
from leakline.present.export.forms import ENDINGS, FORMS, Form, encode, form_of
from leakline.present.export.sarif import level_of
from leakline.present.findings import describe_reports, in_one_line
from leakline.session.reporting import read_findings
from tests.conftest import Leakline
from tests.unit.profile_proto import profile_class

SCHEMAS = Path(__file__).parents[1] / "fixtures/schemas"
ROOT = Path("/src/my project")
SVG = "{http://www.w3.org/2000/svg}"


def frame(function: str | None, file: str | None = None, line: int | None = None, **more: Any) -> Frame:
    return Frame(function=function, file=file, line=line, **{"module": "server", "address": 0x1200, **more})


STACK = (
    frame("grow<int>", "/src/my project/lib/grow.h", 7, inlined=True, address=0x1190),
    frame("load", "/src/my project/a b.c", 42, address=0x1190),
    frame(None, module="plug.so", address=0x99, build_id="c0ffee"),
    frame("main", "/src/my project/a b.c", 9),
)


def finding(kind: FindingKind = "definite", stack: tuple[Frame, ...] = STACK, **more: Any) -> Finding:
    values: dict[str, Any] = {
        "subject": Subject(type="heap", name="[heap]"),
        "bytes": 2000,
        "blocks": 20,
        "indirect_bytes": 8000,
        "indirect_blocks": 40,
        "rate_bytes_per_second": 12.5,
        "rate_interval": (10.0, 15.0),
        "confidence": "high",
        "fingerprint": "9004300dea02aafa",
        "location": stack[1].location if len(stack) > 1 else None,
        "location_is": "recorded" if len(stack) > 1 else None,
        "evidence": (Evidence(method="scan", text="no root led to them", values={}),),
    }
    return Finding(kind=kind, stack=stack, **{**values, **more})


def report(*findings: Finding, command: str = "server", children: tuple[Report, ...] = (), pid: int = 77) -> Report:
    return Report(
        target=Target(pid=pid, command=command, executable="/opt/server"),
        bytes_are="requested",
        summary=Summary(definite=None, indirect=None, possible=None, reachable=None),
        findings=findings,
        retained_free=RetainedFree(bytes=None),
        not_judged=(),
        children=children,
        cost=Cost(target_stopped_ns=0, duration_ns=1),
    )


GROWING = finding(
    "growing", (), subject=Subject(type="mapping", name="[anon]"), blocks=0, indirect_bytes=0, indirect_blocks=0, confidence="low"
)
FAMILY = [report(finding(), GROWING, children=(report(finding("possible", confidence="medium"), command="child", pid=78),))]


def made(form: Form, reports: list[Report] | None = None) -> bytes:
    return encode(form, FAMILY if reports is None else reports, ROOT, "1.2")


def sarif(reports: list[Report] | None = None) -> Any:
    document = json.loads(made("sarif", reports))
    jsonschema.Draft4Validator(json.loads((SCHEMAS / "sarif-2.1.0.json").read_text())).validate(document)
    (run,) = document["runs"]
    return run


def profile(data: bytes) -> Any:
    return profile_class().FromString(gzip.decompress(data))


def test_csv() -> None:
    first, growing, child = csv.DictReader(io.StringIO(made("csv").decode()))
    assert (first["pid"], first["kind"], first["bytes"], first["indirect_bytes"]) == ("77", "definite", "2000", "8000")
    assert (first["function"], first["file"], first["line"]) == ("load", "/src/my project/a b.c", "42")
    assert first["stack"] == "grow<int> < load < plug.so+0x99 < main"
    assert (growing["file"], growing["line"], growing["subject"]) == ("", "", "[anon]")
    assert (child["pid"], child["command"]) == ("78", "child")


def test_sarif() -> None:
    run = sarif()
    first, growing, child = run["results"]
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == "memory/definite"
    assert [result["level"] for result in (first, growing, child)] == ["error", "note", "warning"]
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "a%20b.c", "uriBaseId": "SRCROOT"}
    assert place["region"] == {"startLine": 42}
    assert run["originalUriBaseIds"]["SRCROOT"]["uri"] == "file:///src/my%20project/"
    assert first["partialFingerprints"]["leakline/v1"] == "9004300dea02aafa"
    steps = [step["location"] for step in first["codeFlows"][0]["threadFlows"][0]["locations"]]
    assert [step["physicalLocation"]["region"]["startLine"] for step in steps] == [9, 42, 7]
    assert [part["module"] for part in first["stacks"][0]["frames"]] == ["server", "server", "plug.so", "server"]
    assert growing["locations"][0]["physicalLocation"]["artifactLocation"] == {"uri": "file:///opt/server"}
    assert "codeFlows" not in growing
    assert len(sarif([])["results"]) == 0


def test_sarif_messages_hold_no_links_and_no_placeholders() -> None:
    text = sarif([report(finding(location=SourceLocation(function="operator[](int) {0}", file=None, line=None)))])["results"][0][
        "message"
    ]
    assert "operator[] (int) {{0}}" in text["text"]


def test_paths_outside_the_sources_stay_absolute_and_relative_ones_unbound() -> None:
    places = [frame("a", "/usr/include/x.h", 1), frame("b", "./csu/../sysdeps/b.c", 2), frame("c", "/src/my project2/c.c", 3)]
    (result,) = sarif([report(finding(stack=tuple(places)))])["results"]
    found = [part["location"]["physicalLocation"]["artifactLocation"] for part in result["stacks"][0]["frames"]]
    assert found == [{"uri": "file:///usr/include/x.h"}, {"uri": "sysdeps/b.c"}, {"uri": "file:///src/my%20project2/c.c"}]


def test_levels_rise_with_certainty() -> None:
    order = ["note", "warning", "error"]
    for kind in ("definite", "possible", "growing", "outstanding"):
        levels = [order.index(level_of(kind, confidence)) for confidence in ("low", "medium", "high")]
        assert levels == sorted(levels)
    assert level_of("definite", "high") == "error"
    assert level_of("reachable", "high") == "note"


def test_pprof() -> None:
    decoded = profile(made("pprof"))
    text = decoded.string_table
    assert text[0] == ""
    assert [(text[t.type], text[t.unit]) for t in decoded.sample_type] == [("blocks", "count"), ("bytes", "bytes")]
    assert text[decoded.default_sample_type] == "bytes"
    assert [list(sample.value) for sample in decoded.sample] == [[60, 10000], [0, 2000], [60, 10000]]
    locations = {location.id: location for location in decoded.location}
    functions = {function.id: function for function in decoded.function}
    mappings = {mapping.id: mapping for mapping in decoded.mapping}
    stack = [locations[number] for number in decoded.sample[0].location_id]
    named = [[(text[functions[line.function_id].name], line.line) for line in location.line] for location in stack]
    assert named == [[("grow<int>", 7), ("load", 42)], [], [("main", 9)]], "what is inlined shares its caller's address"
    assert [location.address for location in stack] == [0x1190, 0x99, 0x1200]
    assert text[functions[stack[0].line[0].function_id].filename] == "/src/my project/lib/grow.h"
    unknown = mappings[stack[1].mapping_id]
    assert (text[unknown.filename], text[unknown.build_id], unknown.has_functions) == ("plug.so", "c0ffee", False)
    assert mappings[stack[0].mapping_id].has_functions
    labels = {text[label.key]: text[label.str] for label in decoded.sample[2].label}
    assert labels == {"kind": "possible", "confidence": "medium", "process": "child (78)", "fingerprint": "9004300dea02aafa"}
    assert made("pprof") == made("pprof"), "the same findings make the same file"


def test_the_real_pprof_reads_it(tmp_path: Path) -> None:
    if shutil.which("go") is not None:
        pprof = ["go", "tool", "pprof"]
    elif (go := next(Path("/usr/lib").glob("go-*/bin/go"), None)) is not None:
        pprof = [str(go), "tool", "pprof"]
    elif shutil.which("pprof") is not None:
        pprof = ["pprof"]
    else:
        pytest.skip("pprof is not installed")
    path = tmp_path / "findings.pb.gz"
    path.write_bytes(made("pprof"))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GOCACHE": str(tmp_path), "PPROF_TMPDIR": str(tmp_path)}
    options = ["-symbolize=none", "-traces", "-lines", "-tagfocus=kind=definite"]
    done = subprocess.run([*pprof, *options, str(path)], capture_output=True, text=True, check=True, env=environment)
    assert re.search(r"9\.77kB\s+grow<int> /src/my project/lib/grow.h:7 \(inline\)\s+load /src/my project/a b.c:42", done.stdout)
    assert "main /src/my project/a b.c:9" in done.stdout


def test_folded() -> None:
    lines = made("folded").decode().splitlines()
    assert lines[0] == "server (77);definite;main;plug.so+0x99;load;grow<int>_[i] 10000"
    assert lines[1] == "server (77);growing;mapping [anon] 2000"
    assert len(lines) == 3


def test_speedscope() -> None:
    document = json.loads(made("speedscope"))
    jsonschema.Draft7Validator(json.loads((SCHEMAS / "speedscope.json").read_text())).validate(document)
    assert [one["name"] for one in document["profiles"]] == [
        "server (77): definite",
        "server (77): growing",
        "child (78): possible",
    ]
    first = document["profiles"][0]
    assert (first["weights"], first["endValue"], first["unit"]) == ([10000], 10000, "bytes")
    frames = [document["shared"]["frames"][number] for number in first["samples"][0]]
    assert frames[2] == {"name": "load", "file": "/src/my project/a b.c", "line": 42}
    assert [one["name"] for one in frames] == ["main", "plug.so+0x99", "load", "grow<int> (inlined)"]
    assert json.loads(made("speedscope", []))["profiles"][0]["endValue"] == 0


def boxes(svg: str) -> dict[str, tuple[float, float, float]]:
    """The first line of each frame's tool tip up to its amount, with x, y and width."""
    found = {}
    for group in ElementTree.fromstring(svg).iter(f"{SVG}g"):
        title, rectangle = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
        assert title is not None
        assert title.text is not None
        assert rectangle is not None
        found[title.text] = (float(rectangle.attrib["x"]), float(rectangle.attrib["y"]), float(rectangle.attrib["width"]))
    return found


def test_a_flame_graph_shows_bytes_as_widths_and_callers_below() -> None:
    drawn = boxes(made("svg").decode())
    server = next(place for tip, place in drawn.items() if tip.startswith("server (77):"))
    child = next(place for tip, place in drawn.items() if tip.startswith("child (78):"))
    assert server[2] / child[2] == pytest.approx(1.2, rel=0.01)
    main = next(place for tip, place in drawn.items() if tip.startswith("main at a b.c:9:") and "definite" in tip)
    load = drawn["load at a b.c:42: 9.8 KiB in 60 blocks, 100.0 % of what is definite"]
    assert main[1] > load[1], "it grows upwards"
    assert server[1] > main[1]
    assert load[0] == pytest.approx(main[0], abs=1)


def test_a_flame_graph_needs_nothing_else_and_knows_dark_rooms() -> None:
    svg = made("svg").decode()
    assert "<script" not in svg
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme:dark" in svg
    empty = made("svg", []).decode()
    assert "no findings" in empty
    ElementTree.fromstring(empty)


def test_a_stack_without_end_makes_a_picture_with_one() -> None:
    deep = tuple(frame(f"f{number}") for number in range(5000))
    root = ElementTree.fromstring(made("svg", [report(finding(stack=deep))]))
    assert float(root.attrib["height"]) < 4000


def test_a_png() -> None:
    pytest.importorskip("resvg_py")
    try:
        data = made("png")
    except LeaklineError as error:
        pytest.skip(error.message)
    assert data.startswith(b"\x89PNG\r\n")


def test_the_end_of_a_name_is_a_format(tmp_path: Path) -> None:
    assert {form_of(Path(f"report{ending}")): 0 for ending in ENDINGS}.keys() == set(FORMS)
    assert form_of(Path("a.sarif.json")) == "sarif"
    assert form_of(Path("A.JSON")) == "json"
    assert form_of(Path("report")) == form_of(Path("/dev/stdout")) == "text"
    with pytest.raises(InvalidRequest) as caught:
        form_of(tmp_path / "report.doc")
    assert all(ending in caught.value.hint for ending in ENDINGS)


def test_children_count_and_are_shown() -> None:
    parent = report(children=(report(finding(), command="child"), report(command="quiet")))
    assert fails([parent], "high")
    text = "\n".join(line for line, _ in describe_reports([parent], 10))
    assert "child (pid 77): leaks at a b.c:42" in text
    assert "not judged: quiet (77): it was not looked at" in text
    assert "without a leak" not in text
    assert in_one_line([parent]) == "1 finding: definite 2,000 bytes in 20 blocks; first a b.c:42"
    assert in_one_line([report()]) == "no findings"


def test_findings_come_back_from_their_json() -> None:
    assert list(read_findings(made("json")).targets) == FAMILY
    assert list(read_findings(made("json", FAMILY * 2)).targets) == FAMILY * 2
    assert list(read_findings(made("json", [])).targets) == []


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{}", b"[]", b"\xff", b'{"schema": "leakline.findings/2"}', b'{"schema": "leakline.findings/1"}'),
        made("json", [report(finding(bytes=-1))]),
        made("json", [report(finding(blocks=1 << 63))]),
        made("json", [report(finding(stack=(frame("f", address=-1),)))]),
        b'{"schema": "leakline.findings/1", "targets": ' + b"[" * 100_000,
    ],
)
def test_what_are_no_findings(data: bytes) -> None:
    with pytest.raises(ParseError):
        read_findings(data)


@given(st.binary(max_size=200), st.integers(0, 5000), st.integers(0, 5000))
def test_damaged_findings_are_refused_or_read(noise: bytes, start: int, end: int) -> None:
    whole = made("json")
    for data in (noise, whole[:start] + noise + whole[end:]):
        try:
            read_findings(data)
        except ParseError:
            continue


def test_report_converts(leakline: Leakline, tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    path.write_bytes(made("json"))
    done = leakline("report", path, "-o", tmp_path / "x.sarif")
    assert "3 findings" in done.err
    assert json.loads((tmp_path / "x.sarif").read_text())["version"] == "2.1.0"
    assert "--force" in leakline("report", path, "-o", tmp_path / "x.sarif", status=2).err
    assert ".speedscope.json" in leakline("report", path, "-o", tmp_path / "x.docx", status=2).err
    assert "leaks at a b.c:42" in leakline("report", path).out


names = st.text(max_size=30) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "\"'&;",
        "a;b\nc d",
        "\x1b[31mred\x00",
        "\udcff\ud800",
        "=1+1",
        "\u202eabc",
        "\ufffe\uffff",
        "{0}](x)",
        "",
    ]
)
numbers = st.integers(0, 1 << 61)
frames = st.builds(
    Frame,
    function=st.none() | names,
    file=st.none() | names,
    line=st.none() | st.integers(0, 1 << 40),
    module=st.none() | names,
    address=st.integers(0, (1 << 64) - 1),
    inlined=st.booleans(),
    build_id=st.none() | names,
)
findings = st.builds(
    Finding,
    kind=st.sampled_from(["definite", "possible", "growing", "reachable", "outstanding", "indirect"]),
    subject=st.builds(Subject, type=st.sampled_from(["heap", "mapping", "process"]), name=names),
    bytes=numbers,
    blocks=numbers,
    indirect_bytes=numbers,
    indirect_blocks=numbers,
    rate_bytes_per_second=st.none() | st.floats(0, 1e15),
    rate_interval=st.none(),
    confidence=st.sampled_from(["low", "medium", "high"]),
    fingerprint=names,
    location=st.none() | st.builds(SourceLocation, function=st.none() | names, file=st.none() | names, line=st.none() | numbers),
    location_is=st.none(),
    stack=st.lists(frames, max_size=4).map(tuple),
    evidence=st.builds(lambda text: (Evidence(method="scan", text=text, values={}),), names),
)
families = st.builds(lambda command, found: [report(*found, command=command)], names, st.lists(findings, max_size=3))
CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(families)
def test_hostile_names_make_sound_documents(reports: list[Report]) -> None:
    found = reports[0].findings
    for form in ("json", "csv", "sarif", "folded", "speedscope", "svg"):
        text = made(form, reports).decode()
        assert not CONTROLS.search(text), form
    assert len(json.loads(made("json", reports))["findings"]) == len(found)
    rows = list(csv.DictReader(io.StringIO(made("csv", reports).decode())))
    assert [int(row["bytes"]) for row in rows] == [one.bytes for one in found]
    assert not any(cell.startswith(("=", "+", "@")) for row in rows for cell in row.values())
    assert len(sarif(reports)["results"]) == len(found)
    jsonschema.Draft7Validator(json.loads((SCHEMAS / "speedscope.json").read_text())).validate(
        json.loads(made("speedscope", reports))
    )
    total = sum(one.bytes + one.indirect_bytes for one in found)
    assert sum(int(line.rpartition(" ")[2]) for line in made("folded", reports).decode().splitlines()) == total
    assert all(len(line.split(";")) >= 3 for line in made("folded", reports).decode().splitlines())
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(made("svg", reports)).iter()}
    assert tags <= {"svg", "title", "style", "rect", "text", "g"}
    decoded = profile(made("pprof", reports))
    assert sum(sample.value[1] for sample in decoded.sample) == total
    known = {location.id for location in decoded.location}
    assert all(set(sample.location_id) <= known and sample.location_id for sample in decoded.sample)


def test_the_command_line_says_what_cannot_be(leakline: Leakline) -> None:
    assert "either --json, or --format csv" in leakline("scan", "--json", "--format", "csv", "1", status=2).err
    for command in ("run", "diagnose"):
        assert "needs --output FILE" in leakline(command, "--format", "sarif", "--", "/bin/true", status=2).err


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    path.write_bytes(made("json"))
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f"rmdir {gone}; exec {sys.executable} -m leakline report {path} -o {tmp_path}/x.sarif"
    subprocess.run(["sh", "-c", script], cwd=gone, check=True, stderr=subprocess.DEVNULL)
    places = [result["locations"] for result in json.loads((tmp_path / "x.sarif").read_text())["runs"][0]["results"]]
    assert places[0][0]["physicalLocation"]["artifactLocation"]["uri"] == "src/my%20project/a%20b.c"
