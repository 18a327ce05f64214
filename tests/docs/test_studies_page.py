"""The generated page of studies lists every study and figure as the shipped files have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from codesign.study.library import load_study, names

PAGE = Path(__file__).parents[2] / "docs" / "studies.md"


def sections() -> dict[str, str]:
    """Return the text of each study's section by its name."""
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")
    return {part.partition("\n")[0]: part for part in parts[1:]}


def rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table, without its head."""
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_page_has_every_study_in_order():
    assert list(sections()) == names(), "run `make docs`"
    head = PAGE.read_text(encoding="utf-8").partition("\n## ")[0]
    assert all(f"[{name}](#{name})" in head for name in names())


@pytest.mark.parametrize("name", names())
def test_a_section_has_every_figure_with_the_published_number(name):
    specs = load_study(name).spec.figures
    found = rows(sections()[name])
    assert [row[0] for row in found] == [spec.name.replace("|", "\\|") for spec in specs], "run `make docs`"
    for row, spec in zip(found, specs, strict=True):
        assert row[2] == f"{spec.theirs:.4g}"
        assert row[6] == spec.kind
        assert row[5].strip("*") in ("pass", "fail")


@pytest.mark.parametrize("name", names())
def test_a_section_lists_what_was_fitted(name):
    spec = load_study(name).spec
    fitted = [item.name for item in spec.fitted_constants]
    fitted += [key for key, constant in spec.constants.items() if constant.fitted]
    section = sections()[name]
    assert all(f"- `{item}` = " in section for item in fitted)
    assert fitted or "No constant is fitted." in section


def test_fewer_constants_are_fitted_than_a_quarter_of_the_predicted_figures():
    specs = [load_study(name).spec for name in names()]
    predicted = sum(figure.kind == "predicted" for spec in specs for figure in spec.figures)
    fitted = sum(
        len(spec.fitted_constants) + sum(constant.fitted for constant in spec.constants.values())
        for spec in specs
    )
    assert 4 * fitted < predicted
