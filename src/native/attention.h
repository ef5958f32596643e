// attention: what the program needs of the family, and how a block of the cache is laid out.
//
// A cache block holds kBlockTokens tokens of one row. Of each KV head it has a key tile and a value tile of float16:
//   key tile    [head_dim][16 tokens]             a line of 16 lanes is one channel of 16 tokens
//   value tile  [16 tokens][value_dim padded to 16]  a line of 16 lanes is 16 channels of one token
// so that scores have tokens in lanes, outputs have channels in lanes, and neither needs a shuffle. Arithmetic is float32
// throughout: keys and values are widened as they are loaded.
//
// Determinism: the context is cut in chunks of kChunkTokens at absolute positions. Within a chunk, softmax is taken over
// all its visible tokens, and the weighted values are summed token by token; chunks are merged in order of position.
// Hidden tokens of a visited tile contribute exact zeros. So a query's result depends on its position and its row's keys
// and values only: not on the number of queries beside it, nor on who computes which chunk.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ridgeline {

inline constexpr std::int64_t kBlockTokens = 16;
inline constexpr std::int64_t kChunkTokens = 256;

static inline std::int64_t padded_to_16(std::int64_t n) { return (n + 15) / 16 * 16; }
static inline std::size_t key_tile_bytes(std::int64_t head_dim) {
  return static_cast<std::size_t>(head_dim * kBlockTokens * 2 + 63) / 64 * 64;
}
static inline std::size_t value_tile_bytes(std::int64_t value_dim) {
  return static_cast<std::size_t>(padded_to_16(value_dim) * kBlockTokens * 2);
}

// One row's queries of one KV head. A "vector" is a pair (new token, query head of the group), tokens outermost.
struct AttentionArgs {
  const float* q;  // first new token, first head of the group; [num_new, group * head_dim], row stride ldq
  std::int64_t ldq;
  float* out;  // as q, with value_dim
  std::int64_t ldo;
  std::int64_t group;  // query heads of this KV head
  std::int64_t head_dim;
  std::int64_t value_dim;
  float scale;
  float softcap;        // 0: none
  std::int64_t window;  // 0: none
  bool causal;
  const std::byte* keys;    // key tile of block 0
  const std::byte* values;  // value tile of block 0
  std::size_t block_stride;
  const std::int32_t* block_table;
  std::int64_t num_context;
  std::int64_t num_new;
};

// Floats of what one chunk leaves of one vector: outputs, then their largest score and sum of weights, padded.
static inline std::int64_t partial_floats(std::int64_t value_dim) { return padded_to_16(value_dim) + kBlockTokens; }

// New tokens that one work item takes, so that its queries and running outputs stay in cache.
static inline std::int64_t queries_per_item(std::int64_t group, std::int64_t head_dim) {
  const std::int64_t vectors = head_dim <= 128 ? 48 : 24;
  return vectors / group > 0 ? vectors / group : 1;
}

}  // namespace ridgeline
