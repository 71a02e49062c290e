"""HPSv2: the first release of the Human Preference Score v2, which older tables have (arXiv 2306.09341)."""

from dataclasses import dataclass

from ddspo.metrics._hps import HumanPreference


@dataclass(frozen=True)
class FirstHPS(HumanPreference):
    """100 cos(image, prompt), as in the benchmark's tables: about 26 to 29; `hpsv2.score` gives the cosine itself.

    Not to be compared with release 2.1, `hps`. Of a long prompt the first 77 tokens count, the end token among them;
    the rest is cut off silently.
    """

    title = "HPSv2"

    @property
    def file(self) -> str:
        """Name of the published file."""
        return "HPS_v2_compressed.pt"
