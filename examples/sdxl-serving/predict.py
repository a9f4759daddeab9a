"""Serve SDXL from a mounted bucket, in place of a downloader: same variables, same layout.

MODEL_BUCKET_NAME  the bucket; start.sh mounts it
MODEL_PATH         the model in it, such as ByteDance/SDXL-Lightning
MODEL_CACHE_DIR    where the bucket is mounted [/mnt/tigris/$MODEL_BUCKET_NAME]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from diffusers import StableDiffusionXLPipeline


class Predictor:
    """The two methods that a cog predictor has; derive it from ``cog.BasePredictor`` to serve it with cog."""

    def setup(self) -> None:
        """Load the pipeline from the mount; nothing is downloaded first."""
        began_s = time.time()
        on_gpu = torch.cuda.is_available()
        self.pipe: Any = StableDiffusionXLPipeline.from_pretrained(
            model_directory(), torch_dtype=torch.float16 if on_gpu else torch.float32
        ).to("cuda" if on_gpu else "cpu")
        print(f"setup took: {time.time() - began_s:.2f} s", flush=True)

    def predict(self, prompt: str, output: Path, size: int = 1024, steps: int = 4) -> Path:
        """Make one image of *prompt* and return where it is."""
        images = self.pipe(prompt, width=size, height=size, num_inference_steps=steps, guidance_scale=0.0).images
        images[0].save(output)
        return output


def model_directory() -> Path:
    """Return the model's directory under the mount.

    Raises:
        FileNotFoundError: No model is there.
    """
    bucket, path = os.environ["MODEL_BUCKET_NAME"], os.environ["MODEL_PATH"].strip("/")
    directory = Path(os.environ.get("MODEL_CACHE_DIR") or f"/mnt/tigris/{bucket}") / path
    if not (directory / "model_index.json").is_file():
        raise FileNotFoundError(f"{directory} holds no model_index.json; is the bucket mounted, and MODEL_PATH right?")
    return directory


def main() -> int:
    """Make one image from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--output", type=Path, default=Path("image.png"))
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    predictor = Predictor()
    try:
        predictor.setup()
    except (KeyError, OSError) as exc:
        print(f"predict: error: {exc}", file=sys.stderr)
        return 1
    print(predictor.predict(options.prompt, options.output, options.size, options.steps))
    return 0


if __name__ == "__main__":
    sys.exit(main())
