"""Training that is cut off, for tests."""

import pytest

from ddspo.training.fit import Fit


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the process were killed during an update, counted from 0."""
    update = Fit._update

    def killed(self: Fit, index: int) -> dict[str, float]:
        if index == step:
            raise KeyboardInterrupt
        return update(self, index)

    monkeypatch.setattr(Fit, "_update", killed)
