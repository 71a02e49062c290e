"""Filters on the columns of a row, such as `cfg >= 5`."""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import yaml

from ddspo.errors import InputError, quoted

_FORM = re.compile(r"\s*(?P<column>[^<>=!]*[^<>=!\s])\s*(?P<sign>==|!=|<=|>=|<|>)\s*(?P<value>.*\S)\s*")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    **{"==": operator.eq, "!=": operator.ne},
    **{"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge},
}


class Filter(NamedTuple):
    """One comparison of a column with a number, a text, true, false or null."""

    column: str
    sign: str
    value: Any

    @classmethod
    def read(cls, text: str) -> "Filter":
        """Read `column sign value`.

        Raises:
            InputError: It is no such thing.
        """
        found = _FORM.fullmatch(text)
        try:
            value = yaml.safe_load(found["value"]) if found else []
        except yaml.YAMLError:
            value = []
        if not found or not isinstance(value, str | int | float | None):
            raise InputError(f"prompts.where: {quoted(text)}: write COLUMN SIGN VALUE, for example 'cfg >= 5'")
        return cls(found["column"], found["sign"], value)

    def holds(self, row: Mapping[str, Any], place: str) -> bool:
        """Whether a row meets it; a missing value equals null only, and is neither more nor less than anything.

        Raises:
            InputError: The row's value cannot be compared with this one; `place` says where the row is.
        """
        found = row.get(self.column)
        if self.sign in ("==", "!=") and None in (found, self.value):
            return _SIGNS[self.sign](found is None, self.value is None)
        if found is None or self.value is None:
            return False
        if isinstance(self.value, int | float) and isinstance(found, str):  # columns of CSV are texts
            found = _number(found)
        if isinstance(found, str) != isinstance(self.value, str) or not isinstance(found, str | int | float):
            raise InputError(
                f"{place}: {self.column} is {row[self.column]!r:.60}, not comparable with {quoted(self.value)} of "
                "prompts.where: give a value of the column's kind"
            )
        return _SIGNS[self.sign](found, self.value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
