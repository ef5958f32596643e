// attention over a cache of float16: numbers are widened, and multiplied and added up in float32.
#pragma once

#include "attention_parts.h"

namespace ridgeline::RIDGELINE_ISA {

struct F16Cache {
  static constexpr CacheFormat kFormat = CacheFormat::f16;
  static constexpr bool kWholeChunks = false;
  static constexpr int kVectors = kTileVectors;
#if defined(RIDGELINE_ISA_avx512)
  static constexpr int kTileLines = 4;
#else
  static constexpr int kTileLines = 1;
#endif

  static std::size_t query_bytes(std::int64_t head_dim) {
    return static_cast<std::size_t>(padded_to_16(head_dim)) * sizeof(float);
  }

  static void set_query(const float* x, std::int64_t head_dim, float of_all, const float*, std::byte* out) {
    const Vec scale = all(of_all);
    float* q = reinterpret_cast<float*>(out);
    for (std::int64_t i = 0; i < head_dim; i += kWidth) store(q + i, mul(load_n(x + i, head_dim - i), scale));
  }

  // One chain over the channels, whatever the tile.
  template <int Vectors, int Lines, class Asked>
  static void score_tile(const std::byte* queries, std::size_t ldq, std::int64_t head_dim,
                         const std::byte* const* tiles, Asked& ahead, float* scores) {
    Vec acc[Vectors][Lines];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int b = 0; b < Lines; b++) acc[i][b] = zeros();
    for (std::int64_t d = 0; d < head_dim; d++) {
      if (d % 2 == 0) ahead.template ask<Lines>();
      Vec keys[Lines];
#pragma GCC unroll 8
      for (int b = 0; b < Lines; b++)
        keys[b] = load_half(reinterpret_cast<const std::uint16_t*>(tiles[b]) + d * kBlockTokens);
#pragma GCC unroll 8
      for (int i = 0; i < Vectors; i++) {
        const Vec channel = all(reinterpret_cast<const float*>(queries + static_cast<std::size_t>(i) * ldq)[d]);
#pragma GCC unroll 8
        for (int b = 0; b < Lines; b++) accumulate(channel, keys[b], acc[i][b]);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int b = 0; b < Lines; b++) store(scores + i * kChunkTokens + b * kBlockTokens, acc[i][b]);
  }

  // Weights take the place of scores.
  static float set_weights(float* scores, Vec base, const ValueTiles& values, std::byte*, float&) {
    Vec sums = zeros();
    for (std::int64_t b = 0; b < values.num_blocks; b++) {
      const Vec weights = power_of_2(sub(load(scores + b * kBlockTokens), base));
      sums = add(sums, weights);
      store(scores + b * kBlockTokens, weights);
    }
    return sum(sums);
  }

  // One chain over the chunk's tokens, whatever the tile.
  template <int Vectors, int Lines, class Asked>
  static void value_tile(const float* weights, const std::byte*, const float*, const ValueTiles& values,
                         std::int64_t first, Asked& ahead, float* out, std::int64_t ldo) {
    Vec acc[Vectors][Lines];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int l = 0; l < Lines; l++) acc[i][l] = zeros();
    for (std::int64_t b = 0; b < values.num_blocks; b++) {
      const std::uint16_t* tile = reinterpret_cast<const std::uint16_t*>(values.tiles[b]) + first;
      for (std::int64_t t = 0; t < kBlockTokens; t++) {
        if (t % 2 == 0) ahead.template ask<Lines>();
        Vec lines[Lines];
#pragma GCC unroll 8
        for (int l = 0; l < Lines; l++) lines[l] = load_half(tile + t * values.outputs + l * kWidth);
#pragma GCC unroll 8
        for (int i = 0; i < Vectors; i++) {
          const Vec weight = all(weights[i * kChunkTokens + b * kBlockTokens + t]);
#pragma GCC unroll 8
          for (int l = 0; l < Lines; l++) accumulate(weight, lines[l], acc[i][l]);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int l = 0; l < Lines; l++) store(out + i * ldo + l * kWidth, acc[i][l]);
  }
};

}  // namespace ridgeline::RIDGELINE_ISA
