"""Finding plugins, and keeping measurements from harm that they do. These names are the door to it."""

from __future__ import annotations

from llmbench.plugins.discovery import discover, load_file, load_own
from llmbench.plugins.registry import KINDS, Broken, Owner, Provided, Registry

__all__ = ["KINDS", "Broken", "Owner", "Provided", "Registry", "discover", "load_file", "load_own"]
