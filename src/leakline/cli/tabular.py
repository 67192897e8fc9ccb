"""Options and output that the commands with tables share."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from leakline.cli.options import closed_pipe_allowed, say_on_stderr
from leakline.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import msgspec

    from leakline.present.screen import Color, Line
    from leakline.present.tables import Format
    from leakline.sources.machine import Machine

_FORMATS = ("table", "json", "jsonl", "csv")
_PICTURES = ("svg", "png")
_MOST_BARS = 20
_MOST_SLICES = 8


class TableOutput:
    """How a table is ordered, cut and written, and whose it is."""

    def __init__(self, machine: Machine, *, columns: str | None, sort: str, reverse: bool, limit: int | None, **rest: Any) -> None:  # noqa: ANN401
        self.machine = machine
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
        ending: Any = "" if self._path is None else self._path.suffix.removeprefix(".")
        self._picture = ending if ending in _PICTURES else None
        chart: Any = rest["chart"] or ("bar" if self._picture else None)
        asked: Any = "json" if rest["as_json"] else rest["form"]
        if chart and asked:
            raise click.UsageError("a chart is drawn in the terminal, or into a file that ends in .svg or .png")
        self._chart: Literal["bar", "pie"] | None = chart
        self.form: Format = asked or (ending if ending in _FORMATS else "table")
        if self._path is not None and self._path.exists() and not rest["force"]:
            raise InvalidRequest(f"{self._path} exists", hint="Choose another file, or replace it with --force.")

    def column_names(self) -> list[str]:
        """The columns that were asked for."""
        return [name.strip() for name in (self.columns or "").removeprefix("+").split(",")]

    @property
    def to_people(self) -> bool:
        """Whether it becomes a text table on stdout or in a file."""
        return self.form == "table" and self._chart is None

    def write(
        self,
        whole: msgspec.Struct,
        rows_in: str,
        rows: Sequence[msgspec.Struct],
        record: type[msgspec.Struct],
        usual: Sequence[str],
        total: msgspec.Struct | None,
        *,
        measure: str,
        label: Callable[[Any], str],
        indent: Sequence[int] = (),
    ) -> None:
        """Write the table: to the file, else to stdout.

        Args:
            whole: the table, as JSON shows it.
            rows_in: the field of it that holds the rows.
            rows: the rows, in order.
            record: what they are.
            usual: the columns where none were asked for.
            total: the sum, shown with --totals.
            measure: what a chart shows unless it is sorted by another amount.
            label: the name of a row in a chart.
            indent: the depth of each row.

        """
        import msgspec as structs

        from leakline.present.tables import choose_columns, encoded
        from leakline.present.text import printable

        if self.columns == "help":
            self._explain(record)
            return
        chosen = None if self.columns is None else choose_columns(record, self.columns, usual)
        if self._chart is not None:
            self._draw(self._chart, rows, record, chosen, measure, label)
            return
        if self.limit is not None:
            # The most: they stand last, above the prompt, or first when reversed.
            kept = slice(None, self.limit) if self.reverse else slice(-self.limit, None)
            rows, indent = rows[kept], indent[kept]
            whole = structs.structs.replace(whole, **{rows_in: tuple(rows)})
        if self.form == "table":
            self._print(rows, record, chosen or list(usual), total, indent)
            return
        text = encoded(self.form, whole, rows_in, rows, record, chosen)
        if self.form == "csv" and self._path is None and sys.stdout.isatty():
            text = "\n".join(map(printable, text.split("\n")))
        self.write_text(text)

    @property
    def is_whole_json(self) -> bool:
        """Whether it becomes one JSON object of every row and column."""
        return self.form == "json" and self.columns is None and self.limit is None

    def write_text(self, text: str) -> None:
        """Write what is encoded already: to the file, else to stdout."""
        if self._path is not None:
            self._save(text.encode())
            return
        with closed_pipe_allowed():
            sys.stdout.write(text)
            sys.stdout.flush()

    def _explain(self, record: type[msgspec.Struct]) -> None:
        from leakline.present.tables import notes_of

        notes = notes_of(record)
        width = max(map(len, notes))
        self.show([(f"{name:<{width}}  {note}", "") for name, note in notes.items()])

    def _print(
        self,
        rows: Sequence[msgspec.Struct],
        record: type[msgspec.Struct],
        columns: Sequence[str],
        total: msgspec.Struct | None,
        indent: Sequence[int],
    ) -> None:
        from leakline.present.tables import table_lines
        from leakline.sources.procfs import ProcFs

        share_of = ProcFs(self.machine.proc).amounts()["MemTotal"] if self._percent else None
        foot = total if self._totals else None
        self.show(table_lines(rows, record, columns, exact=self._exact, share_of=share_of, total=foot, indent=indent))

    def _draw(
        self,
        chart: Literal["bar", "pie"],
        rows: Sequence[msgspec.Struct],
        record: type[msgspec.Struct],
        columns: Sequence[str] | None,
        measure: str,
        label: Callable[[Any], str],
    ) -> None:
        from leakline.present import charts
        from leakline.present.tables import units_of

        units = units_of(record)
        drawable = ("bytes", "count")
        asked = [column for column in columns or () if units[column] == "bytes"]
        measures = asked or [self.sort if units.get(self.sort) in drawable and self.sort != "pid" else measure]
        if chart == "pie":
            measures = measures[:1]
        most = self.limit or (_MOST_BARS if chart == "bar" else _MOST_SLICES)
        values = [(label(row), [getattr(row, name) for name in measures]) for row in rows]
        title = click.get_current_context().command_path
        drawn = charts.make_chart(title, measures, values, most)
        if self._picture is None:
            import shutil

            width = min(shutil.get_terminal_size().columns, 120)
            self.show(charts.bar_lines(drawn, width) if chart == "bar" else charts.pie_lines(drawn, width))
            return
        svg = charts.bar_svg(drawn) if chart == "bar" else charts.pie_svg(drawn)
        if self._picture == "png":
            from leakline.present.png import png_of

            self._save(png_of(svg))
        else:
            self._save(svg.encode())

    def show(self, lines: Iterable[Line]) -> None:
        """Print lines, or write them to the file."""
        from io import StringIO

        from leakline.present.screen import write_lines

        if self._path is not None:
            file = StringIO()
            write_lines(lines, file, "never")
            self._save(file.getvalue().encode())
            return
        with closed_pipe_allowed():
            write_lines(lines, sys.stdout, self._color)
            sys.stdout.flush()

    def _save(self, data: bytes) -> None:
        if self._path is None:
            return
        try:
            self._path.write_bytes(data)
        except OSError as error:
            raise InvalidRequest(f"cannot write {self._path}: {error.strerror}", hint="Choose another file.") from error

    def note(self, text: str) -> None:
        """Say something about the table, on stderr."""
        if not self._quiet:
            say_on_stderr(text)


def root_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """--root."""
    return click.option(
        "--root", type=click.Path(exists=True, path_type=Path), help="A machine captured by `leakline snapshot`: folder or archive."
    )(function)


def machine_of(root: Path | None) -> Machine:
    """The machine that --root names, until the command ends."""
    from leakline.sources.machine import Machine

    if root is None:
        return Machine()
    from leakline.sources.captured import opened

    return click.get_current_context().with_resource(opened(root))


def table_options(*, sort: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a table; the command gets them as `out`."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, root: Path | None, **rest: Any) -> Any:  # noqa: ANN401
            mine: dict[str, Any] = {name: rest.pop(name) for name in _MINE}
            return function(*args, out=TableOutput(machine_of(root), **mine), **rest)

        options = (
            click.option("--sort", default=sort, show_default=True, metavar="COLUMN", help="Order by this column."),
            click.option("-r", "--reverse", is_flag=True, help="The largest first."),
            click.option("-n", "--limit", type=click.IntRange(1), metavar="ROWS", help="Only the rows with the most."),
            click.option("--columns", metavar="A,B", help="These columns; +A,B adds to the usual ones; `help` lists them."),
            click.option("--totals", is_flag=True, help="A last row with the sums."),
            click.option("--percent", is_flag=True, help="Amounts as shares of MemTotal."),
            click.option("--bytes", "exact", is_flag=True, help="Amounts in bytes, every digit."),
            click.option("--bar", "chart", flag_value="bar", help="Draw bars instead of a table."),
            click.option("--pie", "chart", flag_value="pie", help="Draw a pie instead of a table."),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
            click.option("--format", "form", type=click.Choice(_FORMATS), help="How to print it."),
            click.option(
                "-o",
                "--output",
                type=click.Path(dir_okay=False, path_type=Path),
                help="Write to a file; its ending is the format: json, jsonl, csv, svg, png, else text.",
            ),
            click.option("-f", "--force", is_flag=True, help="Let --output replace a file."),
            click.option(
                "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True, help="Colours."
            ),
            click.option("-q", "--quiet", is_flag=True, help="Nothing on stderr but errors."),
            root_option,
        )
        decorated: Callable[..., Any] = call
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


_MINE = (
    *("columns", "sort", "reverse", "limit", "totals", "percent", "exact", "chart", "as_json", "form", "output", "force"),
    *("color", "quiet"),
)
