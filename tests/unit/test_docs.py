"""What the docs must name, or this fails."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from leakline import errors
from leakline.cli.main import COMMANDS
from leakline.model.finding import CONFIDENCES, FindingKind, Report
from leakline.present.export.csv import COLUMNS
from leakline.present.export.forms import ENDINGS, FORMS
from leakline.present.export.sarif import level_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page_with_all_its_options(name: str) -> None:
    from importlib import import_module

    page = (DOCS / f"commands/{name}.md").read_text()
    assert page.startswith(f"# leakline {name}\n")
    shared = (DOCS / "commands/diagnose.md").read_text() if "as for [diagnose]" in page else ""
    for parameter in import_module(f"leakline.cli.{name}").command.params:
        for option in parameter.opts:
            if option.startswith("--"):
                assert option in page + shared, option


def test_every_kind_confidence_and_evidence_is_explained() -> None:
    page = (DOCS / "diagnosis.md").read_text()
    source = (ROOT / "src/leakline/analysis/diagnosis.py").read_text()
    methods = set(re.findall(r'method="([^"]+)"', source))
    assert len(methods) >= 4
    for word in (*get_args(FindingKind), *CONFIDENCES, *methods):
        assert f"| {word} |" in page, word


def test_every_exit_code_and_top_level_field_is_listed() -> None:
    page = (DOCS / "formats.md").read_text()
    codes = {c.exit_code for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.LeaklineError)}
    for code in codes | {0, 1, 130}:
        assert f"| {code} |" in page
    for field in msgspec.structs.fields(Report):
        assert f"`{field.name}" in page or f'"{field.name}"' in page or field.name in ("schema", "children"), field.name


def test_every_format_of_findings_has_a_heading_and_its_endings() -> None:
    page = (DOCS / "formats.md").read_text()
    for form in FORMS:
        assert f"\n### {form}\n" in page
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{form}` |")]
        assert all(f"`{ending}`" in row for ending, named in ENDINGS.items() if named == form), form
    assert all(f"`{column}`" in page for column in COLUMNS)
    for kind in get_args(FindingKind):
        for confidence in CONFIDENCES:
            rows = [
                line.split("|")
                for line in page.splitlines()
                if line.count("|") == 4 and kind in line.split("|")[1].replace(",", " ").split()
            ]
            level = level_of(kind, confidence)
            assert any(confidence in row[2] or "any" in row[2] for row in rows if row[3].strip() == level), (kind, confidence)


def test_the_readme_links_to_pages_that_exist() -> None:
    for page in [ROOT / "README.md", *DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_engine_is_compared() -> None:
    from leakline.cli.run import command

    page = (DOCS / "engines.md").read_text()
    (engine,) = [parameter for parameter in command.params if parameter.name == "engine"]
    names = [*engine.type.choices, "scan", "trace"]  # type: ignore[attr-defined]
    assert len(names) == 6
    for name in names:
        rows = [line for line in page.splitlines() if re.match(rf"\| `{name}", line)]
        assert len(rows) >= 2, f"{name}: what it sees, and what it costs"
