"""The noun phrases of a prompt: by spaCy, as T2I-CompBench has them, or by rules over TextBlob's tagger.

On the 900 prompts of T2I-CompBench's validation lists of colours, shapes and textures both find the same for 792. In
most of the others spaCy's small model is wrong ("a red apple and yellow bananas" is one phrase to it, "a red rose" of
"a red rose and a white carnation" none); of long sentences the rules take more verbs for nouns than spaCy does.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from ddspo.errors import InputError
from ddspo.tagger import tagger

Reader = Literal["textblob", "spacy"]
NOT_THINGS = frozenset(("top", "the side", "the left", "the right"))
"""Phrases that T2I-CompBench leaves out, written exactly so."""
MODEL = "en_core_web_sm"

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|\S")
_KINDS = {
    "D": ("DT", "PDT", "PRP$"),
    "A": ("JJ", "JJR", "JJS", "CD"),
    "P": ("VBN", "VBG", "VBD"),
    "V": ("VB", "VBP"),
    "Z": ("VBZ",),
    "N": ("NN", "NNS", "NNP", "NNPS"),
    "I": ("IN", "TO"),
}
_KIND_OF = {tag: kind for kind, tags in _KINDS.items() for tag in tags}
_SIGNS = {"and": "&", ",": ",", **dict.fromkeys(".!?;:", ".")}
_PHRASE = re.compile(
    r"D[APV]*(?:A[,&]A[APV]*)?N+(?:V(?=[&.,I]|$))?"  # a black and white cat; a teddy bear, which seems to bear
    r"|D[APV]+"  # a red orange
    r"|[AP]*(?:A[,&]A)?A*N+"  # fluffy clouds
    r"|A+[VZ](?=[&.,I]|$)"  # four bears
)


def phrase_reader(kind: Reader) -> Callable[[str], list[str]]:
    """A function from a text to its noun phrases, those left out that are no things.

    Raises:
        InputError: spaCy is asked for, and it or its model is not installed.
    """
    read = _chunks if kind == "textblob" else partial(_spacy_chunks, _spacy())
    return lambda text: [phrase for phrase in read(text) if phrase not in NOT_THINGS]


def _chunks(text: str) -> list[str]:
    """Determiner, modifiers, nouns: as a pattern over one letter a word."""
    words = list(_WORD.finditer(text))
    if not words:
        return []
    # Other signs mean something to the tagger's own tokens.
    plain = [each[0] if each[0].isascii() and (each[0][0].isalnum() or each[0] in ".,;:!?") else "x" for each in words]
    tagged = tagger()(" ".join(plain), tokenize=False)
    kinds = [
        _SIGNS.get(word[0].lower()) or _KIND_OF.get(tag, "-") for word, (_, tag) in zip(words, tagged, strict=True)
    ]
    found = _PHRASE.finditer("".join(kinds))
    return [text[words[each.start()].start() : words[each.end() - 1].end()] for each in found]


def _spacy_chunks(read: Any, text: str) -> list[str]:
    return [chunk.text for chunk in read(text).noun_chunks]


def _spacy() -> Any:
    try:
        import spacy

        return spacy.load(MODEL)
    except ImportError:
        missing = "spaCy is missing: pip install spacy"
    except OSError:
        missing = f"spaCy's model {MODEL} is missing"
    raise InputError(f"blip_vqa: {missing}: then python -m spacy download {MODEL}, or leave the key reader out")
