"""As it is in aligned/: a LoRA that `load_lora_weights` reads, or a whole pipeline folder."""

import filecmp
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ddspo.errors import InputError
from ddspo.exports.base import PEFT, Aligned, Export


@dataclass(frozen=True)
class Diffusers(Export):
    """A copy, after a look into it."""

    suffix: ClassVar[str] = ""

    def check(self, aligned: Aligned) -> None:
        """Whatever was trained has this format; a link might lead out of the folder."""
        aligned.check()
        links = [path for path in aligned.folder.rglob("*") if path.is_symlink()]
        if links:
            raise InputError(f"{links[0]}: is a link: put the file itself there")

    def write(self, aligned: Aligned, path: Path) -> None:
        """Copy the LoRA file, or every file of the pipeline."""
        if aligned.is_lora:
            aligned.adapter()
            path.mkdir()
            for name in aligned.lora_files:
                shutil.copy2(aligned.folder / name, path / name)
        else:
            shutil.copytree(aligned.folder, path, ignore=shutil.ignore_patterns(".*", "README.md"))
        for copy in (each for each in path.rglob("*") if each.is_file()):
            if not filecmp.cmp(copy, aligned.folder / copy.relative_to(path), shallow=False):
                raise InputError(f"{copy}: is not what was copied there: check the disk, and run again")

    def usage(self, aligned: Aligned, where: str) -> str:
        """Lines of Python."""
        if aligned.lora_files == PEFT:
            part = f"pipeline.{aligned.backbone.denoiser_name}"
            load = f"{part} = PeftModel.from_pretrained({part}, {where!r}).merge_and_unload()"
            return aligned.code("from peft import PeftModel", "", load)
        if aligned.is_lora:
            return aligned.code(f"pipeline.load_lora_weights({where!r})")
        return aligned.code(pipeline=repr(where))
