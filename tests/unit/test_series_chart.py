"""Charts of series."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakline.analysis.trend import curve_of, judge
from leakline.model.trend import Series
from leakline.present.series_chart import Panel, series_svg
from tests.conftest import Leakline

SVG = "{http://www.w3.org/2000/svg}"


def drawn(series: Series) -> ET.Element:
    return ET.fromstring(series_svg([Panel(series, judge([series])[0], curve_of(series))], "a <title> & more"))


def line(values: list[float], **more: object) -> Series:
    return Series(name="x", times=tuple(map(float, range(len(values)))), values=tuple(values), **more)  # type: ignore[arg-type]


def test_a_growing_series_has_samples_floors_shape_rate_and_limit() -> None:
    rng = np.random.default_rng(1)
    series = line((1e7 + 5e4 * np.arange(200) + rng.uniform(0, 1e6, 200)).tolist(), limit=25_000_000)
    picture = drawn(series)
    assert len(picture.findall(f".//{SVG}circle")) == 24, "a floor for each block"
    assert len(picture.findall(f".//{SVG}polyline")) == 4, "samples, shape, rate and limit"
    assert len(picture.findall(f".//{SVG}polygon")) == 1, "the interval"
    texts = [element.text or "" for element in picture.iter(f"{SVG}text")]
    assert "a <title> & more" in texts
    assert any("GROWING" in text for text in texts)
    assert any(text.startswith("limit 23.8 MiB") for text in texts)
    curve = curve_of(series)
    assert curve is not None
    assert curve.family.startswith(("linear", "hinge", "two slopes"))
    slope = (curve.curve[-1] - curve.curve[0]) / (curve.times[-1] - curve.times[0])
    assert slope == pytest.approx(5e4, rel=0.1)


def test_a_settling_series_has_no_rate() -> None:
    picture = drawn(line([1e7 * (1 - math.exp(-t / 10)) + 1e6 for t in range(100)]))
    assert not picture.findall(f".//{SVG}polygon")


def test_a_hostile_name_stays_a_text() -> None:
    series = line([1.0] * 30)
    named = Series(name="<script>alert(1)</script>\x1b[31m\u202e", times=series.times, values=series.values)
    text = series_svg([Panel(named, judge([named])[0], curve_of(named))], "x")
    assert "<script" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text


@given(st.lists(st.floats(0, 1e15) | st.just(math.nan), min_size=1, max_size=60), st.none() | st.integers(0, 1 << 50))
def test_any_series_becomes_a_picture(values: list[float], limit: int | None) -> None:
    picture = drawn(line(values, limit=limit))
    for element in picture.iter(f"{SVG}polyline"):
        for number in re.findall(r"[^ ,]+", element.get("points") or ""):
            assert math.isfinite(float(number))


def test_the_command(leakline: Leakline, tmp_path: Path) -> None:
    recording, picture = tmp_path / "x.leakline", tmp_path / "x.svg"
    leakline("record", "-q", "-i", "0.05", "-d", "1", "-o", recording)
    leakline("report", recording, "-o", picture, "-n", "2")
    assert len(ET.parse(picture).findall(f".//{SVG}polyline")) >= 4
    assert "exists" in leakline("report", recording, "-o", picture, status=2).err
    leakline("report", recording, "-o", tmp_path / "x.png", "--series", "meminfo")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert leakline("report", recording, "--series", "meminfo Shmem").out.count("meminfo Shmem") == 1
    assert "no such series" in leakline("report", recording, "--series", "nosuch", status=2).err
    assert "not a regular expression" in leakline("report", recording, "--series", "(", status=2).err
    assert "does not end in" in leakline("report", recording, "-o", tmp_path / "x.txt", status=2).err
    rules = tmp_path / "known.supp"
    rules.write_text("leak:known\n")
    for option in (("--json",), ("--fail-on", "low"), ("--suppressions", rules), ("--format", "csv")):
        assert "is about findings" in leakline("report", recording, *option, status=2).err
    assert "shown alone" in leakline("report", recording, recording, status=2).err
    (tmp_path / "text").write_text("t,uss\n0,1\n")
    assert "leakline trend" in leakline("report", tmp_path / "text", status=6).err
    assert leakline("report", tmp_path / "none", status=2).err
