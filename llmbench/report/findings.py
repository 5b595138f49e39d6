"""The findings that a report begins with, in sentences: the cause that bounds each kind of work, and the advice."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from llmbench.analysis import attribution
from llmbench.report.table import interval_text

if TYPE_CHECKING:
    from llmbench.contract.record import BottleneckRow, CellSummary, Ends, RecommendationRow

#: Stages that train; the others only run the model.
TRAINING = ("pretrain", "finetune")
NAMELESS = (attribution.BALANCED, attribution.UNDECIDED, attribution.UNISOLATED)
#: Phases of a step in words.
PHASE_WORDS = {
    "input": "waiting for data",
    "copy": "copying data to the device",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "optimizer": "the optimizer's update",
    "comm": "communication",
    "idle": "a device that waits for its host",
}
#: Verdicts without a cause, in words.
VERDICT_WORDS = {
    attribution.BALANCED: "no single cause",
    attribution.UNDECIDED: "not decided",
    attribution.UNISOLATED: "not isolated",
}
MEASURE_LONGER = "measure longer, with nothing else running: add --set budget.verify_seconds=60"
NOT_VERIFIED = "a suspect, not a proof"
VERIFY = "have the suspects removed and measured: run the suite with --set verify=verdict"


@dataclass(frozen=True)
class Workload:
    """One cell of a finding: its verdict in words, and the headroom (x) of the cause with its interval."""

    label: str
    verdict: str
    measured_x: float | None
    ci: Ends | None
    #: Whether the verdict names a cause.
    names_cause: bool


@dataclass(frozen=True)
class Answer:
    """A cause that bounds some cells of a finding: its name in words, its class, its meaning, the change to make."""

    name: str
    cause_class: str | None
    meaning: str
    change: str | None


@dataclass(frozen=True)
class Finding:
    """The result for one kind of work (a model's training, say): a headline, its numbers, and the advice.

    `cause` is the cause that bounds most of its cells, in words; None if no cause is named. `meaning` explains the
    cause. The headrooms are those of the cell with the largest. `others` is a sentence about the other cells.
    `workloads` are its cells one by one, if causes were tried. `answers` are all causes that are named, `cause` first.
    """

    what: str
    where: str
    headline: str
    sentence: str
    advice: str
    cause: str | None = None
    cause_class: str | None = None
    meaning: str = ""
    predicted_x: float | None = None
    measured_x: float | None = None
    ci: Ends | None = None
    others: str | None = None
    workloads: Sequence[Workload] = ()
    answers: Sequence[Answer] = ()

    @property
    def text(self) -> str:
        """The finding as one line of plain text."""
        meaning = f" ({self.cause}: {self.meaning})" if self.meaning else ""
        parts = [f"{self.what} ({self.where}): {self.headline}{meaning}.", self.sentence]
        parts += [f"What to do: {self.advice}."]
        return " ".join([*parts, *([self.others] if self.others else [])])


def derive_findings(
    cells: Sequence[CellSummary],
    descriptions: Mapping[str, str] | None = None,
    recommended: Sequence[RecommendationRow] = (),
    *,
    several: bool = False,
) -> list[Finding]:
    """Return a finding per run, model, device, precision and kind of work; of several runs, proven ones come first.

    `cells` are summaries; those of `several` runs have the name of theirs in `run`. `descriptions` explains the causes.
    `recommended` are configurations that were tried: these come before advice that was not tried.
    """
    tried = {(row.get("run"), row["cell_id"]): row for row in recommended if row["measured_x"] is not None}
    groups: dict[_Work, list[CellSummary]] = {}
    for cell in cells:
        if cell["step_ms"] is not None:
            kind = "training" if cell["stage"] in TRAINING else "inference"
            work = _Work(cell["run"] if several else None, cell["device"], cell["precision"], kind, cell["model"])
            groups.setdefault(work, []).append(cell)
    findings = [
        _add_trial_result(
            _finding(work, group, descriptions or {}),
            [(cell, tried.get((cell.get("run"), cell["cell_id"]))) for cell in group],
        )
        for work, group in groups.items()
    ]
    return sorted(findings, key=_rank) if several else findings


class _Work(NamedTuple):
    """The kind of work that a finding is about."""

    run: str | None
    device: str
    precision: str
    kind: str
    model: str


def _rank(finding: Finding) -> int:
    """Return 0 for a proven cause, 1 for causes that were tried and are open, 2 for suspects only."""
    return 0 if finding.cause else 1 if finding.headline in VERDICT_WORDS.values() else 2


def _add_trial_result(finding: Finding, tried: Sequence[tuple[CellSummary, RecommendationRow | None]]) -> Finding:
    """Return the finding with the best configuration that was tried on its cells, if any was."""
    gains = [
        (gain, cell, row)
        for cell, row in tried
        if row is not None and row["remedies"] and (gain := row["measured_x"]) is not None
    ]
    if not gains:
        return finding
    gain, cell, row = max(gains, key=lambda one: one[0])
    sure = f", 95 % interval {interval_text(row['ci'])}" if row["ci"] else ""
    done = f"{' and '.join(row['remedies'])}: tried here, it makes {label(cell)} {gain:.2f}x as fast (measured{sure})"
    return dataclasses.replace(finding, advice=f"{done}; in general: {finding.advice}")


def _finding(work: _Work, cells: Sequence[CellSummary], descriptions: Mapping[str, str]) -> Finding:
    what = f"{work.model} {work.kind}"
    where = ", ".join(str(part) for part in (work.run, work.device, work.precision) if part)
    causes: dict[str, list[CellSummary]] = {}
    for cell in cells:
        if cell["verdict"] is not None:
            causes.setdefault(cell["verdict"], []).append(cell)
    if not causes:
        return Finding(what, where, *_describe_suspects(cells))
    named = [name for name in causes if name not in NAMELESS]
    workloads = [_workload(cell) for cell in cells if cell["verdict"] is not None]
    if not named:
        return Finding(what, where, *_describe_open(causes, descriptions), workloads=workloads)
    name = max(named, key=lambda one: (len(causes[one]), _typical(causes[one])))
    best = max(causes[name], key=lambda cell: cell["headroom_measured_x"] or 0.0)
    return Finding(
        what,
        where,
        _headline(causes, name),
        _sentence(name, best),
        (advice_for(best) or descriptions.get(name) or "see the table") + _advise_more_measuring(causes),
        cause=to_words(name),
        cause_class=best["verdict_class"],
        meaning=descriptions.get(name, ""),
        predicted_x=best["headroom_predicted_x"],
        measured_x=best["headroom_measured_x"],
        ci=best["headroom_ci"],
        others=_others(causes, name, descriptions),
        workloads=workloads,
        answers=_answers(causes, name, descriptions),
    )


def _answers(causes: Mapping[str, Sequence[CellSummary]], name: str, descriptions: Mapping[str, str]) -> list[Answer]:
    """Return the named causes: `name` first, then those of most cells; last, how to decide the open cells."""
    named = sorted((one for one in causes if one not in NAMELESS), key=lambda one: (one != name, -len(causes[one])))
    answers = []
    for one in named:
        cell = causes[one][0]
        answers.append(Answer(to_words(one), cell["verdict_class"], descriptions.get(one, ""), changes_of(cell)))
    if attribution.UNDECIDED in causes and not _advise_more_measuring(causes):
        answers.append(Answer(VERDICT_WORDS[attribution.UNDECIDED], None, "", MEASURE_LONGER))
    return answers


def changes_of(cell: CellSummary) -> str | None:
    """Return the changes that are advised for the verdict of a cell; None without advice."""
    return None if cell["advice"] is None else changes(cell)


def _advise_more_measuring(causes: Mapping[str, Sequence[CellSummary]]) -> str:
    """Return the advice for workloads that are undecided, if these are more than half."""
    open_ = len(causes.get(attribution.UNDECIDED, ()))
    return f"; to decide the rest, {MEASURE_LONGER}" if 2 * open_ > sum(map(len, causes.values())) else ""


def _headline(causes: Mapping[str, Sequence[CellSummary]], name: str) -> str:
    """Return the headline of a kind of work; it gives numbers where a cause bounds half of the workloads or fewer."""
    count, tried = len(causes[name]), sum(map(len, causes.values()))
    if tried == 1:
        return f"bounded by {to_words(name)}"
    if 2 * count > tried:
        return f"bounded by {to_words(name)} in {'all' if count == tried else f'{count} of'} {tried} workloads"
    order = sorted(causes, key=lambda one: (-len(causes[one]), one != name))
    parts = [f"{VERDICT_WORDS.get(one) or to_words(one)} in {len(causes[one])}" for one in order]
    parts[0] += f" of {tried} workloads"
    return ", ".join(parts)


def _workload(cell: CellSummary) -> Workload:
    name, leading = str(cell["verdict"]), cell["leading"]
    verdict = to_words(name)
    if name in NAMELESS:
        verdict = VERDICT_WORDS[name] + (f"; largest: {to_words(leading)}" if leading else "")
    return Workload(label(cell), verdict, cell["headroom_measured_x"], cell["headroom_ci"], name not in NAMELESS)


#: Separates, in the advice of a cause's plugin, the changes from the names of the remedies that try some of them.
REMEDIES = "; remedies: "


def changes(cell: CellSummary) -> str:
    """Return the changes that are advised for the verdict of a cell, as far as its device can have them."""
    every = str(cell["advice"]).partition(REMEDIES)[0]
    if not str(cell["device"]).startswith("cpu"):
        return every
    return ", ".join(part for part in every.split(", ") if "CUDA" not in part) or every


def advice_for(cell: CellSummary) -> str | None:
    """Return the advice for the verdict of a cell, as far as it applies to its device, and the option that tries it."""
    if cell["advice"] is None:
        return None
    remedies = str(cell["advice"]).partition(REMEDIES)[2]
    return changes(cell) + ("; llmbench tries what it can of this with --remedies" if remedies else "")


def _typical(cells: Sequence[CellSummary]) -> float:
    return statistics.median(cell["headroom_measured_x"] or 1.0 for cell in cells)


def _sentence(name: str, best: CellSummary) -> str:
    """Return the gain of removing the cause where it is largest: measured with its interval, and predicted."""
    measured, predicted, ci = best["headroom_measured_x"], best["headroom_predicted_x"], best["headroom_ci"]
    low = next((row["low"] for row in best["bottlenecks"] if row["cause"] == name), None)
    sure = f", 95 % interval {interval_text(ci)}" if ci else f", at least {low:.2f}x" if low else ""
    text = f"Without it, {label(best)} would run {measured:.2f}x as fast (measured{sure}"
    return text + (f"; predicted {predicted:.2f}x)." if predicted is not None else ").")


def _describe_open(
    causes: Mapping[str, Sequence[CellSummary]], descriptions: Mapping[str, str]
) -> tuple[str, str, str]:
    """Return headline, sentence and advice for cells none of which has a named cause."""
    name = max(causes, key=lambda one: len(causes[one]))
    rows = [(row, cell) for cells in causes.values() for cell in cells for row in cell["bottlenecks"]]
    measured = [(gain, row, cell) for row, cell in rows if (gain := row["measured_x"]) is not None]
    predicted = [(gain, row, cell) for row, cell in rows if (gain := row["predicted_x"]) is not None]
    headline, advice = VERDICT_WORDS[name], MEASURE_LONGER
    if name == attribution.BALANCED:
        advice = "no single change will do; a smaller model, lower precision or a faster machine would"
        text = f"No cause that was removed gives more than {attribution.THRESHOLD - 1:.0%} with confidence"
    else:
        text = "A cause may matter, but the measurements do not settle it"
    if measured or predicted:
        value, row, cell = max(measured or predicted, key=_gain)
        meaning = f" ({descriptions[row['cause']]})" if row["cause"] in descriptions else ""
        how = "predicted, could not be measured"
        if measured:
            how = "measured" + (f", 95 % interval {interval_text(row['ci'])}" if row["ci"] else "")
        text += f"; the largest is {to_words(row['cause'])}{meaning} in {label(cell)}, {value:.2f}x ({how})"
        if name != attribution.BALANCED and row["advice"]:
            advice += f"; if it is the {to_words(row['cause'])}: {row['advice']}"
    return headline, text + ".", advice


def _gain(of_row: tuple[float, BottleneckRow, CellSummary]) -> float:
    return of_row[0]


def to_words(name: str) -> str:
    """Return the name of a cause as words."""
    return name.replace("_", " ")


def label(cell: CellSummary) -> str:
    """Return the name of a cell among those of its model: stage, task, and the options that vary."""
    task = "" if cell["stage"] == "pretrain" else f" {cell['task']}"
    return f"{cell['stage']}{task}" + (f" ({cell['variant']})" if cell.get("variant") else "")


def _others(causes: Mapping[str, Sequence[CellSummary]], name: str, descriptions: Mapping[str, str]) -> str | None:
    """Return a sentence about the cells that the headline is not about: their causes, and the changes to make."""
    parts = []
    for other, cells in sorted(causes.items(), key=lambda pair: -len(pair[1])):
        if other != name:
            gains = [gain for cell in cells if (gain := cell["headroom_measured_x"]) is not None]
            up_to = f", up to {max(gains):.2f}x" if gains else ""
            labels = ", ".join(label(cell) for cell in cells[:3]) + (" ..." if len(cells) > 3 else "")
            what = f" ({descriptions[other]})" if other in descriptions else ""
            change = changes_of(cells[0]) if other not in NAMELESS else None
            do = f", to do: {change}" if change else ""
            parts.append(f"{VERDICT_WORDS.get(other) or to_words(other)}{what}{up_to} in {labels}{do}")
    return "The other workloads: " + "; ".join(parts) + "." if parts else None


def _describe_suspects(cells: Sequence[CellSummary]) -> tuple[str, str, str]:
    """Return headline, sentence and advice for cells whose causes were not tried: the phase that takes most time."""
    suspects: dict[str, list[float]] = {}
    for cell in cells:
        if cell["suspect"] is not None and cell["suspect_share"] is not None:
            suspects.setdefault(cell["suspect"], []).append(cell["suspect_share"])
    if not suspects:
        return "not known", "Where its time goes was not measured.", VERIFY
    name = max(suspects, key=lambda one: len(suspects[one]))
    share = statistics.median(suspects[name])
    text = f"{PHASE_WORDS[name].capitalize()} takes {share:.0%} of a step ({NOT_VERIFIED})."
    return f"mostly {PHASE_WORDS[name]}", text, VERIFY
