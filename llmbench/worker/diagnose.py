"""The proof for a user's own model and loader: measure the step, try every cause, give it back as it was."""

from __future__ import annotations

import contextlib
import copy
import math
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from llmbench.contract.cell import Budget, Cell
from llmbench.contract.engines import Engine
from llmbench.contract.errors import UserError
from llmbench.contract.job import Job, new_record
from llmbench.contract.specs import Batch
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import Registry
from llmbench.worker import padding as paddings
from llmbench.worker.allowance import LEAST_END_S, Allowance, BoundedTrial
from llmbench.worker.environment import capture
from llmbench.worker.measure import pairs_for, phase_pass, timed_pass
from llmbench.worker.memory import limit_used
from llmbench.worker.monitor import Monitor, warnings
from llmbench.worker.stages import run_steps
from llmbench.worker.trials import causes
from llmbench.worker.user import UserBatch, UserEngine, endless, load_target, pool_of, wrapped
from llmbench.worker.verify import verify

POOL, FEWEST_BATCHES, POOL_S = 16, 6, 0.35  # batches, and seconds that a round of them may take
#: Of the budget: the pool's batches may take so long to make, the clean pass and the phase pass so long to measure.
POOL_SHARE, CLEAN_SHARE, PHASE_SHARE = 0.1, 0.12, 0.06
#: Of what is left: steps are so long that the usual fewest would take more, so there are fewer of them.
CLEAN_MOST, PHASE_MOST = 0.25, 0.12
CLEAN_LEAST, PAIRS_LEAST = 6, 2
END_SHARE = 0.05
TRIALS_SHARE = 0.85  # of the time that is left: the fewest pairs of a trial may take longer than its part
Emit = Callable[[dict[str, Any]], None]


def diagnose_target(target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"record", "environment", "causes"}` of the target's step, the last what each cause is.

    `options` are those of `diagnose_given`. Besides, `started_at` (of `time.time`) says when the command began, whose
    budget it is.
    """
    options = dict(options)
    since_s = max(0.0, time.time() - options.pop("started_at", time.time()))  # a process takes seconds to begin
    budget_s = options.pop("budget_s", 60.0)
    end_s = max(LEAST_END_S, min(since_s, END_SHARE * budget_s))  # ending takes about as long as beginning did
    allowance = Allowance(budget_s, time.perf_counter() - since_s, end_s)
    allowance.spent_s["start_s"] = since_s
    plugins = [options.pop(name, default) for name, default in (("plugin_files", ()), ("cwd_plugins", None))]
    with allowance.spending("start_s"):
        environment, registry = capture(), registry_of(*plugins)
    # a spawned process starts its own children by spawning, too; a script of the user's would not, and a data set that
    # is defined in FILE.py cannot be found by a loader's worker that was
    multiprocessing.set_start_method(None, force=True)
    with allowance.spending("target_s"):
        given = load_target(target)
    record = diagnose_given(given, **options, name=target, allowance=allowance, registry=registry)
    return {"record": record, "environment": environment, "causes": descriptions(registry)}


def registry_of(plugin_files: Sequence[str] = (), cwd_plugins: str | None = None) -> Registry:
    """Return the plugins that are found."""
    return discover(plugin_files, Path(cwd_plugins) if cwd_plugins else None)


def descriptions(registry: Registry) -> dict[str, str]:
    """Return what each cause is."""
    return {name: registry.get("cause", name).description for name in registry.names("cause")}


def diagnose_given(
    given: Mapping[str, Any],
    *,
    name: str = "user",
    budget_s: float = 60.0,
    mode: str = "verdict",
    seed: int = 0,
    allowance: Allowance | None = None,
    registry: Registry | None = None,
    emit: Emit = lambda event: None,
) -> dict[str, Any]:
    """Return the record of a user's step with its causes tried, in `budget_s` seconds, or what `allowance` has left.

    Model, optimizers and random states are given back as they were.
    """
    allowance = allowance or Allowance(budget_s, time.perf_counter())
    registry = registry or registry_of()
    precision = str(given.get("precision") or "fp32")
    engine = UserEngine(given, registry.get("precision", precision))
    with as_it_was(engine) as kept:
        with allowance.spending("target_s"):
            pool = pool_of(given["data"], POOL, least=FEWEST_BATCHES, seconds=POOL_SHARE * allowance.budget_s)
        work = UserWork()
        with allowance.spending("measure_s"):
            trains, found = watched_step(engine, pool[0], kept)
            if engine.optimizer is None:
                engine.optimizer = found  # type: ignore[assignment]
            work.trains = trains
            padding = paddings.find(engine.module, pool)
            fields = measured(engine, work, wrapped(endless(given["data"]), padding), allowance)
        cell = described(name, engine, pool[0], precision, seed, given["data"])
        budget = Budget(seconds=allowance.budget_s, verify_seconds=allowance.budget_s)
        job = Job(cell, 0, 0, 1, budget, "", {}, verify=mode)
        trial = user_trial(engine, work, pool[: pool_size(fields)], given["data"])
        trial.step_s = statistics.median(fields["samples"]["step_s"])
        with allowance.spending("verify_s"):
            fields["interventions"], fields["together"] = tried(trial, registry, fields, mode, allowance, seed, emit)
    spent = dict(allowance.spent_s)
    return new_record(job, "ok", **fields, spent=spent, wall_s=allowance.clock() - allowance.begun_s)


def measured(engine: UserEngine, work: UserWork, batches: Iterator[UserBatch], allowance: Allowance) -> dict[str, Any]:
    """Return the fields of the clean pass and the phase pass; long steps get few of them, so that time is left."""
    budget_s = allowance.budget_s
    (step_s,) = run_steps(engine, batches, work.step, 1)["step_s"]  # behind the first one, which may compile
    watch = Monitor(engine.device.type)
    clean = timed_pass(
        engine,
        batches,
        work.step,
        seconds=CLEAN_SHARE * budget_s,
        ci_pct=1.0,
        watches={"health": watch},
        most_steps=allowance.steps(step_s, CLEAN_MOST, CLEAN_LEAST),
    )
    step_s = statistics.median(clean.samples["step_s"])
    affordable = allowance.steps(step_s, PHASE_MOST, 2 * PAIRS_LEAST) // 2
    parts = phase_pass(engine, batches, work, min(affordable, pairs_for(step_s, PHASE_SHARE * budget_s)))
    mean = {key: statistics.fmean(clean.samples[f"step_{key}"]) for key in ("tokens", "padding_tokens", "examples")}
    return {
        "samples": {**clean.samples, **parts.samples},
        "phases": parts.phases,
        "counts": {**mean, "parameters": engine.parameters(), "timing": clean.how},
        "memory": {"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()},
        "health": clean.seen["health"],
        "warnings": warnings(clean.seen["health"]),
    }


def pool_size(fields: Mapping[str, Any]) -> int:
    """Return how many batches the trials take turns on: all, or fewer where steps are long."""
    step_s = statistics.median(fields["samples"]["step_s"])
    return max(FEWEST_BATCHES, min(POOL, math.ceil(POOL_S / step_s)))


def tried(
    trial: BoundedTrial,
    registry: Registry,
    fields: Mapping[str, Any],
    mode: str,
    allowance: Allowance,
    seed: int,
    emit: Emit,
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return interventions and their interaction. What the end of the budget stopped is `out_of_time`."""
    memory = fields["memory"]
    used = memory["peak_mib"] / memory["capacity_mib"]
    trial.facts["memory_used"] = max(used, limit_used() or 0.0) if trial.device == "cpu" else used
    allowance.bound(trial)
    seconds = TRIALS_SHARE * (trial.until - allowance.clock())
    return verify(trial, fields, causes(registry, trial.device), mode=mode, seconds=seconds, seed=seed, emit=emit)


class UserWork:
    """A user's step, whole and in its parts."""

    trains = True
    max_new_tokens = 0

    @property
    def phases(self) -> tuple[str, ...]:
        """Return the phases; of a step of the user's own only the wait for its batch is seen."""
        return ("input_s",) if self.own else ("input_s", "copy_s", "forward_s", "backward_s", "optimizer_s")

    own = False

    def step(self, engine: Engine, batch: Batch) -> None:
        """Take a step."""
        engine.step(batch)  # type: ignore[attr-defined]

    def marks(self, engine: Engine, batches: Iterator[Batch]) -> list[Any]:
        """Take a marked step."""
        user: UserEngine = engine  # type: ignore[assignment]
        self.own = user.own_step is not None
        marks = [user.mark()]
        batch = next(batches)
        marks.append(user.mark())
        if self.own:
            user.step(batch)
            return [*marks, user.mark()]
        arrays = user.copy(batch)
        marks.append(user.mark())
        loss = user.forward(arrays)
        marks.append(user.mark())
        user.backward(loss)
        marks.append(user.mark())
        user.update()
        return [*marks, user.mark()]

    def split(self, seconds: list[float]) -> list[float]:
        """Return the seconds of each phase."""
        return seconds[: len(self.phases)]

    def note(self, shapes: Any, result: Any) -> None:
        """Keep nothing."""

    def samples(self) -> dict[str, list[float]]:
        """Return nothing."""
        return {}

    def kept(self) -> dict[str, float | None]:
        """Return nothing."""
        return {}

    def counts(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing."""
        return {}


def user_trial(engine: UserEngine, work: UserWork, pool: list[Any], data: Any) -> BoundedTrial:
    """Return the trial of the user's step."""
    compiled = getattr(engine.module, "_compiled_call_impl", None) is not None or hasattr(engine.module, "_orig_mod")
    return BoundedTrial(
        module=engine.module,
        optimizer=engine.optimizer,
        device=engine.device.type,
        trains=work.trains,
        generates=False,
        pool=pool,
        take_step=engine.step,
        make_fresh=lambda: endless(data),
        mark=engine.mark,
        between=engine.seconds_between,
        compiled=compiled,
        workers=int(getattr(data, "num_workers", 0) or 0),
    )


def watched_step(engine: UserEngine, batch: Any, kept: Kept) -> tuple[bool, Any]:
    """Take a step; return whether it has a backward pass, and the torch optimizer that it steps first, if one.

    Before an optimizer that nobody named makes its first step, `kept` takes its state.
    """
    seen: list[Any] = []
    backward: list[bool] = []
    before = torch.autograd.backward

    def stepped(optimizer: Any, *_: Any) -> None:
        seen.append(optimizer)
        kept.keep(optimizer)

    hook = register_optimizer_step_pre_hook(stepped)

    def noted(*args: Any, **kwargs: Any) -> None:
        backward.append(True)
        before(*args, **kwargs)

    torch.autograd.backward = noted
    try:
        engine.step(batch)
    except UserError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise UserError(f"the first step failed: {type(error).__name__}: {line}") from error
    finally:
        torch.autograd.backward = before
        hook.remove()
    return bool(backward or seen), seen[0] if seen else None


def described(name: str, engine: UserEngine, batch: Any, precision: str, seed: int, data: Any) -> Cell:
    """Return a cell that says what was diagnosed."""
    shapes = [t.shape for t in batch_tensors(batch) if t.dim() == 2]
    rows, length = max(shapes, key=lambda s: s[1]) if shapes else (len(next(iter(batch_tensors(batch)))), 1)
    return Cell(
        model=type(engine.module).__name__,
        size="own",
        task="own",
        dataset=name,
        stage="finetune",
        device=str(engine.device),
        precision=precision,
        batch_size=int(rows),
        seq_len=int(length),
        steps=0,
        seed=seed,
        optimizer=type(engine.optimizer).__name__.lower() if engine.optimizer is not None else "none",
        workers=int(getattr(data, "num_workers", 0) or 0),
    )


def batch_tensors(batch: Any) -> list[torch.Tensor]:
    """Return the tensors of a batch that have rows."""
    from llmbench.worker.batches import tensors

    return [t for t in tensors(batch).values() if t.dim()]


class Kept:
    """What is put back: the values of the model, and of each optimizer its state and the parameters that it updates."""

    def __init__(self, engine: UserEngine) -> None:
        self.module = engine.module
        self.training = engine.module.training
        self.values = {name: t.detach().clone() for name, t in engine.module.state_dict().items()}
        self.optimizers: list[tuple[Any, Any]] = []
        self.others: dict[int, tuple[Tensor, Tensor]] = {}  # parameters that are not of the model
        self.own = {id(p) for p in engine.module.parameters()}
        if engine.optimizer is not None:
            self.keep(engine.optimizer)

    def keep(self, optimizer: Any) -> None:
        """Remember how an optimizer is, if it is not known yet."""
        if any(known is optimizer for known, _ in self.optimizers) or not hasattr(optimizer, "state_dict"):
            return
        self.optimizers.append((optimizer, copy.deepcopy(optimizer.state_dict())))
        for group in getattr(optimizer, "param_groups", ()):
            for p in group["params"]:
                if id(p) not in self.own and id(p) not in self.others:
                    self.others[id(p)] = (p, p.detach().clone())

    def put_back(self) -> None:
        """Put all of it back, and clear the gradients."""
        self.module.load_state_dict(self.values)
        self.module.train(self.training)
        self.module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for parameter, value in self.others.values():
                parameter.copy_(value)
                parameter.grad = None
        for optimizer, state in self.optimizers:
            optimizer.load_state_dict(state)


@contextlib.contextmanager
def as_it_was(engine: UserEngine) -> Iterator[Kept]:
    """Put back the values of model and optimizers, gradients, and the random states of torch, numpy and Python."""
    torch_state, plain_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    kept = Kept(engine)
    try:
        yield kept
    finally:
        kept.put_back()
        torch.set_rng_state(torch_state)
        random.setstate(plain_state)
        np.random.set_state(numpy_state)


__all__ = ["diagnose_given", "diagnose_target"]
