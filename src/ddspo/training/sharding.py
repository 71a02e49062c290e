"""Weights, gradients and optimizer state in shares, one a process: PyTorch's FSDP2 and its distributed checkpoints."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import PartialState
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule


def shard(networks: Iterable[nn.Module], device: torch.device, processes: int, shards: int | None = None) -> None:
    """Leave each process its share of every weight, in place; a block is whole while it runs, and only then.

    Blocks are the modules that a network's class names as not to be split; what lies outside of them is one more.
    Weights in main memory go to their device block by block, so that it never holds a whole network.

    Args:
        networks: Of diffusers; each once.
        device: Of this process.
        processes: How many there are.
        shards: How many of them share one copy; all if None.
    """
    from torch.distributed.fsdp import fully_shard

    # Nobody changes such a view in place: the contract of backbones compares all gradients.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")
    mesh = _mesh(device, processes, shards or processes)
    for network in networks:
        for module in [*reversed(_blocks(network)), network]:
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for sharded in _sharded(network):  # or what wants gradients would be settled by the adapters that run first
            sharded.unshard()
            sharded.reshard()


@contextmanager
def whole(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, every process has all weights of some networks at once, so that one may draw alone.

    All processes enter and leave together. Networks that are not sharded are as ever.
    """
    modules = [module for network in networks for module in _sharded(network)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(True, recurse=False)


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole copies in main memory, on the first process alone, one by one; all processes call it together."""
    from torch.distributed.tensor import DTensor

    found = {}
    for name, each in tensors.items():
        value = each.full_tensor() if isinstance(each, DTensor) else each
        if PartialState().is_main_process:
            found[name] = value.cpu()
    return found


def number(value: Tensor) -> float:
    """A number of which each process may have a part; all ask for it together."""
    from torch.distributed.tensor import DTensor

    return float(value.full_tensor() if isinstance(value, DTensor) else value)


def write_shares(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write safetensors files with the share of each process; all call it together."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_shares(folder: Path, tensors: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Read what `write_shares` wrote, on however many processes: into the own shares of `tensors`, or else whole."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    alone, found = tensors is None, tensors or {}
    if alone:
        found = {name: torch.empty(like.shape, dtype=like.dtype) for name, like in shapes(folder).items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # whole tensors need no other process
        load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=alone)
    return found


def shapes(folder: Path) -> dict[str, Tensor]:
    """What is in a folder of shares, as tensors without memory."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    return {
        name: torch.empty(each.size, dtype=each.properties.dtype, device="meta")
        for name, each in found.items()
        if isinstance(each, TensorStorageMetadata)
    }


def shared_out(values: Mapping[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Put whole values, which all processes have, into the own shares of `tensors`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    for name, mine in tensors.items():
        value = values[name].to(mine.device)
        mine.copy_(distribute_tensor(value, mine.device_mesh, mine.placements) if isinstance(mine, DTensor) else value)
    return tensors


def like_parameters(states: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Room for the state of an optimizer, named PARAMETER.KEY: shared out as its parameter where it is as large."""
    room = {}
    for name, state in states.items():
        parameter = parameters[int(name.partition(".")[0])].detach()
        same = parameter.shape == state.shape
        room[name] = torch.zeros_like(parameter) if same else torch.empty(state.shape, dtype=state.dtype)
    return room


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Outer ones first."""
    from diffusers import ModelMixin

    names = (network._no_split_modules if isinstance(network, ModelMixin) else None) or ()
    return [module for module in network.modules() if type(module).__name__ in names]


def _sharded(network: nn.Module) -> "list[FSDPModule]":
    from torch.distributed.fsdp import FSDPModule

    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def _mesh(device: torch.device, processes: int, shards: int) -> "DeviceMesh":
    from torch.distributed.device_mesh import init_device_mesh

    if shards == processes:
        return init_device_mesh(device.type, (processes,))
    return init_device_mesh(device.type, (processes // shards, shards), mesh_dim_names=("replicate", "shard"))
