"""Small formulas over dotted paths and metrics: conditions, derived fields, constraints, objectives.

    parallel.tensor * parallel.expert <= 8        ttft_s.p99 <= 500 ms        system.device.pim

Arithmetic, comparisons, ``and or not``, ``a if c else b`` and the functions in `FUNCTIONS`; a number with a
unit is SI.  Nothing else is evaluated: no calls, no attributes of Python objects.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from codesign.base.errors import ConfigError
from codesign.base.units import si_value

Lookup = Callable[[str], Any]

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "min": min, "max": max, "abs": abs, "round": round, "ceil": math.ceil, "floor": math.floor,
    "sqrt": math.sqrt, "log2": math.log2, "int": int, "sum": sum,
    "mean": lambda values: sum(values) / len(values),
}  # fmt: skip
_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARE: dict[type[ast.AST], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_WORDS = {"and", "or", "not", "if", "else", "in", "is"}
_QUANTITY = re.compile(
    r"(?<![\w.'\"])(\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s+([A-Za-z]+(?:/[A-Za-z]+)?(?:\*\*2)?)"
)


class MissingError(Exception):
    """A name that has no value here."""


def number_of(value: Any) -> Any:
    """Return a quantity's SI value; anything else as it is."""
    if isinstance(value, str):
        found = si_value(value)
        return value if found is None else found
    return value


@dataclass(frozen=True)
class Expression:
    """A checked formula; `names` are the dotted names that it reads."""

    text: str
    tree: ast.expr
    names: tuple[str, ...]

    def __call__(self, lookup: Lookup) -> Any:
        """Evaluate with values from `lookup`, which raises `MissingError` for what has none.

        Raises
        ------
        ConfigError   values of the wrong kind, a division by zero
        """
        try:
            return _value(self.tree, lookup)
        except MissingError:
            raise
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"{self.text!r}: cannot be worked out: {error}") from None

    def violation(self, lookup: Lookup) -> float:
        """Return by how much a condition is missed, relative to its right side; <= 0 if it holds."""
        return _violation(self.tree, lookup)


@lru_cache(maxsize=1024)
def parse(text: str, where: str = "") -> Expression:
    """Parse a formula.

    Raises
    ------
    ConfigError   what is no formula, or uses what formulas do not have
    """
    place = f"{where}: " if where else ""
    try:
        tree = ast.parse(_QUANTITY.sub(_quantity, str(text)), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ConfigError(f"{place}{text!r}: is not a formula, as parallel.tensor * 2 <= 8") from None
    names: list[str] = []
    _check(tree, names, f"{place}{text!r}")
    return Expression(str(text), tree, tuple(dict.fromkeys(names)))


def _quantity(match: re.Match[str]) -> str:
    if match[2] in _WORDS:
        return match[0]
    value = si_value(f"{match[1]} {match[2]}")
    return match[0] if value is None else repr(value)


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        inner = _dotted(node.value)
        return inner and f"{inner}.{node.attr}"
    return None


def _check(node: ast.AST, names: list[str], where: str) -> None:
    name = _dotted(node)
    if name is not None:
        names.append(name)
        return
    children: list[ast.AST]
    if isinstance(node, ast.Call):
        called = _dotted(node.func)
        if called not in FUNCTIONS or node.keywords:
            raise ConfigError(f"{where}: unknown function {called!r}; choose from {', '.join(FUNCTIONS)}")
        children = list(node.args)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        children = [node.left, node.right]
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        children = [node.left, *node.comparators]
    elif isinstance(node, ast.BoolOp):
        children = list(node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        children = [node.operand]
    elif isinstance(node, ast.IfExp):
        children = [node.test, node.body, node.orelse]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bool | None):
        children = []
    else:
        raise ConfigError(f"{where}: a formula has names, numbers, + - * / // %, comparisons, and, or, not")
    for child in children:
        _check(child, names, where)


def _value(node: ast.expr, lookup: Lookup) -> Any:
    name = _dotted(node)
    if name is not None:
        return {"true": True, "false": False}[name] if name in ("true", "false") else number_of(lookup(name))
    if isinstance(node, ast.Constant):
        return number_of(node.value)
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, lookup), _value(node.right, lookup))
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, lookup)
        return not inner if isinstance(node.op, ast.Not) else -inner
    if isinstance(node, ast.BoolOp):
        return _bool(node, lookup)
    if isinstance(node, ast.IfExp):
        return _value(node.body if _value(node.test, lookup) else node.orelse, lookup)
    if isinstance(node, ast.Call):
        return FUNCTIONS[_dotted(node.func) or ""](*(_value(a, lookup) for a in node.args))
    return _compare(node, lookup)


def _bool(node: ast.BoolOp, lookup: Lookup) -> Any:
    result: Any = isinstance(node.op, ast.And)
    for part in node.values:
        result = _value(part, lookup)
        if bool(result) != isinstance(node.op, ast.And):
            break
    return result


def _compare(node: Any, lookup: Lookup) -> Any:
    left = _value(node.left, lookup)
    if len(node.ops) == 1:  # of two vectors: a vector of truths, to be summed
        return _COMPARE[type(node.ops[0])](left, _value(node.comparators[0], lookup))
    for op, other in zip(node.ops, node.comparators, strict=True):
        right = _value(other, lookup)
        if not _COMPARE[type(op)](left, right):
            return False
        left = right
    return True


def _violation(node: ast.expr, lookup: Lookup) -> float:
    if isinstance(node, ast.BoolOp):
        parts = [_violation(part, lookup) for part in node.values]
        return max(parts) if isinstance(node.op, ast.And) else min(parts)
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = _value(node.left, lookup), _value(node.comparators[0], lookup)
        if isinstance(left, int | float) and isinstance(right, int | float):
            gap = float(left - right) / max(abs(right), 1e-12)
            if isinstance(node.ops[0], ast.Lt | ast.LtE):
                return gap
            if isinstance(node.ops[0], ast.Gt | ast.GtE):
                return -gap
    return 0.0 if _value(node, lookup) else 1.0
