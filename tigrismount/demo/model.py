"""A language model in Hugging Face layout that nobody trained: right names, right files, cheap bytes.

Shapes follow Llama at whatever width gives at least a dozen layers for the size asked for, so that the order on disk
(by name: ``layers.10`` before ``layers.2``, as the safetensors library writes it) differs from the order in which a
loader walks the layers. Tensors are float16, because numpy has no bfloat16 to read back.

The bytes of a tensor are one random block of 8 MiB, repeated, with a different key xored in at each repetition: as
fast as memory, the same on every machine, and different at every place, so that a block that lands in the wrong
tensor, file or offset changes a checksum. Only finite values come out.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable

_ITEM_BYTES = 2
"""Size of a float16."""
_WIDTHS = (4096, 2048, 1024, 512, 256, 128, 64)
"""Hidden sizes to choose from, each with 64 per attention head."""
_LAYERS_LEAST = 12
"""Layers the width is chosen for: from the eleventh on, name order and layer order differ."""
_PATTERN_BYTES = 8 << 20
"""Bytes generated before they repeat with another key."""
_FINITE = 0xBFFF_BFFF_BFFF_BFFF
"""Clears the top bit of each float16's exponent: no infinities, no NaN, all values below 2."""
_HEADER_ALIGN_BYTES = 8
"""The safetensors library pads its header with spaces to this."""
_UPLOAD_PART_BYTES = 16 << 20
"""Part of a multipart upload: few enough to be quick, small enough that four in flight fit in memory."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor and its place in its shard."""

    name: str
    """Name as in the checkpoint."""
    shape: tuple[int, ...]
    """Dimensions."""
    start: int
    """First byte, counted from the end of the header."""
    seed: int
    """What its bytes are made from."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor."""
        return int(np.prod(self.shape)) * _ITEM_BYTES


@dataclass(frozen=True, slots=True)
class Shard:
    """One ``.safetensors`` file."""

    name: str
    """File name."""
    tensors: tuple[Tensor, ...]
    """Its tensors in the order of their bytes."""

    def header(self) -> bytes:
        """Return everything before the first tensor: length, JSON, padding."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        for tensor in self.tensors:
            offsets = [tensor.start, tensor.start + tensor.size_bytes]
            entries[tensor.name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _HEADER_ALIGN_BYTES)
        return struct.pack("<Q", len(text)) + text

    def render(self) -> tuple[bytearray, dict[str, int]]:
        """Return the whole file, and the xxh3 checksum of each tensor's bytes by name."""
        header = self.header()
        data_bytes = sum(tensor.size_bytes for tensor in self.tensors)
        file = bytearray(len(header) + data_bytes)
        file[: len(header)] = header
        checksums = {}
        for tensor in self.tensors:
            start = len(header) + tensor.start
            place = np.frombuffer(file, np.uint8, tensor.size_bytes, start)
            _fill(place, tensor.seed)
            checksums[tensor.name] = checksum(place)
        return file, checksums


@dataclass(frozen=True, slots=True)
class Model:
    """Everything a model directory holds."""

    shards: tuple[Shard, ...]
    """Weight files, in the order of the model."""
    small_files: dict[str, bytes]
    """Configuration, tokenizer and index, by file name."""

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors, headers not counted."""
        return sum(tensor.size_bytes for shard in self.shards for tensor in shard.tensors)


def checksum(data: Any) -> int:
    """Return the xxh3 checksum of anything that has a buffer."""
    return xxhash.xxh3_64_intdigest(memoryview(data).cast("B"))


def plan_model(size_bytes: int, *, shard_bytes: int = 256 << 20) -> Model:
    """Return a model whose tensors sum up to about *size_bytes*; nothing is generated yet.

    Args:
        size_bytes: Wanted size; at least 1 MiB, hit within a per cent.
        shard_bytes: A shard is closed before it would grow beyond this (Hugging Face's ``max_shard_size``); a
            smaller one is taken where there would be a single shard.
    """
    width, layers, vocabulary = _dimensions(max(size_bytes, 1 << 20))
    shapes = list(_shapes(width, layers, vocabulary))
    # At least two shards, a little unequal like real ones: half of the model and some room.
    groups = _group(shapes, min(shard_bytes, size_bytes * 5 // 8))
    shards = tuple(_shard(index, len(groups), group) for index, group in enumerate(groups, 1))
    return Model(shards, _small_files(shards, width, layers, vocabulary))


def upload_model(
    client: Any, bucket: str, prefix: str, model: Model, progress: Callable[[int], object] = lambda _bytes: None
) -> dict[str, int]:
    """Generate *model* shard by shard and store it.

    Args:
        client: boto3 S3 client.
        bucket: Existing bucket.
        prefix: Where the files go, without a slash at its end.
        model: What to store.
        progress: Called with the bytes just stored, from several threads.

    Returns:
        The checksum of each tensor by name.
    """
    from boto3.s3.transfer import TransferConfig

    parts = TransferConfig(multipart_chunksize=_UPLOAD_PART_BYTES, multipart_threshold=2 * _UPLOAD_PART_BYTES)
    checksums: dict[str, int] = {}
    for name, body in model.small_files.items():
        client.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=body)
    for shard in model.shards:
        file, of_shard = shard.render()
        checksums |= of_shard
        client.upload_fileobj(io.BytesIO(file), bucket, f"{prefix}/{shard.name}", Config=parts, Callback=progress)
    return checksums


def _dimensions(size_bytes: int) -> tuple[int, int, int]:
    """Return width, layers and vocabulary; the vocabulary takes what whole layers leave over."""
    for width in _WIDTHS:
        layer_bytes = sum(int(np.prod(shape)) for _name, shape in _layer_shapes(0, width)) * _ITEM_BYTES
        layers = (size_bytes - 2 * 8 * width * width * _ITEM_BYTES) // layer_bytes
        if layers >= _LAYERS_LEAST or width == _WIDTHS[-1]:
            break
    layers = max(layers, 1)
    # Rounded to 64 as real ones are padded; embedding and head share it.
    vocabulary = max((size_bytes - layers * layer_bytes) // (2 * width * _ITEM_BYTES) // 64 * 64, 64)
    return width, layers, vocabulary


def _layer_shapes(layer: int, width: int) -> list[tuple[str, tuple[int, ...]]]:
    inner, kv = width * 11 // 4, width // 4
    prefix = f"model.layers.{layer}"
    return [
        (f"{prefix}.input_layernorm.weight", (width,)),
        (f"{prefix}.self_attn.q_proj.weight", (width, width)),
        (f"{prefix}.self_attn.k_proj.weight", (kv, width)),
        (f"{prefix}.self_attn.v_proj.weight", (kv, width)),
        (f"{prefix}.self_attn.o_proj.weight", (width, width)),
        (f"{prefix}.post_attention_layernorm.weight", (width,)),
        (f"{prefix}.mlp.gate_proj.weight", (inner, width)),
        (f"{prefix}.mlp.up_proj.weight", (inner, width)),
        (f"{prefix}.mlp.down_proj.weight", (width, inner)),
    ]


def _shapes(width: int, layers: int, vocabulary: int) -> list[tuple[str, tuple[int, ...]]]:
    body = [pair for layer in range(layers) for pair in _layer_shapes(layer, width)]
    return [
        ("model.embed_tokens.weight", (vocabulary, width)),
        *body,
        ("model.norm.weight", (width,)),
        ("lm_head.weight", (vocabulary, width)),
    ]


def _group(shapes: list[tuple[str, tuple[int, ...]]], shard_bytes: int) -> list[list[tuple[int, str, tuple[int, ...]]]]:
    groups: list[list[tuple[int, str, tuple[int, ...]]]] = [[]]
    used_bytes = 0
    for seed, (name, shape) in enumerate(shapes):
        size_bytes = int(np.prod(shape)) * _ITEM_BYTES
        if groups[-1] and used_bytes + size_bytes > shard_bytes:
            groups.append([])
            used_bytes = 0
        groups[-1].append((seed, name, shape))
        used_bytes += size_bytes
    return groups


def _shard(index: int, count: int, group: list[tuple[int, str, tuple[int, ...]]]) -> Shard:
    tensors: list[Tensor] = []
    start = 0
    # The library writes tensors of one dtype in the order of their names.
    for seed, name, shape in sorted(group, key=lambda item: item[1]):
        tensors.append(Tensor(name, shape, start, seed))
        start += tensors[-1].size_bytes
    return Shard(f"model-{index:05}-of-{count:05}.safetensors", tuple(tensors))


def _fill(place: np.ndarray[Any, np.dtype[np.uint8]], seed: int) -> None:
    pattern = _pattern()
    for index, start in enumerate(range(0, len(place), _PATTERN_BYTES)):
        part = place[start : start + _PATTERN_BYTES]
        whole = len(part) // 8 * 8
        key = np.uint64(_key(seed, index) & _FINITE)
        np.bitwise_xor(pattern[: whole // 8], key, out=part[:whole].view(np.uint64))
        if whole < len(part):
            rest = np.array([pattern[whole // 8] ^ key]).view(np.uint8)
            part[whole:] = rest[: len(part) - whole]


def _key(seed: int, index: int) -> int:
    digest = hashlib.blake2b(struct.pack("<QQ", seed, index), digest_size=8).digest()
    return int.from_bytes(digest, "little")


@cache
def _pattern() -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Return the block that all tensors are made of; the same on every machine."""
    words = np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 64, _PATTERN_BYTES // 8, np.uint64)
    return words & np.uint64(_FINITE)


def _small_files(shards: tuple[Shard, ...], width: int, layers: int, vocabulary: int) -> dict[str, bytes]:
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 64, 1),
        "num_key_value_heads": max(width // 256, 1),
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "vocab_size": vocabulary,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    contents = {
        "config.json": config,
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "max_length": 4096},
        "special_tokens_map.json": special,
        "tokenizer_config.json": {**special, "tokenizer_class": "LlamaTokenizer", "model_max_length": 4096},
        "tokenizer.json": _tokenizer(vocabulary),
        "model.safetensors.index.json": _index(shards),
    }
    return {name: json.dumps(content, indent=1).encode() for name, content in contents.items()}


def _tokenizer(vocabulary: int) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "</s>", *(f"token{number}" for number in range(3, vocabulary))]
    return {
        "version": "1.0",
        "added_tokens": [{"id": n, "content": tokens[n], "special": True} for n in range(3)],
        "model": {"type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": []},
    }


def _index(shards: tuple[Shard, ...]) -> dict[str, Any]:
    files = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    total = sum(tensor.size_bytes for shard in shards for tensor in shard.tensors)
    # Written in the order of names, as transformers does.
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(files.items()))}
