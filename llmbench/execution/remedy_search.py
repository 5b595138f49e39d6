"""Try remedies on measured cells: screen each, combine those that gain, confirm the combination and train with it.

Every decision is made from recorded trials, so a run that was killed goes on where it stopped. What the rounds are, and
what their trials show, is in `llmbench.analysis.remedy_choice`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.analysis import remedy_choice, remedy_trials
from llmbench.analysis.remedy_choice import Suggestion
from llmbench.analysis.remedy_trials import ADD, CONFIRM, SCREEN, Names, Trials
from llmbench.contract.cell import Budget, Cell
from llmbench.contract.errors import DoesNotApply, UserError
from llmbench.contract.job import LEARN
from llmbench.contract.specs import DEFAULT_LEARNING_RATE
from llmbench.execution.scheduler import Rounds
from llmbench.plugins.registry import Registry
from llmbench.records import attempts
from llmbench.suite.plan import Plan

SCREEN_PAIRS = 3


@dataclass(frozen=True)
class Settings:
    """What remedies are tried with: the machine's ceilings by device, and the names asked for (empty: all)."""

    ceilings: Mapping[str, Mapping[str, Any]]
    only: Sequence[str] = ()
    on_left: Callable[[int], None] = lambda count: None
    note: Callable[[str], None] = lambda text: None


def try_remedies(rounds: Rounds, plan: Plan, registry: Registry, settings: Settings) -> dict[str, Cell]:
    """Try remedies on every measured cell of the plan; return cell id -> the recommended cell, where one gains."""
    groups = attempts.by_cell(rounds.run_dir.records())
    found: dict[str, Cell] = {}
    for planned in plan.cells:
        good = attempts.good(attempts.latest_attempts(groups.get(planned.cell.cell_id, ())))
        if good:
            chosen = _Search(rounds, planned.cell, good, plan.suite.budget, registry, settings).run()
            if chosen is not None:
                found[planned.cell.cell_id] = chosen
    return found


def plain_of(cell: Cell, registry: Registry) -> Cell:
    """Return `cell` with the learning rate that it gets written out, as remedies expect it."""
    rates = registry.get("model", cell.model.partition(":")[0]).learning_rate
    return dataclasses.replace(cell, learning_rate=cell.learning_rate or rates.get(cell.stage, DEFAULT_LEARNING_RATE))


def settings_for(cell: Cell, better: Cell, plan: Plan, replan: Callable[[Sequence[str]], Plan]) -> list[str] | None:
    """Return the `KEY=VALUE` settings with which the suite plans `better` instead of `cell`; None where none are found.

    Cells that it descends from keep their values, so a setting may differ by stage. `replan` plans with settings added.
    """
    by_id = {one.cell.cell_id: one.cell for one in plan.cells}
    chain = [cell]
    while chain[-1].parent in by_id:
        chain.append(by_id[str(chain[-1].parent)])
    changes = remedy_trials.differences(cell, better)
    flat = {name: _word(value) for name, value in changes.items()}
    staged = {}
    for name, value in changes.items():
        values = {**{one.stage: getattr(one, name) for one in chain[1:]}, "default": value}
        staged[name] = "{" + ", ".join(f"{stage}: {_word(v)}" for stage, v in values.items()) + "}"
    for tried in (flat, staged):
        settings = [f"{name}={text}" for name, text in tried.items()]
        try:
            cells = replan(settings).cells
        except UserError:
            continue
        if any(one.cell == better for one in cells):
            return settings
    return None


def _word(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class _Search:
    """The remedies of one cell."""

    def __init__(
        self,
        rounds: Rounds,
        cell: Cell,
        good: Sequence[Mapping[str, Any]],
        budget: Budget,
        registry: Registry,
        settings: Settings,
    ) -> None:
        self.rounds, self.cell, self.budget, self.registry, self.settings = rounds, cell, budget, registry, settings
        self.plain = plain_of(cell, registry)
        names = settings.only or registry.names("remedy")
        specs = [registry.get("remedy", name) for name in names]
        ceilings = settings.ceilings.get(cell.device, {})
        self.suggestions = remedy_choice.suggest(self.plain, good, ceilings, specs, everything=bool(settings.only))
        self.specs = {s.spec.name: s.spec for s in self.suggestions}
        self.about = {s.spec.name: _about(s) for s in self.suggestions}

    def run(self) -> Cell | None:
        """Screen, combine, confirm and train; return the recommended cell, None where nothing gains."""
        self.settings.on_left(sum(s.untried is not None for s in self.suggestions))
        for suggestion in self.suggestions:
            if suggestion.untried is not None:
                name = suggestion.spec.name
                cell = dataclasses.replace(
                    self.plain, remedy_of=self.cell.cell_id, role=remedy_trials.role_of(SCREEN, [name])
                )
                self.rounds.decline(cell, suggestion.untried, self.about[name])
        tried = [s.spec.name for s in self.suggestions if s.untried is None]
        self.compare(SCREEN, [(), *((name,) for name in tried)], SCREEN_PAIRS)
        gaining = remedy_choice.gains(self.trials(), tried)
        chosen = self.combine([name for name in gaining if self.harmless(name, gaining)])
        while chosen and not self.confirmed(chosen):
            harmful = [name for name in chosen if not self.specs[name].same_updates]
            chosen = tuple(name for name in chosen if name != harmful[-1]) if harmful else ()
        if not chosen:
            return None
        changed = remedy_trials.changed(self.plain, [self.specs[name] for name in chosen])
        return remedy_trials.applied(self.cell, self.plain, changed)

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
        self.learn((name,))
        return remedy_choice.keeps_quality(self.trials(), (name,))

    def combine(self, gaining: Sequence[str]) -> Names:
        """Add what gains alone, the largest first, as long as it gains on top of what is there."""
        chosen: Names = tuple(gaining[:1])
        for name in gaining[1:]:
            families = {self.specs[n].family or n for n in chosen}
            more = (*chosen, name)
            if (self.specs[name].family or name) in families or not self.applies(more):
                continue
            self.compare(f"{ADD}{name}", [chosen, more], SCREEN_PAIRS)
            gain = remedy_trials.gain(self.trials(), f"{ADD}{name}", chosen, more)
            if gain is not None and gain.value >= remedy_trials.KEPT_FROM:
                chosen = more
        return chosen

    def confirmed(self, names: Names) -> bool:
        """Measure the whole gain of `names`, train with them, and return whether they are to be recommended."""
        self.learn(names)
        if not remedy_choice.keeps_quality(self.trials(), names):
            return False
        self.compare(CONFIRM, [(), names], self.budget.remedy_pairs)
        gain = remedy_trials.gain(self.trials(), CONFIRM, (), names)
        return gain is not None and gain.low is not None and gain.low > 1

    def applies(self, names: Names) -> bool:
        """Return whether the changes go together."""
        try:
            remedy_trials.changed(self.plain, [self.specs[name] for name in names])
        except DoesNotApply:
            return False
        return True

    def trials(self) -> Trials:
        """Return what is recorded of this cell's trials."""
        return remedy_trials.trials_of(self.rounds.run_dir.records()).get(self.cell.cell_id, Trials({}))

    def compare(self, round_: str, configurations: Sequence[Names], pairs: int) -> None:
        """Run configurations in turns, in processes of their own; every other turn goes backwards: A B B A.

        Turns in which others took the cores do not count and are made up for, at most once over.
        """
        if len(configurations) < 2:
            return
        cells = [self.trial(round_, names) for names in configurations]
        about = {cell.cell_id: self.told(names) for cell, names in zip(cells, configurations, strict=True)}
        keys = {(cell.cell_id, repeat) for cell in cells for repeat in range(pairs)}
        self.settings.on_left(len(keys - self.rounds.settled))
        for repeat in range(2 * pairs):
            if repeat >= pairs:
                if self.complete(round_, configurations, pairs):
                    break
                self.settings.on_left(len({(cell.cell_id, repeat) for cell in cells} - self.rounds.settled))
            self.rounds.trial(cells[:: -1 if repeat % 2 else 1], repeat, about)

    def complete(self, round_: str, configurations: Sequence[Names], pairs: int) -> bool:
        """Return whether each configuration that runs at all has `pairs` quiet pairs with the first."""
        trials, (plain, *others) = self.trials(), configurations
        run = [names for names in others if (trials.first(round_, names) or {}).get("status") == "ok"]
        return all(len(trials.quiet_pairs(round_, plain, names)) >= pairs for names in run)

    def learn(self, names: Names) -> None:
        """Train (or only score, at the stage eval) without and with `names`, with the same seeds."""
        seeds = 1 if self.cell.stage == "eval" else self.budget.remedy_seeds
        for seed in range(self.plain.seed, self.plain.seed + seeds):
            cells = [self.trial(LEARN, configuration, seed) for configuration in ((), names)]
            about = {cell.cell_id: self.told(n) for cell, n in zip(cells, ((), names), strict=True)}
            done = self.rounds.run_dir.settled()
            left = [cell for cell in cells if (cell.cell_id, 0) not in done]
            self.settings.on_left(len(left))
            self.rounds.trial(left, 0, about)

    def trial(self, round_: str, names: Names, seed: int | None = None) -> Cell:
        """Return the cell of a trial."""
        return remedy_trials.trial(self.plain, self.cell.cell_id, round_, [self.specs[n] for n in names], seed)

    def told(self, names: Names) -> dict[str, Any]:
        """Return what the records of a trial say of its remedies."""
        return self.about[names[0]] if len(names) == 1 else {}


def _about(suggestion: Suggestion) -> dict[str, Any]:
    spec, forecast = suggestion.spec, suggestion.forecast
    return {
        "name": spec.name,
        "answers": list(spec.answers),
        "predicted_x": forecast.gain_x,
        "because": forecast.reason,
        "same_updates": spec.same_updates,
    }
