"""Configuration of a mount: flags, environment and TOML files merged, checked and completed.

Three pure steps (``merge``, ``validate``, ``resolve``) stand between what people write and the ``MountConfig`` that
the worker gets; ``load`` runs them with the files and the host read. Nothing here imports an engine, so that
``--help`` and shell completion are fast.
"""

from __future__ import annotations

from tigrismount.config.loading import Loaded, load
from tigrismount.config.model import MountConfig
from tigrismount.config.source import Source, parse_source

__all__ = ["Loaded", "MountConfig", "Source", "load", "parse_source"]
