"""Shared by tests that run a module's own recipe."""

from pathlib import Path

import pytest


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tiny_folder: Path, tmp_path: Path) -> Path:
    """The module's RECIPE, with the tiny pipeline as its MODEL and two prompts as its PROMPTS."""
    (tmp_path / "prompts.txt").write_text("a red cube\ntwo cats\n")
    path = tmp_path / "recipe.yaml"
    text: str = request.module.RECIPE
    path.write_text(text.replace("MODEL", str(tiny_folder)).replace("PROMPTS", str(tmp_path / "prompts.txt")))
    return path
