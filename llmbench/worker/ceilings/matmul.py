"""Peak matmul rates per mode. Shapes: `m` rows (tokens), `k` inner, `n` outputs; one call is 2 m n k FLOP.

The second operand is stored as a linear layer stores its weight, (n, k), and used transposed. Values are normal random
numbers: zeros draw less power and let some devices clock higher than real data does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from llmbench.worker.ceilings.sampling import Candidate, Metered, TimeCalls, Way
from llmbench.worker.ceilings.timing import team, timer, with_threads

#: mode -> dtype of the operands
MODES = {
    "fp32": "float32",
    "tf32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp8": "float8_e4m3fn",
    "int8": "int8",
}
#: mode -> smallest CUDA capability with units for it. fp8: Ada and Hopper; int8 matmul of torch: Ampere.
CAPABILITY = {"tf32": (8, 0), "fp8": (8, 9), "int8": (8, 0)}
#: Edges of the cubes that a sweep tries, smallest first.
SCALES = {"cpu": (256, 512, 1024, 2048, 4096, 8192), "cuda": (1024, 2048, 4096, 8192, 16384)}
#: Share of the free device memory that the operands of one shape may take.
MEMORY_SHARE = 0.25

Shape = tuple[int, int, int]


def missing(mode: str, device: torch.device) -> str | None:
    """Return why the device has no such mode, None where it can be tried."""
    needed = CAPABILITY.get(mode)
    if needed is None:
        return None
    if device.type != "cuda":
        return f"{mode} matmuls are measured on CUDA only; torch has no fast kernel for them on {device.type}"
    if mode == "tf32" and torch.version.hip:
        return "tf32 is a mode of NVIDIA's tensor cores"
    if not torch.version.hip and torch.cuda.get_device_capability(device) < needed:
        return f"{mode} needs CUDA capability {needed[0]}.{needed[1]}"
    return None


def shapes(scale: int) -> tuple[Shape, ...]:
    """Return shapes (m, n, k) of equal FLOP: the cube, and a transformer's up and down projection (4x wider inside)."""
    return (scale, scale, scale), (scale, 2 * scale, scale // 2), (scale, scale // 2, 2 * scale)


def scales(mode: str, device: torch.device) -> Iterator[list[Candidate]]:
    """Return the candidates of a sweep, scale by scale; ends where the operands would not fit the memory."""
    for scale in SCALES.get(device.type, SCALES["cuda"]):
        size = 4 * max(m * k + n * k + m * n for m, n, k in shapes(scale))
        if size > MEMORY_SHARE * free_bytes(device):
            return
        threads = 1 if device.type == "cpu" else None  # a shape that suits one core suits a team of them
        yield [candidate(mode, shape, device, threads) for shape in shapes(scale)]


def candidate(mode: str, shape: Shape, device: torch.device, threads: int | None = None) -> Candidate:
    """Return a timed matmul; `threads` (of the CPU) is torch's setting by default."""
    m, n, k = shape
    facts: Way = {"shape": [m, n, k]}
    time_s = timer(operation(mode, shape, device), device)
    if device.type == "cuda":
        time_s = _with_tf32(time_s, mode == "tf32")
    elif device.type == "cpu":
        count = threads or torch.get_num_threads()
        facts |= {"threads": count, "independent": False}
        time_s = with_threads(time_s, count)
    return Candidate(facts, 2.0 * m * n * k, time_s)


def contenders(mode: str, best_shapes: Sequence[Shape], device: torch.device) -> list[Metered]:
    """Return the candidates for the ceiling: each shape; on the CPU a team on each, and all threads on the first."""
    if device.type != "cpu":
        return [candidate(mode, shape, device) for shape in best_shapes]
    every: list[Metered] = [candidate(mode, best_shapes[0], device)]
    for shape in best_shapes:
        m, n, k = shape
        ops = [operation(mode, shape, device) for _ in range(torch.get_num_threads())]
        every.append(team({"shape": [m, n, k]}, 2.0 * m * n * k, ops))
    return every


def operation(mode: str, shape: Shape, device: torch.device) -> Callable[[], Any]:
    """Return the matmul of the mode. fp8 accumulates fast, as forward passes do, which is the faster way."""
    m, n, k = shape
    if mode == "int8":
        a, w = (torch.randint(-8, 8, size, dtype=torch.int8, device=device) for size in ((m, k), (n, k)))
        return lambda: torch._int_mm(a, w.t())
    dtype = getattr(torch, MODES[mode])
    a, w = (torch.randn(size, device=device).to(dtype) for size in ((m, k), (n, k)))
    if mode == "fp8":
        one = torch.ones((), device=device)
        return lambda: torch._scaled_mm(
            a, w.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    out = torch.empty((m, n), dtype=dtype, device=device)
    return lambda: torch.mm(a, w.t(), out=out)


def free_bytes(device: torch.device) -> float:
    """Return the bytes of memory that are free."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    return float(psutil.virtual_memory().available)


def _with_tf32(time_s: TimeCalls, on: bool) -> TimeCalls:
    def call(calls: int) -> float:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = on
        try:
            return time_s(calls)
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before

    return call
