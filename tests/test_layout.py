"""The shape of the code: who may import whom, and what the library never does.

    codesign  ->  workloads, hwmodels  ->  ext          codesign.base: the leaf that all may import

A file that breaks a rule is named with its line; the rules' reasons stand in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("codesign", "workloads", "hwmodels", "ext")
# what a file may import of ours, by the package that it stands in; its own package is always allowed
ALLOWED = {
    "codesign": ("codesign", "workloads", "hwmodels", "ext"),
    "codesign.base": ("codesign.base",),
    "workloads": ("codesign.base", "ext"),
    "hwmodels": ("codesign.base", "ext"),
    "ext": ("ext",),
}
HEAVY = ("numba", "pandas", "matplotlib", "scipy", "pyarrow", "simpy", "optuna", "distributed", "dask")
LIMIT_LINES = 500


def sources(*suffixes: str) -> list[Path]:
    """Return our library's files, relative to the root."""
    return sorted(
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (suffixes or (".py",))
    )


@cache
def tree(path: Path) -> ast.Module:
    """Parse a file."""
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Give line and dotted name of everything that a file imports, at any depth of the code."""
    if path.suffix != ".py":
        yield from _cython_imports(path)
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(path.with_suffix("").parts[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def _cython_imports(path: Path) -> Iterator[tuple[int, str]]:
    pattern = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))")
    for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1):
        if found := pattern.match(line):
            yield number, found[1] or found[2]


def is_below(name: str, package: str) -> bool:
    """Tell whether a dotted name is a package or stands inside it."""
    return name == package or name.startswith(package + ".")


def allowed_in(path: Path) -> tuple[str, ...]:
    """Return what of ours a file may import."""
    if is_below(".".join(path.parts), "codesign.base"):
        return ALLOWED["codesign.base"]
    return (*ALLOWED[path.parts[0]], path.parts[0])


def wrong_imports(path: Path) -> list[str]:
    """Return the imports of ours that a file must not have."""
    return [
        f"{path}:{line}: imports {name}"
        for line, name in imports(path)
        if name.split(".")[0] in PACKAGES and not any(is_below(name, known) for known in allowed_in(path))
    ]


def test_imports_run_one_way():
    assert [wrong for path in sources(".py", ".pyx", ".pxd") for wrong in wrong_imports(path)] == []


@pytest.mark.parametrize(
    ("path", "name", "wrong"),
    [
        ("workloads/a.py", "hwmodels.spec", True),
        ("hwmodels/a.py", "workloads.models", True),
        ("hwmodels/a.py", "codesign.lower", True),
        ("hwmodels/a.py", "codesign.base.units", False),
        ("ext/graph/a.py", "hwmodels.spec", True),
        ("ext/graph/a.py", "ext.backend.kernels", False),
        ("ext/graph/a.py", "codesign.base.errors", True),
        ("codesign/base/a.py", "codesign.lower", True),
        ("codesign/lower/a.py", "hwmodels.spec", False),
    ],
)
def test_the_rule_refuses_what_it_should(monkeypatch, path, name, wrong):
    monkeypatch.setattr(sys.modules[__name__], "imports", lambda path: iter([(1, name)]))
    assert bool(wrong_imports(Path(path))) == wrong


def test_only_codesign_knows_simulated_time():
    found = [
        f"{path}:{line}"
        for path in sources()
        for line, name in imports(path)
        if is_below(name, "simpy") and path.parts[0] != "codesign"
    ]
    assert found == []


def test_the_library_neither_prints_nor_exits_nor_asserts():
    assert [fault for path in sources() for fault in _loud(path)] == []


def _loud(path: Path) -> Iterator[str]:
    if path.parts[:2] == ("codesign", "cli") or path.name == "__main__.py":
        return
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assert):
            yield f"{path}:{node.lineno}: assert"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "print",
            "exit",
            "quit",
            "sys.exit",
            "os._exit",
            "sys.stdout.write",
        ):
            yield f"{path}:{node.lineno}: {ast.unparse(node.func)}"


def test_the_command_line_writes_through_click():
    found = [
        f"{path}:{node.lineno}"
        for path in sources()
        if path.parts[:2] == ("codesign", "cli")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and ast.unparse(node.func) == "print")
    ]
    assert found == []


def test_files_are_short_enough_to_read():
    lengths = {
        path: (ROOT / path).read_text(encoding="utf-8").count("\n") for path in sources(".py", ".pyx", ".pxd")
    }
    assert {str(path): lines for path, lines in lengths.items() if lines > LIMIT_LINES} == {}


def test_every_module_says_what_it_is():
    assert [str(path) for path in sources() if not ast.get_docstring(tree(path))] == []


def test_every_public_function_and_class_says_what_it_does():
    assert [fault for path in sources() for fault in _silent(path)] == []


def _silent(path: Path) -> Iterator[str]:
    for node in tree(path).body:
        if (
            isinstance(node, ast.FunctionDef | ast.ClassDef)
            and not node.name.startswith("_")
            and not ast.get_docstring(node)
        ):
            yield f"{path}:{node.lineno}: {node.name}"


def test_seeds_are_never_global():
    calls = re.compile(r"np\.random\.(?!Generator|Philox|default_rng|SeedSequence|PCG64|BitGenerator)\w+\(")
    found = [
        f"{path}:{number}"
        for path in sources(".py", ".pyx")
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), 1)
        if calls.search(line) or re.search(r"^\s*(?:import random|from random import)\b", line)
    ]
    assert found == []


def modules_after(code: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport json, sys; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import codesign",
        "from codesign.cli.main import main; main(['--help'])",
        "import hwmodels",
        "import workloads.models, workloads.requests, workloads.routing",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    assert modules_after(code) & set(HEAVY) == set()


def test_import_codesign_costs_nothing():
    assert (
        modules_after("import codesign") & {"numpy", "pydantic", "yaml", "click", "hwmodels", "workloads"}
        == set()
    )
