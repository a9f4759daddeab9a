"""Load every tensor of a model's safetensors files from a path, and say what it took."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"


def main() -> int:
    """Load the model and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a directory with *.safetensors, such as /models/llama, or one file")
    parser.add_argument("--framework", default="numpy", choices=("numpy", "pt"), help="bfloat16 and FP8 need pt")
    options = parser.parse_args()
    began_s = time.perf_counter()
    try:
        tensors = {name: value for path in shards(options.model) for name, value in load(path, options.framework)}
    except (OSError, SafetensorError, ValueError, KeyError) as exc:
        print(f"load_safetensors: error: {exc}", file=sys.stderr)
        return 1
    except TypeError as exc:  # numpy has no bfloat16 and no FP8
        print(f"load_safetensors: error: {exc}; such weights need --framework pt, and torch", file=sys.stderr)
        return 1
    took_s = time.perf_counter() - began_s
    total_bytes = sum(value.nbytes for value in tensors.values())
    print(
        f"{len(tensors)} tensors, {total_bytes / 1e6:.1f} MB in {took_s:.2f} s ({total_bytes / took_s / 1e6:.0f} MB/s)"
    )
    return 0


def shards(model: Path) -> list[Path]:
    """Return the files to load, in the order of the model's index where it has one.

    The order is worth keeping: it is the one in which the mount fetches ahead.
    """
    if model.is_file():
        return [model]
    index = model / INDEX
    if index.exists():
        names = json.loads(index.read_text())["weight_map"].values()
        return [model / name for name in dict.fromkeys(names)]
    found = sorted(model.glob("*.safetensors"))
    if not found:
        raise FileNotFoundError(f"{model} holds no *.safetensors")
    return found


def load(path: Path, framework: str) -> list[tuple[str, Any]]:
    """Return the tensors of one file, each a copy: a view of the mapping would be read only once it is used."""
    with safe_open(path, framework=framework) as shard:
        # In file order, so that the disk and the network are read from front to back.
        return [(name, copied(shard.get_tensor(name))) for name in shard.offset_keys()]


def copied(tensor: Any) -> Any:
    """Return a tensor that no longer needs the file."""
    return tensor.clone() if hasattr(tensor, "clone") else tensor.copy()


if __name__ == "__main__":
    sys.exit(main())
