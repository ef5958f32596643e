// attention: what the program needs of the family, and how a block of the cache is laid out.
//
// A cache block holds kBlockTokens tokens of one row. Of each KV head it has a key tile and a value tile of bfloat16, in
// lines of 16 pairs (64 bytes):
//   key tile    [head_dim / 2][16 tokens][2]            a line is two neighbouring channels of 16 tokens
//   value tile  [8][value_dim padded to 16][2 tokens]   a line is 16 channels of two neighbouring tokens
// so that scores have tokens in lanes, outputs have channels in lanes, and both are sums of products of pairs, as the
// BF16 dot product of AVX-512 takes them, without a shuffle.
//
// Queries and softmax weights are rounded to bfloat16 to be multiplied; products are added up, and everything else is
// computed, in float32. Elsewhere than on AVX-512 pairs are widened and multiplied as float32.
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
  return static_cast<std::size_t>((head_dim + 1) / 2) * kBlockTokens * 4;
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

// What a thread will compute after a chunk: its keys are fetched meanwhile. args: null for nothing.
struct AttentionNext {
  const AttentionArgs* args;
  std::int64_t chunk;
};

// Floats of what one chunk leaves of one vector: outputs, then their largest score and sum of weights, padded.
static inline std::int64_t partial_floats(std::int64_t value_dim) { return padded_to_16(value_dim) + kBlockTokens; }

// New tokens that one work item takes, so that its queries and running outputs stay in cache.
static inline std::int64_t queries_per_item(std::int64_t group, std::int64_t head_dim) {
  const std::int64_t vectors = head_dim <= 128 ? 48 : 24;
  return vectors / group > 0 ? vectors / group : 1;
}

}  // namespace ridgeline
