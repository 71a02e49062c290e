"""What the work is to be done on."""

from dataclasses import dataclass

import psutil
import torch
from accelerate import PartialState

from ddspo.align.wish import Wish
from ddspo.backbones._original import Precision
from ddspo.errors import InputError

CARD, HOST = 0.92, 0.75
"""Shares of a card's and of the main memory that may be planned with: drivers, fragments and others need the rest."""
ASSUMED = 40e12
"""Operations a second of a card that is not here."""


@dataclass(frozen=True)
class Machine:
    """A device and its memory.

    Attributes:
        title: In words.
        memory: Bytes of the device, all of them.
        host: Bytes of main memory.
        dtype: Precision that it computes fast.
        shared: Whether its memory is the main memory.
    """

    title: str
    memory: int
    host: int
    dtype: Precision
    shared: bool

    def fault(self, device: int, host: int) -> str | None:
        """What of a need of so many bytes is not there."""
        if self.shared:
            device, host = 0, device + host
        for need, have, share, where in (
            (device, self.memory, CARD, "accelerator memory"),
            (host, self.host, HOST, "main memory"),
        ):
            if need > share * have:
                return f"{need / 2**30:.1f} GiB of {where}, of {share * have / 2**30:.1f} that may be planned with"
        return None


def machine_of(wish: Wish, *, dry: bool) -> Machine:
    """The device at hand, or where nothing is to run, a card of the memory that is asked for.

    Raises:
        InputError: More memory is asked for than there is.
    """
    device, host = PartialState().device, psutil.virtual_memory().total
    if device.type != "cuda" and dry and wish.memory:
        return Machine(f"a card of {wish.memory / 2**30:g} GiB", wish.memory, host, "bf16", shared=False)
    if device.type != "cuda":
        memory = wish.memory or host
        if memory > host:
            raise InputError(f"--memory: this machine has {host / 2**30:.0f} GiB and no card: leave it out")
        return Machine(f"this machine's {device.type}", memory, memory, "fp32", shared=True)
    whole = torch.cuda.mem_get_info(device)[1]
    memory = wish.memory or whole
    if memory > whole and not dry:
        raise InputError(f"--memory: {torch.cuda.get_device_name(device)} has {whole / 2**30:.0f} GiB: give no more")
    dtype: Precision = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return Machine(torch.cuda.get_device_name(device), memory, host, dtype, shared=False)
