"""Which remedies are worth trying on a measured cell, and which to keep after their trials. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llmbench.analysis import attribution
from llmbench.analysis.remedy_trials import (
    BETTER,
    LEAST_GAIN_X,
    SCREEN,
    UNCHANGED,
    Names,
    Trials,
    gain,
    quality_change,
)
from llmbench.contract.cell import Cell
from llmbench.contract.errors import DoesNotApply, LlmbenchError
from llmbench.contract.specs import Forecast, RemedySpec

if TYPE_CHECKING:
    from llmbench.contract.record import Ceilings, Record

LEAST_FORECAST_X = 1.02  # of throughput: a remedy that is predicted to give less is not tried


@dataclass(frozen=True)
class Suggestion:
    """A remedy for a cell, and its predicted gain."""

    spec: RemedySpec
    forecast: Forecast
    why_not: str | None = None  # why it is not tried


def causes_of(records: Sequence[Record]) -> set[str]:
    """Return the causes of a cell (its good `records`) that are material, or may be.

    Those are the causes with a headroom of 1.10x as measured, or as predicted where they were not measured. The causes
    that the verdict names are among them.
    """
    causes = set()
    for row in attribution.bottlenecks(records):
        size = row["predicted_x"] if row["measured_x"] is None else row["measured_x"]
        if row["material"] or (size is not None and size >= attribution.THRESHOLD):
            causes.add(row["cause"])
    return causes


def suggest(
    plain: Cell,
    records: Sequence[Record],
    ceilings: Ceilings,
    specs: Iterable[RemedySpec],
    *,
    everything: bool = False,
) -> list[Suggestion]:
    """Return the remedies that answer the verdict, and the general ones (or `everything`), the largest gain first.

    A remedy that does not apply, or is predicted to give less than 2 %, comes with the reason and is not tried.
    """
    causes = causes_of(records)
    record = next((r for r in records if r.get("interventions")), records[0])
    suggestions = [
        _suggestion(plain, record, ceilings, spec)
        for spec in specs
        if everything or spec.general or causes & set(spec.answers)
    ]
    return sorted(suggestions, key=lambda s: -(s.forecast.gain_x or 0.0))


def _suggestion(plain: Cell, record: Record, ceilings: Ceilings, spec: RemedySpec) -> Suggestion:
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


def rank_gains(trials: Trials, names: Iterable[str]) -> list[str]:
    """Return the names of the remedies that gained at least 3 % alone, the largest first."""
    gains = {name: own.value for name in names if (own := gain(trials, SCREEN, (), (name,)))}
    return sorted((name for name, value in gains.items() if value >= LEAST_GAIN_X), key=lambda name: -gains[name])


def keeps_quality(trials: Trials, names: Names) -> bool:
    """Return whether training with `names` is known not to make the result worse."""
    change = quality_change(trials, names)
    return change is not None and change["outcome"] in (UNCHANGED, BETTER)
