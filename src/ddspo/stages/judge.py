"""images/ -> scores/, evaluation.json: every metric judges all models' images, one judge in memory at a time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ddspo.agreement import alone
from ddspo.files import write_json, write_rows
from ddspo.judging.judging import Judging, References
from ddspo.judging.panel import Panel
from ddspo.judging.sheets import read_sheet
from ddspo.metrics.base import Measure
from ddspo.rows import Row, read_json
from ddspo.run_folder import RunFolder


@dataclass(frozen=True)
class Judge:
    """The judging of one run; `judge()` does it all.

    Attributes:
        metrics: In the order of the recipe.
        references: Real images, for the metrics that need some.
        remarks: Gives further entries of evaluation.json.
    """

    folder: RunFolder
    metrics: Sequence[Measure]
    references: References | None
    judging: Judging
    remarks: Callable[[], Row]

    def judge(self) -> None:
        """One metric after the other, and then what they say together."""
        drawn = read_json(self.folder.drawn, "run `ddspo images` or `ddspo run`")
        galleries = {model: read_sheet(self.folder.images / model) for model in drawn["models"]}
        tried = {
            model: [picture for path in self.folder.tried_of(model) for picture in read_sheet(path)]
            for model in drawn["models"]
        }
        panel = Panel(self.metrics, self.references, self.judging, self._keep)
        found = panel.judge(galleries, tried, drawn["choose"])
        alone(lambda: write_json(self.folder.evaluation, drawn | found | self.remarks()))

    def _keep(self, name: str, rows: Sequence[Row]) -> None:
        alone(lambda: write_rows(self.folder.scores / f"{name}.jsonl", map(self._placed, rows)))

    def _placed(self, row: Row) -> Row:
        """With the image's place inside the run, wherever that lies."""
        return row | {"image": Path(row["image"]).relative_to(self.folder.path).as_posix()}
