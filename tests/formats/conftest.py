"""The longer runs of ``make fuzz``: the same properties, more examples, no clock."""

from __future__ import annotations

import os

from hypothesis import settings

# 20,000 examples take some ten minutes in all; FUZZ_EXAMPLES sets another number.
settings.register_profile("fuzz", max_examples=int(os.environ.get("FUZZ_EXAMPLES", "20000")), deadline=None)
