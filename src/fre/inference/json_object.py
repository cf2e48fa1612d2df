"""An object of a JSON document, read key by key: each value is checked for type, range and size.

The error of a bad value names the key, the expected range, and the value that was found.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar, cast

from fre.errors import ModelFileError

T = TypeVar("T")

MAX_DIGITS = 24
"""Longest integer, in digits."""


class BadValueError(Exception):
    """A value of the document is out of range.

    Args:
        key: path of the value within the document, such as ``subspaces[0].rank``.
        expected: type and range that the value must have.
        found: the value, or a description of it.
    """

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(
            f"its metadata have a bad {key}: expected {expected}, found {shortened(found)}"
        )


def shortened(value: object) -> str:
    """Return a JSON value in at most 60 characters."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def parse_json(text: str) -> object:
    """Parse a JSON text from an untrusted file.

    Raises:
        ValueError: the text is not JSON, has an integer of too many digits, an object with a key
            twice, or a lone surrogate.
        RecursionError: its lists or objects are nested too deep.
    """
    document = json.loads(text, parse_int=_integer, object_pairs_hook=_unique_keys)
    if "\\ud" in text.lower():
        json.dumps(document, ensure_ascii=False).encode()
    return document


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


def check_finite(value: object, key: str = "") -> None:
    """Refuse NaN and infinity anywhere in a document; Python's reader accepts both.

    Raises:
        BadValueError: a number is not finite.
    """
    if isinstance(value, dict):
        for name, part in value.items():
            check_finite(part, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            check_finite(part, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadValueError(key, "a finite number", value)


class JsonObject:
    """An object of the document.

    Every method that reads a key raises `BadValueError` if the value is bad, and `ModelFileError`
    if the key is missing.

    Args:
        values: keys and values of the object.
        name: path of the object within the document, with a final dot; empty for the document.
    """

    def __init__(self, values: dict[str, Any], name: str = "") -> None:
        self.values = values
        self.name = name

    def has(self, key: str) -> bool:
        """Return whether the key has a value other than null."""
        return self.values.get(key) is not None

    def bad(self, key: str, expected: str, found: object = None) -> BadValueError:
        """Return the error of a bad value; ``found`` describes the value if its text is no help."""
        found = self.values.get(key) if found is None else found
        return BadValueError(self.name + key, expected, found)

    def get(self, key: str) -> Any:
        """Return any value."""
        if key not in self.values:
            raise ModelFileError(f"its metadata lack {self.name + key!r}")
        return self.values[key]

    def section(self, key: str) -> JsonObject:
        """Return an object."""
        found = self.get(key)
        if not isinstance(found, dict):
            raise self.bad(key, "an object")
        return JsonObject(found, f"{self.name}{key}.")

    def sections(self, key: str) -> list[JsonObject]:
        """Return a list of objects."""
        found = self.get(key)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self.bad(key, "a list of objects")
        return [JsonObject(item, f"{self.name}{key}[{i}].") for i, item in enumerate(found)]

    def text(self, key: str, choices: Sequence[str] = ()) -> str:
        """Return a text; one of ``choices`` if there are any."""
        found = self.get(key)
        if not isinstance(found, str) or (choices and found not in choices):
            raise self.bad(key, "one of " + ", ".join(choices) if choices else "a text")
        return found

    def jpeg(self, key: str) -> str:
        """Return a JPEG file in base64, as text that is safe in a page."""
        text = self.text(key)
        try:
            data = base64.b64decode(text, validate=True)
        except ValueError:
            data = b""
        if not data.startswith(b"\xff\xd8\xff"):
            raise self.bad(key, "a JPEG in base64", f"{len(text)} characters")
        return text

    def texts(self, key: str) -> list[str]:
        """Return a list of texts."""
        found = self.get(key)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.bad(key, "a list of texts")
        return found

    def flag(self, key: str) -> bool:
        """Return true or false."""
        found = self.get(key)
        if not isinstance(found, bool):
            raise self.bad(key, "true or false")
        return found

    def whole(self, key: str, low: int = 0, high: int = 2**63) -> int:
        """Return an integer in [low, high]."""
        found = self.get(key)
        if type(found) is not int or not low <= found <= high:
            raise self.bad(key, _between("a whole number", low, high))
        return found

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number in [low, high]."""
        found = self.get(key)
        if not _is_number(found) or not low <= found <= high:
            raise self.bad(key, _between("a finite number", low, high))
        # Unchanged, so that a document that is written again keeps its digits.
        return cast(float, found)

    def share(self, key: str) -> float:
        """Return a number in (0, 1]."""
        found = self.number(key)
        if not 0 < found <= 1:
            raise self.bad(key, "a number above 0 and at most 1")
        return found

    def numbers(
        self, key: str, count: int | None = None, low: float = -math.inf, *, ascending: bool = False
    ) -> list[float]:
        """Return a list of finite numbers.

        Args:
            key: key of the list.
            count: length that the list must have; ``None`` for any.
            low: smallest number allowed.
            ascending: whether the numbers must be in ascending order.
        """
        found = self.get(key)
        what = f"a list of {'' if count is None else f'{count} '}finite numbers"
        if not isinstance(found, list):
            raise self.bad(key, what)
        for index, value in enumerate(found):
            if not _is_number(value):
                raise BadValueError(f"{self.name}{key}[{index}]", "a finite number", value)
        if count is not None and len(found) != count:
            raise self.bad(key, what, f"{len(found)} of them")
        if any(value < low for value in found):
            raise self.bad(key, f"{what}, {low:g} or more", min(found))
        if ascending and any(a > b for a, b in pairwise(found)):
            raise self.bad(key, "numbers in ascending order", "other numbers")
        return found

    def size(self, key: str, high: int) -> tuple[int, int]:
        """Return height and width, integers in [1, high]."""
        found = self.get(key)
        fits = isinstance(found, list) and len(found) == 2
        if not fits or not all(type(side) is int and 1 <= side <= high for side in found):
            raise self.bad(key, f"height and width, whole numbers from 1 to {high}", str(found))
        return found[0], found[1]

    def maybe(self, read: Callable[..., T], key: str, *limits: Any, **options: Any) -> T | None:
        """Return what a method of this object reads; ``None`` if the key is missing or null."""
        return read(key, *limits, **options) if self.has(key) else None


def _is_number(value: object) -> bool:
    # True is a number for Python, and a large integer is no double.
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**63


def _between(what: str, low: float, high: float) -> str:
    if high >= 2**63:
        return what if low == -math.inf else f"{what}, {low:g} or more"
    return f"{what} from {low:g} to {high:g}"
