"""A FastAPI service that loads a model from a mount: alive at once, ready when it can answer.

    MODEL_DIR   the model's directory, below the mountpoint [/models/llama]
    MOUNTPOINT  where the bucket is mounted [the directory above]

Run it with: uvicorn service:app
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from safetensors import SafetensorError, safe_open

MODEL_DIR = Path(os.environ.get("MODEL_DIR", "/models/llama"))
MOUNTPOINT = os.environ.get("MOUNTPOINT", str(MODEL_DIR.parent))
HEALTH_TIMEOUT = "2s"  # a probe that waits for five hears the reason

weights: dict[str, Any] = {}
state: dict[str, Any] = {"loaded": False, "error": None, "seconds": None}


def load() -> None:
    """Load the weights, in a thread: requests are answered meanwhile; what fails is left for /readyz to say."""
    began_s = time.monotonic()
    try:
        for path in sorted(MODEL_DIR.glob("*.safetensors")):
            with safe_open(path, framework="numpy") as shard:
                weights.update((name, shard.get_tensor(name)) for name in shard.offset_keys())
    except (OSError, SafetensorError) as exc:
        state["error"] = str(exc)
    except TypeError as exc:  # numpy has no bfloat16 and no FP8
        state["error"] = f"{exc}: for such weights, load with framework='pt' and torch"
    else:
        error = None if weights else f"{MODEL_DIR} holds no *.safetensors; is it mounted?"
        state.update(loaded=bool(weights), error=error, seconds=round(time.monotonic() - began_s, 3))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Start loading, and serve: a probe must not wait for the weights."""
    loading = asyncio.create_task(asyncio.to_thread(load))
    yield
    await loading


app = FastAPI(lifespan=lifespan)


async def tigrismount(*arguments: str) -> tuple[int, str]:
    """Run the command in a process of its own: a mount that hangs must never hang the service."""
    process = await asyncio.create_subprocess_exec(
        "tigrismount", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode().strip()


@app.get("/healthz")
async def alive() -> dict[str, str]:
    """Tell that the process answers; a store that is away is no reason to restart it."""
    return {"status": "alive"}


@app.get("/readyz")
async def ready(response: Response) -> dict[str, Any]:
    """Tell whether requests should come here: the weights are loaded, and what is mapped can still be read."""
    status, said = await tigrismount("health", MOUNTPOINT, "--timeout", HEALTH_TIMEOUT, "--degraded-ok")
    if status != 0 or not state["loaded"]:
        response.status_code = 503
    return {**state, "mount": said}


@app.get("/stats")
async def statistics() -> dict[str, Any]:
    """Show where the bytes came from, and how full the cache is."""
    status, said = await tigrismount("status", MOUNTPOINT, "--json")
    if status != 0:
        raise HTTPException(503, said)
    mount = json.loads(said)["mounts"][0]
    if mount["state"] not in ("ok", "degraded"):  # its daemon is gone, or is another user's and tells us nothing
        raise HTTPException(503, "; ".join(mount["degraded"]))
    fetched = {source: mount["bytes"][source] for source in ("ram", "flight", "nvme", "remote", "pushed")}
    return {
        "bytes": fetched,
        "from_cache": round(fetched["nvme"] / (fetched["nvme"] + fetched["remote"] or 1), 3),
        "cache": mount["cache"],
        "degraded": mount["degraded"],
    }


@app.get("/tensors/{name}")
def tensor(name: str) -> dict[str, Any]:
    """Stand in for inference: describe one tensor; in a thread, as reading it may take long."""
    if not state["loaded"]:
        raise HTTPException(503, "loading")
    if name not in weights:
        raise HTTPException(404, f"no tensor {name}")
    value = weights[name]
    return {"dtype": str(value.dtype), "shape": list(value.shape), "mean": float(value.mean(dtype="float64"))}
