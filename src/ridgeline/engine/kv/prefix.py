"""Names for prefixes, and which cached block holds which.

The name of a full block is a hash over its tokens and the name of the block before it: 128 bits of
BLAKE2b, so two prefixes with one name are not to be expected in the life of any cache. A chain
starts from its salt, hashed in a domain of its own, so that no choice of salt reaches another
tenant's names. The index also says why a prompt was not found. It knows tokens only of the blocks
named last.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from typing import Literal, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_BRANCHES_COMPARED = 8
_TOKENS_KEPT = 4096
# What every block's hash begins from; copied, which takes less than making it anew.
_BLOCK_HASH = blake2b(digest_size=16, person=b"ridgeline-kv")


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """Why the prefix cache did not have all that it could have had of a prompt.

    kind: "differs": at `position` the prompt's tokens part from the closest cached ones. "evicted":
    the block at `position` was cached and had to make room. "salt": the same tokens are cached for
    another salt. "new": nothing that was cached goes on from `position`. "scored": the prompt's
    log-probabilities are wanted, and the cache has none. "recurrent state": the model's rows have a
    state besides their blocks, and none was kept for these tokens.
    """

    kind: Literal["differs", "evicted", "salt", "new", "scored", "recurrent state"]
    position: int


@lru_cache(maxsize=1024)
def chain_root(salt: bytes) -> bytes:
    """What the first block of a salt's chains has for the name of the block before it."""
    return blake2b(salt, digest_size=16, person=b"ridgeline-salt").digest()


def prefix_hashes(
    token_ids: Sequence[int],
    block_tokens: int,
    salt: bytes = b"",
    parent: bytes = b"",
    besides: Callable[[int], bytes] | None = None,
) -> Iterator[bytes]:
    """The name of each full block of `token_ids`; parent: the name of what precedes them. besides:
    of the token that a block begins with, what the block holds that its ids do not tell.
    """
    parent = parent or chain_root(salt)
    ids = memoryview(token_ids if isinstance(token_ids, array) else array("i", token_ids))
    begin = _BLOCK_HASH.copy
    for start in range(0, len(ids) - block_tokens + 1, block_tokens):
        digest = begin()
        digest.update(parent)
        digest.update(ids[start : start + block_tokens])
        if besides is not None:
            digest.update(besides(start))
        parent = digest.digest()
        yield parent


class PrefixIndex:
    """Owns the table of names: a name has one block, a block at most one name.

    evicted_names: so many names of evicted blocks are remembered. explains: it is asked why prompts
    were not found; who never asks (a simulator) need not pay for what the answer takes.
    """

    def __init__(self, num_blocks: int, evicted_names: int, explains: bool = True) -> None:
        self.explains = explains
        self._name_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._parent_of: list[bytes] = [b""] * num_blocks
        # In order of naming; a name stays here as long as its block keeps it. Most have one child,
        # which needs no table of its own.
        self._children: dict[bytes, bytes | dict[bytes, None]] = {}
        self._tokens: OrderedDict[bytes, Sequence[int]] = OrderedDict()
        self._salts: OrderedDict[bytes, bytes] = OrderedDict()
        self._evicted: OrderedDict[bytes, None] = OrderedDict()
        self._evicted_names = evicted_names

    def __len__(self) -> int:
        return len(self._block_of)

    def __contains__(self, block: int) -> bool:
        return self._name_of[block] is not None

    @property
    def by_block(self) -> Sequence[bytes | None]:
        """The name of each block: for those who ask of many."""
        return self._name_of

    def find(self, names: Iterable[bytes]) -> tuple[int, ...]:
        """The blocks that hold the longest cached run of `names`."""
        found = []
        block_of = self._block_of
        for name in names:
            block = block_of.get(name)
            if block is None:
                break
            found.append(block)
        return tuple(found)

    def entry(self, name: bytes) -> int | None:
        return self._block_of.get(name)

    def add(
        self, block: int, name: bytes, parent: bytes, tokens: Sequence[int], salt: bytes
    ) -> None:
        """Names a block; the first block of a name keeps it. parent: b"" where a chain starts.
        tokens: of the block; not looked at where nothing is explained.
        """
        if name in self._block_of or self._name_of[block] is not None:
            return
        self._name_of[block] = name
        self._block_of[name] = block
        key = parent or chain_root(salt)
        self._parent_of[block] = key
        siblings = self._children.setdefault(key, name)
        if siblings is not name:
            if isinstance(siblings, bytes):
                siblings = self._children[key] = {siblings: None}
            siblings[name] = None
        if not self.explains:
            return
        self._evicted.pop(name, None)
        self._tokens[name] = tokens
        if len(self._tokens) > _TOKENS_KEPT:
            self._tokens.popitem(last=False)
        if not parent:
            _remember(self._salts, _without_salt(tokens), salt, _TOKENS_KEPT)

    def add_run(
        self, blocks: Sequence[int], names: Sequence[bytes], first: int, end: int, salt: bytes
    ) -> None:
        """`add` of a chain's blocks from `first` to `end`, where nothing is explained."""
        block_of, name_of, parent_of = self._block_of, self._name_of, self._parent_of
        children = self._children
        parent = names[first - 1] if first else chain_root(salt)
        for index in range(first, end):
            name, block = names[index], blocks[index]
            if name not in block_of and name_of[block] is None:
                name_of[block] = name
                block_of[name] = block
                parent_of[block] = parent
                siblings = children.setdefault(parent, name)
                if siblings is not name:
                    if isinstance(siblings, bytes):
                        siblings = children[parent] = {siblings: None}
                    siblings[name] = None
            parent = name

    def forget(self, block: int) -> None:
        """The block is given to somebody else; its name, if any, is remembered as evicted."""
        name = self._name_of[block]
        if name is not None:
            self._forget(block, name)

    def forget_leaf(self, block: int) -> bool:
        """`forget` of a named block, unless another goes on from it: then False."""
        name = self._name_of[block]
        assert name is not None
        if name in self._children:
            return False
        self._forget(block, name)
        return True

    def _forget(self, block: int, name: bytes) -> None:
        self._name_of[block] = None
        del self._block_of[name]
        key = self._parent_of[block]
        siblings = self._children[key]
        if isinstance(siblings, bytes):
            del self._children[key]
        else:
            del siblings[name]
            if not siblings:
                del self._children[key]
        if self.explains:
            self._tokens.pop(name, None)
            _remember(self._evicted, name, None, self._evicted_names)

    def branches(self, block: int) -> list[int]:
        """The named blocks that go on from this one."""
        name = self._name_of[block]
        if name is None or name not in self._children:
            return []
        return [self._block_of[child] for child in self._children_of(name)]

    def _children_of(self, name: bytes) -> Sequence[bytes]:
        """In order of naming."""
        children = self._children.get(name)
        if children is None:
            return ()
        return (children,) if isinstance(children, bytes) else tuple(children)

    def explain(
        self,
        names: Sequence[bytes],
        num_found: int,
        token_ids: Sequence[int],
        block_tokens: int,
        salt: bytes,
    ) -> CacheMiss | None:
        """Why `names` are cached up to `num_found` only; None if all of them are."""
        if num_found == len(names) or not self.explains:
            return None
        start = num_found * block_tokens
        if names[num_found] in self._evicted:
            return CacheMiss("evicted", start)
        wanted = token_ids[start : start + block_tokens]
        if num_found == 0 and self._salts.get(_without_salt(wanted), salt) != salt:
            return CacheMiss("salt", 0)
        parent = names[num_found - 1] if num_found else chain_root(salt)
        alike = -1
        children = self._children.get(parent, {})
        latest = (children,) if isinstance(children, bytes) else reversed(children)
        for child in islice(latest, _BRANCHES_COMPARED):
            tokens = self._tokens.get(child)
            if tokens is not None:
                pairs = zip(wanted, tokens, strict=True)
                alike = max(alike, next((i for i, (a, b) in enumerate(pairs) if a != b), 0))
        return CacheMiss("new", start) if alike < 0 else CacheMiss("differs", start + alike)

    def check_invariants(self) -> None:
        named = [(block, name) for block, name in enumerate(self._name_of) if name is not None]
        assert len(named) == len(self._block_of)
        assert sum(len(self._children_of(parent)) for parent in self._children) == len(named)
        for block, name in named:
            assert self._block_of[name] == block
            assert name in self._children_of(self._parent_of[block])
            assert name not in self._evicted


def _without_salt(tokens: Sequence[int]) -> bytes:
    return blake2b(array("i", tokens), digest_size=16, person=b"ridgeline-first").digest()


def _remember(table: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
