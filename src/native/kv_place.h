// kv_place: where a layer's keys and values lie.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"

namespace ridgeline {

// One layer's place in the blocks of a column of the block tables: key tiles of all its heads, then value tiles.
struct KvPlace {
  std::int64_t column;
  std::size_t key_offset, value_offset;
  std::int64_t kv_heads, key_dim, value_dim;
  std::int64_t window;  // 0: none
  CacheFormat format;
  bool latent = false;  // values are the first value_dim channels of the keys, and lie nowhere else
  KeyBalance balance{};  // of all heads, one after the other; nulls: keys stay as they are
  std::int64_t every = 1;  // tokens to a key; of more than one they are rows of bfloat16 (operators_entries.h)

  // Within a block that lies by itself.
  TilePlace keys(std::int64_t head = 0) const {
    const std::size_t bytes = key_tile_bytes(format, key_dim);
    return {key_offset + static_cast<std::size_t>(head) * bytes, bytes};
  }
  TilePlace values(std::int64_t head) const {
    if (latent) return {};
    const std::size_t bytes = value_tile_bytes(format, value_dim);
    return {value_offset + static_cast<std::size_t>(head) * bytes, bytes};
  }
  // Of more than one token to a key: all entries of a block.
  TilePlace entries() const { return {key_offset, value_offset - key_offset}; }
};

}  // namespace ridgeline
