"""HPSv2.1: a CLIP-H that learned how people rank images of one prompt (Wu et al. 2023, arXiv 2306.09341)."""

from dataclasses import dataclass

from ddspo.metrics._hps import HumanPreference


@dataclass(frozen=True)
class HPS(HumanPreference):
    """100 cos(image, prompt), as in the benchmark's tables: about 25 to 33; `hpsv2.score` gives the cosine itself.

    Not to be compared with the first release, `hps_v2`. Of a long prompt the first 77 tokens count, the end token
    among them; the rest is cut off silently.
    """

    title = "HPSv2.1"

    @property
    def file(self) -> str:
        """Name of the published file."""
        return "HPS_v2.1_compressed.pt"
