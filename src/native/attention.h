// attention: what the program needs of the family, and how a block of the cache is laid out.
//
// A cache block holds kBlockTokens tokens of one row. Of each KV head it has a key tile and a value tile, in which scores
// find tokens in lanes and outputs find channels in lanes, without a shuffle. By format of the cache:
//
//   bf16  key tile    [head_dim / 2][16 tokens][2]            pairs of channels, as a BF16 dot product takes them
//         value tile  [8][value_dim padded to 16][2 tokens]   pairs of tokens
//   f16   key tile    [head_dim][16 tokens]
//         value tile  [16 tokens][value_dim padded to 16]
//   int8  key tile    [head_dim / 4][16 tokens][4] codes + 128, then 16 float32 scales, one a token; the channels are
//                     those of the balanced keys' transform (hadamard.h)
//         value tile  [4][value_dim padded to 16][4 tokens] codes, then 16 float32 scales
//
// What is multiplied, and how: bf16: queries and softmax weights rounded to bfloat16; on AVX-512 by the BF16 dot product,
// elsewhere widened to float32. f16: widened, all in float32. int8: attention_int8.h, in integers of 16 and 8 bits whose
// sums are exact. Everything else is float32.
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

// How keys and values are kept; the order is that of Kernels::caches and of kCacheFormatNames.
enum class CacheFormat : std::uint8_t { bf16, f16, int8 };
inline constexpr int kNumCacheFormats = 3;
inline constexpr const char* kCacheFormatNames[kNumCacheFormats] = {"bf16", "f16", "int8"};

// Sums of products with int8 codes stay below 2^31 up to so many channels.
inline constexpr std::int64_t kMaxCodedChannels = 512;

static inline std::int64_t padded_to_16(std::int64_t n) { return (n + 15) / 16 * 16; }
inline constexpr std::size_t kScaleBytes = kBlockTokens * sizeof(float);  // of a tile of codes

static inline std::size_t key_tile_bytes(CacheFormat format, std::int64_t head_dim) {
  const std::size_t channels = static_cast<std::size_t>(head_dim);
  if (format == CacheFormat::bf16) return (channels + 1) / 2 * kBlockTokens * 4;
  if (format == CacheFormat::f16) return (channels + 1) / 2 * 2 * kBlockTokens * 2;  // whole lines
  return (channels + 3) / 4 * kBlockTokens * 4 + kScaleBytes;
}
static inline std::size_t value_tile_bytes(CacheFormat format, std::int64_t value_dim) {
  const std::size_t channels = static_cast<std::size_t>(padded_to_16(value_dim));
  return format == CacheFormat::int8 ? channels * kBlockTokens + kScaleBytes : channels * kBlockTokens * 2;
}
// Tokens of a value tile that lie together: whole rows of lines are theirs.
static inline std::int64_t tokens_together(CacheFormat format) {
  return format == CacheFormat::bf16 ? 2 : format == CacheFormat::f16 ? 1 : 4;
}

// Where tiles of one kind lie within a block that has no others beside it.
struct TilePlace {
  std::size_t offset = 0, num_bytes = 0;
};

// Blocks of the cache. Of the first `grouped`, a multiple of kBlocksTogether, so many lie side by side: the same tile of
// successive blocks follows one another, and a context whose blocks do is read as a stream, which the hardware foresees.
// The others lie each by itself.
inline constexpr std::size_t kBlocksTogether = 16;
struct CacheBlocks {
  std::byte* begin = nullptr;
  std::size_t block_bytes = 0;
  std::size_t grouped = 0;

  std::size_t offset_of(std::int32_t block, const TilePlace& place) const {
    const std::size_t index = static_cast<std::size_t>(block);
    if (index >= grouped) return index * block_bytes + place.offset;
    const std::size_t beside = index % kBlocksTogether;
    return (index - beside) * block_bytes + place.offset * kBlocksTogether + beside * place.num_bytes;
  }
  std::byte* tile(std::int32_t block, const TilePlace& place) const { return begin + offset_of(block, place); }
};

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
  bool chunked;         // see first_visible
  bool causal;
  std::int64_t ahead;  // of others than causal ones: positions that a query sees ahead, -1: all
  const float* powers;  // what a query's channels are multiplied with, since keys were divided by it, or null
  const float* sinks;  // a score of each head of the group that has no value, or null
  const std::int32_t* last_seen;  // each new token's last position seen, never falling; null: its own, or all
  const std::int32_t* first_seen;  // each new token's first position seen, never falling; null: by the window
  CacheBlocks cache;
  TilePlace keys, values;  // of this head; values without bytes: they are the first value_dim channels of the keys
  const std::int32_t* block_table;
  std::int64_t num_context;
  std::int64_t num_new;

  bool has_values() const { return values.num_bytes > 0; }
};

// What a thread will compute after a chunk: its keys are fetched meanwhile. args: null for nothing.
struct AttentionNext {
  const AttentionArgs* args;
  std::int64_t chunk;
};

// Attention over caches of one format.
struct CacheAttention {
  std::size_t (*scratch_bytes)(std::int64_t group, std::int64_t head_dim, std::int64_t value_dim);
  // New tokens [query_begin, query_end), at most queries_per_item, over all that they see. next: what this thread will
  // attend to afterwards, or null.
  void (*attend)(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, const AttentionArgs* next,
                 std::byte* scratch);
  // The same in two parts: one chunk into partials [vectors, partial_floats]; merge_chunks makes outputs of them.
  void (*attend_chunk)(const AttentionArgs& args, std::int64_t query_begin, std::int64_t query_end, std::int64_t chunk,
                       const AttentionNext& next, float* partials, std::byte* scratch);
};

// How one head's keys are evened out before they are kept in int8: (key - centre) / power, of each channel.
struct KeyBalance {
  const float *centres, *powers, *inverse_powers;
};

// Writes to caches of one format: `count` successive tokens of one KV head into slots [first_slot, first_slot + count) of
// a block's tile. balance: of int8 keys, or null.
struct CacheWrites {
  void (*keys)(const float* k, std::int64_t ldk, std::int64_t head_dim, const KeyBalance* balance, std::byte* tile,
               std::int64_t first_slot, std::int64_t count);
  void (*values)(const float* v, std::int64_t ldv, std::int64_t value_dim, std::byte* tile, std::int64_t first_slot,
                 std::int64_t count);
};

// Floats of what one chunk leaves of one vector: outputs, then their largest score and sum of weights, padded.
static inline std::int64_t partial_floats(std::int64_t value_dim) { return padded_to_16(value_dim) + kBlockTokens; }

// The first token that a query at `position` sees: at most `window` back, itself included, or if `chunked`, the first of
// its chunk of so many.
static inline std::int64_t first_visible(std::int64_t window, bool chunked, std::int64_t position) {
  if (window <= 0 || position < window) return 0;
  return chunked ? position / window * window : position - window + 1;
}

// New tokens that one work item takes, so that its queries and running outputs stay in cache.
static inline std::int64_t queries_per_item(std::int64_t group, std::int64_t head_dim) {
  const std::int64_t vectors = head_dim <= 128 ? 96 : 48;
  return vectors / group > 0 ? vectors / group : 1;
}

}  // namespace ridgeline
