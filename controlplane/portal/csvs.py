"""CSV in and out. What comes in is anybody's; what goes out is opened by spreadsheets, which run formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from django.http import HttpResponse
from django.utils.translation import gettext as _

from controlplane.values.errors import InvalidInput

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
MAX_COLUMNS = 10


def read(text: str, *, columns: Sequence[str], most: int) -> list[list[str]]:
    """The rows that are not empty, each with as many cells as ``columns``. A header in these words is left out.

    Comma or semicolon, whichever the first line has more of. Raises ``InvalidInput``.
    """
    first = text.lstrip("\ufeff\r\n").partition("\n")[0]
    delimiter = ";" if first.count(";") > first.count(",") else ","
    rows: list[list[str]] = []
    try:
        for cells in csv.reader(io.StringIO(text.lstrip("\ufeff")), delimiter=delimiter, strict=True):
            cleaned = [_plain(cell.strip()) for cell in cells]
            if not any(cleaned):
                continue
            if not rows and [cell.lower() for cell in cleaned[: len(columns)]] == list(columns)[: len(cleaned)]:
                continue
            if len(cleaned) > MAX_COLUMNS:
                raise InvalidInput("text", _("A line has too many columns."))
            rows.append((cleaned + [""] * len(columns))[: len(columns)])
            if len(rows) > most:
                raise InvalidInput("text", _("At most %d lines can be imported at once.") % most)
    except csv.Error as error:
        raise InvalidInput("text", _("This cannot be read as CSV: %s.") % error) from error
    if not rows:
        raise InvalidInput("text", _("There is no line with anything in it."))
    return rows


def write(rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    for row in rows:
        writer.writerow([_harmless(cell) for cell in row])
    return out.getvalue()


def attachment(rows: Iterable[Sequence[str]], name: str) -> HttpResponse:
    """``name`` is ours: letters, digits, hyphens and dots."""
    response = HttpResponse(write(rows), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def _harmless(cell: str) -> str:
    """Spreadsheets take a leading apostrophe as «this is text»; reading takes it away again."""
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(_FORMULA) else cell
