"""Sphinx configuration; `make docs` builds with -n -W, so that every warning is an error."""

from __future__ import annotations

import tigrismount

project = "tigrismount"
author = "The tigrismount developers"
copyright = "2026, The tigrismount developers"
version = release = tigrismount.__version__

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
# Headings are link targets, down to the error texts of troubleshooting.md.
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"tigrismount {release}"
html_show_sphinx = False
