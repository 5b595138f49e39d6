"""Energy and money of a measurement, and when compiling pays off. Pure arithmetic; unknown is None and never zero."""

from __future__ import annotations

SECONDS_PER_HOUR = 3600.0


def joules_per_step(joules: float | None, steps: int | None) -> float | None:
    """Return the energy of one step in joules; None where the energy is not known or no step was taken."""
    return None if joules is None or not steps else joules / steps


def tokens_per_joule(tokens: float | None, joules: float | None) -> float | None:
    """Return tokens per joule; None where either is not known or no energy was seen. Padding is not a token."""
    return None if tokens is None or not joules else tokens / joules


def cost(seconds: float | None, price_per_hour: float | None) -> float | None:
    """Return the cost of `seconds` in the currency of the price; None where no price was given."""
    return None if seconds is None or price_per_hour is None else seconds / SECONDS_PER_HOUR * price_per_hour


def steps_to_pay_off(
    compile_s: float | None, eager_step_s: float | None, compiled_step_s: float | None
) -> float | None:
    """Return the number of steps after which compiling has saved the time that it took.

    compile_s / (eager_step_s - compiled_step_s); 0 where nothing was spent. None where a time is not known, and
    where the compiled step is not the faster one: there is no such step then.
    """
    if compile_s is None or eager_step_s is None or compiled_step_s is None:
        return None
    if compile_s <= 0:
        return 0.0
    saved_s = eager_step_s - compiled_step_s
    return compile_s / saved_s if saved_s > 0 else None
