"""Tables in the documentation's pages: each stands between two marks of its name."""

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def write_between_marks(page: Path, name: str, text: str) -> None:
    """Puts the text between the marks of that name; ``ValueError`` where the page has none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    whole = page.read_text()
    if begin not in whole:
        raise ValueError(f"{page} has no mark {begin}: put one, and {end}, where the text belongs.")
    head, rest = whole.split(begin)
    page.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")
