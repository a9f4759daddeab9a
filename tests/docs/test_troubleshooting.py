"""The troubleshooting page quotes what the program says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_headings_about_our_own_messages_are_quotations(root: Path) -> None:
    page = (root / "docs" / "troubleshooting.md").read_text()
    ours = page.partition("## What tigrismount says")[2].partition("## What other programs say")[0]
    # In the source a message may be cut by a value in braces and joined from two lines.
    source = "".join(path.read_text() for path in sorted((root / "tigrismount").rglob("*.py")))
    messages = re.sub(r'"\s*\n\s*f?"', "", source).replace("{DEVICE}", "/dev/fuse")

    headings = re.findall(r"^### (.*)$", ours, re.MULTILINE)

    assert headings
    assert [heading for heading in headings if heading not in messages] == []
