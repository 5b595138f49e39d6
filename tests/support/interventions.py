"""What records say of causes that were tried, made to measure."""

from __future__ import annotations

import numpy as np


def trial(headroom=1.0, axis="where", pairs=20, noise=0.01, predicted=None, seed=0, share=1.0, **fields):
    """Pairs of blocks whose true headroom is `headroom`; drift moves both arms of a pair alike."""
    rng = np.random.default_rng(seed)
    drift = np.exp(rng.normal(0, 0.2, pairs))
    clean = 0.1 * drift * np.exp(rng.normal(0, noise, pairs))
    removed = 0.1 / headroom * drift * np.exp(rng.normal(0, noise, pairs))
    treated = clean - share * (clean - removed)
    row = {"axis": axis, "class": "algorithm", "outcome": "measured", "reason": None, "facts": {}, "share": share}
    row |= {"predicted_x": headroom if predicted is None else predicted, "advice": "change it"}
    row |= {"clean_s": clean.tolist(), "treated_s": treated.tolist(), "clean_first": [True] * pairs, "block_steps": 1}
    return row | fields


def untried(outcome, predicted=None, axis="where", reason="because"):
    row = trial(axis=axis, pairs=0, predicted=predicted)
    return {**row, "outcome": outcome, "reason": reason, "predicted_x": predicted, "clean_s": [], "treated_s": []}
