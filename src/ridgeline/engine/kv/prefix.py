"""Names for prefixes: the hash of a full block is over its tokens and the hash of the block before
it.

128 bits of BLAKE2b: two prefixes with one name are not to be expected in the life of any cache. The
salt keeps tenants apart: a prefix has another name for each salt.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b


def prefix_hashes(
    token_ids: Sequence[int], block_tokens: int, salt: bytes = b"", parent: bytes = b""
) -> Iterator[bytes]:
    """The name of each full block of `token_ids`; parent: the name of what precedes them."""
    for start in range(0, len(token_ids) - block_tokens + 1, block_tokens):
        digest = blake2b(parent or salt, digest_size=16, person=b"ridgeline-kv")
        digest.update(array("i", token_ids[start : start + block_tokens]).tobytes())
        parent = digest.digest()
        yield parent
