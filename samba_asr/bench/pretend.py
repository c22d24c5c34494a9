"""A GPU made of the CPU: it counts what a program would launch, and where it would wait.

Tensors that are "on the GPU" wrap tensors of the CPU and say that their device is `cuda:0`.  Every operation on them is
counted, and then done by the CPU, so values are right and control flow is that of a GPU.  Mixing both kinds raises RuntimeError.
Triton kernels are counted, not run: what they would have written is zero, as new memory is here.

    operations   dispatched by torch, backward included, and Triton kernels; `views` among them launch nothing
    waits        the CPU waits for the device: .item(), .tolist(), bool(), nonzero(), a blocking copy to the CPU
    copies       to the CPU without waiting, as losses are read a step late

To torch's C++ the device is `meta`, which every build has, so what C++ decides by the device is decided as there.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
import torch.optim.optimizer as optimizer
from torch import Tensor, nn
from torch.utils import _foreach_utils as foreach
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

DEVICE = torch.device("cuda:0")
CAPABILITY = (9, 0)

NEW = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided"}
ALLOCATE = {*NEW, "_unsafe_view", "lift_fresh"}
"""Operations that launch nothing, besides views."""

WAIT = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "unique_consecutive"}
"""Operations whose result the CPU needs: it waits for all work before them."""


LOW = {
    *(F.linear, F.conv1d, F.conv2d, torch.conv1d, torch.conv2d, torch.matmul, torch.mm, torch.bmm, torch.addmm),
    *(torch.baddbmm, torch.einsum, Tensor.matmul, Tensor.__matmul__, Tensor.__rmatmul__, Tensor.mm, Tensor.bmm),
}
HIGH = {
    *(torch.exp, Tensor.exp, torch.log, Tensor.log, torch.pow, Tensor.pow, Tensor.__pow__, torch.rsqrt, Tensor.rsqrt),
    *(
        F.layer_norm,
        F.softplus,
        F.softmax,
        F.log_softmax,
        Tensor.softmax,
        Tensor.log_softmax,
        torch.cumsum,
        Tensor.cumsum,
    ),
    *(torch.sum, Tensor.sum, F.cross_entropy, F.kl_div),
}
"""Functions that CUDA's autocast computes in its own type, and those that it computes in float32, as far as we use them."""

_CAST: dict[int, tuple[Tensor, Tensor]] = {}
"""Weights, by identity, and what autocast made of them; for one forward pass."""


def _cast(v: Tensor, to: torch.dtype) -> Tensor:
    if not isinstance(v, OnDevice) or v.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return v
    if not (v.is_leaf and v.requires_grad and to != torch.float32):
        return v.to(to)
    if id(v) not in _CAST:
        _CAST[id(v)] = v, v.to(to)
    return _CAST[id(v)][1]


class OnDevice(Tensor):
    """A tensor of the pretended GPU."""

    held: Tensor  # on the CPU

    @staticmethod
    def __new__(cls, held: Tensor):
        keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)
        made = Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("meta"),
            _extra_dispatch_keys=keys,
        )
        made.held = held
        return made

    device = property(lambda self: DEVICE)  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
    is_cuda = property(lambda self: True)  # pyright: ignore[reportAssignmentType]

    def tolist(self) -> Any:  # torch refuses it for subclasses
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """Cast as autocast does, which in C++ looks for CUDA: products in its type, exponentials and sums in float32."""
        if torch.is_autocast_enabled("cuda"):
            to = torch.get_autocast_dtype("cuda") if func in LOW else torch.float32 if func in HIGH else None
            if to is not None:
                args, kwargs = tree_map_only(Tensor, lambda v: _cast(v, to), (args, kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, dict(kwargs or {}))  # outside of the context nothing is counted


class Pretend(TorchDispatchMode):
    """The pretended GPU, on while the context is.  `strict`: RuntimeError at the first wait, except within `allowed`."""

    def __init__(self, strict: bool = False):
        super().__init__()
        self.strict = strict
        self.operations: Counter[str] = Counter()  # by name, Triton kernels included
        self.views = self.triton = self.copies = self.host = 0
        self.waits: Counter[str] = Counter()

    @property
    def total(self) -> int:
        return sum(self.operations.values())

    @property
    def launches(self) -> int:
        """Operations that start a kernel; one of several tensors (`_foreach_*`) counts as one."""
        return self.total - self.views

    # ---- operations --------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        held = [v for v in _tensors((args, kwargs)) if isinstance(v, OnDevice)]
        name = func._schema.name.split("::")[1]
        to = kwargs.get("device")
        if not held and (to is None or torch.device(to).type == "cpu"):
            self.host += 1
            return func(*args, **kwargs)
        if func.namespace == "samba_asr":
            return self._own(func, args, kwargs)
        if func._can_decompose() and not torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CPU"):
            with (
                self
            ):  # of several operations; autograd takes it apart before it comes here, an operation of ours does not
                return func.decompose(*args, **kwargs)
        if name == "_to_copy" and held and to is not None and torch.device(to).type != "cpu":
            if kwargs.get("dtype") in (None, held[0].dtype):
                return held[0]  # to where it is: on a GPU torch does nothing
        else:
            self._check(func, args, kwargs)
        leaves = held and to is not None and torch.device(to).type == "cpu"
        if leaves or (name == "copy_" and not isinstance(args[0], OnDevice)):
            self._copied(name, kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
        elif (
            name in WAIT
            or (name == "_ctc_loss" and isinstance(args[2], OnDevice))
            or (name in ("index", "index_put", "index_put_") and _by_bool(args))
        ):
            self._wait(name)
        else:
            self._count(func, name)
        return _run(func, args, kwargs)

    def _count(self, func, name: str) -> None:
        self.operations[name] += 1
        returns = func._schema.returns
        if name in ALLOCATE or any(r.alias_info is not None and not r.alias_info.is_write for r in returns):
            self.views += 1

    def _copied(self, name: str, late: bool) -> None:
        if late:
            self.copies += 1
        else:
            self._wait(f"{name} to the CPU")

    def _wait(self, what: str) -> None:
        if self.strict:
            raise RuntimeError(f"the CPU waits for the device: {what}")
        self.waits[what] += 1

    @contextlib.contextmanager
    def allowed(self) -> Iterator[None]:
        """Allow waits within the block, though `strict`."""
        before, self.strict = self.strict, False
        try:
            yield
        finally:
            self.strict = before

    @staticmethod
    def _check(func, args, kwargs) -> None:
        """Raise RuntimeError if a tensor of the CPU, other than a single number, meets one of the device."""
        if func._schema.name in ("aten::copy_", "aten::_to_copy", "aten::_ctc_loss", "aten::_ctc_loss_backward"):
            return
        strange = [v for v in _tensors((args, kwargs)) if not isinstance(v, OnDevice) and v.dim()]
        if strange:
            raise RuntimeError(f"{func}: a tensor {tuple(strange[0].shape)} of the CPU among those of {DEVICE}")

    def _own(self, func, args, kwargs):
        """Run the body of an operation of ours with kernels that only count."""
        from torch._library.custom_ops import OPDEFS

        body = OPDEFS[func._schema.name]._init_fn
        with self:
            found = body(*args, **kwargs)
        for v in _tensors(found):
            assert isinstance(v, OnDevice)
            v.held.zero_()
        return found

    def _launch(self, kernel: Callable[..., None]) -> None:
        self.operations[f"triton {kernel.__name__}"] += 1
        self.triton += 1

    # ---- the context -------------------------------------------------------------------------------------------------

    def __enter__(self):
        if not getattr(self, "_depth", 0):
            self._patches = contextlib.ExitStack()
            for target, name, new in _stand_ins(self._launch):
                self._patches.enter_context(mock.patch.object(target, name, new))
            self._before = torch._C._only_lift_cpu_tensors()  # so that torch.tensor(..., device=) comes by here
            torch._C._set_only_lift_cpu_tensors(True)
        self._depth = getattr(self, "_depth", 0) + 1
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._depth -= 1
        if not self._depth:
            torch._C._set_only_lift_cpu_tensors(self._before)
            self._patches.close()


class _Event:
    def record(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...


def _stand_ins(launch: Callable[[Any], None]) -> list[tuple[Any, str, Any]]:
    """Return (where, name, instead of it) of what would ask for a real GPU."""
    found = [
        (torch.cuda, "_lazy_init", lambda: None),
        (torch.cuda, "is_available", lambda: True),
        (torch.cuda, "get_device_capability", lambda *_: CAPABILITY),
        (torch.cuda, "is_bf16_supported", lambda *_, **__: True),
        (torch.cuda, "device", lambda *_: contextlib.nullcontext()),
        (torch.cuda, "Event", _Event),
        (torch.Tensor, "pin_memory", lambda self, *_: self),
        (torch, "clear_autocast_cache", _CAST.clear),
        *(
            (foreach, f"_get_{kind}_kernels_supported_devices", lambda: ["cuda", "meta"])
            for kind in ("foreach", "fused")
        ),
        *((where, "_foreach_supported_types", [Tensor, nn.Parameter, OnDevice]) for where in (foreach, optimizer)),
    ]
    with contextlib.suppress(ImportError):
        from triton.runtime.interpreter import GridExecutor
        from triton.runtime.jit import JITFunction

        found.append((JITFunction, "run", lambda self, *_, **__: launch(self.fn)))
        found.append((GridExecutor, "__call__", lambda self, *_, **__: launch(self.fn)))  # with TRITON_INTERPRET=1
    return found


def _run(func, args, kwargs: dict[str, Any]):
    """Let the CPU do an operation.  A tensor that it changes in place stays itself, and new ones are wrapped."""
    leaves = func._schema.name == "aten::_local_scalar_dense"
    if (to := kwargs.get("device")) is not None:
        leaves = torch.device(to).type == "cpu"
        kwargs["device"] = "cpu"
    kwargs.pop("pin_memory", None)
    known = {id(v.held): v for v in _tensors((args, kwargs)) if isinstance(v, OnDevice)}
    given = tree_map_only(OnDevice, lambda v: v.held, (args, kwargs))
    if func is torch.ops.aten.mm.dtype:  # only a GPU writes a product in another type
        found = torch.mm(given[0][0].to(given[0][2]), given[0][1].to(given[0][2]))
    else:
        found = func(*given[0], **given[1])
    if leaves or (func._schema.name == "aten::copy_" and not isinstance(args[0], OnDevice)):
        return found
    if func._schema.name.split("::")[1] in NEW:
        found.zero_()
    return tree_map_only(Tensor, lambda v: known[id(v)] if id(v) in known else OnDevice(v), found)


def _tensors(tree) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, tree)
    return found


def _by_bool(args) -> bool:
    return any(v is not None and v.dtype == torch.bool for v in args[1])


def move(module: nn.Module) -> nn.Module:
    """Put a module of the CPU on the pretended GPU, in place."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                on = nn.Parameter(OnDevice(p.detach()), p.requires_grad)
                if getattr(p, "_no_weight_decay", False):
                    setattr(on, "_no_weight_decay", True)  # noqa: B010  (no attribute that type checkers know)
                part._parameters[name] = on
        for name, x in part._buffers.items():
            if x is not None:
                part._buffers[name] = OnDevice(x)
    return module
