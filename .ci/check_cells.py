"""Check a JSON report on standard input: `check_cells.py N` wants N cells, all of them ok."""

from __future__ import annotations

import json
import sys


def main() -> None:
    """Exit with what is wrong, or print how many cells there are."""
    cells = json.load(sys.stdin)["cells"]
    bad = [one["cell_id"] for one in cells if one["status"] != "ok"]
    if bad or len(cells) != int(sys.argv[1]):
        sys.exit(f"{len(cells)} cells instead of {sys.argv[1]}; not ok: {', '.join(bad) or 'none'}")
    sys.stdout.write(f"{len(cells)} cells ok\n")


if __name__ == "__main__":
    main()
