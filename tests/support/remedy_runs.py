"""Searches for remedies on a machine that is made up: what each change gives is known."""

from __future__ import annotations

import dataclasses
import math
from types import MappingProxyType

from llmbench.analysis.remedy_trials import round_and_names
from llmbench.contract.cell import Cell
from llmbench.contract.errors import DoesNotApply
from llmbench.contract.job import new_record
from llmbench.contract.specs import Forecast, ModelSpec, RemedySpec
from llmbench.execution import remedy_search
from llmbench.execution.scheduler import SILENT, RunContext, Schedule
from llmbench.plugins.registry import KINDS, Owner, Provided, Registry
from llmbench.records.run_dir import RunDir
from llmbench.suite.file import load_suite
from llmbench.suite.plan import Plan, PlannedCell
from support.records import record

CELL = Cell("m", "tiny", "t", "made@1", "finetune")


def remedy(name, gain=None, because="", **fields):
    option = {
        "quick": {"threads": 1},
        "mild": {"bucketing": False},
        "rough": {"precision": "bf16"},
        "idle": {"seed": 9},
    }
    change = fields.pop("change", lambda cell: dataclasses.replace(cell, **option.get(name, {"workers": 2})))
    fields = {"answers": ("kernel",), "general": True, "same_updates": name != "rough", **fields}
    return RemedySpec(name, change=change, predict=lambda *_: Forecast(gain, because), **fields)


def made(cell, role, repeat, step_s, tokens=10.0, quality=None, **fields):
    """The record of a trial."""
    trial = dataclasses.replace(cell, remedy_of=cell.cell_id, role=role)
    one = record(repeat=repeat, step_s=step_s, **fields)
    one["samples"]["step_tokens"] = [tokens] * len(step_s)
    if quality is not None:
        one["quality"] = {"values": {"acc": quality}, "primary": "acc", "direction": {"acc": "higher"}}
        trial = dataclasses.replace(trial, seed=repeat)
        one["repeat"] = 0
    return {**one, "cell": trial.to_json(), "cell_id": trial.cell_id}


def verified(cause="kernel", ratio=2.0):
    clean = [0.1 + 0.0001 * i for i in range(12)]
    trial = {"axis": "why", "class": "hardware", "outcome": "measured", "predicted_x": ratio, "facts": {}}
    trial |= {"clean_s": clean, "treated_s": [c / ratio for c in clean], "share": 1.0, "advice": ""}
    return record(interventions={cause: trial})


def _has_it(cell):
    raise DoesNotApply("it has it")


SPEED = MappingProxyType({"quick": 2.0, "mild": 1.2, "rough": 1.5, "idle": 1.0, "same": 1.9})


class Machine:
    """An executor on which remedies have known gains; `quick` and `same` do not add up; `rough` harms quality."""

    def __init__(self, harm=0.0, stop_after=None):
        self.harm, self.stop_after, self.jobs = harm, stop_after, []

    def run(self, job):
        if self.stop_after is not None and len(self.jobs) >= self.stop_after:
            raise KeyboardInterrupt
        self.jobs.append((job.cell.cell_id, job.repeat))
        if job.cell.remedy_of is None:
            return new_record(job, "ok", **{k: record()[k] for k in ("samples", "memory", "phases", "counts")})
        round_, found = round_and_names(job.cell.role)
        speed = math.prod(SPEED[n] for n in found) / (1.9 if {"quick", "same"} <= set(found) else 1)
        noise = 1 + 0.002 * (len(self.jobs) % 3)
        if round_ == "learn":
            value = 0.8 + 0.01 * job.cell.seed - (self.harm if "rough" in found else 0)
            quality = {"values": {"acc": value}, "primary": "acc", "direction": {"acc": "higher"}, "examples": 9}
            return new_record(job, "ok", quality=quality)
        samples = {"step_s": [0.1 * noise / speed] * 20, "step_tokens": [10.0] * 20, "step_examples": [2.0] * 20}
        return new_record(job, "ok", samples=samples, memory={"peak_mib": 100.0 + 5 * len(found)})


def registry_of(*specs):
    owner = Owner("llmbench", "1", "test")
    by_kind = {kind: {} for kind in KINDS}
    by_kind["model"] = {"m": Provided(ModelSpec("m", {"tiny": {}}, {}, None), owner)}
    by_kind["remedy"] = {spec.name: Provided(spec, owner) for spec in specs}
    return Registry(by_kind)


SPECS = (
    remedy("quick", 1.8, "as said", family="f"),
    remedy("same", 1.7),
    remedy("mild"),
    remedy("rough", 1.4),
    remedy("idle"),
    remedy("pinned", 2.0, devices=("cuda",)),
)


def searched(folder, machine, specs=SPECS, listener=SILENT):
    suite = load_suite("quick", ["repeats=1", "remedy_pairs=4", "remedy_seeds=3"])
    plan = Plan(suite, (PlannedCell(CELL),), {}, ())
    with RunDir.open(folder, write=True) as run_dir:
        context = RunContext(plan, run_dir, machine, registry_of(*specs), listener=listener)
        with Schedule(context).interruptible() as schedule:
            schedule.run_plan()
            recommended = remedy_search.run(schedule, {})
        return recommended.get(CELL.cell_id), run_dir.records()
