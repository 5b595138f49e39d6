"""Sizes of models as suites name them: `NAME`, `NAME:KEY=VALUE,...` and `...*FACTOR`.

`tiny:hidden=128,layers=4` is the size `tiny` with other values of its configuration (`ModelSpec.sizes`);
`tiny*2` has twice its parameters, `tiny*0.125` an eighth, as near as whole numbers allow (`ModelSpec.wider`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.contract.errors import PluginError, did_you_mean
from llmbench.contract.specs import BuildRequest, Config, ModelSpec, SpecialTokens

#: Widths that are tried for a factor, in units of the width that it is taken from.
LEAST_WIDTH_X, MOST_WIDTH_X = 1e-4, 1e3


@dataclass(frozen=True)
class Size:
    """A size, parsed. `settings` replace values of the configuration; then parameters are multiplied by `factor`."""

    name: str
    settings: tuple[tuple[str, str], ...] = ()
    factor: float = 1.0

    def __str__(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in self.settings)
        factor = "" if self.factor == 1 else f"*{self.factor:.6g}"
        return self.name + (f":{settings}" if settings else "") + factor


@functools.lru_cache(maxsize=1024)
def parse_size(text: str) -> Size:
    """Return the parts of `text`. Raises PluginError, one line, where it is not of that form."""
    head, star, factor = text.partition("*")
    name, colon, settings = head.partition(":")
    pairs = [tuple(word.strip() for word in pair.partition("=")[::2]) for pair in settings.split(",")] if colon else []
    try:
        value = float(factor) if star else 1.0
    except ValueError:
        value = math.nan
    if not name.strip() or any(not key or not value for key, value in pairs) or not 0 < value < math.inf:
        raise PluginError(f"size {text!r}: write NAME, NAME:KEY=VALUE,KEY=VALUE or NAME*FACTOR, such as tiny*2")
    return Size(name.strip(), tuple((key, value) for key, value in pairs), value)


def times(text: str, factor: float) -> str:
    """Return the size with `factor` times the parameters: twice `tiny*0.5` is `tiny`."""
    size = parse_size(text)
    return str(Size(size.name, size.settings, size.factor * factor))


def with_settings(text: str, settings: Mapping[str, object]) -> str:
    """Return the size with these values of its configuration."""
    size = parse_size(text)
    merged = dict(size.settings) | {key: str(value) for key, value in settings.items()}
    return str(Size(size.name, tuple(merged.items()), size.factor))


def configuration(model: ModelSpec, text: str, vocab_size: int) -> Config:
    """Return the configuration of `model` that `text` names.

    Raises PluginError, one line, for an unknown size or key, a value of another type, and a factor of a model that
    cannot be scaled.
    """
    return scale_size(model, text, vocab_size)[0]


def scale_size(model: ModelSpec, text: str, vocab_size: int) -> tuple[Config, float]:
    """Return the configuration of a size, and how much wider it is than without the factor.

    Raises PluginError as `configuration` does. A learning rate is divided by that width: with Adam, a step moves the
    output of a network in proportion to its width. A wider network would learn faster as well, and a lack of training
    would look like a lack of capacity (Yang et al. 2021, "Tensor programs V", arXiv 2203.03466, table 3).
    """
    size = parse_size(text)
    if size.name not in model.sizes:
        raise PluginError(f"model {model.name!r} has no size {size.name!r}{did_you_mean(size.name, model.sizes)}")
    config = dict(model.sizes[size.name])
    for key, value in size.settings:
        if key not in config:
            raise PluginError(f"size {text!r} of model {model.name!r} has no {key!r}{did_you_mean(key, config)}")
        config[key] = _parse_value(text, key, value, config[key])
    if size.factor == 1:
        return config, 1.0
    count = parameters(model, config, vocab_size)
    if model.wider is None or count is None:
        missing = "`wider`" if model.wider is None else "`parameters`"
        raise PluginError(f"size {text!r}: model {model.name!r} cannot be scaled; its plugin gives no {missing}")
    x = _width_x(model, config, vocab_size, count * size.factor)
    return model.wider(config, x), x


def parameters(model: ModelSpec, config: Config, vocab_size: int) -> int | None:
    """Return the number of parameters with the model's first head, two classes; None where its plugin has no count."""
    if model.parameters is None:
        return None
    special, head = SpecialTokens(*range(6)), next(iter(model.layouts))
    return model.parameters(BuildRequest(head, "", config, vocab_size, special, seq_len=8, target_len=8, num_labels=2))


def _width_x(model: ModelSpec, config: Config, vocab_size: int, wanted: float) -> float:
    """Return the width, times the configuration's own, whose number of parameters is nearest to `wanted` by ratio.

    Bisection on a logarithmic scale: the number is a staircase that grows with the width.
    """

    def off(x: float) -> float:
        count = parameters(model, model.wider(config, x), vocab_size)  # type: ignore[misc]
        return math.log((count or 1) / wanted)

    low, high = LEAST_WIDTH_X, MOST_WIDTH_X
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if off(middle) < 0 else (low, middle)
    return min((low, high), key=lambda x: abs(off(x)))


def _parse_value(text: str, key: str, value: str, default: Any) -> Any:
    """Return `value` in the type of `default`, a number or a text; whole numbers of a size are at least 1."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        return {"true": True, "false": False}.get(value, value) if isinstance(default, bool) else value
    try:
        number = type(default)(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < (1 if isinstance(default, int) else 0):
        kind = "a whole number of at least 1" if isinstance(default, int) else "a number of at least 0"
        raise PluginError(f"size {text!r}: {key} must be {kind}, not {value!r}")
    return number
