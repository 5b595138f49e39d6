"""Where things are that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SUPPORT = Path(__file__).parent
