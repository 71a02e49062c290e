"""A run folder: the evaluation images of each of its models."""

from dataclasses import dataclass, replace
from pathlib import Path

from ddspo.layouts.base import Layout, Opened
from ddspo.layouts.imagefolder import ImageFolder
from ddspo.rows import read_json
from ddspo.run_folder import RunFolder


@dataclass(frozen=True)
class RunLayout(Layout):
    """What `ddspo images` draws, a gallery a model, base first."""

    def recognises(self, folder: Path) -> bool:
        """There is the list of what was drawn."""
        return RunFolder(folder).drawn.is_file()

    def read(self, folder: Path) -> Opened:
        """Every model's images, as a plain folder of its own."""
        run = RunFolder(folder)
        models = [str(name) for name in read_json(run.drawn, "run `ddspo images` again").get("models", [])]
        inside = [name for name in models if (run.images / name).resolve().parent == run.images.resolve()]
        opened = {name: ImageFolder().read(run.images / name) for name in inside if (run.images / name).is_dir()}
        galleries = [replace(gallery, name=name) for name, each in opened.items() for gallery in each.galleries]
        return Opened(galleries, [fault for each in opened.values() for fault in each.faults])
