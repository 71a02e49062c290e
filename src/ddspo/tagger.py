"""Tells the parts of speech of English words."""

import warnings
from collections.abc import Callable
from functools import cache


@cache
def tagger() -> Callable[..., list[tuple[str, str]]]:
    """TextBlob's tagger, its lexicon read."""
    from textblob.en.taggers import pattern_tag  # takes seconds, which only those who use it should pay

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves the files of its lexicon to the garbage collector
        pattern_tag("a red cat", tokenize=False)
    return pattern_tag
