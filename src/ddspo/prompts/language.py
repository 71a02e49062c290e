"""Tells a prompt's language, offline: the model lies in the wheel of `py3langid` (BSD)."""

from functools import cached_property
from typing import TYPE_CHECKING

from ddspo.errors import InputError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

LEAST = 0.01
"""Probability below which a prompt is surely in another language.

Prompts are short, and the likeliest language of `a photo of a bed` is Sotho. Of 4585 public English prompts this
keeps 98.8 % (the likeliest language alone 92.0 %), and of 38 prompts in 18 other languages none.
"""


class Language:
    """One language that prompts are to be in."""

    def __init__(self, code: str) -> None:
        self.code = code
        if code not in self._model.labels:
            known = ", ".join(sorted(self._model.labels))
            raise InputError(f"prompts.language {code}: no language that is known here: one of {known}")

    def may_be(self, text: str) -> bool:
        """Whether a text may be in this language."""
        return dict(self._model.rank(text)).get(self.code, 0.0) >= LEAST

    @cached_property
    def _model(self) -> "LanguageIdentifier":
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
