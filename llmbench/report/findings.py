"""What a report says first, in sentences: what bounds each kind of work, how sure that is, and what to do."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.analysis import attribution

Cell = Mapping[str, Any]

#: Stages that train; the others only run the model.
TRAINING = ("pretrain", "finetune")
NAMELESS = (attribution.BALANCED, attribution.UNDECIDED, attribution.UNISOLATED)
#: What a phase of a step is, in words.
PHASE_WORDS = {
    "input": "waiting for data",
    "copy": "copying data to the device",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer's update",
    "comm": "communication",
    "idle": "a device that waits for its host",
}
#: Verdicts without a cause, as a headline and as what to do.
SAID = {
    attribution.BALANCED: "no single cause",
    attribution.UNDECIDED: "not decided",
    attribution.UNISOLATED: "not isolated",
}
SETTLE = "measure longer, with nothing else running: add --set budget.verify_seconds=60"
NOT_VERIFIED = "a suspect, not a proof"
VERIFY = "have the suspects removed and measured: run the suite with --set verify=verdict"


@dataclass(frozen=True)
class Workload:
    """One cell of a finding: what bounds it, in words, the headroom of that (x) with its interval, if it is settled."""

    label: str
    said: str
    measured_x: float | None
    ci: Sequence[float] | None
    settled: bool


@dataclass(frozen=True)
class Answer:
    """A cause that bounds some of the cells of a finding: its name in words, its class, what it is, what to change."""

    name: str
    cause_class: str | None
    meaning: str
    change: str | None


@dataclass(frozen=True)
class Finding:
    """What bounds one kind of work (a model's training, say): a headline, the numbers behind it, what to do.

    `bound` names the cause of most of its cells, None where none is named, and `meaning` says what that is; `headline`
    says it in words. Headrooms are those of the cell with the largest; `others` says what bounds the rest. `workloads`
    are its cells one by one, where causes were tried, and `answers` all causes that are named for them, `bound` first.
    """

    what: str
    where: str
    headline: str
    sentence: str
    advice: str
    bound: str | None = None
    cause_class: str | None = None
    meaning: str = ""
    predicted_x: float | None = None
    measured_x: float | None = None
    ci: Sequence[float] | None = None
    others: str | None = None
    workloads: Sequence[Workload] = ()
    answers: Sequence[Answer] = ()

    @property
    def text(self) -> str:
        """The finding as one line of plain text."""
        meaning = f" ({self.bound}: {self.meaning})" if self.meaning else ""
        parts = [f"{self.what} ({self.where}): {self.headline}{meaning}.", self.sentence]
        parts += [f"What to do: {self.advice}."]
        return " ".join([*parts, *([self.others] if self.others else [])])


def derive_findings(
    cells: Sequence[Cell],
    descriptions: Mapping[str, str] | None = None,
    recommended: Sequence[Mapping[str, Any]] = (),
    *,
    several: bool = False,
) -> list[Finding]:
    """Return a finding per run, model, device, precision and kind of work; of several runs, proven ones come first.

    `cells` are summaries, of `several` runs with the name of theirs in `run`; `descriptions` says what a cause is.
    `recommended` are configurations that were tried (`report.remedies`): they come before what is only advised.
    """
    tried = {(row.get("run"), row["cell_id"]): row for row in recommended if row["measured_x"] is not None}
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        if cell["step_ms"] is not None:
            kind = "training" if cell["stage"] in TRAINING else "inference"
            key = (cell["run"] if several else None, cell["device"], cell["precision"], kind, cell["model"])
            groups.setdefault(key, []).append(cell)
    found = [
        _advised(
            _finding(key, group, descriptions or {}),
            [(cell, tried.get((cell.get("run"), cell["cell_id"]))) for cell in group],
        )
        for key, group in groups.items()
    ]
    return sorted(found, key=_rank) if several else found


def _rank(finding: Finding) -> int:
    """Return 0 for what is proven, 1 for what was tried and is open, 2 for mere suspects."""
    return 0 if finding.bound else 1 if finding.headline in SAID.values() else 2


def _advised(finding: Finding, tried: Sequence[tuple[Cell, Mapping[str, Any] | None]]) -> Finding:
    """Return the finding with the configuration that gave most of those that were tried on its cells, if any was."""
    found = [(row["measured_x"], cell, row) for cell, row in tried if row is not None and row["remedies"]]
    if not found:
        return finding
    gain, cell, row = max(found, key=lambda one: one[0])
    sure = f", 95 % interval {row['ci'][0]:.2f} - {row['ci'][1]:.2f}" if row["ci"] else ""
    done = f"{' and '.join(row['remedies'])}: tried here, it makes {label(cell)} {gain:.2f}x as fast (measured{sure})"
    return dataclasses.replace(finding, advice=f"{done}; in general: {finding.advice}")


def _finding(key: tuple[Any, ...], cells: Sequence[Cell], descriptions: Mapping[str, str]) -> Finding:
    run, device, precision, kind, model = key
    what, where = f"{model} {kind}", ", ".join(str(part) for part in (run, device, precision) if part)
    causes: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell["verdict"] is not None:
            causes.setdefault(cell["verdict"], []).append(cell)
    if not causes:
        return Finding(what, where, *_suspected(cells))
    named = [name for name in causes if name not in NAMELESS]
    workloads = [_workload(cell) for cell in cells if cell["verdict"] is not None]
    if not named:
        return Finding(what, where, *_open(causes, descriptions), workloads=workloads)
    name = max(named, key=lambda one: (len(causes[one]), _typical(causes[one])))
    best = max(causes[name], key=lambda cell: cell["headroom_measured_x"] or 0.0)
    return Finding(
        what,
        where,
        _headline(causes, name),
        _sentence(name, best),
        (advice_for(best) or descriptions.get(name) or "see the table") + _settle(causes),
        bound=spoken(name),
        cause_class=best["verdict_class"],
        meaning=descriptions.get(name, ""),
        predicted_x=best["headroom_predicted_x"],
        measured_x=best["headroom_measured_x"],
        ci=best["headroom_ci"],
        others=_others(causes, name, descriptions),
        workloads=workloads,
        answers=_answers(causes, name, descriptions),
    )


def _answers(causes: Mapping[str, Sequence[Cell]], name: str, descriptions: Mapping[str, str]) -> list[Answer]:
    """Return the causes by name, `name` first, then by how many cells they bound; and how to settle what is open."""
    named = sorted((one for one in causes if one not in NAMELESS), key=lambda one: (one != name, -len(causes[one])))
    found = []
    for one in named:
        cell = causes[one][0]
        found.append(Answer(spoken(one), cell["verdict_class"], descriptions.get(one, ""), changes_of(cell)))
    if attribution.UNDECIDED in causes and not _settle(causes):
        found.append(Answer(SAID[attribution.UNDECIDED], None, "", SETTLE))
    return found


def changes_of(cell: Cell) -> str | None:
    """Return the changes that are advised for what bounds a cell, None where none are."""
    return None if cell["advice"] is None else changes(cell)


def _settle(causes: Mapping[str, Sequence[Cell]]) -> str:
    """Return what to do about workloads that are open, where they are many."""
    open_ = len(causes.get(attribution.UNDECIDED, ()))
    return f"; to decide the rest, {SETTLE}" if 2 * open_ > sum(map(len, causes.values())) else ""


def _headline(causes: Mapping[str, Sequence[Cell]], name: str) -> str:
    """Return the headline of a kind of work; a cause of half of them or fewer is not made to sound like all."""
    count, tried = len(causes[name]), sum(map(len, causes.values()))
    if tried == 1:
        return f"bounded by {spoken(name)}"
    if 2 * count > tried:
        return f"bounded by {spoken(name)} in {'all' if count == tried else f'{count} of'} {tried} workloads"
    order = sorted(causes, key=lambda one: (-len(causes[one]), one != name))
    parts = [f"{SAID.get(one) or spoken(one)} in {len(causes[one])}" for one in order]
    parts[0] += f" of {tried} workloads"
    return ", ".join(parts)


def _workload(cell: Cell) -> Workload:
    said, leading = spoken(cell["verdict"]), cell["leading"]
    if cell["verdict"] in NAMELESS:
        said = SAID[cell["verdict"]] + (f"; largest: {spoken(leading)}" if leading else "")
    settled = cell["verdict"] not in NAMELESS
    return Workload(label(cell), said, cell["headroom_measured_x"], cell["headroom_ci"], settled)


#: What stands between the changes that a cause's plugin advises and the names of the remedies that try some of them.
REMEDIES = "; remedies: "


def changes(cell: Cell) -> str:
    """Return the changes that are advised for what bounds a cell, those that its device can have."""
    found = str(cell["advice"]).partition(REMEDIES)[0]
    if not str(cell["device"]).startswith("cpu"):
        return found
    return ", ".join(part for part in found.split(", ") if "CUDA" not in part) or found


def advice_for(cell: Cell) -> str | None:
    """Return the advice for what bounds a cell, as far as it applies to its device; and how to have it tried."""
    if cell["advice"] is None:
        return None
    remedies = str(cell["advice"]).partition(REMEDIES)[2]
    return changes(cell) + ("; llmbench tries what it can of this with --remedies" if remedies else "")


def _typical(cells: Sequence[Cell]) -> float:
    return statistics.median(cell["headroom_measured_x"] or 1.0 for cell in cells)


def _sentence(name: str, best: Cell) -> str:
    """Return what removing the cause gives, where it gives most: measured, how sure that is, and predicted."""
    measured, predicted, ci = best["headroom_measured_x"], best["headroom_predicted_x"], best["headroom_ci"]
    low = next((row["low"] for row in best["bottlenecks"] if row["cause"] == name), None)
    sure = f", 95 % interval {ci[0]:.2f} - {ci[1]:.2f}" if ci else f", at least {low:.2f}x" if low else ""
    text = f"Without it, {label(best)} would run {measured:.2f}x as fast (measured{sure}"
    return text + (f"; predicted {predicted:.2f}x)." if predicted is not None else ").")


def _open(causes: Mapping[str, Sequence[Cell]], descriptions: Mapping[str, str]) -> tuple[str, str, str]:
    """Return headline, sentence and what to do for cells of which none has a cause by name."""
    name = max(causes, key=lambda one: len(causes[one]))
    rows = [(row, cell) for cells in causes.values() for cell in cells for row in cell["bottlenecks"]]
    seen = [(row["measured_x"], row, cell) for row, cell in rows if row["measured_x"] is not None]
    guess = [(row["predicted_x"], row, cell) for row, cell in rows if row["predicted_x"] is not None]
    headline, advice = SAID[name], SETTLE
    if name == attribution.BALANCED:
        advice = "no single change will do; a smaller model, lower precision or a faster machine would"
        text = f"No cause that was removed gives more than {attribution.THRESHOLD - 1:.0%} with confidence"
    else:
        text = "A cause may matter, but the measurements do not settle it"
    if seen or guess:
        value, row, cell = max(seen or guess, key=lambda one: one[0])
        meaning = f" ({descriptions[row['cause']]})" if row["cause"] in descriptions else ""
        how = "predicted, could not be measured"
        if seen:
            how = "measured" + (f", 95 % interval {row['ci'][0]:.2f} - {row['ci'][1]:.2f}" if row["ci"] else "")
        text += f"; the largest is {spoken(row['cause'])}{meaning} in {label(cell)}, {value:.2f}x ({how})"
        if name != attribution.BALANCED and row["advice"]:
            advice += f"; if it is the {spoken(row['cause'])}: {row['advice']}"
    return headline, text + ".", advice


def spoken(name: str) -> str:
    """Return the name of a cause as words."""
    return name.replace("_", " ")


def label(cell: Cell) -> str:
    """Return what tells a cell from others of its model: stage, task, and what else varies."""
    task = "" if cell["stage"] == "pretrain" else f" {cell['task']}"
    return f"{cell['stage']}{task}" + (f" ({cell['variant']})" if cell.get("variant") else "")


def _others(causes: Mapping[str, Sequence[Cell]], name: str, descriptions: Mapping[str, str]) -> str | None:
    """Return what bounds the cells that the headline is not about, and what to change for them."""
    parts = []
    for other, cells in sorted(causes.items(), key=lambda pair: -len(pair[1])):
        if other != name:
            gains = [cell["headroom_measured_x"] for cell in cells if cell["headroom_measured_x"] is not None]
            gain = f", up to {max(gains):.2f}x" if gains else ""
            labels = ", ".join(label(cell) for cell in cells[:3]) + (" ..." if len(cells) > 3 else "")
            what = f" ({descriptions[other]})" if other in descriptions else ""
            change = changes_of(cells[0]) if other not in NAMELESS else None
            do = f", to do: {change}" if change else ""
            parts.append(f"{SAID.get(other) or spoken(other)}{what}{gain} in {labels}{do}")
    return "The other workloads: " + "; ".join(parts) + "." if parts else None


def _suspected(cells: Sequence[Cell]) -> tuple[str, str, str]:
    """Return headline, sentence and what to do for cells whose causes were not tried: where most time goes."""
    suspects: dict[str, list[float]] = {}
    for cell in cells:
        if cell["suspect"] is not None:
            suspects.setdefault(cell["suspect"], []).append(cell["suspect_share"])
    if not suspects:
        return "not known", "Where its time goes was not measured.", VERIFY
    name = max(suspects, key=lambda one: len(suspects[one]))
    share = statistics.median(suspects[name])
    text = f"{PHASE_WORDS[name].capitalize()} takes {share:.0%} of a step ({NOT_VERIFIED})."
    return f"mostly {PHASE_WORDS[name]}", text, VERIFY
