"""Try remedies on measured cells: screen each, combine those that gain, confirm the combination and train with it.

Every decision is made from recorded trials, so a run that was killed goes on where it stopped. The rounds of a search,
and what their trials show, are in `llmbench.analysis.remedy_choice`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from llmbench.analysis import remedy_choice, remedy_trials
from llmbench.analysis.remedy_choice import Suggestion
from llmbench.analysis.remedy_trials import ADD, CONFIRM, SCREEN, Names, Trials
from llmbench.contract.cell import Cell
from llmbench.contract.errors import DoesNotApply, UserError
from llmbench.contract.job import LEARN, Job
from llmbench.contract.specs import DEFAULT_LEARNING_RATE
from llmbench.execution.scheduler import Schedule
from llmbench.plugins.registry import Registry
from llmbench.records import attempts
from llmbench.suite.plan import Plan

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, Record, RemedyFields

#: Pairs of processes that compare two configurations before one is confirmed.
SCREEN_PAIRS = 3

#: The configuration as it was: no remedy.
PLAIN: Names = ()


def run(schedule: Schedule, ceilings: Mapping[str, Ceilings], only: Sequence[str] = ()) -> dict[str, Cell]:
    """Try remedies on every measured cell of the plan; return cell id -> the recommended cell, where one gains.

    `ceilings`: device -> its measured ceilings. `only` names the remedies to try, whatever the verdict is; without
    names, those that answer it are tried.
    """
    groups = attempts.by_cell(schedule.context.run_dir.records())
    recommended: dict[str, Cell] = {}
    for planned in schedule.context.plan.cells:
        cell = planned.cell
        good = attempts.good(attempts.latest_attempts(groups.get(cell.cell_id, ())))
        if good:
            chosen = _Search(schedule, cell, good, ceilings.get(cell.device, {}), only).run()
            if chosen is not None:
                recommended[cell.cell_id] = chosen
    return recommended


def plain_of(cell: Cell, registry: Registry) -> Cell:
    """Return `cell` with the learning rate that it gets written out, as remedies expect it."""
    rates = registry.get("model", cell.model.partition(":")[0]).learning_rate
    return dataclasses.replace(cell, learning_rate=cell.learning_rate or rates.get(cell.stage, DEFAULT_LEARNING_RATE))


def settings_for(cell: Cell, better: Cell, plan: Plan, replan: Callable[[Sequence[str]], Plan]) -> list[str] | None:
    """Return the `KEY=VALUE` settings with which the suite plans `better` instead of `cell`; None where there are none.

    Cells that it descends from keep their values, so a setting may differ by stage. `replan` plans with settings added.
    """
    by_id = {planned.cell.cell_id: planned.cell for planned in plan.cells}
    chain = [cell]
    while chain[-1].parent in by_id:
        chain.append(by_id[str(chain[-1].parent)])
    changes = remedy_trials.cell_differences(cell, better)
    flat = {name: _word(value) for name, value in changes.items()}
    staged = {}
    for name, value in changes.items():
        values = {**{one.stage: getattr(one, name) for one in chain[1:]}, "default": value}
        staged[name] = "{" + ", ".join(f"{stage}: {_word(v)}" for stage, v in values.items()) + "}"
    for words in (flat, staged):
        settings = [f"{name}={text}" for name, text in words.items()]
        try:
            cells = replan(settings).cells
        except UserError:
            continue
        if any(planned.cell == better for planned in cells):
            return settings
    return None


def _word(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class _Search:
    """The search for the remedies of one cell."""

    def __init__(
        self,
        schedule: Schedule,
        cell: Cell,
        good: Sequence[Record],
        ceilings: Ceilings,
        only: Sequence[str],
    ) -> None:
        context = schedule.context
        self.schedule, self.cell = schedule, cell
        self.run_dir, self.listener, self.budget = context.run_dir, context.listener, context.plan.suite.budget
        self.plain = plain_of(cell, context.registry)
        specs = [context.registry.get("remedy", name) for name in only or context.registry.names("remedy")]
        self.suggestions = remedy_choice.suggest(self.plain, good, ceilings, specs, everything=bool(only))
        self.by_name = {suggestion.spec.name: suggestion for suggestion in self.suggestions}
        self.specs = {name: suggestion.spec for name, suggestion in self.by_name.items()}

    def run(self) -> Cell | None:
        """Screen, combine, confirm and train; return the recommended cell, None where nothing gains."""
        self.decline()
        names = [s.spec.name for s in self.suggestions if s.why_not is None]
        gaining = self.screen(names)
        chosen = self.combine([name for name in gaining if self.harmless(name, gaining)])
        while chosen and not self.confirm(chosen):
            harmful = [name for name in chosen if not self.specs[name].same_updates]
            chosen = tuple(name for name in chosen if name != harmful[-1]) if harmful else PLAIN
        if not chosen:
            return None
        changed = remedy_trials.change_cell(self.plain, [self.specs[name] for name in chosen])
        return remedy_trials.apply_differences(self.cell, self.plain, changed)

    def decline(self) -> None:
        """Record why some remedies are not tried."""
        untried = [suggestion for suggestion in self.suggestions if suggestion.why_not is not None]
        self.listener.expect(len(untried))
        for suggestion in untried:
            name = suggestion.spec.name
            role = remedy_trials.role_of(SCREEN, [name])
            cell = dataclasses.replace(self.plain, remedy_of=self.cell.cell_id, role=role)
            job = self.make_job(cell, 0, (name,))
            self.schedule.record_unrun(job, "unsupported", "NotTried", str(suggestion.why_not))

    def screen(self, names: Sequence[str]) -> list[str]:
        """Try each remedy by itself; return those that gain, the largest gain first."""
        self.compare(SCREEN, [PLAIN, *((name,) for name in names)], SCREEN_PAIRS)
        return remedy_choice.rank_gains(self.trials(), names)

    def harmless(self, name: str, gaining: Sequence[str]) -> bool:
        """Return whether a remedy keeps quality: train with it, unless it makes the same updates.

        One of whose family another gains more, and keeps quality, is not needed.
        """
        spec = self.specs[name]
        if spec.same_updates:
            return True
        for better in gaining[: gaining.index(name)]:
            if spec.family and self.specs[better].family == spec.family and self.harmless(better, gaining):
                return False
        self.train((name,))
        return remedy_choice.keeps_quality(self.trials(), (name,))

    def combine(self, gaining: Sequence[str]) -> Names:
        """Add the remedies that gain by themselves, the largest first, as long as each gains on top of the others."""
        chosen: Names = tuple(gaining[:1])
        for name in gaining[1:]:
            families = {self.specs[n].family or n for n in chosen}
            more = (*chosen, name)
            if (self.specs[name].family or name) in families or not self.applies(more):
                continue
            self.compare(f"{ADD}{name}", [chosen, more], SCREEN_PAIRS)
            gain = remedy_trials.gain(self.trials(), f"{ADD}{name}", chosen, more)
            if gain is not None and gain.value >= remedy_trials.LEAST_GAIN_X:
                chosen = more
        return chosen

    def confirm(self, names: Names) -> bool:
        """Train with `names`, measure their whole gain, and return whether they are to be recommended."""
        self.train(names)
        if not remedy_choice.keeps_quality(self.trials(), names):
            return False
        self.compare(CONFIRM, [PLAIN, names], self.budget.remedy_pairs)
        gain = remedy_trials.gain(self.trials(), CONFIRM, PLAIN, names)
        return gain is not None and gain.low is not None and gain.low > 1

    def applies(self, names: Names) -> bool:
        """Return whether the changes go together."""
        try:
            remedy_trials.change_cell(self.plain, [self.specs[name] for name in names])
        except DoesNotApply:
            return False
        return True

    def trials(self) -> Trials:
        """Return the recorded trials of this cell."""
        return remedy_trials.trials_of(self.run_dir.records()).get(self.cell.cell_id, Trials({}))

    def compare(self, round_: str, configurations: Sequence[Names], pairs: int) -> None:
        """Run configurations in turns, in processes of their own; every other turn goes backwards: A B B A.

        Turns in which others took the cores do not count. They are made up for by as many turns more, at most.
        """
        if len(configurations) < 2:
            return
        cells = [(self.trial_cell(round_, names), names) for names in configurations]
        repeats = {(cell.cell_id, repeat) for cell, _ in cells for repeat in range(pairs)}
        self.listener.expect(len(repeats - self.schedule.settled))
        for repeat in range(2 * pairs):
            if repeat >= pairs:
                if self.complete(round_, configurations, pairs):
                    break
                self.listener.expect(len({(cell.cell_id, repeat) for cell, _ in cells} - self.schedule.settled))
            self.run_trials(cells[:: -1 if repeat % 2 else 1], repeat)

    def complete(self, round_: str, configurations: Sequence[Names], pairs: int) -> bool:
        """Return whether each configuration that runs at all has `pairs` quiet pairs with the first."""
        trials, (plain, *others) = self.trials(), configurations
        firsts = {names: trials.first(round_, names) for names in others}
        run = [names for names, first in firsts.items() if first is not None and first.get("status") == "ok"]
        return all(len(trials.quiet_pairs(round_, plain, names)) >= pairs for names in run)

    def train(self, names: Names) -> None:
        """Train (or only score, at the stage eval) without and with `names`, with the same seeds."""
        seeds = 1 if self.cell.stage == "eval" else self.budget.remedy_seeds
        for seed in range(self.plain.seed, self.plain.seed + seeds):
            done = self.run_dir.list_settled()
            cells = [(self.trial_cell(LEARN, configuration, seed), configuration) for configuration in (PLAIN, names)]
            left = [(cell, configuration) for cell, configuration in cells if (cell.cell_id, 0) not in done]
            self.listener.expect(len(left))
            self.run_trials(left, 0)

    # --- trials ---

    def trial_cell(self, round_: str, names: Names, seed: int | None = None) -> Cell:
        """Return the cell of a trial of `names`."""
        return remedy_trials.trial_cell(self.plain, self.cell.cell_id, round_, [self.specs[n] for n in names], seed)

    def run_trials(self, cells: Iterable[tuple[Cell, Names]], repeat: int) -> None:
        """Run one repeat of each trial that is not settled."""
        self.schedule.run_jobs(self.make_job(cell, repeat, names) for cell, names in cells)

    def make_job(self, cell: Cell, repeat: int, names: Names) -> Job:
        """Return the job of a trial of `names`: no cause is tried, and its record says what was predicted."""
        job = self.schedule.make_job(cell, repeat)
        return dataclasses.replace(job, verify="none", remedy=self.remedy_fields(names))

    def remedy_fields(self, names: Names) -> RemedyFields:
        """Return the `remedy` field of a trial's record."""
        return _remedy_fields(self.by_name[names[0]]) if len(names) == 1 else {}


def _remedy_fields(suggestion: Suggestion) -> RemedyFields:
    spec, forecast = suggestion.spec, suggestion.forecast
    return {
        "name": spec.name,
        "answers": list(spec.answers),
        "predicted_x": forecast.gain_x,
        "because": forecast.reason,
        "same_updates": spec.same_updates,
    }
