"""Opens folders of images, in whatever layout they are."""

from pathlib import Path

from ddspo import components
from ddspo.errors import InputError, quoted, shortened
from ddspo.files import replacing
from ddspo.images import Unreadable, read_image
from ddspo.judging.pictures import Gallery, Picture
from ddspo.layouts.base import Layout, Opened
from ddspo.progress import Progress
from ddspo.run_folder import RunFolder

FIRST = ("run", "geneval", "imagefolder", "t2i_compbench")
"""The order in which layouts are asked, where a folder could be of two; others come after."""


def layout(name: str) -> Layout:
    """The layout of a name.

    Raises:
        InputError: There is none.
    """
    return components.construct(Layout, name, "layout")


def open_folder(folder: Path) -> Opened:
    """The images of a folder and their rows, by the first layout that recognises it.

    Raises:
        InputError: There is no such folder, or nobody can tell what its images are of.
    """
    if not folder.is_dir():
        raise InputError(f"{shortened(str(folder))}: no such folder: give one with images")
    names = sorted(components.names(Layout), key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    found = next((each for each in map(layout, names) if each.recognises(folder)), None)
    if found is None:
        raise InputError(
            f"{shortened(str(folder))}: nothing says what its images are of: give metadata.jsonl with file_name and "
            "prompt, NAME.txt beside NAME.png, GenEval's or T2I-CompBench's layout, or a run folder"
        )
    return found.read(folder)


def readable(gallery: Gallery, progress: Progress) -> tuple[Gallery, list[str]]:
    """A gallery without the images that cannot be read, and a line for each of these."""
    kept: list[Picture] = []
    faults = []
    with progress.task("read", len(gallery.pictures)) as advance:
        for picture in gallery.pictures:
            try:
                read_image(picture.path)
                kept.append(picture)
            except Unreadable as fault:
                faults.append(f"{shortened(str(picture.path))}: {fault}: replace it, or take it out")
            advance(1, gallery.name)
    return Gallery(gallery.name, kept), faults


def written_layout(name: str) -> Layout:
    """The layout of a name, in which images are written.

    Raises:
        InputError: There is none.
    """
    known = [each for each in components.names(Layout) if layout(each).writes]
    if name not in known:
        raise InputError(f"--layout {quoted(name)}: images are written as {' or '.join(known)}")
    return layout(name)


def write_layouts(run: RunFolder, how: Layout) -> list[Path]:
    """Write the evaluation images of a run in another layout, a folder for each model.

    Raises:
        InputError: It has no place for a prompt.
    """
    name, written = components.name_of(how), []
    for gallery in layout("run").read(run.path).galleries:
        folder = run.path / "layouts" / name / gallery.name
        with replacing(folder) as partial:
            partial.mkdir()
            how.write(partial, gallery.pictures)
        written.append(folder)
    return written
