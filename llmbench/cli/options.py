"""Options that several commands share."""

from __future__ import annotations

import click

plugin_option = click.option("--plugin", "plugin_files", multiple=True, metavar="FILE", help="Load a plugin file too.")
set_option = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Set a value of the suite.")
keep_option = click.option(
    "-k", "expression", metavar="EXPR", help="Only cells that match, such as 'gpt and not eval'."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
