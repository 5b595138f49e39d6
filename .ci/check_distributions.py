"""Check what a source distribution and a wheel hold: `check_distributions.py FOLDER`."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: Files beside the Python code, as patterns over names in the wheel, and what each is looked for.
WANTED = {
    r"\.dist-info/licenses/LICENSE$": "the licence",
    r"\.dist-info/licenses/.*chart\.LICENSE\.md$": "the licence of Chart.js",
    r"^llmbench/contract/datasheet\.yaml$": "peaks of vendors",
    r"^llmbench/py\.typed$": "types",
    r"^llmbench/plugins/templates/.*\.jinja$": "the files of a new plugin",
    r"^llmbench/schemas/suite\.schema\.json$": "the schema of suites",
    r"^llmbench/schemas/record\.schema\.json$": "the schema of records",
    r"^llmbench_plugins/reporters/page/chart\.umd\.min\.js$": "charts of the page",
    r"^llmbench_plugins/reporters/page/page\.html\.j2$": "the page",
    r"^llmbench_plugins/reporters/page/VENDORED\.md$": "where vendored code is from",
}


def missing_in(names: list[str]) -> list[str]:
    """Return what a wheel with files of these names lacks."""
    wanted = WANTED | {rf"^llmbench_suites/{one.name}$": "a suite" for one in (ROOT / "suites").glob("*.yaml")}
    return [f"{why}: {pattern}" for pattern, why in wanted.items() if not any(re.search(pattern, n) for n in names)]


def code_missing_in(names: list[str]) -> list[str]:
    """Return the modules of the checkout that a wheel lacks."""
    source = ROOT / "plugins" / "llmbench_plugins"
    homes = {"llmbench": ROOT / "llmbench", "llmbench_plugins": source if source.is_dir() else ROOT / "plugins"}
    modules = [
        f"{package}/{one.relative_to(home).as_posix()}" for package, home in homes.items() for one in home.rglob("*.py")
    ]
    # folders with a hyphen are distributions of their own
    return sorted(one for one in modules if "-" not in one and one not in names)


def main() -> None:
    """Exit with what is missing, or print what was checked."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        said = Parser().parsestr(opened.read(metadata).decode())
    wrong = missing_in(names) + [f"a module: {name}" for name in code_missing_in(names)]
    wrong += [f"not of the package: {name}" for name in names if not name.startswith("llmbench")]
    if said["License-Expression"] != "Apache-2.0 AND MIT":
        wrong.append(f"licence expression {said['License-Expression']}")
    with tarfile.open(sdist) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    wrong += [f"the source lacks {name}" for name in ("LICENSE", "README.md", "pyproject.toml") if name not in inside]
    if wrong:
        sys.exit("\n".join(wrong))
    sys.stdout.write(f"{wheel.name}: {len(names)} files, nothing missing; {sdist.name}: {len(inside)}\n")


if __name__ == "__main__":
    main()
