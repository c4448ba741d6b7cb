"""What the pages name exists."""

import importlib
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_test_that_a_page_names_exists(page):
    for file, name in re.findall(r"(test_\w+\.py)::(test_\w+)", page.read_text()):
        source = (DOCS.parent / "tests" / file).read_text()
        assert f"def {name}(" in source, f"{page.name} names {file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_public_name_that_a_page_refers_to_exists(page):
    text = page.read_text()
    named = re.findall(r"^::: ([\w.]+)$", text, re.M) + re.findall(r"\]\[(bilevax\.[\w.]+)\]", text)
    for name in named:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), f"{page.name} names {name}"


def test_the_reference_holds_every_public_name():
    import bilevax

    documented = set()
    for page in (DOCS / "reference").glob("*.md"):
        documented |= set(re.findall(r"^::: bilevax\.(\w+)$", page.read_text(), re.M))
    public = {name for name in vars(bilevax) if not name.startswith("_")}
    public -= {name for name in public if type(getattr(bilevax, name)).__name__ == "module"}
    assert public == documented
