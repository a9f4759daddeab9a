"""Load a causal language model with transformers from a path, and generate a few tokens."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# The path holds everything: nobody is asked for a newer version, and a missing file is an error at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from transformers import AutoModelForCausalLM


def main() -> int:
    """Load, generate, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a directory as save_pretrained writes it, such as /models/llama")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto", help="float16, bfloat16, …; auto is what the files have")
    parser.add_argument("--tokens", type=int, default=4, help="how many to generate; 0 only loads")
    options = parser.parse_args()
    if not options.model.is_dir():
        # transformers would take it for the name of a repository.
        print(f"transformers_load: error: {options.model} is no directory; is it mounted?", file=sys.stderr)
        return 1

    began_s = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).to(options.device)
    loaded_s = time.perf_counter()
    print(f"loaded {model.num_parameters() / 1e6:.1f} M parameters in {loaded_s - began_s:.2f} s")
    if options.tokens:
        # On a CPU the weights are read now: until their first use they are a mapping of the files.
        start = torch.tensor([[1]], device=options.device)
        found = model.generate(start, max_new_tokens=options.tokens, min_new_tokens=options.tokens, do_sample=False)
        print(f"generated {found.shape[1] - 1} tokens in {time.perf_counter() - loaded_s:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
