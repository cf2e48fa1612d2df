"""What the name of a folder, or a label in a list, says about the images that it names.

Every layout asks this table. A name is cut into words, and each word is looked up, so that
``good_parts``, ``GoodParts``, ``OK-2024`` and ``goodparts`` mean the same. A negation turns the
meaning of a word around: ``non_defective``, ``defect_free``, ``kein_fehler``, ``not_good``.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache


class Meaning(Enum):
    """What a name says about the images in a folder."""

    GOOD = "good"
    DEFECT = "defect"
    MIXED = "good or defective"
    """The name speaks of both, such as ``good_and_bad``."""
    MASK = "masks"
    OTHER = "no photographs"
    """Depth images, overlays and the like."""


def _table(words: str) -> frozenset[str]:
    return frozenset(words.split())


GOOD_WORDS = _table("""
    good ok okay normal pass passed passing perfect intact healthy accept accepted acceptable
    conform conforming conformant compliant flawless faultless spotless undamaged nominal
    gut gute guten io bon bons bonne bonnes conforme conformes bueno buenos buena buenas buono
    buoni buone bom bons boas aprobado aprobados accettato годен годные хорошие норма исправные
    """)
DEFECT_WORDS = _table("""
    bad ko ng nok nio nogo defect defective defectuous anomaly anomalies anomalous anomal abnormal
    abnormality abnormalities anormal fail failed failing failure fault faulty reject rejected
    rejection scrap scrapped flaw flawed error erroneous damage damaged broken outlier
    unacceptable nonconformity nonconformities problem spoiled ruined
    defekt defekte defekter defektes schlecht schlechte schlechten fehler fehlerhaft fehlerhafte
    ausschuss mangel mangelhaft schaden beschaedigt anomalie anomalien
    defaut defauts defectueux mauvais mauvaise rebut rebuts
    malo malos mala malas defecto defectos defectuoso defectuosos fallo fallos rechazo rechazado
    rechazados difetto difetti difettoso difettosi scarto scarti cattivo cattivi
    defeito defeitos defeituoso ruim ruins rejeitado дефект дефекты брак плохие аномалия аномалии
    scratch scratched scratches dent dented crack cracked stain stained contamination contaminated
    corrosion burr chipped deformed torn missing leaking kratzer riss risse delle
    """)
MASK_WORDS = _table("""
    mask groundtruth gt annotation annotated annot seg segmentation segmask
    maske masken masque mascara mascaras maschera maschere маска маски
    """)
# These words also name parts, views and defects: they count where nothing else is said.
_WEAK_MASK_WORDS = frozenset({"label", "labelled", "labeled"})
_WEAK_OTHER_WORDS = _table("xyz depth disparity pointcloud heatmap overlay thumbnail thumb")
_BEFORE = _table("no not non un without ohne kein keine keinen nicht sans sin senza zero")
_AFTER = _table("free frei freie less los")
_PREFIXES = ("nicht", "kein", "non", "not", "un", "in", "no")
_SUFFIXES = ("freie", "free", "frei", "less", "los")
# Words that say nothing of what the images show.
_FILLERS = _table("""
    part image img pic picture photo foto bild bilder teil teile dir folder ordner sample item
    piece product produkt file data dataset set train training test testing val valid validation
    all only new old the of and und et bin box class klasse category my our raw crop cropped
    rgb gray grey png jpg jpeg bmp tif tiff
    """)
_NEUTRAL = _FILLERS | _table("""
    monday tuesday wednesday thursday friday saturday sunday mon tue wed thu fri sat sun
    montag dienstag mittwoch donnerstag freitag samstag sonntag
    january february march april may june july august september october november december
    jan feb mar apr jun jul aug sep oct nov dec januar februar maerz mai juni juli oktober dezember
    day night morning evening noon early late week month year date tag nacht woche monat jahr
    today yesterday today shift schicht cam camera kamera line linie station cell machine maschine
    batch lot charge order series serie serial run session take capture recording delivery upload
    side view angle top bottom left right front back rear upper lower inner outer oben unten links
    rechts vorne hinten position pos place zone area section sector unit device robot site plant
    werk lane nest cavity slot tray
    """)
# The subject of the work, not the state of a part.
_TOPICS = _table("detection detector detect inspection recognition project demo")

# Without spaces between words: the longest match counts, and a character before it may negate.
_UNSPACED = {
    "不良品": Meaning.DEFECT,
    "不合格": Meaning.DEFECT,
    "不正常": Meaning.DEFECT,
    "非正常": Meaning.DEFECT,
    "不良": Meaning.DEFECT,
    "缺陷": Meaning.DEFECT,
    "欠陥": Meaning.DEFECT,
    "异常": Meaning.DEFECT,
    "異常": Meaning.DEFECT,
    "次品": Meaning.DEFECT,
    "废品": Meaning.DEFECT,
    "불량": Meaning.DEFECT,
    "결함": Meaning.DEFECT,
    "비정상": Meaning.DEFECT,
    "이상": Meaning.DEFECT,
    "良品": Meaning.GOOD,
    "良好": Meaning.GOOD,
    "合格": Meaning.GOOD,
    "正常": Meaning.GOOD,
    "양품": Meaning.GOOD,
    "정상": Meaning.GOOD,
    "掩码": Meaning.MASK,
    "掩膜": Meaning.MASK,
    "标注": Meaning.MASK,
    "マスク": Meaning.MASK,
    "마스크": Meaning.MASK,
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
    """What names mean, with folders of good images that the caller names in addition.

    Args:
        good: names or patterns such as ``monday`` or ``2024-*``, in any case.
    """

    def __init__(self, good: Iterable[str] = ()) -> None:
        self.good = tuple(name.strip().strip("/").casefold() for name in good)

    def meaning(self, name: str) -> Meaning | None:
        """Return the meaning of a name, or ``None`` where it says nothing known."""
        return Meaning.GOOD if self.chosen(name) else meaning(name)

    def chosen(self, name: str) -> bool:
        """Whether the caller named this folder as one of good images.

        A pattern does not reach names that mean defects or masks; these need their full name.
        """
        text = name.casefold()
        if text in self.good:
            return True
        unclear = meaning(name) in (None, Meaning.GOOD)
        return unclear and any(fnmatchcase(text, pattern) for pattern in self.good)


@lru_cache(maxsize=4096)
def meaning(name: str) -> Meaning | None:
    """Return what a folder's name or a label says, or ``None`` where it says nothing known."""
    unspaced = _unspaced(name)
    if unspaced is not None:
        return unspaced
    found = _of_words(_words(name))
    return found if found is not None else _of_words(_words(_CAMEL.sub("_", name)))


def says_only_that(name: str) -> bool:
    """Whether every word of a name is known: ``bad_parts`` is, ``bad_weather`` is not."""
    if _unspaced(name) is not None:
        return True
    known = {*_BEFORE, *_AFTER, *_FILLERS, *_WEAK_MASK_WORDS, "ground", "truth", "n"}
    known |= {_singular(word) for word in known}
    return any(
        all(
            _singular(word) in known or word.isdigit() or _of_word(word) is not None
            for word in words
        )
        for words in (_words(name), _words(_CAMEL.sub("_", name)))
    )


def is_good(name: str) -> bool:
    """Whether a folder's name or a label means: no defect."""
    return meaning(name) is Meaning.GOOD


def is_neutral(name: str) -> bool:
    """Whether a name only tells when, where or in which order images were taken."""
    words = _words(name)
    if not words or meaning(name) is not None:
        return False
    plain = [word for word in words if word.isdigit() or _singular(word) in _NEUTRAL]
    # Letters number things, too, but only beside a word that says which: cam_a.
    return bool(plain) and all(word in plain or len(word) == 1 for word in words)


def are_neutral(names: Sequence[str]) -> bool:
    """Whether all names are neutral; folders called 0 and 1 are classes, not dates."""
    return all(map(is_neutral, names)) and {name.strip() for name in names} != {"0", "1"}


def split_of(name: str) -> str | None:
    """Return ``train``, ``test`` or ``validation`` for a name of that split, in any case."""
    return _SPLITS.get(name.strip().casefold())


def similar_good_word(name: str) -> str | None:
    """Return the word for good images that an unknown name may be a misspelling of."""
    text = name.strip().casefold()
    found = difflib.get_close_matches(text, sorted(GOOD_WORDS), n=1, cutoff=0.8)
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
    if any(word in _TOPICS for word in words):
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
        elif _singular(word) in _WEAK_MASK_WORDS:
            weak = weak or Meaning.MASK
        elif _singular(word) in _WEAK_OTHER_WORDS:
            weak = weak or Meaning.OTHER
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
    """Whether a word turns the next known word around: also the n of n_ok, the free of free_of."""
    if word == "n":
        return _of_word(following) is Meaning.GOOD
    return word in _BEFORE or (first and word in _AFTER)


@lru_cache(maxsize=4096)
def _of_word(word: str) -> Meaning | None:
    """Return the meaning of one word, also of ``goodparts``, ``nondefective`` and plurals."""
    for text in (word, _singular(word)):
        if text in GOOD_WORDS:
            return Meaning.GOOD
        if text in DEFECT_WORDS:
            return Meaning.DEFECT
        if text in MASK_WORDS:
            return Meaning.MASK
    if bare := _without_filler(word):
        return _of_word(bare)
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


# What is written in one word with the state of a part: goodparts, Fehlerbilder.
_JOINED = tuple(
    _table("parts part images image imgs img teile teil bilder bild samples sample pieces items")
    | _table("folder dir pics photos")
)


def _without_filler(word: str) -> str:
    for filler in _JOINED:
        if len(word) - len(filler) >= 2:
            if word.endswith(filler):
                return word.removesuffix(filler)
            if word.startswith(filler):
                return word.removeprefix(filler)
    return ""


def _unspaced(name: str) -> Meaning | None:
    if name.isascii():
        return None
    text = unicodedata.normalize("NFKC", name)
    found: set[Meaning] = set()
    for word in sorted(_UNSPACED, key=len, reverse=True):
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
