"""Compile every Triton kernel for GPUs that need not be here: `python -m tests.ops.compile_kernels`.

One line a kernel: its name, the architecture, and what the assembler says of its registers and of what it spilled.  Triton
compiles for the target it is told, and carries its assembler; only running wants a device.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from samba_asr.ops.conv1d import triton as conv
from samba_asr.ops.flat import triton as flat
from samba_asr.ops.quasiseparable import triton as join
from samba_asr.ops.selective_scan import triton as s6
from samba_asr.ops.ssd import triton as ssd

INTEGERS = ("lengths", "offsets", "sizes")
NARROW = (
    "x",
    "B",
    "C",
    "y",
    "gy",
    "gx",
    "gz",
    "g_forward",
    "g_backward",
    "z",
    "forward",
    "backward",
    "last",
    "skip",
    "g_skip",
    "gu",
    "dt",
    "g_dt",
)  # bfloat16, as in training; all else is float32
FLAGS = {"HAS_INITIAL": True, "HAS_LENGTHS": True, "HAS_OFFSETS": False, "HAS_RESET": True}
FLAGS = {**FLAGS, "HAS_FINAL": True, "RAW": False}
SSD = {**FLAGS, "PRECISION": "tf32", "Q": ssd.CHUNK, "BP": 32, "BN": 64}
S6 = {**FLAGS, "HAS_D": True, "HAS_Z": True, "HAS_DT_BIAS": True, "WAYS": 1, "Q": s6.CHUNK, "BD": s6.CHANNELS, "BN": 16}
CONV = {"HAS_BIAS": True, "HAS_LENGTHS": True, "HAS_STATE": True, "Q": conv.STEPS, "BD": conv.CHANNELS}
SHORT = {**CONV, "SILU": True, "PAST": 3, "K": 7, "BP": 4}  # of Hydra, and of a causal mixer both ways
WIDE = {**CONV, "SILU": False, "PAST": 15, "K": 31, "BP": 16}  # of the convolution module
BACK = {"Q": conv.STEPS_BACK, "BD": conv.CHANNELS_BACK}
CONVOLUTIONS = ((conv._forward, {}), (conv._before_silu, {}), (conv._backward, BACK))
WITHOUT = {
    "HAS_STATE": False,
    "HAS_INITIAL": False,
    "HAS_FINAL": False,
    "HAS_RESET": False,
    "HAS_BLOCKS": True,
    "RAW": True,
}
JOIN = {"HAS_LENGTHS": True, "HAS_LAST": True, "HAS_D": False, "HEAD": 0, "BD": 512}
READ = {**JOIN, "HAS_LAST": False, "HAS_D": True, "HEAD": 32}  # in a training step of Hydra
KERNELS = [
    *((kernel, {**SSD, "HAS_BLOCKS": False}, ssd.WARPS) for kernel in (ssd._forward, ssd._backward)),
    (ssd._forward, {**SSD, "HAS_RESET": False, "HAS_BLOCKS": True, "Q": ssd.STEP}, ssd.WARPS),
    *((kernel, {**SSD, "HAS_RESET": False, "HAS_BLOCKS": True}, ssd.WARPS) for kernel in (ssd._forward, ssd._backward)),
    *((kernel, S6, s6.WARPS) for kernel in (s6._forward, s6._backward)),
    *((kernel, {**S6, "HAS_RESET": False, "WAYS": 2}, s6.WARPS) for kernel in (s6._forward, s6._backward)),
    (join._forward, {**JOIN, "Q": join.STEPS}, 4),
    (join._backward, {**JOIN, "Q": join.STEPS_BACK}, 4),
    (join._forward, {**READ, "Q": join.STEPS}, 4),
    (join._backward, {**READ, "Q": join.STEPS_BACK}, 4),
    *((kernel, {**SSD, **WITHOUT}, ssd.WARPS) for kernel in (ssd._forward, ssd._backward)),
    (flat._gather, {"Q": flat.STEPS, "BD": flat.COLUMNS}, 4),
    *((kernel, {**taps, **back}, 4) for kernel, back in CONVOLUTIONS for taps in (SHORT, WIDE)),
    *((kernel, {**taps, **back, **WITHOUT}, 4) for kernel, back in CONVOLUTIONS for taps in (SHORT, WIDE)),
]


def main(*architectures: int) -> None:
    for kernel, constants, warps in KERNELS:
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        signature = {name: "constexpr" if name in constants else _type(name) for name in kernel.arg_names}
        for architecture in architectures:
            source = ASTSource(kernel, signature, constants)
            made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
            print(kernel.__module__, kernel.__name__, f"sm_{architecture}", _usage(made.asm["cubin"]), flush=True)


def _type(name: str) -> str:
    if name in INTEGERS:
        return "*i64"
    if name == "reset":
        return "*i1"
    if name in NARROW:
        return "*bf16"
    if name == "EPS":
        return "fp32"
    return "i32" if name in ("D_", "blocks") or (name.isupper() and name not in "AD") else "*fp32"


def _usage(cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    return said.stdout.strip().splitlines()[-1].strip().split(" SHARED")[0]


if __name__ == "__main__":
    main(*(int(v) for v in sys.argv[1:] or ("80", "90")))
