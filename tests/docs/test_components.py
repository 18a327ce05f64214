"""The generated page of components names every slot and every component that the code registers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def components(monkeypatch):
    """Return the module that writes the page."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    import components

    yield components
    sys.modules.pop("components")


def test_the_page_is_up_to_date(components):
    written = components.PAGE.read_text(encoding="utf-8")
    assert components.headings(written) == components.headings(components.page()), "run `make docs`"


def test_every_slot_has_a_chapter(components):
    assigned = re.compile(r"^([A-Z_]+): Registry\[", re.MULTILINE)
    found = {
        name
        for package in ("codesign", "hwmodels", "workloads")
        for path in (ROOT / package).rglob("*.py")
        for name in assigned.findall(path.read_text(encoding="utf-8"))
    }
    assert found == {registry for _, _, registry, _ in components.SLOTS}


def test_every_component_says_what_it_does(components):
    assert "(no description)" not in components.page()
