"""Which remedies to try on a measured cell, and what their trials show. Pure functions of cells and records.

A trial is a cell of its own: the cell with the remedies' changes, `remedy_of` and a `role`, `ROUND:NAMES` (names
joined by `+`; none for the configuration as it was). Trials of a round run in turns, each in a process of its own, and
repeat i of two of them is a pair. Rounds: `screen` tries each remedy alone, `add-NAME` one more on top of those kept so
far, `confirm` the recommended configuration against the plain one; `learn` trains (one cell per seed) and scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmbench.analysis import attribution
from llmbench.analysis.remedy_trials import (
    BETTER,
    LEAST_GAIN_X,
    SCREEN,
    UNCHANGED,
    Names,
    Record,
    Trials,
    gain,
    quality_change,
)
from llmbench.contract.cell import Cell
from llmbench.contract.errors import DoesNotApply, LlmbenchError
from llmbench.contract.specs import Forecast, RemedySpec

LEAST_FORECAST_X = 1.02  # predictions below are not tried


@dataclass(frozen=True)
class Suggestion:
    """A remedy for a cell: what it should give, or why it is not tried (`why_not`)."""

    spec: RemedySpec
    forecast: Forecast
    why_not: str | None = None


# --- trials as cells ------------------------------------------------------------------------------------


# --- what to try ----------------------------------------------------------------------------------------


def causes_of(records: Sequence[Record]) -> set[str]:
    """Return the causes of a cell (its good `records`) that are material, or may be: that give 1.10x as measured, or as
    predicted where they were not measured. What the verdict names is among them."""
    found = set()
    for row in attribution.bottlenecks(records):
        size = row["predicted_x"] if row["measured_x"] is None else row["measured_x"]
        if row["material"] or (size is not None and size >= attribution.THRESHOLD):
            found.add(row["cause"])
    return found


def suggest(
    plain: Cell,
    records: Sequence[Record],
    ceilings: Mapping[str, Any],
    specs: Iterable[RemedySpec],
    *,
    everything: bool = False,
) -> list[Suggestion]:
    """Return what answers the verdict, and the general remedies (or `everything`), with what each should give.

    What does not apply, or is predicted to give less than 2 %, comes with the reason and is not tried.
    """
    causes = causes_of(records)
    record = next((r for r in records if r.get("interventions")), records[0])
    found = []
    for spec in specs:
        if everything or spec.general or causes & set(spec.answers):
            found.append(_suggestion(plain, record, ceilings, spec))
    return sorted(found, key=lambda s: -(s.forecast.gain_x or 0.0))


def _suggestion(plain: Cell, record: Record, ceilings: Mapping[str, Any], spec: RemedySpec) -> Suggestion:
    kind = plain.device.partition(":")[0]
    if kind not in spec.devices:
        return Suggestion(spec, Forecast(None), f"does not apply on {kind}")
    try:
        spec.change(plain)
        forecast = spec.predict(record, ceilings)
    except DoesNotApply as reason:
        return Suggestion(spec, Forecast(None), f"does not apply: {reason}")
    except LlmbenchError:
        raise
    except Exception as error:  # a plugin's
        return Suggestion(spec, Forecast(None), f"failed: {type(error).__name__}: {' '.join(str(error).split())}")
    if forecast.gain_x is not None and forecast.gain_x < LEAST_FORECAST_X:
        return Suggestion(spec, forecast, f"predicted to give {forecast.gain_x:.2f}x")
    return Suggestion(spec, forecast)


# --- what trials show -----------------------------------------------------------------------------------


def gains(trials: Trials, names: Iterable[str]) -> list[str]:
    """Return those that gained at least 3 % alone, the largest first."""
    found = {name: gain(trials, SCREEN, (), (name,)) for name in names}
    ranked = sorted((n for n, g in found.items() if g), key=lambda n: -found[n].value)  # type: ignore[union-attr]
    return [n for n in ranked if found[n].value >= LEAST_GAIN_X]  # type: ignore[union-attr]


def keeps_quality(trials: Trials, names: Names) -> bool:
    """Return whether training with `names` is known not to make the result worse."""
    change = quality_change(trials, names)
    return change is not None and change["outcome"] in (UNCHANGED, BETTER)
