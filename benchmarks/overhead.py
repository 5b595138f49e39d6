"""What llmbench's clean pass costs beside a bare PyTorch loop. `python benchmarks/overhead.py --rounds 16`.

A round is one fresh process per setting, settings in random order, started as llmbench starts its cells. A process
holds both arms, each with a module, an optimizer and a schedule of its own (which is built first is random), and takes
many short blocks of steps in turns, A B B A, from a random start; both blocks of a pair get the same batches. All steps
of both arms are the same training: behind the first ones, and at the end, the parameters of both are compared
(`apart`). A block is timed from outside, in the same way for both: wall time of the block over its steps. Processes are
the units of the intervals of ours / bare: of the step times that our clean pass records (`ratio`, which the limit is
for), and of the wall time of whole blocks, which on our side holds what is done behind the last step, such as noting
shapes (`ratio_outside`). The bare loop's time is its wall time. Processes are left out, and counted, where something
else used their own cores (`others_pct`): that rule does not look at the times. A precision that the device has no
kernels for is told apart.

Both arms read the same features in the same order through torch's DataLoader, without loader processes, and collate
with the same layout (`--data loader`); with `--data ready` the batches are collated before the clock starts.
Ours is what `llmbench.worker.measuring.passes.run_clean_pass` does: `stages.run_steps` with `Training.step` and
`Training.note`. `Monitor` and `EnergyMeter`, which read their counters before and after a pass and do nothing in
between, do so before the first and behind the last block here, too: they read for milliseconds, which empties the
caches of the step that follows, once in a pass of seconds. The bare loop is `bare_steps`. Training starts over with
each process, and the schedule is as long as the process trains.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from overhead_rows import ARMS, LIMIT, rounded, summary, table, undisturbed
from workload import (
    LEARNING_RATE,
    MAX_GRAD_NORM,
    MODELS,
    PRECISIONS,
    STEADY_ALLOCATOR,
    Setting,
    Workload,
    load,
    parameter_groups,
    rate_factor,
)

WARMUP_BLOCKS, PILOT_STEPS, LEAST_BLOCK_STEPS = 1, 8, 2
APART = 1e-3  # how far parameters may be apart after the pilot steps, over their size: sums in another order

Block = Callable[[Sequence[list[int]]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Options:
    """How a process measures."""

    pairs: int
    block_s: float
    data: str
    start: int  # 0: the first block of the first pair is ours
    build: int  # 0: our module is built first


# --- the bare loop --------------------------------------------------------------------------------------


def bare_steps(model: Any, optimizer: Any, schedule: Any, batches: Iterator[dict[str, Any]], autocast: Any) -> None:
    """Train on `batches`."""
    import torch

    for batch in batches:
        with autocast():
            loss = model(**batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)


def bare_arm(work: Workload, setting: Setting, options: Options) -> tuple[Block, Any]:
    """Return a function that times a block of the bare loop, and its module."""
    import torch

    device = torch.device(setting.device)
    model = work.build().to(device).train()
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, setting.steps))

    def autocast() -> Any:
        if setting.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=torch.bfloat16)

    def batches(order: Sequence[list[int]]) -> Iterator[dict[str, Any]]:
        loader: Any = torch.utils.data.DataLoader(
            work.features,  # type: ignore[arg-type]
            batch_sampler=order,
            collate_fn=work.collate,
            pin_memory=device.type == "cuda",
        )
        return iter(list(loader)) if options.data == "ready" else iter(loader)

    def moved(found: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for batch in found:
            yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    def block(order: Sequence[list[int]]) -> dict[str, float]:
        found = batches(order)
        given = found if device.type == "cpu" else moved(found)
        synchronize(device)
        begin = time.perf_counter()
        bare_steps(model, optimizer, schedule, given, autocast)
        synchronize(device)
        return {"wall_s": time.perf_counter() - begin}

    return block, model


def synchronize(device: Any) -> None:
    """Wait for a CUDA device."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- ours -----------------------------------------------------------------------------------------------


def our_arm(work: Workload, setting: Setting, options: Options) -> tuple[Block, Any]:
    """Return a function that times a block of the clean pass, and its module.

    `printed_s` are the seconds that its steps record.
    """
    from llmbench.worker.measuring import loops
    from llmbench.worker.measuring.step_kinds import Training

    engine, _ = work.run.start()
    engine.prepare_training(learning_rate=LEARNING_RATE, steps=setting.steps, optimizer=work.job.cell.optimizer)
    feed = work.run.feed(engine, train=True)
    training = Training(work.run.model, work.run.build_request())

    def block(order: Sequence[list[int]]) -> dict[str, float]:
        batches = feed(order)
        if options.data == "ready":
            batches = iter(list(batches))
        engine.synchronize()
        begin = time.perf_counter()
        samples = loops.run_steps(engine, batches, training.step, len(order), training.note)
        wall_s = time.perf_counter() - begin
        return {"wall_s": wall_s, "printed_s": sum(samples["step_s"]), "tokens": sum(samples["step_tokens"])}

    return block, engine.module  # type: ignore[attr-defined]


# --- one process ----------------------------------------------------------------------------------------


def measure(setting: Setting, options: Options, folder: Path) -> dict[str, Any]:
    """Return the seconds per step of each block of both arms, and what our steps say they took."""
    from llmbench.worker.machine.energy import EnergyMeter
    from llmbench.worker.machine.monitor import Monitor

    work = load(setting, folder)
    makers = {"ours": our_arm, "bare": bare_arm}
    names = ARMS if options.build == 0 else ARMS[::-1]
    made = {name: makers[name](work, setting, options) for name in names}
    arms, modules = ({name: made[name][part] for name in ARMS} for part in (0, 1))
    order = iter(work.order(setting.steps))
    for _ in range(2):
        indices = take(order, PILOT_STEPS)
        pilot_s = [arms[name](indices)["wall_s"] / PILOT_STEPS for name in names][1]
    apart = [apart_by(*modules.values())]
    if not apart[0] < APART:
        raise SystemExit(f"{setting.label}: the arms do not train alike: parameters are {apart[0]:.2g} apart")
    room = (setting.steps - 2 * PILOT_STEPS) // (options.pairs + WARMUP_BLOCKS)
    steps = min(room, max(LEAST_BLOCK_STEPS, round(options.block_s / pilot_s)))
    blocks: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    watches = (Monitor(setting.device), EnergyMeter(setting.device))
    for watch in watches:
        watch.start()
    before = own_cores()
    for pair in range(-WARMUP_BLOCKS, options.pairs):
        indices = take(order, steps)
        for half in (0, 1):
            name = ARMS[(options.start + pair + half) % 2]
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            found = arms[name](indices)
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            if pair >= 0:
                blocks[name].append({**found, "faults": faults})
    after = own_cores()
    for watch in watches:
        watch.stop()
    return {
        "setting": dataclasses.asdict(setting),
        "others_pct": others_pct(before, after),
        "block_steps": steps,
        "apart": [*apart, apart_by(*modules.values())],
        "step_s": {name: [block["wall_s"] / steps for block in blocks[name]] for name in ARMS},
        "printed_s": [block["printed_s"] for block in blocks["ours"]],
        "outside_s": [block["wall_s"] for block in blocks["ours"]],
        "tokens": [block["tokens"] for block in blocks["ours"]],
        "page_faults": {name: sum(block["faults"] for block in blocks[name]) / steps / options.pairs for name in ARMS},
    }


def own_cores() -> tuple[float, float, float, int]:
    """Return now, the CPU seconds of this process, and what its cores were busy in seconds, steal included; and cores.

    Of the cores that it may run on: what others do on theirs does not wait for it, nor does it for them.
    """
    cores = os.sched_getaffinity(0)
    tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
    fields = (line.split() for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines())
    busy = [line[1:4] + line[6:9] for line in fields if line[0].removeprefix("cpu") in set(map(str, cores))]
    busy_s = tick_s * sum(int(ticks) for line in busy for ticks in line)  # user nice system irq softirq steal
    return time.perf_counter(), time.process_time(), busy_s, len(cores)


def others_pct(before: tuple[float, float, float, int], after: tuple[float, float, float, int]) -> float:
    """Return what others, the hypervisor too, took of the time of this process's cores, less one tick a core."""
    wall_s, own_s, busy_s = (after[i] - before[i] for i in range(3))
    ticks_s = after[3] / os.sysconf("SC_CLK_TCK")
    return 100.0 * max(0.0, busy_s - own_s - ticks_s) / (wall_s * after[3])


def apart_by(one: Any, other: Any) -> float:
    """Return how far the parameters of two modules are apart: the norm of their difference over the norm of one."""
    import torch

    both = list(zip(one.parameters(), other.parameters(), strict=True))
    with torch.no_grad():
        difference = sum(float((p - q).double().square().sum()) for p, q in both)
        return float((difference / sum(float(p.double().square().sum()) for p, _ in both)) ** 0.5)


def take(order: Iterator[list[int]], count: int) -> list[list[int]]:
    """Return the next `count` batches."""
    return [next(order) for _ in range(count)]


def child(request: dict[str, Any]) -> dict[str, Any]:
    """Measure what the parent asks for; runs in a process of its own."""
    setting, options = Setting(**request["setting"]), Options(**request["options"])
    try:
        return measure(setting, options, Path(request["folder"]))
    except RuntimeError as error:
        if setting.precision == "fp32":
            raise
        return {"unsupported": (str(error).splitlines() or [type(error).__name__])[0]}


CHILD = f"{Path(__file__).resolve()}:child"


# --- all of it ------------------------------------------------------------------------------------------


def run(
    settings: Sequence[Setting], rounds: int, options: dict[str, Any], seed: int, most_s: float = math.inf
) -> dict[str, Any]:
    """Measure every setting in `rounds` processes, as far as `most_s` seconds go, and return the document."""
    rng = random.Random(seed)
    from llmbench.execution.local import LocalExecutor

    found: dict[str, list[dict[str, Any]]] = {setting.label: [] for setting in settings}
    unsupported: dict[str, str] = {}
    began = time.monotonic()
    preload = ("transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2")
    with tempfile.TemporaryDirectory() as folder, LocalExecutor(Path(folder) / "logs", preload=preload) as executor:
        environment = executor.call("llmbench.worker.machine.environment:capture")
        for number in range(rounds):
            if time.monotonic() - began > most_s:
                break
            left = [setting for setting in settings if setting.label not in unsupported]
            for setting in rng.sample(left, len(left)):
                drawn = {**options, "start": rng.randrange(2), "build": rng.randrange(2)}
                request = {"setting": dataclasses.asdict(setting), "options": drawn, "folder": folder}
                one = executor.call(CHILD, request)
                if "unsupported" in one:
                    unsupported[setting.label] = one["unsupported"]
                    continue
                found[setting.label].append({**one, **drawn})
                print(f"round {number + 1} of {rounds}: {setting.label}", file=sys.stderr, flush=True)
    rows = [summary(label, processes) for label, processes in found.items() if len(undisturbed(processes)) > 1]
    how = {"limit": LIMIT, "rounds": rounds, "seed": seed, "unsupported": unsupported}
    return {"environment": environment, **how, "rows": rows, "raw": found}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=16, help="fresh processes per setting")
    parser.add_argument("--most-s", type=float, default=math.inf, help="begin no round after so many seconds")
    parser.add_argument("--pairs", type=int, default=30, help="pairs of blocks per process")
    parser.add_argument("--block-s", type=float, default=0.06, help="seconds per block, about")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--sizes", nargs="+", default=["tiny"], help="tiny, small, base")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seq-len", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--allocator", choices=("default", "steady"), default="steady", help="glibc: as it is, or keeping"
    )
    parser.add_argument("--data", choices=("loader", "ready"), default="loader")
    parser.add_argument("--most-steps", type=int, default=4000, help="steps per arm and process, at most")
    parser.add_argument("--seed", type=int, default=0, help="of the orders and starts")
    parser.add_argument("-o", "--output", type=Path, help="write the JSON document there")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table and write the document."""
    args = arguments()
    shape = {"device": args.device, "batch_size": args.batch_size, "seq_len": args.seq_len, "steps": args.most_steps}
    settings = [
        Setting(model=model, size=size, precision=precision, **shape)
        for size in args.sizes
        for model in args.models
        for precision in args.precisions
    ]
    options = {"pairs": args.pairs, "block_s": args.block_s, "data": args.data}
    os.environ |= STEADY_ALLOCATOR if args.allocator == "steady" else {}  # of both arms: they share their processes
    document = run(settings, args.rounds, options, args.seed, args.most_s)
    if args.output:
        document |= {"options": options, "allocator": args.allocator}
        args.output.write_text(json.dumps(rounded(document)) + "\n", encoding="utf-8")
    print(table(document["rows"]))
    for label, reason in document["unsupported"].items():
        print(f"{label}: does not run here ({reason})")


if __name__ == "__main__":
    main()
