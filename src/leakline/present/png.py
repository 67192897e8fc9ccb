"""SVG as PNG, by resvg (the extra `png`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from leakline.errors import NotPossible

_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")


def png_of(svg: str) -> bytes:
    """The picture in pixels, two for each unit of the SVG.

    Raises:
        NotPossible: resvg is not installed, or there is no font to write with.

    """
    require_png()
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=2))


def require_png() -> None:
    """Check that there is what it takes, before something long begins.

    Raises:
        NotPossible: resvg is not installed, or there is no font to write with.

    """
    try:
        import resvg_py  # noqa: F401
    except ImportError as error:
        hint = "pip install 'leakline[png]'; or write an .svg, which takes nothing else."
        raise NotPossible("PNG takes the library resvg_py", hint=hint) from error
    if next(_fonts(), None) is None:
        raise NotPossible(
            "there is no font on this machine to write into the picture with",
            hint="apt install fonts-dejavu-core; or write an .svg.",
        )


def _fonts() -> Iterator[Path]:
    for folder in _FONT_FOLDERS:
        for place, _, files in os.walk(os.path.expanduser(folder)):
            yield from (Path(place, name) for name in files if name.endswith((".ttf", ".otf", ".ttc")))
