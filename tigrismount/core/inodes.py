"""Node ids, and what each one stands for: one object version (a file or a symbolic link), or one directory.

An id is a hash of what the node *is* (store, bucket, kind, key, ETag, size), so that two processes, or the same mount
tomorrow, give one version the same number without talking to each other. A version never changes, therefore the
kernel may keep a node's attributes and pages for ever; an overwritten key simply is another node. ETags that do not
name a version (none, or weak ones) are helped by the modification time in whole seconds, the precision in which all
answers of a store agree. A link's ETag is that of an empty object and says nothing, so its target is part of its id.

The kernel holds *lookup counts* on nodes. They are hints here: a worker that takes over a mount does not know them, so
counting below zero is not an error and a ``forget`` of an unknown id is ignored; nodes it inherits stay until they are
forgotten. Nodes without a lookup or an open
handle stay for a while, least recently seen out first, so that a listing seen twice costs nothing; a node that is
referenced is never dropped. Objects come and go for as long as a mount lives, so those that nobody has referred to for
some turns go too, however few there are.

Two identities with one hash are told apart by counting on from it. The order in which a process meets them then decides
who gets which number: with 63 bits that happens to nobody who does not work at it, and costs such a person no wrong
byte, only the stability of these two numbers.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from tigrismount.core.names import DirectoryKey, key_bytes
from tigrismount.core.types import ROOT_NODE_ID, NodeId, ObjectId
from tigrismount.errors import UnknownNodeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

NODE_ID_MASK = (1 << 63) - 1
"""Ids are positive in a signed 64-bit ``ino_t`` too: some programs keep them in one."""

UNREFERENCED_LIMIT = 65_536
"""Nodes kept that nobody refers to: a large directory, at about 300 bytes each."""

UNREFERENCED_TURNS = 10
"""Calls of :meth:`InodeTable.grow_old` that a node outlives that nobody refers to."""

COMPACT_FROM = 50_000
"""Nodes of which three quarters must have gone for the tables to be made anew: a few megabytes."""

_LENGTHS = struct.Struct(">Iqq")
"""Length of the key, size of the object, and its time where the ETag is weak."""

NodeKind = Literal["file", "dir", "link"]


class VersionInfo(Protocol):
    """What the store says about one object version; ``objects.client.ObjectInfo`` is one."""

    @property
    def id(self) -> ObjectId:
        """The version."""

    @property
    def mtime_s(self) -> float:
        """Modification time, seconds since the epoch."""

    @property
    def storage_class(self) -> str:
        """Storage class as the store names it."""

    @property
    def version_id(self) -> str | None:
        """Version id, None where the answer named none."""

    @property
    def symlink_target(self) -> bytes | None:
        """Target of a symbolic link; empty where it is none, None where nobody said."""

    @property
    def sha256(self) -> str:
        """SHA-256 in hexadecimal, empty where the answer named none."""


@dataclass(slots=True, eq=False)
class Node:
    """One object version or one directory."""

    id: NodeId
    """Its number."""
    bucket: str
    """Bucket it lies in."""
    key: str
    """Whole key of a file; of a directory, the prefix of its keys."""
    obj: ObjectId | None
    """The version; None for a directory."""
    mtime_s: float = 0.0
    """Modification time as first seen, seconds since the epoch; 0 for a directory."""
    storage_class: str = ""
    """Storage class as last seen; empty for a directory."""
    target: bytes = b""
    """Target of a symbolic link; empty for anything else."""
    version_id: str = ""
    """Version id where an answer named one."""
    sha256: str = ""
    """SHA-256 in hexadecimal where an answer named it."""
    lookups: int = 0
    """References the kernel holds, as far as this process knows."""
    inherited: bool = False
    """Whether an earlier process may have handed out references that the kernel still holds, nobody knows how many."""
    handles: int = 0
    """Open files or directories."""

    @property
    def kind(self) -> NodeKind:
        """What it is."""
        if self.obj is None:
            return "dir"
        return "link" if self.target else "file"

    @property
    def where(self) -> DirectoryKey:
        """Where a directory's keys lie."""
        return DirectoryKey(self.bucket, self.key)

    @property
    def referenced(self) -> bool:
        """Whether somebody may still ask for it by its id."""
        return self.lookups > 0 or self.handles > 0 or self.inherited


class InodeTable:
    """The nodes of one mount.

    Args:
        store_id: Names the store (DESIGN: Identity).
        root: What node 1 shows.
        unreferenced_limit: Most nodes kept that nobody refers to, at least 1.
        on_new: Called with each new node before its id can be handed out, so that a journal knows every id that the
            kernel may know. Called again for a node that was dropped and is met again.
        hash_id: From an identity to 63 bits; tests make it collide.
    """

    def __init__(
        self,
        store_id: str,
        root: DirectoryKey,
        *,
        unreferenced_limit: int = UNREFERENCED_LIMIT,
        on_new: Callable[[Node], None] | None = None,
        hash_id: Callable[[bytes], int] | None = None,
    ) -> None:
        if unreferenced_limit < 1:
            raise ValueError("a new node is unreferenced at first, so at least one must be kept")
        self._store_frame = _frame(store_id)
        self._heads: dict[tuple[str, NodeKind], bytes] = {}
        self._unreferenced_limit = unreferenced_limit
        self._on_new = on_new
        self._hash_id = hash_id or _hash_63
        self.root = Node(ROOT_NODE_ID, root.bucket, root.prefix, None)
        """Node 1; always known."""
        self._nodes: dict[int, Node] = {ROOT_NODE_ID: self.root}
        self._displaced: dict[bytes, int] = {}
        self._unreferenced: OrderedDict[int, int] = OrderedDict()
        """Nodes that nobody refers to and the turn they were seen in last, least recently seen first."""
        self._turn = 0
        self._most = 0
        """Nodes at their most since the tables were made."""

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def unreferenced_count(self) -> int:
        """Nodes that are known and referred to by nobody, the root aside."""
        return len(self._unreferenced)

    def file(self, info: VersionInfo) -> Node:
        """Return the node of an object version; the same one for as long as it is referenced.

        The modification time is the one seen first; the storage class is the one seen last, as an object moves
        between classes without becoming another version. What only some answers name stays known.
        """
        obj = info.id
        target, version_id = info.symlink_target or b"", info.version_id or ""
        wanted = Node(
            ROOT_NODE_ID, obj.bucket, obj.key, obj, info.mtime_s, info.storage_class, target, version_id, info.sha256
        )
        node = self._intern(wanted)
        node.storage_class = info.storage_class
        node.version_id = info.version_id or node.version_id
        node.sha256 = info.sha256 or node.sha256
        return node

    def directory(self, where: DirectoryKey) -> Node:
        """Return the node of a directory."""
        if where == self.root.where:
            return self.root
        return self._intern(Node(ROOT_NODE_ID, where.bucket, where.prefix, None))

    def learn_version(self, node: Node, version_id: str) -> None:
        """Remember the version id that an answer about *node* named, here and in the journal."""
        node.version_id = version_id
        if self._on_new is not None:
            self._on_new(node)

    def get(self, node_id: int) -> Node:
        """Return the node with this id.

        Raises:
            UnknownNodeError: No such node is known; the kernel heard of it from an earlier process.
        """
        node = self._nodes.get(node_id)
        if node is None:
            raise UnknownNodeError(f"node {node_id} is not known")
        return node

    def add_lookup(self, node: Node) -> None:
        """Count one reference by the kernel."""
        node.lookups += 1
        self._unreferenced.pop(node.id, None)

    def forget(self, node_id: int, count: int) -> None:
        """Take back *count* references; more than there are, or of an unknown id, is no error."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.lookups = max(0, node.lookups - count)
            # The kernel gives all its references back at once, those of an earlier process among them.
            node.inherited = node.inherited and node.lookups > 0
            self._settle(node)

    def add_handle(self, node: Node) -> None:
        """Count one open file or directory."""
        node.handles += 1
        self._unreferenced.pop(node.id, None)

    def drop_handle(self, node_id: int) -> None:
        """Take back one open file or directory; one that was opened in an earlier process is no error."""
        node = self._nodes.get(node_id)
        if node is not None:
            node.handles = max(0, node.handles - 1)
            self._settle(node)

    def grow_old(self) -> None:
        """Drop the nodes that nobody has referred to for some turns, of which this call ends one."""
        self._turn += 1
        self._most = max(self._most, len(self._nodes))
        while self._unreferenced and self._turn - next(iter(self._unreferenced.values())) > UNREFERENCED_TURNS:
            self._drop_oldest()
        if self._most >= COMPACT_FROM and len(self._nodes) <= self._most // 4:
            # A table keeps the size that it had at its most: a hundred megabytes after a million names.
            self._nodes, self._unreferenced = dict(self._nodes), OrderedDict(self._unreferenced)
            self._most = len(self._nodes)

    def known(self) -> Iterator[Node]:
        """Give all nodes but the root."""
        return (node for node in self._nodes.values() if node is not self.root)

    def restore(self, nodes: Iterable[Node]) -> None:
        """Make nodes known under the ids that an earlier process gave them, before any other is.

        The kernel may hold references on each; how many, nobody knows, so a node stays until it is forgotten.
        """
        for node in nodes:
            node.inherited = True
            identity = self._identity(node)
            if self._hash_id(identity) != node.id:
                self._displaced[identity] = node.id
            self._nodes[node.id] = node

    def check_invariants(self) -> None:
        """Raise AssertionError unless exactly the nodes that nobody refers to may be dropped."""
        free = {node_id for node_id, node in self._nodes.items() if not node.referenced and node_id != ROOT_NODE_ID}
        assert set(self._unreferenced) == free, (set(self._unreferenced), free)
        assert len(free) <= self._unreferenced_limit, len(free)
        assert all(node_id in self._nodes for node_id in self._displaced.values())
        assert all(node.id == node_id and 0 < node_id <= NODE_ID_MASK for node_id, node in self._nodes.items())

    def _intern(self, wanted: Node) -> Node:
        """Return the known node that *wanted* describes, or make *wanted* that node."""
        identity = self._identity(wanted)
        home = self._hash_id(identity)
        known = self._nodes.get(self._displaced.get(identity, home))
        if known is None or not _same(known, wanted):
            known = self._add(wanted, identity, home)
        self._settle(known)
        return known

    def _add(self, node: Node, identity: bytes, home: int) -> Node:
        """Make *node* known at its hash, or at the next number that is free."""
        node_id = home
        while node_id == 0 or node_id in self._nodes:
            node_id = (node_id + 1) & NODE_ID_MASK
        if node_id != home:
            # Not found by its hash again, so remembered: whoever sits there may be dropped before this one.
            self._displaced[identity] = node_id
        node.id = NodeId(node_id)
        if self._on_new is not None:
            self._on_new(node)
        self._nodes[node_id] = node
        return node

    def _identity(self, node: Node) -> bytes:
        """Return the bytes that name what *node* is; lengths go before texts, so that no two names are alike."""
        obj = node.obj
        kind = node.kind
        head = self._heads.get((node.bucket, kind))
        if head is None:
            head = self._heads[node.bucket, kind] = self._store_frame + _frame(node.bucket) + _frame(kind)
        key = key_bytes(node.key)
        if obj is None:
            return head + key
        if node.target:
            return head + _LENGTHS.pack(len(key), len(node.target), 0) + key + node.target
        return head + _LENGTHS.pack(len(key), obj.size_bytes, _weak_mtime(node)) + key + key_bytes(obj.etag)

    def _settle(self, node: Node) -> None:
        """Make *node* the most recent unreferenced node if it is one, and drop the oldest above the limit."""
        if node.referenced or node is self.root:
            return
        self._unreferenced[node.id] = self._turn
        self._unreferenced.move_to_end(node.id)
        if len(self._unreferenced) > self._unreferenced_limit:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        oldest, _ = self._unreferenced.popitem(last=False)
        dropped = self._nodes.pop(oldest)
        if self._displaced:
            self._displaced.pop(self._identity(dropped), None)


def _same(known: Node, wanted: Node) -> bool:
    if (known.key, known.bucket, known.target) != (wanted.key, wanted.bucket, wanted.target):
        return False
    if known.target:
        return True
    return known.obj == wanted.obj and _weak_mtime(known) == _weak_mtime(wanted)


def _weak_mtime(node: Node) -> int:
    """Return what tells versions apart that the ETag does not, 0 where it does."""
    return 0 if node.obj is None or node.obj.cacheable else int(node.mtime_s)


def _frame(text: str) -> bytes:
    """Return the bytes of *text* behind their length."""
    raw = key_bytes(text)
    return len(raw).to_bytes(4, "big") + raw


def _hash_63(identity: bytes) -> int:
    # Eight bytes of BLAKE2b: keys come from strangers, and xxhash collides on request.
    return int.from_bytes(hashlib.blake2b(identity, digest_size=8).digest(), "big") & NODE_ID_MASK
