"""TigrisFS: GeeseFS's flags under another name."""

from __future__ import annotations

from benchmarks.peers.geesefs import Geesefs

PEER = Geesefs("tigrisfs")
