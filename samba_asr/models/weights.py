"""Files of weights: writing, and reading with a check that they fit before the net is built.

A model folder may come from an untrusted source.  The header of a safetensors file has the names and shapes of all weights in
a few kilobytes, and a net on torch's meta device has shapes but takes no memory.  So a configuration that would take gigabytes,
or whose sizes differ from the file's, is refused at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from samba_asr.errors import UserError

Net = TypeVar("Net", bound=nn.Module)

Shapes = dict[str, tuple[int, ...]]


def save_weights(model: nn.Module, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights.  dtype: of matrices; vectors keep theirs.  The file gets the permissions of config.yaml next to it."""
    from safetensors.torch import save_file

    weights = model.state_dict()
    save_file({k: (v.to(dtype) if v.dim() > 1 else v).contiguous() for k, v in weights.items()}, path)
    # safetensors makes it readable only by its owner; a server may run as another user
    shutil.copymode(path.with_name("config.yaml"), path)


def build_and_load(path: Path, build: Callable[[], Net], layers: int, *, trusted: bool = False) -> Net:
    """Build a net by `build`, and load the weights of the file.

    layers: number of layers of the net; if the file has fewer weights, nothing is built.
    trusted: whether the net may be built before its sizes are known.  On the meta device torch imports its compiler, which
        takes 2 s and 170 MiB.
    UserError, before memory is taken, for weights of other names or shapes; and for weights that are not finite.
    """
    shapes = header(path)
    if layers > len(shapes):
        raise UserError(f"{_misfit(path)}: config.yaml has {layers} layers, the file {len(shapes)} weights")
    try:
        with torch.device("cpu" if trusted else "meta"):
            planned = build()
    except UserError:
        raise
    except Exception as error:  # torch raises various errors for sizes that are negative or overflow
        raise UserError(f"{path.with_name('config.yaml')}: no model can be built from this: {_short(error)}") from None
    check(path, shapes, planned)
    net = planned if trusted else build()
    load_into(path, net)
    return net


def header(path: Path) -> Shapes:
    """Return the names and shapes of the weights in the file, without reading the weights."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{_misfit(path)}: {_short(error)}") from None


def check(path: Path, shapes: Shapes, net: nn.Module, may_lack: Callable[[str], bool] = lambda name: False) -> None:
    """Raise UserError unless the file has exactly the weights of `net`, in their shapes.

    may_lack: returns whether the file may lack the weight of a name.
    """
    own = {name: tuple(x.shape) for name, x in net.state_dict().items()}
    for name in shapes:
        if name not in own:
            raise UserError(f"{_misfit(path)}: it has {name}, the model does not")
        if shapes[name] != own[name]:
            raise UserError(f"{_misfit(path)}: {name} has shape {shapes[name]}, config.yaml says {own[name]}")
    for name in own:
        if name not in shapes and not may_lack(name):
            raise UserError(f"{_misfit(path)}: it lacks {name}")


def load_into(path: Path, net: nn.Module, lacking: Collection[str] = ()) -> None:
    """Load the weights of a file that passed `check` into `net`.  lacking: names of the weights that do not change."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{_misfit(path)}: {_short(error)}") from None
    own = net.state_dict()
    for name, x in weights.items():
        _check_values(path, name, x, own[name])
    net.load_state_dict({**{name: own[name] for name in lacking}, **weights})


def _check_values(path: Path, name: str, x: Tensor, own: Tensor) -> None:
    if x.is_floating_point() != own.is_floating_point():
        raise UserError(f"{_misfit(path)}: {name} is of type {x.dtype}, not {own.dtype}")
    if x.is_floating_point() and not x.isfinite().all():
        raise UserError(
            f"{path}: {name} holds numbers that are not finite: its training failed, or the file is damaged"
        )


def _misfit(path: Path) -> str:
    return f"{path} does not hold this model's weights"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
