"""docs/backbone.md shows a backbone as it is, and names what is there."""

import re
from pathlib import Path

from ddspo.backbones import _packed, base
from ddspo.backbones._denoiser import WithDenoiser

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/backbone.md").read_text(encoding="utf-8")
BACKBONES = ROOT / "src/ddspo/backbones"


def test_its_example_is_a_backbone_as_it_is() -> None:
    (shown,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "`sd.py`, whole" in PAGE
    assert (BACKBONES / "sd.py").read_text(encoding="utf-8").endswith(shown)


def test_what_it_names_is_there() -> None:
    """Files of backbones, and in the last two columns of its table what a backbone may override."""
    for name in re.findall(r"`(\w+\.py)`", PAGE):
        assert list((ROOT / "src/ddspo").rglob(name)), name
    for name in re.findall(r"`((?:tests|benchmarks|exports|backbones)/[\w/.]+)`", PAGE):
        assert any((ROOT / place / name).exists() for place in ("", "src/ddspo")) or "NAME" in name, name
    table = PAGE.partition("## What may differ")[2].partition("## Run the contract")[0]
    for name in (
        "forward",
        "latent_shape",
        "scale",
        "_multiple",
        "readers",
        "guided",
        "evaluations",
        "drawn",
        "unpack",
    ):
        assert f"`{name}`" in table
        assert hasattr(base.Backbone, name)
    for name in re.findall(r"`(\w+_lora)`", table):
        assert hasattr(WithDenoiser, name)
    assert issubclass(_packed.Packed, base.Backbone)
