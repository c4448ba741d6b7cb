"""What a benchmark leaves to be read: ``report.html``, ``table.md`` and the tables of its rows."""

import math
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..io import figures as common
from ..io.files import read_json, write_text
from ..io.page import counted, duration, number, page, table, text
from ..io.run_folder import CONFIG, REPORT
from .budget import OFF
from .figures import case_figure, curve_figure, profile_figure
from .plan import short
from .rows import write_tables
from .run import read_arguments, read_rows
from .statistics import Summary, curves, seed_shortfalls, share_ahead, summarise
from .suite import Suite, find_suite
from .words import COLUMNS, LEARNED, TABLE, columns, files, words_for


def write_bench_report(directory: Path) -> Path:
    """Writes the tables and ``report.html`` from the rows that are there, finished or not."""
    arguments = read_arguments(directory)
    suite = find_suite(arguments.suite)
    rows = read_rows(directory)
    if not rows:
        raise ValueError(f"{directory} holds no finished run yet: continue it by --resume.")
    write_tables(directory, rows)
    write_text(directory / TABLE, markdown(rows, suite))
    config = read_json(directory / CONFIG)
    write_text(directory / REPORT, html(rows, suite, config, config["jobs"]))
    return directory / REPORT


def markdown(rows: Sequence[dict[str, Any]], suite: Suite) -> str:
    """Both tables as Markdown."""
    summaries = summarise(rows, suite)
    parts = [f"# {suite.name}", suite.summary, _how(rows, suite)]
    parts += [_markdown_table(*_overview(summaries, suite))]
    parts += [suite.note] if suite.note else []
    head, cells = _details(summaries)
    parts += [_markdown_table(head, cells)]
    parts += ["\n".join(f"- {name}: {words}." for name, words in _explained(rows, suite, head))]
    parts += [_reasons_line(summaries)] if any(s.failures for s in summaries) else []
    return "\n\n".join(parts) + "\n"


def html(rows: Sequence[dict[str, Any]], suite: Suite, config: dict[str, Any], planned: int) -> str:
    """The page: what is compared, the overview, the figures, the details, how to repeat it."""
    summaries = summarise(rows, suite)
    failed = sum(s.failures for s in summaries)
    head, cells = _overview(summaries, suite)
    detail_head, detail_cells = _details(summaries)
    body = [
        f"<h1>{text(suite.name)}: methods compared</h1>",
        f'<p class="lead">{text(suite.summary)}</p>',
        _unfinished(len(rows), planned),
        f"<p>{text(_how(rows, suite))}</p>",
        _tiles(rows, failed),
        f"<h2>{'Medians beside the value to reach' if suite.references else 'Medians'}</h2>",
        table(head, cells, "t" + "n" * (len(head) - 1)),
        f'<p class="lead">{text(suite.note)}</p>' if suite.note else "",
        f"<p>References come from: {text(_sources(suite))}</p>" if suite.references else "",
        "<h2>All cases together</h2>",
        _together(rows, suite),
        "<h2>Every case and method</h2>",
        table(detail_head, detail_cells, "tt" + "n" * (len(detail_head) - 2)),
        _failures(summaries),
        "<details><summary>What the columns mean</summary>",
        table(
            (),
            [
                (name, words[0].upper() + words[1:] + ".")
                for name, words in _explained(rows, suite, detail_head)
            ],
            "tw",
        ),
        "</details>",
        "<h2>Every seed</h2>",
        _strips(summaries, rows, suite),
        "<h2>How to repeat it</h2>",
        f"<pre>{text(shlex.join(config['command']))}</pre>" if config["command"] else "",
        f'<p class="words">{text(_versions(config))}</p>',
        table((), list(files(words_for(rows)).items()), "nw"),
    ]
    return page(f"bilevax bench: {suite.name}", body)


def _how(rows: Sequence[dict[str, Any]], suite: Suite) -> str:
    seeds = len({row["seed"] for row in rows})
    starts = len({row["start"] for row in rows})
    senses = {row["maximize"] for row in rows if row["maximize"] is not None}
    better = {True: "larger is better", False: "smaller is better"}
    sense = better[senses.pop()] if len(senses) == 1 else "the sense is each problem's own"
    words, each = words_for(rows), f" of {counted(starts, 'random start')}"
    if words is LEARNED and starts == 1:
        each = ""
    return (
        f"Every method had the same {counted(seeds, 'seed')}{each}, and a budget of "
        f"{rows[0]['budget']} for each {'start' if each else 'of them'}.{_unequal_time(rows)}"
        f"{_spent(rows)} {words.values} ({sense}). {words.spread}."
    )


def _explained(
    rows: Sequence[dict[str, Any]], suite: Suite, shown: Sequence[str]
) -> list[tuple[str, str]]:
    """The columns that are shown, in words."""
    used = {*shown, "Reference"} if suite.references else set(shown)
    return [(name, meaning) for name, meaning in columns(words_for(rows)) if name in used]


def _unequal_time(rows: Sequence[dict[str, Any]]) -> str:
    if not rows[0]["budget"].endswith(" steps"):
        return ""
    return " Equal steps are not equal time: what they cost stands beside them (CPU s)."


def _spent(rows: Sequence[dict[str, Any]]) -> str:
    shares = [row["spent"] for row in rows if row["spent"] is not None]
    if not shares:
        return ""
    ends = dict.fromkeys(f"{100 * share:.0f} %" for share in (min(shares), max(shares)))
    words = f" Runs used {' to '.join(ends)} of it."
    again = sum((row["attempts"] or 1) > 1 for row in rows)
    if again:
        runs, were = counted(len(rows), "run"), "was" if again == 1 else "were"
        words += f" {again:,} of {runs}, more than {OFF:g} times off at first, {were} done anew "
        words += "with other steps."
    return words


def _overview(summaries: Sequence[Summary], suite: Suite) -> tuple[list[str], list[list[str]]]:
    methods = list(dict.fromkeys(s.method for s in summaries))
    cases = list(dict.fromkeys(s.case for s in summaries))
    cells = {(s.case, s.method): s for s in summaries}
    columns = list(dict.fromkeys(name for case in suite.cases for name in case.published))
    with_reference = bool(suite.references)
    head = ["Case", *map(short, methods), *(["Reference"] if with_reference else [])]
    head += [f"{name} (published)" for name in columns]
    rows = []
    for case in cases:
        own = [cells.get((case, method)) for method in methods]
        row = [_unbroken(case), *("" if s is None else _value(s.median) for s in own)]
        if with_reference:
            known = suite.references.get(case)
            row.append("" if known is None else number(known.value))
        published = suite.case(case).published
        row += [number(published[name]) if name in published else "" for name in columns]
        rows.append(row)
    return head, rows


def _details(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    head = ["Case", "Method", *(name for name in COLUMNS if name != "Reference")]
    rows = []
    first = {s.case: s for s in reversed(summaries)}
    for s in summaries:
        interval = " to ".join(_value(end, 4) for end in s.interval or ())
        row = [
            *(
                _unbroken(s.case),
                short(s.method),
                _value(s.median, 4),
                interval,
                _value(s.best, 4),
                "" if s is first[s.case] else _ahead(s, first[s.case]),
            ),
            "" if s.fraction is None else f"{s.fraction:.4f}",
            "" if math.isnan(s.gap) else number(s.gap, 2),
            "" if s.steps in (None, s.environment_steps) else f"{s.steps:,}",
            "" if s.environment_steps is None else f"{s.environment_steps:,}",
            "" if math.isnan(s.cpu_seconds) else number(s.cpu_seconds, 3),
            f"{s.failures} of {s.runs}" if s.failures else "",
        ]
        rows.append(row)
    used = [i for i in range(len(head)) if i < 3 or any(row[i] for row in rows)]
    return [head[i] for i in used], [[row[i] for i in used] for row in rows]


def _ahead(one: Summary, other: Summary) -> str:
    return f"{share_ahead(one.values, other.values, maximize=one.maximize):.2f}"


def _together(rows: Sequence[dict[str, Any]], suite: Suite) -> str:
    words = words_for(rows)
    panels = [
        (
            profile_figure(_named(seed_shortfalls(rows, suite))),
            "<b>How often is it close?</b> For each tolerance, the share of cases and seeds in "
            "which a method came within that fraction of the best value known "
            f"({_best_known(suite)}). Higher and further left is better; where a line stops "
            "below 1, the rest failed or was further off. All methods had the same budget, so "
            "the tolerance varies rather than the time.",
        ),
        (
            curve_figure(_named(curves(rows, suite, axis=words.axis[0])), words.axis[1]),
            f"<b>How fast?</b> {words.fast} Distances below 1e-6 are drawn as 1e-6.",
        ),
    ]
    parts = [
        f'<figure class="card">{common.inline(common.to_svg(figure))}'
        f"<figcaption>{caption}</figcaption></figure>"
        for figure, caption in panels
        if figure is not None
    ]
    return f'<div class="figures">{"".join(parts)}</div>'


def _best_known(suite: Suite) -> str:
    known = "the reference, or a better one found here"
    return known if suite.references else "of all runs here"


def _strips(summaries: Sequence[Summary], rows: Sequence[dict[str, Any]], suite: Suite) -> str:
    parts = []
    for case in dict.fromkeys(s.case for s in summaries):
        own = [s for s in summaries if s.case == case]
        drawn = {short(s.method): s.values for s in own}
        if not any(math.isfinite(value) for values in drawn.values() for value in values):
            continue
        svg = common.inline(common.to_svg(case_figure(drawn, own[0].reference)))
        parts.append(
            f'<figure class="card narrow"><figcaption><b>{text(case)}</b></figcaption>{svg}'
            "</figure>"
        )
    line = " The dashed line is the reference, where there is one." if suite.references else ""
    return (
        f"<p>One point per seed: {words_for(rows).point}.{line}</p>"
        f'<div class="figures">{"".join(parts)}</div>'
    )


def _tiles(rows: Sequence[dict[str, Any]], failed: int) -> str:
    cpu = sum(row["cpu_seconds"] or 0.0 for row in rows)
    compiled = sum(row["compile_seconds"] or 0.0 for row in rows)
    tiles = [
        ("Runs", f"{len(rows):,}"),
        ("Failed", f"{failed:,}"),
        ("CPU time of the methods", duration(cpu)),
        ("Time spent on compilation", duration(compiled)),
    ]
    inner = "".join(
        f'<div class="tile"><small>{text(name)}</small><strong>{text(value)}</strong></div>'
        for name, value in tiles
    )
    return f'<div class="tiles">{inner}</div>'


def _unfinished(done: int, planned: int) -> str:
    if done >= planned:
        return ""
    return (
        f'<div class="verdict warn"><b>Unfinished: {done:,} of {planned:,} runs</b><span>The '
        "numbers are those of the runs so far.</span></div>"
    )


def _failures(summaries: Sequence[Summary]) -> str:
    reasons = Counter((short(s.method), s.reason) for s in summaries if s.failures)
    if not reasons:
        return ""
    rows = [[method, str(count), reason] for (method, reason), count in reasons.items()]
    return "<h2>What failed</h2>" + table(("Method", "Cases", "Reason"), rows, "tnw")


def _reasons_line(summaries: Sequence[Summary]) -> str:
    reasons = dict.fromkeys(f"{short(s.method)}: {s.reason}" for s in summaries if s.failures)
    return "Failed: " + " ".join(reasons)


def _sources(suite: Suite) -> str:
    sources = dict.fromkeys(reference.source for reference in suite.references.values())
    commands = dict.fromkeys(one.command for one in suite.references.values() if one.command)
    made = f" Computed by: {'; '.join(commands)}" if commands else ""
    return "; ".join(sources) + "." + made


def _versions(config: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in config["versions"].items())
    return f"{versions}; {config['machine']}"


def _named(values: dict[str, Any]) -> dict[str, Any]:
    return {short(method): value for method, value in values.items()}


def _unbroken(name: str) -> str:
    return name.replace(" ", "\N{NO-BREAK SPACE}") if len(name) <= 24 else name


def _value(value: float, digits: int = 5) -> str:
    return "failed" if not math.isfinite(value) else number(value, digits)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines
    )
