// attention on AMX: a chunk's scores and weighted values of up to 16 vectors by tiles, over a cache of bfloat16 pairs,
// whose lines are rows of tiles as they lie. The other formats stay AVX-512's.
//
// Per score: for each 32 channels in order, what one tile product adds (amx.h). Per output: for each block of tokens in
// order, the same. Every number of vectors goes this way, so that a vector's bits depend on itself alone.
#include "amx.h"
#include "attention_amx.h"
#include "attention_bf16.h"
#include "attention_walk.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// Tiles: results (four blocks of tokens, or four times 16 channels, side by side), queries, keys, weights, values.
enum { kResults = 0, kQueries = 4, kKeys = 5, kWeights = 6, kValues = 7 };

struct TiledBf16Cache : Bf16Cache {
  static constexpr bool kWholeChunks = true;
  static constexpr int kVectors = 16;

  static constexpr std::int64_t kTileBytes = 16 * 64;

  template <int Count>
  static void zero() {
    zero_tile<kResults>();
    if constexpr (Count > 1) zero_tile<kResults + 1>();
    if constexpr (Count > 2) zero_tile<kResults + 2>();
    if constexpr (Count > 3) zero_tile<kResults + 3>();
  }

  template <int Count>
  static void put(float* out, std::int64_t ld) {
    const std::int64_t stride = ld * static_cast<std::int64_t>(sizeof(float));
    store_tile<kResults>(out, stride);
    if constexpr (Count > 1) store_tile<kResults + 1>(out + 16, stride);
    if constexpr (Count > 2) store_tile<kResults + 2>(out + 32, stride);
    if constexpr (Count > 3) store_tile<kResults + 3>(out + 48, stride);
  }

  // at(i): the i-th tile of B, of so many Rows; for each, as many lines of `ahead` are asked for.
  template <int Count, int A, int B, int Rows, int I = 0, class At>
  static void multiply(At at, std::int64_t stride, Ahead& ahead) {
    load_tile<B>(at(I), stride);
    multiply_bfloats<kResults + I, A, B>();
    ahead.ask<Rows>();
    if constexpr (I + 1 < Count) multiply<Count, A, B, Rows, I + 1>(at, stride, ahead);
  }

  static void scores(const std::byte* queries, std::size_t ldq, std::int64_t head_dim, int count,
                     const std::byte* const* keys, int num_blocks, Ahead& ahead, float* out) {
    TileConfig config;
    for (int i = 0; i < 4; i++) config.shape(kResults + i, count, 64);
    config.shape(kQueries, count, 64);
    config.shape(kKeys, 16, 64);
    config.shape(kWeights, count, kBlockTokens * 2);
    config.shape(kValues, kBlockTokens / 2, 64);
    config.load();
    const std::int64_t num_pairs = (head_dim + 1) / 2, whole = num_pairs / 16, rest = num_pairs % 16;
    // Lines beyond the last pair of channels are another tile's, and may hold anything.
    alignas(64) std::byte padded[4][kTileBytes];
    if (rest > 0) std::memset(padded, 0, sizeof padded);
    for (int b = 0; b < num_blocks; b += 4) {
      with_size<4>(num_blocks - b, [&](auto lines) {
        constexpr int kCount = decltype(lines)::value;
        zero<kCount>();
        for (std::int64_t d = 0; d < whole; d++) {
          load_tile<kQueries>(queries + d * 64, static_cast<std::int64_t>(ldq));
          multiply<kCount, kQueries, kKeys, 16>([&](int i) { return keys[b + i] + d * kTileBytes; }, 64, ahead);
        }
        if (rest > 0) {
          for (int i = 0; i < kCount; i++)
            std::memcpy(padded[i], keys[b + i] + whole * kTileBytes, static_cast<std::size_t>(rest) * 64);
          load_tile<kQueries>(queries + whole * 64, static_cast<std::int64_t>(ldq));
          multiply<kCount, kQueries, kKeys, 16>([&](int i) { return padded[i]; }, 64, ahead);
        }
        put<kCount>(out + b * kBlockTokens, kChunkTokens);
      });
    }
    ahead.ask_all();
  }

  static void values(const std::byte* weights, const ValueTiles& values, int, Ahead& ahead, float* out,
                     std::int64_t ldo) {
    for (std::int64_t l = 0; l < values.outputs; l += 4 * kWidth) {
      with_size<4>(static_cast<int>((values.outputs - l) / kWidth), [&](auto lines) {
        constexpr int kCount = decltype(lines)::value;
        zero<kCount>();
        for (std::int64_t b = 0; b < values.num_blocks; b++) {
          load_tile<kWeights>(weights + b * kBlockTokens * 2, kWeightBytes);
          multiply<kCount, kWeights, kValues, kBlockTokens / 2>(
              [&](int i) { return values.tiles[b] + 4 * (l + i * kWidth); }, values.outputs * 4, ahead);
        }
        put<kCount>(out + l, ldo);
      });
    }
    ahead.ask_all();
    release_tiles();
  }
};

}  // namespace

const CacheAttention* amx_cache_attention() {
  static_assert(static_cast<int>(CacheFormat::bf16) == 0);
  static const CacheAttention table[kNumCacheFormats] = {row<TiledBf16Cache>(), kCacheAttention[1], kCacheAttention[2]};
  return table;
}

}  // namespace ridgeline::RIDGELINE_ISA
