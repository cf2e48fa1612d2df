"""The words of the page: every language has every message, and no message is unused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import fre.serve

PAGE = Path(fre.serve.__file__).parent / "page"
LANGUAGES = sorted(file.stem for file in (PAGE / "messages").glob("*.json"))
ROOMS_OF_JOBS = ("serve", "training", "features", "images")
"""Packages that tell the progress of jobs; ``training/check.py`` is for the command line."""

Message = str | dict[str, str]


def messages(language: str) -> dict[str, Message]:
    pairs: list[tuple[str, Message]] = json.loads(
        (PAGE / "messages" / f"{language}.json").read_text("utf-8"), object_pairs_hook=list
    )
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), "a key stands there twice"
    return {key: dict(text) if isinstance(text, list) else text for key, text in pairs}


def placeholders(message: Message) -> set[str]:
    texts = [message] if isinstance(message, str) else message.values()
    return {name for text in texts for name in re.findall(r"\{(\w*)\}", text)}


def source() -> str:
    files = sorted([*PAGE.glob("*.js"), PAGE / "index.html"])
    return "\n".join(file.read_text("utf-8") for file in files)


def used_in(code: str, groups: set[str]) -> tuple[set[str], set[str]]:
    """Keys written in the source, and beginnings of keys whose end is computed."""
    # Any string that looks like a key is one: `t(open ? "app.open" : "app.shut")`.
    keys = {
        key for key in re.findall(r'"([a-z_]+(?:\.\w+)+)"', code) if key.split(".")[0] in groups
    }
    begun = re.findall(r"`(([a-z_]+)\.(?:[\w.]*[._])?)\$\{", code)
    return keys, {start for start, group in begun if group in groups}


def test_every_key_of_the_source_has_a_message_and_every_message_is_used() -> None:
    english = set(messages("en"))
    keys, begun = used_in(source(), {key.split(".")[0] for key in english})
    assert keys - english == set()
    assert {start for start in begun if not any(key.startswith(start) for key in english)} == set()
    unused = {key for key in english - keys if not key.startswith(tuple(begun))}
    assert unused == set()


def test_every_call_and_attribute_names_a_group_of_messages() -> None:
    groups = {key.split(".")[0] for key in messages("en")}
    code = source()
    named = re.findall(r'\bt\(["`](\w+)', code) + re.findall(r'data-t(?:-label)?="(\w+)', code)
    assert set(named) <= groups


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_the_keys_and_placeholders_of_english(language: str) -> None:
    english, other = messages("en"), messages(language)
    assert list(other) == list(english), "the same keys in the same order"
    for key, message in english.items():
        assert placeholders(other[key]) == placeholders(message), key
        assert isinstance(other[key], str) == isinstance(message, str), key
        if isinstance(message, dict):
            assert "other" in other[key], key


def test_every_task_of_a_job_has_a_message_and_no_other_task_has() -> None:
    package = PAGE.parents[1]
    files = [file for room in ROOMS_OF_JOBS for file in (package / room).rglob("*.py")]
    code = "".join(file.read_text("utf-8") for file in files if file.name != "check.py")
    tasks = re.findall(r'progress(?:\(|, )"([A-Z][^"]+)"', code)
    keys = {"task." + re.sub(r"\W+", "_", task.lower()) for task in tasks}
    assert keys == {key for key in messages("en") if key.startswith("task.")}


def test_the_page_offers_each_file_of_messages() -> None:
    line = re.search(r"LANGUAGES = \{(.*)\}", (PAGE / "language.js").read_text("utf-8"))
    assert line is not None
    assert sorted(re.findall(r"(\w+):", line.group(1))) == LANGUAGES


def test_no_text_for_people_stands_in_the_source() -> None:
    code = re.sub(r"(?m)//.*$|/\*[\s\S]*?\*/", "", source())
    code = re.sub(r"<noscript>.*</noscript>", "", code)
    # Two words or more that begin with a capital, in quotes or between tags.
    text = re.compile(r"""["`>]([A-Z][a-z']+(?: [\w']+)+[.…]?)["`<]""")
    assert text.findall(code) == []
    # An attribute that is read aloud is a message, too.
    spoken = re.compile(r'"?(?:aria-label|title|placeholder|alt)"?[:=] ?"([^"]+)"')
    assert spoken.findall(code) == []
