"""Meaning of folder names and labels: good, defective, masks or neither.

All layouts use this table. A name is split into words, which are looked up in ``words.txt``, so
that ``good_parts``, ``GoodParts``, ``OK-2024`` and ``goodparts`` mean the same. A negation inverts
a word: ``non_defective``, ``defect_free``, ``kein_fehler``, ``not_good``.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path


class Meaning(Enum):
    """Meaning of a name for the images in a folder."""

    GOOD = "good"
    DEFECT = "defect"
    MIXED = "good or defective"
    """A name of both, such as ``good_and_bad``."""
    MASK = "masks"
    OTHER = "no photographs"
    """Depth images, overlays and the like."""


def _read_words() -> dict[str, frozenset[str]]:
    """Return the words of each section of ``words.txt``."""
    words: dict[str, list[str]] = {}
    section = ""
    for line in Path(__file__).with_name("words.txt").read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif not line.startswith("#"):
            words.setdefault(section, []).extend(line.split())
    return {section: frozenset(found) for section, found in words.items()}


def _longest_first(words: Iterable[str]) -> list[str]:
    return sorted(words, key=lambda word: (-len(word), word))


_WORDS = _read_words()
_STATES = {
    **dict.fromkeys(_WORDS["mask"], Meaning.MASK),
    **dict.fromkeys(_WORDS["defect"], Meaning.DEFECT),
    **dict.fromkeys(_WORDS["good"], Meaning.GOOD),
}
_WEAK = {
    **dict.fromkeys(_WORDS["weak other"], Meaning.OTHER),
    **dict.fromkeys(_WORDS["weak mask"], Meaning.MASK),
}
_BEFORE, _AFTER = _WORDS["before"], _WORDS["after"]
_FILLERS = _WORDS["filler"]
_NEUTRAL = _FILLERS | _WORDS["neutral"]
_PREFIXES = ("nicht", "kein", "non", "not", "un", "in", "no")
_SUFFIXES = ("freie", "free", "frei", "less", "los")
_JOINED = _longest_first(_WORDS["joined"])
_UNSPACED = {
    word: state
    for state in (Meaning.DEFECT, Meaning.GOOD, Meaning.MASK)
    for word in _longest_first(_WORDS[f"unspaced {state.name.lower()}"])
}
_UNSPACED_NOT = "无無没非未无"
_OPPOSITE = {Meaning.GOOD: Meaning.DEFECT, Meaning.DEFECT: Meaning.GOOD}
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


class Names:
    """Meanings of names, with further names of good images from the caller.

    Args:
        good: names or patterns such as ``monday`` or ``2024-*``, in any case.
    """

    def __init__(self, good: Iterable[str] = ()) -> None:
        self.good = tuple(name.strip().strip("/").casefold() for name in good)

    def meaning(self, name: str) -> Meaning | None:
        """Return the meaning of a name; ``None`` for unknown words."""
        return Meaning.GOOD if self.chosen(name) else meaning(name)

    def chosen(self, name: str) -> bool:
        """Tell whether the caller named this folder as one of good images.

        Patterns don't match names that mean defects or masks; these need their full name.
        """
        text = name.casefold()
        if text in self.good:
            return True
        unclear = meaning(name) in (None, Meaning.GOOD)
        return unclear and any(fnmatchcase(text, pattern) for pattern in self.good)


@lru_cache(maxsize=4096)
def meaning(name: str) -> Meaning | None:
    """Return the meaning of a folder's name or a label; ``None`` for unknown words."""
    unspaced = _unspaced(name)
    if unspaced is not None:
        return unspaced
    found = _of_words(_words(name))
    return found if found is not None else _of_words(_words(_CAMEL.sub("_", name)))


def says_only_that(name: str) -> bool:
    """Tell whether all words of a name are known: ``bad_parts``, but not ``bad_weather``."""
    if _unspaced(name) is not None:
        return True
    known = {*_BEFORE, *_AFTER, *_FILLERS, *_WORDS["weak mask"], "ground", "truth", "n"}
    known |= {_singular(word) for word in known}
    return any(
        all(
            _singular(word) in known or word.isdigit() or _of_word(word) is not None
            for word in words
        )
        for words in (_words(name), _words(_CAMEL.sub("_", name)))
    )


def is_good(name: str) -> bool:
    """Tell whether a folder's name or a label means good."""
    return meaning(name) is Meaning.GOOD


def is_neutral(name: str) -> bool:
    """Tell whether a name says only when, where or in which order images were taken."""
    words = _words(name)
    if not words or meaning(name) is not None:
        return False
    plain = [word for word in words if word.isdigit() or _singular(word) in _NEUTRAL]
    # Letters are numbers, too, but only beside a known word: cam_a.
    return bool(plain) and all(word in plain or len(word) == 1 for word in words)


def are_neutral(names: Sequence[str]) -> bool:
    """Tell whether all names are neutral; 0 and 1 are classes, not dates."""
    return all(map(is_neutral, names)) and {name.strip() for name in names} != {"0", "1"}


def split_of(name: str) -> str | None:
    """Return ``train``, ``test`` or ``validation`` for a name of that split, in any case."""
    return _SPLITS.get(name.strip().casefold())


def similar_good_word(name: str) -> str | None:
    """Return the word for good images that an unknown name may be a misspelling of."""
    text = name.strip().casefold()
    found = difflib.get_close_matches(text, sorted(_WORDS["good"]), n=1, cutoff=0.8)
    return found[0] if found and len(text) >= 4 else None


_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_WORD = re.compile(r"\d+|[^\W\d_]+")


def _words(name: str) -> list[str]:
    text = unicodedata.normalize("NFKD", name.casefold())
    text = "".join(letter for letter in text if not unicodedata.combining(letter))
    words: list[str] = []
    single = False
    for word in _WORD.findall(text):
        # N.i.O. and o.k. are one word each.
        if single and len(word) == 1 and word.isalpha():
            words[-1] += word
        else:
            words.append(word)
            single = len(word) == 1 and word.isalpha()
    return words


def _of_words(words: Sequence[str]) -> Meaning | None:
    if any(word in _WORDS["topic"] for word in words):
        return None
    found: list[Meaning] = []
    negated = False
    unknown = False
    weak: Meaning | None = None
    for place, word in enumerate(words):
        state = _of_word(word)
        following = words[place + 1] if place + 1 < len(words) else ""
        if word == "ground" and following == "truth":
            state = Meaning.MASK
        if state in _OPPOSITE:
            if negated or following in _AFTER:
                state = _OPPOSITE[state]
            found.append(state)
            negated = False
        elif state is not None and not negated:
            found.append(state)
        elif _negates(word, following, first=not found):
            negated = True
        elif word.isdigit():
            negated = False
        elif _singular(word) in _WEAK:
            weak = weak or _WEAK[_singular(word)]
        elif word not in _AFTER and _singular(word) not in _FILLERS and word != "truth":
            unknown = True
    if Meaning.MASK in found:
        return Meaning.MASK
    if weak is not None and not unknown and not negated and Meaning.DEFECT not in found:
        return weak
    states = set(found)
    if len(states) > 1:
        return Meaning.MIXED
    return states.pop() if states else None


def _negates(word: str, following: str, *, first: bool) -> bool:
    """Tell whether a word inverts the next known word, as the n of n_ok, the free of free_of."""
    if word == "n":
        return _of_word(following) is Meaning.GOOD
    return word in _BEFORE or (first and word in _AFTER)


@lru_cache(maxsize=4096)
def _of_word(word: str) -> Meaning | None:
    """Return the meaning of one word, also of ``goodparts``, ``nondefective`` and plurals."""
    for text in (word, _singular(word)):
        if text in _STATES:
            return _STATES[text]
    for bare in _without_filler(word):
        if (state := _of_word(bare)) is not None:
            return state
    for text in [word.removeprefix(prefix) for prefix in _PREFIXES if word.startswith(prefix)]:
        state = _of_word(text)
        if state in _OPPOSITE:
            return _OPPOSITE[state]
    for text in [word.removesuffix(suffix) for suffix in _SUFFIXES if word.endswith(suffix)]:
        if _of_word(text) is Meaning.DEFECT:
            return Meaning.GOOD
    return None


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word


def _without_filler(word: str) -> Iterator[str]:
    """Yield the rest of a word such as ``goodparts`` without the word for a part or an image."""
    for filler in _JOINED:
        if len(word) - len(filler) >= 2:
            if word.endswith(filler):
                yield word.removesuffix(filler)
            if word.startswith(filler):
                yield word.removeprefix(filler)


def _unspaced(name: str) -> Meaning | None:
    if name.isascii():
        return None
    text = unicodedata.normalize("NFKC", name)
    found: set[Meaning] = set()
    for word in _UNSPACED:
        before, there, after = text.partition(word)
        if there:
            state = _UNSPACED[word]
            if before[-1:] and before[-1:] in _UNSPACED_NOT:
                state = _OPPOSITE.get(state, state)
            found.add(state)
            text = f"{before}_{after}"
    if Meaning.MASK in found:
        return Meaning.MASK
    if len(found) > 1:
        return Meaning.MIXED
    return found.pop() if found else None
