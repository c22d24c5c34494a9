"""Models whose weights, gradients and optimizer state are divided among the processes (`train.shard=true`), by torch's FSDP2.

For models that are too large for one GPU: a parameter costs 4 bytes, its gradient 4, AdamW's state 8 and a moving average 4,
so 20 bytes in all, or 20 / n with n processes.  Each layer is gathered when it is computed, and its gradients are summed and
divided again right after.  (Zhao et al., "PyTorch FSDP", VLDB 2023)

All processes must compute the same layers at the same time.  So they agree on each batch: it counts if it is finite on all of
them.  A parameter that no batch of a step used has a gradient of 0 here, not None, so AdamW's momentum and decay still move it.
Lack of memory is an error here; without sharding a batch is cut in two.  Each process writes its own
shards (`samba_asr.training.parts`), and a run continues with any number of processes, sharded or not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from samba_asr.models.encoder import Encoder
from samba_asr.models.lm import MambaLm
from samba_asr.training.distributed import Ranks

LAYER_METHODS = ("step", "absorb")  # by which layers are called, besides `forward`


class Sharding:
    """A sharded objective.  Make the optimizer and the moving average after it: parameters are replaced."""

    def __init__(self, objective: nn.Module, ranks: Ranks):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        ranks.broadcast(objective.state_dict().values())
        marked = {name for name, p in objective.named_parameters() if getattr(p, "_no_weight_decay", False)}
        mesh = init_device_mesh(ranks.device.type, (ranks.size,))
        stacks = [module for module in objective.modules() if isinstance(module, Encoder | MambaLm)]
        self.modules: list[Any] = [layer for stack in stacks for layer in stack.layers]
        for layer in self.modules:
            fully_shard(layer, mesh=mesh)
            for method in LAYER_METHODS:
                if hasattr(layer, method):
                    register_fsdp_forward_method(layer, method)
        self.modules.append(fully_shard(objective, mesh=mesh))
        self.modules[-1].set_reduce_scatter_unused_params(True)  # ranks may use different parameters; 0 for the others
        self.root = objective
        for name, p in objective.named_parameters():
            if name in marked:
                p._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """The context in which every process has all weights, and computes as many batches as it likes."""
        from torch.distributed.fsdp import fully_shard

        fully_shard.state(self.root)._lazy_init()  # pyright: ignore[reportFunctionMemberAccess]  (the root comes first)
        for module in self.modules:
            module.set_reshard_after_forward(False)
            module.unshard()
        try:
            yield
        finally:
            for module in self.modules:
                module.reshard()
                module.set_reshard_after_forward(module is not self.root)


def is_sharded(x: Any) -> bool:
    """Return whether x is a DTensor, without importing torch.distributed.tensor, which not every run needs and has."""
    return hasattr(x, "full_tensor")


def gathered(tree: Any) -> Any:
    """Return the dicts and lists of a state with whole tensors in place of sharded ones; every process must call it."""
    if isinstance(tree, dict):
        return {key: gathered(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(gathered(value) for value in tree)
    return tree.full_tensor().cpu() if is_sharded(tree) else tree


def placed(values: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return `values`, with tensors that are whole cut into shards where that of the same name in `like` is sharded."""
    return {name: _placed(value, like[name]) if name in like else value for name, value in values.items()}


def placed_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with its tensors cut into shards like the parameters they belong to."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    cut = {
        i: {name: _placed(x, parameters[i]) if getattr(x, "ndim", 0) else x for name, x in values.items()}
        for i, values in state["state"].items()
    }
    return {**state, "state": cut}


def _placed(x: Any, like: Any) -> Any:
    if not is_sharded(like) or is_sharded(x) or not isinstance(x, Tensor):
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
