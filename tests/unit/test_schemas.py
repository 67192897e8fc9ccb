from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_published_schemas_are_those_of_the_records(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "tools/write-schemas"), str(tmp_path)], check=True)
    written = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    published = {path.name: json.loads(path.read_text()) for path in (ROOT / "docs/schemas").glob("*.json")}
    assert written
    assert published == written, "run `make docs`"
