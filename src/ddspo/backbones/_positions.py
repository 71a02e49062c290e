"""Places for tokens and patches in a transformer whose tables of positions end somewhere."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ddspo.errors import InputError

if TYPE_CHECKING:
    from ddspo.backbones.base import Backbone


def check_positions(backbone: "Backbone", texts: int, patches: int, ends: Sequence[int]) -> None:
    """Refuse more tokens of text, or larger images, than there are places for.

    Args:
        backbone: For its options.
        texts: Places that a text takes.
        patches: Places that an image takes to a side.
        ends: Places for texts, of which the image takes one more, and for the rows and columns of an image.

    Raises:
        InputError: There are more.
    """
    most, *sides = ends
    if texts >= most:
        raise InputError(f"model.max_length {backbone.max_length}: the transformer has {most} places: give less")
    check_side(backbone, patches, min(sides))


def check_side(backbone: "Backbone", patches: int, end: int) -> None:
    """Refuse images that are larger than there are places for.

    Args:
        backbone: For its options.
        patches: Places that an image takes to a side.
        end: Places to a side.

    Raises:
        InputError: They are.
    """
    if patches > end:
        side = backbone.call["height"]
        raise InputError(f"model.resolution {side}: the transformer goes to {end * side // patches}: give less")
