"""One HTML page that holds everything it shows: it can be mailed, archived and printed.

It needs no script and no network, follows the reader's light or dark setting, and fits a phone.
"""

from __future__ import annotations

import base64
import html
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

Cell = str | int | float

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXELS_PER_CSS_PIXEL = 2
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?\d[\d.,\s]*(e[-+]?\d+)?\s?%?", re.IGNORECASE)
_BLANK = ("", "-", "\N{EN DASH}", "\N{EM DASH}")


@dataclass(frozen=True, slots=True)
class Headline:
    """A big number at the top of the page."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing under its title. Title and caption are also what a screen reader says of it."""

    title: str
    png: bytes
    caption: str = ""
    invertible: bool = False
    """Whether dark readers see it inverted: fine for charts on white, wrong for photographs."""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a header; the first column names the row.

    Columns of numbers are set to the right; columns of percentages (``"81.5 %"``) also get bars.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    folded: bool = False
    """Whether the reader must open it, as suits a configuration."""


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs under a title; an empty line parts them, and line breaks are kept."""

    title: str
    body: str


Section = Figure | Table | Text


def render_page(
    title: str,
    subtitle: str,
    headlines: Sequence[Headline],
    sections: Sequence[Section],
    *,
    reload: int = 0,
) -> str:
    """Write the page.

    Args:
        title: What the page is about; also the browser's title.
        subtitle: One line below it: when, with what, on what.
        headlines: The big numbers; the first is the one that matters.
        sections: In reading order: curves, confusions, mistakes, classes, configuration.
        reload: Seconds after which the browser reads the page again; 0 for one that is final.

    Returns:
        A complete HTML document, to be stored as UTF-8.

    Raises:
        ValueError: If a figure is not a PNG, or a table's row does not fit its header.
    """
    tiles = "\n".join(_render_headline(headline) for headline in headlines)
    body = "\n".join(_render_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{f'<meta http-equiv="refresh" content="{reload}">' if reload else ""}
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{_escape(title)}</h1>
{_paragraph(subtitle, "subtitle")}
</header>
<main>
{f'<dl class="headlines">{tiles}</dl>' if tiles else ""}
{body}
</main>
</body>
</html>
"""


def _escape(text: str) -> str:
    """Escape text for HTML, and replace what UTF-8 cannot hold (file names may contain it)."""
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"))


def _paragraph(text: str, style: str) -> str:
    return f'<p class="{style}">{_escape(text)}</p>' if text else ""


def _render_headline(headline: Headline) -> str:
    note = f'<dd class="note">{_escape(headline.note)}</dd>' if headline.note else ""
    return (
        f'<div class="tile"><dt>{_escape(headline.label)}</dt>'
        f'<dd class="value">{_escape(headline.value)}</dd>{note}</div>'
    )


def _render_section(section: Section) -> str:
    match section:
        case Figure():
            return _section(section.title, _render_figure(section))
        case Table(folded=True):
            summary = f"<summary><h2>{_escape(section.title)}</h2></summary>"
            return f"<section><details>{summary}{_render_table(section)}</details></section>"
        case Table():
            return _section(section.title, _render_table(section))
        case Text():
            parts = re.split(r"\n\s*\n", section.body.strip())
            return _section(section.title, "\n".join(_paragraph(part, "text") for part in parts))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{_escape(title)}</h2>\n{content}</section>"


def _scroller(title: str, style: str, content: str) -> str:
    """A box that scrolls what is too wide, also by keyboard."""
    label = _escape(title)
    return (
        f'<div class="scroller {style}" tabindex="0" role="region" aria-label="{label}">'
        f"{content}</div>"
    )


def _render_figure(figure: Figure) -> str:
    if figure.png[:8] != _PNG_SIGNATURE:
        raise ValueError(f"the figure {figure.title!r} is not a PNG")
    width, height = (side // _PIXELS_PER_CSS_PIXEL for side in _png_size(figure.png))
    alt = _escape(f"{figure.title}. {figure.caption}" if figure.caption else figure.title)
    data = base64.b64encode(figure.png).decode("ascii")
    style = ' class="invertible"' if figure.invertible else ""
    image = (
        f'<img{style} alt="{alt}" width="{width}" height="{height}" '
        f'style="--width:{width}px" src="data:image/png;base64,{data}">'
    )
    caption = f"<figcaption>{_escape(figure.caption)}</figcaption>" if figure.caption else ""
    return f"<figure>{_scroller(figure.title, 'paper', image)}{caption}</figure>"


def _png_size(png: bytes) -> tuple[int, int]:
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _render_table(table: Table) -> str:
    wide = [row for row in table.rows if len(row) != len(table.header)]
    if wide:
        raise ValueError(
            f"the table {table.title!r} has {len(table.header)} columns, but a row has "
            f"{len(wide[0])}: {list(wide[0])}"
        )
    rows = [[_format(cell) for cell in row] for row in table.rows]
    kinds = [_column_kind([row[index] for row in rows]) for index in range(len(table.header))]
    head = "".join(
        f'<th scope="col"{_kind_class(kind)}>{_escape(name)}</th>'
        for name, kind in zip(table.header, kinds, strict=True)
    )
    body = "\n".join(f"<tr>{_render_row(row, kinds)}</tr>" for row in rows)
    content = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return _scroller(table.title, "rows", content)


def _render_row(row: Sequence[str], kinds: Sequence[str]) -> str:
    cells: list[str] = []
    for index, (text, kind) in enumerate(zip(row, kinds, strict=True)):
        if index == 0:
            cells.append(f'<th scope="row"{_kind_class(kind)}>{_escape(text)}</th>')
        elif kind == "percent" and text not in _BLANK:
            share = min(100.0, max(0.0, _percent(text)))
            cells.append(f'<td class="percent" style="--share:{share:g}%">{_escape(text)}</td>')
        else:
            cells.append(f"<td{_kind_class(kind)}>{_escape(text)}</td>")
    return "".join(cells)


def _format(cell: Cell) -> str:
    if isinstance(cell, bool | str):
        return str(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}"


def _column_kind(column: Sequence[str]) -> str:
    """``percent``, ``number`` or an empty string for words; blank cells do not count."""
    filled = [text.strip() for text in column if text.strip() not in _BLANK]
    if not filled or not all(_NUMBER.fullmatch(text) or text == "nan" for text in filled):
        return ""
    return "percent" if all(text.endswith("%") for text in filled) else "number"


def _kind_class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _percent(text: str) -> float:
    try:
        return float(
            text.strip().rstrip("%").strip().replace("\N{MINUS SIGN}", "-").replace(",", "")
        )
    except ValueError:  # a form of number that only people read, such as 1.234.567 %
        return 0.0


_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { --page: #f4f5f7; --card: #fff; --ink: #1b2330; --muted: #5d6675; --line: #e3e6eb;
  --accent: #2563eb; --bar: #dbe7fe; }
@media screen and (prefers-color-scheme: dark) {
  :root { --page: #0e1116; --card: #171b22; --ink: #e7eaef; --muted: #9aa4b2; --line: #2a303a;
    --accent: #7aa8ff; --bar: #22365e; }
  /* White paper becomes the card's grey and colours keep their hue. */
  .paper img.invertible { filter: invert(0.91) hue-rotate(180deg); mix-blend-mode: lighten; }
  .paper img:not(.invertible) { filter: brightness(0.92); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
header { margin: 0 0 1.75rem; }
h1 { margin: 0; font-size: clamp(1.5rem, 5vw, 2.2rem); line-height: 1.2; letter-spacing: -0.02em;
  overflow-wrap: anywhere; }
h2 { margin: 0 0 0.9rem; font-size: 1.05rem; letter-spacing: -0.005em; overflow-wrap: anywhere; }
.subtitle { margin: 0.4rem 0 0; color: var(--muted); overflow-wrap: anywhere; }
.headlines { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr));
  gap: 0.9rem; margin: 0 0 0.9rem; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 0.9rem; }
.tile { padding: 1rem 1.15rem; }
.tile dt { color: var(--muted); font-size: 0.85rem; }
.tile dd { margin: 0; }
.tile .value { font-size: 1.65rem; font-weight: 650; line-height: 1.25; letter-spacing: -0.02em;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tile:first-child .value { color: var(--accent); }
.tile .note { color: var(--muted); font-size: 0.85rem; }
section { margin: 0 0 0.9rem; padding: 1.15rem 1.25rem; }
figure { margin: 0; }
figcaption { margin: 0.8rem 0 0; color: var(--muted); font-size: 0.9rem; max-width: 46rem; }
.scroller { overflow: auto; border-radius: 0.5rem; }
.scroller:focus-visible, summary:focus-visible { outline: 2px solid var(--accent);
  outline-offset: 2px; }
.paper img { display: block; margin: 0 auto; height: auto; border-radius: 0.4rem;
  width: min(var(--width), 100%); }
.text { margin: 0 0 0.7rem; max-width: 46rem; white-space: pre-line; overflow-wrap: anywhere; }
.text:last-child { margin: 0; }
.rows { max-height: 36rem; }
table { width: 100%; border-collapse: separate; border-spacing: 0; font-size: 0.92rem; }
th, td { padding: 0.42rem 0.8rem; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; background: var(--card); color: var(--muted);
  font-weight: 600; font-size: 0.82rem; white-space: nowrap; }
tbody th { font-weight: 500; }
.number, .percent { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.percent { background: linear-gradient(var(--bar), var(--bar)) no-repeat 0 50%;
  background-size: var(--share, 0) 70%; }
summary { cursor: pointer; }
summary h2 { display: inline; }
details[open] summary { margin-bottom: 0.9rem; }
@media (max-width: 42rem) {
  body { padding: 1.4rem 0.75rem 3rem; }
  section { padding: 1rem 0.9rem; border-radius: 0.7rem; }
  .headlines { grid-template-columns: repeat(2, 1fr); gap: 0.6rem; }
  .tile { padding: 0.75rem 0.85rem; border-radius: 0.7rem; }
  .tile .value { font-size: 1.4rem; }
  /* A chart squeezed to a phone cannot be read: let it scroll instead. */
  .paper img { width: min(var(--width), max(100%, 38rem)); max-width: none; }
}
@media print {
  :root { --page: #fff; }
  body { max-width: none; padding: 0; font-size: 10pt; print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
  .headlines { grid-template-columns: repeat(auto-fit, minmax(6rem, 1fr)); }
  .tile { padding: 0.6rem 0.7rem; }
  .tile .value { font-size: 1.15rem; }
  .tile, figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  section { border: 0; padding: 0.5rem 0; }
  .rows { max-height: none; }
  .scroller { overflow: visible; }
  .paper img { max-width: 100%; max-height: 24cm; width: auto; }
  details::details-content { content-visibility: visible; block-size: auto; }
}
"""
