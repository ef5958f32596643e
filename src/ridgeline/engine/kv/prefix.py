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
from hashlib import blake2b
from itertools import islice
from typing import Literal, TypeVar

K = TypeVar("K")
V = TypeVar("V")

_BRANCHES_COMPARED = 8
_TOKENS_KEPT = 4096


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
    for start in range(0, len(ids) - block_tokens + 1, block_tokens):
        digest = blake2b(parent, digest_size=16, person=b"ridgeline-kv")
        digest.update(ids[start : start + block_tokens])
        if besides is not None:
            digest.update(besides(start))
        parent = digest.digest()
        yield parent


class PrefixIndex:
    """Owns the table of names: a name has one block, a block at most one name.

    evicted_names: so many names of evicted blocks are remembered.
    """

    def __init__(self, evicted_names: int) -> None:
        self._name_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}
        self._parent_of: dict[bytes, bytes] = {}
        # In order of naming; a name stays here as long as its block keeps it.
        self._children: dict[bytes, dict[bytes, None]] = {}
        self._tokens: OrderedDict[bytes, Sequence[int]] = OrderedDict()
        self._salts: OrderedDict[bytes, bytes] = OrderedDict()
        self._evicted: OrderedDict[bytes, None] = OrderedDict()
        self._evicted_names = evicted_names

    def __len__(self) -> int:
        return len(self._name_of)

    def __contains__(self, block: int) -> bool:
        return block in self._name_of

    def find(self, names: Iterable[bytes]) -> tuple[int, ...]:
        """The blocks that hold the longest cached run of `names`."""
        found = []
        for name in names:
            block = self._block_of.get(name)
            if block is None:
                break
            found.append(block)
        return tuple(found)

    def entry(self, name: bytes) -> int | None:
        return self._block_of.get(name)

    def add(
        self, block: int, name: bytes, parent: bytes, tokens: Sequence[int], salt: bytes
    ) -> None:
        """Names a block; the first block of a name keeps it. parent: b"" where a chain starts."""
        if name in self._block_of or block in self._name_of:
            return
        self._name_of[block] = name
        self._block_of[name] = block
        self._evicted.pop(name, None)
        key = parent or chain_root(salt)
        self._parent_of[name] = key
        self._children.setdefault(key, {})[name] = None
        self._tokens[name] = tokens
        if len(self._tokens) > _TOKENS_KEPT:
            self._tokens.popitem(last=False)
        if not parent:
            _remember(self._salts, _without_salt(tokens), salt, _TOKENS_KEPT)

    def forget(self, block: int) -> None:
        """The block is given to somebody else; its name, if any, is remembered as evicted."""
        name = self._name_of.pop(block, None)
        if name is None:
            return
        del self._block_of[name]
        siblings = self._children[parent := self._parent_of.pop(name)]
        del siblings[name]
        if not siblings:
            del self._children[parent]
        self._tokens.pop(name, None)
        _remember(self._evicted, name, None, self._evicted_names)

    def branches(self, block: int) -> list[int]:
        """The named blocks that go on from this one."""
        name = self._name_of.get(block)
        children = self._children.get(name) if name is not None else None
        return [self._block_of[child] for child in children] if children else []

    def explain(
        self,
        names: Sequence[bytes],
        num_found: int,
        token_ids: Sequence[int],
        block_tokens: int,
        salt: bytes,
    ) -> CacheMiss | None:
        """Why `names` are cached up to `num_found` only; None if all of them are."""
        if num_found == len(names):
            return None
        start = num_found * block_tokens
        if names[num_found] in self._evicted:
            return CacheMiss("evicted", start)
        wanted = token_ids[start : start + block_tokens]
        if num_found == 0 and self._salts.get(_without_salt(wanted), salt) != salt:
            return CacheMiss("salt", 0)
        parent = names[num_found - 1] if num_found else chain_root(salt)
        alike = -1
        for child in islice(reversed(self._children.get(parent, {})), _BRANCHES_COMPARED):
            tokens = self._tokens.get(child)
            if tokens is not None:
                pairs = zip(wanted, tokens, strict=True)
                alike = max(alike, next((i for i, (a, b) in enumerate(pairs) if a != b), 0))
        return CacheMiss("new", start) if alike < 0 else CacheMiss("differs", start + alike)

    def check_invariants(self) -> None:
        assert len(self._name_of) == len(self._block_of) == len(self._parent_of)
        assert sum(map(len, self._children.values())) == len(self._name_of)
        for block, name in self._name_of.items():
            assert self._block_of[name] == block
            assert name in self._children[self._parent_of[name]]
            assert name not in self._evicted


def _without_salt(tokens: Sequence[int]) -> bytes:
    return blake2b(array("i", tokens), digest_size=16, person=b"ridgeline-first").digest()


def _remember(table: OrderedDict[K, V], key: K, value: V, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
