"""Errors that say where, what was given, the rule, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

_MOST_LISTED = 700  # characters


class CodesignError(Exception):
    """Any failure that this program reports by itself, never as a traceback."""


class ConfigError(CodesignError):
    """An input is wrong: a file, an option, a name, a value.  Exit code 2."""


class CapacityError(ConfigError):
    """Something does not fit its memory; the message holds the numbers.  Exit code 2."""


class InvariantError(CodesignError):
    """A law that must hold was violated: our mistake, not the user's.  Exit code 1."""

    def __init__(self, law: str, place: str, found: str, seed: int | None = None) -> None:
        super().__init__(f"law {law!r} violated at {place}: {found} (seed {seed})")
        self.law, self.place, self.found, self.seed = law, place, found, seed


def nearest(name: object, choices: Iterable[str]) -> str | None:
    """Return the choice that is spelt most like `name`, or None if none is near."""
    known = {choice.lower(): choice for choice in choices}
    close = get_close_matches(str(name).lower(), list(known), n=1, cutoff=0.5)
    return known[close[0]] if close else None


def choices_near(name: object, choices: Iterable[str]) -> str:
    """List what may be chosen, as much as can be read, with the nearest to a name that is not among it."""
    ordered = list(choices)
    near = nearest(name, ordered)
    listed = ", ".join(ordered)
    if len(listed) > _MOST_LISTED:
        listed = listed[:_MOST_LISTED].rpartition(", ")[0] + ", ..."
    return listed + (f" (did you mean {near!r}?)" if near else "")


def unknown_name(what: str, name: object, choices: Iterable[str], where: str = "") -> ConfigError:
    """Build the error for a name that is not among `choices`, with the nearest one."""
    place = f"{where}: " if where else ""
    return ConfigError(f"{place}unknown {what} {name!r}; choose from {choices_near(name, sorted(choices))}")


def read_text(path: str | Path, what: str = "file") -> str:
    """Read a UTF-8 text file, or say in one line why it cannot be read.

    Raises
    ------
    ConfigError   the path is missing, a directory, unreadable, or not UTF-8 text
    """
    place = Path(path)
    if place.is_dir():
        raise ConfigError(f"{place}: is a directory; a {what} is needed")
    try:
        return place.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such {what}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{place}: not a text file (byte {error.start} is not UTF-8); a {what} is needed"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{place}: cannot be read: {reason}") from None
