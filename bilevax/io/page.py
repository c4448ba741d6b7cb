"""Pieces of an HTML page that needs nothing but itself: style, tables, numbers for readers."""

import html
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np

UNKNOWN = "not known"

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1b2430;
  --soft: #5b6878; --line: #dfe4ea; --accent: #2f7de1; --good: #1a7f4b; --good-bg: #e6f5ec;
  --warn: #9a5b00; --warn-bg: #fdf1dc; --bad: #b3261e; --bad-bg: #fce8e6; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --ink: #e6eaf0;
  --soft: #9aa7b7; --line: #2e3744; --accent: #6aa5f0; --good: #6fd39b; --good-bg: #16311f;
  --warn: #f0b75c; --warn-bg: #3a2a10; --bad: #f2938c; --bad-bg: #3d1a17; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .8rem; }
p { margin: .4rem 0 .8rem; max-width: 48rem; }
.lead { color: var(--soft); font-size: 1.05rem; }
.verdict { border-radius: .6rem; padding: .9rem 1.1rem; margin: 1.4rem 0; max-width: none; }
.verdict b { display: block; font-size: 1.05rem; }
.good { background: var(--good-bg); color: var(--good); }
.warn { background: var(--warn-bg); color: var(--warn); }
.bad { background: var(--bad-bg); color: var(--bad); }
.verdict span { color: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .9rem; }
.tiles.many { grid-template-columns: repeat(auto-fit, minmax(10rem, 1fr)); }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; }
.tile { padding: .9rem 1.1rem; }
.tile small { color: var(--soft); display: block; }
.tile strong { font-size: 1.65rem; font-weight: 650; letter-spacing: -.02em; display: block;
  font-variant-numeric: tabular-nums; line-height: 1.35; }
.many strong { font-size: 1.35rem; white-space: nowrap; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem; }
figure { margin: 0; padding: 1rem 1.1rem; }
figure svg { width: 100%; height: auto; display: block; }
figure svg text { font-family: inherit !important; }
.narrow svg { max-width: 38rem; }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .5rem; }
figcaption b { color: var(--ink); }
.picture svg { background: #fff; border-radius: .4rem; max-height: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .55rem .8rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-weight: 600; font-size: .85rem; color: var(--soft); }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; font-weight: 600; }
td.words { color: var(--soft); font-size: .95rem; }
tr.best td { color: var(--accent); font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem; overflow-x: auto; font-size: .88rem; line-height: 1.45; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .92em; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
@media (max-width: 34rem) { .figures { grid-template-columns: 1fr; } }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML page around some elements; empty ones are left out."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], kinds: str, best: int | None = None
) -> str:
    """A table from texts, which are escaped.

    Arguments:
        head: the columns' names; none gives a table without a head.
        rows: the cells' texts.
        kinds: one letter per column: n for a number, w for words, t for a title.
        best: the row to set off.
    """
    classes = {"n": ' class="number"', "w": ' class="words"', "t": ""}
    lines = []
    if head:
        lines.append("<tr>" + "".join(f"<th>{text(name)}</th>" for name in head) + "</tr>")
    for i, row in enumerate(rows):
        cells = "".join(
            f"<td{classes[kind]}>{text(cell)}</td>" for kind, cell in zip(kinds, row, strict=True)
        )
        lines.append(f'<tr class="best">{cells}</tr>' if i == best else f"<tr>{cells}</tr>")
    return f'<div class="card scroll"><table>{"".join(lines)}</table></div>'


def text(value: Any) -> str:
    """Anything as text in HTML."""
    return html.escape(str(value))


def repeated(command: Sequence[str] | None) -> str:
    """The command of a run, whose own folder is in use by now; empty where none is known."""
    if not command:
        return ""
    words = "With another folder after --out:" if "--out" in command else ""
    return (f"<p>{words}</p>" if words else "") + f"<pre>{text(shlex.join(command))}</pre>"


def counted(count: int, what: str) -> str:
    """A count with its noun: 1 start, 2 starts."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def number(value: float, digits: int = 5) -> str:
    """A number for a reader: about five digits, powers of ten where it is tiny or huge."""
    if not np.isfinite(value):
        return UNKNOWN if np.isnan(value) else str(value)
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Seconds for a reader: "3.2 s", "4 min 5 s", "2 h 10 min"."""
    if not np.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
