"""Options and output that the commands with tables share."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakline.cli.options import closed_pipe_allowed, say_on_stderr
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import msgspec

    from leakline.present.screen import Color
    from leakline.present.tables import Format

_FORMATS = ("table", "json", "jsonl", "csv")


class TableOutput:
    """How a table is ordered, cut and written."""

    def __init__(self, *, form: Format, columns: str | None, sort: str, reverse: bool, limit: int | None, **rest: Any) -> None:  # noqa: ANN401
        self._form = form
        self.columns = columns
        self.sort = sort
        self.reverse = reverse
        self.limit = limit
        self._totals: bool = rest["totals"]
        self._percent: bool = rest["percent"]
        self._exact: bool = rest["exact"]
        self._color: Color = rest["color"]
        self._quiet: bool = rest["quiet"]
        self._path: Path | None = rest["output"]
        self.proc = Path("/proc")
        if self._path is not None and self._path.exists() and not rest["force"]:
            raise InvalidRequest(f"{self._path} exists", hint="Choose another file, or replace it with --force.")

    def column_names(self) -> list[str]:
        """The columns that were asked for."""
        return [name.strip() for name in (self.columns or "").removeprefix("+").split(",")]

    def write(
        self,
        whole: msgspec.Struct,
        rows_in: str,
        rows: Sequence[msgspec.Struct],
        record: type[msgspec.Struct],
        usual: Sequence[str],
        total: msgspec.Struct | None,
        *,
        indent: Sequence[int] = (),
    ) -> None:
        """Write the table: to the file, else to stdout."""
        import msgspec as structs

        from leakline.present.tables import choose_columns, encoded
        from leakline.present.text import printable

        if self.limit is not None:
            # The most: they stand last, above the prompt, or first when reversed.
            kept = slice(None, self.limit) if self.reverse else slice(-self.limit, None)
            rows, indent = rows[kept], indent[kept]
            whole = structs.structs.replace(whole, **{rows_in: tuple(rows)})
        chosen = None if self.columns is None else choose_columns(record, self.columns, usual)
        if self._form == "table":
            self._print(rows, record, chosen or list(usual), total, indent)
            return
        text = encoded(self._form, whole, rows_in, rows, record, chosen)
        if self._form == "csv" and self._path is None and sys.stdout.isatty():
            text = "\n".join(map(printable, text.split("\n")))
        if self._path is not None:
            self._save(text)
            return
        with closed_pipe_allowed():
            sys.stdout.write(text)
            sys.stdout.flush()

    def _print(
        self,
        rows: Sequence[msgspec.Struct],
        record: type[msgspec.Struct],
        columns: Sequence[str],
        total: msgspec.Struct | None,
        indent: Sequence[int],
    ) -> None:
        from leakline.present.screen import write_lines
        from leakline.present.tables import table_lines
        from leakline.sources.procfs import ProcFs

        share_of = ProcFs(self.proc).memory().total if self._percent else None
        foot = total if self._totals else None
        lines = table_lines(rows, record, columns, exact=self._exact, share_of=share_of, total=foot, indent=indent)
        if self._path is not None:
            self._save("".join(f"{text}\n" for text, _ in lines))
            return
        with closed_pipe_allowed():
            write_lines(lines, sys.stdout, self._color)
            sys.stdout.flush()

    def _save(self, text: str) -> None:
        if self._path is None:
            return
        try:
            self._path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"cannot write {self._path}: {error.strerror}", hint="Choose another file.") from error

    def note(self, text: str) -> None:
        """Say something about the table, on stderr."""
        if not self._quiet:
            say_on_stderr(text)


def table_options(*, sort: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a table; the command gets them as `out`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, as_json: bool, form: Format | None, output: Path | None, **rest: Any) -> Any:  # noqa: ANN401
            names = ("columns", "sort", "reverse", "limit", "totals", "percent", "exact", "color", "quiet", "force")
            mine: dict[str, Any] = {name: rest.pop(name) for name in names}
            ending = output.suffix.removeprefix(".") if output is not None else ""
            chosen: Any = "json" if as_json else form or (ending if ending in _FORMATS else "table")
            return function(*args, out=TableOutput(form=chosen, output=output, **mine), **rest)

        options = (
            click.option("--sort", default=sort, show_default=True, metavar="COLUMN", help="Order by this column."),
            click.option("-r", "--reverse", is_flag=True, help="The largest first."),
            click.option("-n", "--limit", type=click.IntRange(1), metavar="ROWS", help="Only the rows with the most."),
            click.option("--columns", metavar="A,B", help="These columns; +A,B adds to the usual ones."),
            click.option("--totals", is_flag=True, help="A last row with the sums."),
            click.option("--percent", is_flag=True, help="Amounts as shares of MemTotal."),
            click.option("--bytes", "exact", is_flag=True, help="Amounts in bytes, every digit."),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
            click.option("--format", "form", type=click.Choice(_FORMATS), help="How to print it."),
            click.option(
                "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file; its ending is the format."
            ),
            click.option("-f", "--force", is_flag=True, help="Let --output replace a file."),
            click.option(
                "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours."
            ),
            click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
        )
        decorated: Callable[..., Any] = call
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate
