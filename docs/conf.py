"""The documentation site: `sphinx-build -W -n docs docs/_build` (what CI does)."""

from importlib.metadata import version as installed

project = "llmbench"
release = version = installed("llmbench")
extensions = ["myst_parser"]
exclude_patterns = ["_build", "parts"]
html_theme = "furo"
html_title = f"llmbench {release}"
html_show_copyright = False
myst_heading_anchors = 3
nitpicky = True
linkcheck_timeout = 20
linkcheck_retries = 2
