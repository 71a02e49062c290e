"""Texts are remembered in little memory."""

import pytest

from ddspo.prompts import seen
from ddspo.prompts.seen import Seen


def test_each_text_is_new_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also across the moves of the recent ones, here every 3, to the old ones; a lone surrogate is a text."""
    monkeypatch.setattr(seen, "_RECENT", 3)
    texts, there = [*map(str, range(20)), "", "\ud800"], Seen()
    for _ in range(3):
        assert [there.add(text) for text in texts] == [_ == 0] * len(texts)
