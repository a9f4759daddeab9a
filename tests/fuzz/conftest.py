"""The longer runs of ``make fuzz``: the same properties, more examples, no clock."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("fuzz", max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20000")), deadline=None)
