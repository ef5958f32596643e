// attention over a cache of bfloat16 pairs: queries and softmax weights are rounded to bfloat16, too.
#pragma once

#include "attention_parts.h"
#include "pairs.h"

namespace ridgeline::RIDGELINE_ISA {

struct Bf16Cache {
  static constexpr CacheFormat kFormat = CacheFormat::bf16;
  static constexpr bool kWholeChunks = false;
  static constexpr int kVectors = kTileVectors;
#if defined(RIDGELINE_ISA_avx512)
  static constexpr int kTileLines = 4;
#else
  static constexpr int kTileLines = 1;
#endif
  static constexpr std::int64_t kLine = 2 * kWidth;  // bfloat16 of a line of pairs

  // Of one vector's query: channels padded to whole lines of pairs.
  static std::size_t query_bytes(std::int64_t head_dim) {
    return static_cast<std::size_t>((head_dim + kLine - 1) / kLine * kLine) * sizeof(Factor);
  }

  static void set_query(const float* x, std::int64_t head_dim, float of_all, const float*, std::byte* out) {
    const Vec scale = all(of_all);
    Factor* q = reinterpret_cast<Factor*>(out);
    for (std::int64_t i = 0; i < head_dim; i += kLine) {
      const std::int64_t left = head_dim - i;
      const Vec first = load_n(x + i, left);
      const Vec second = left > kWidth ? load_n(x + i + kWidth, left - kWidth) : zeros();
      store_factors(q + i, mul(first, scale), mul(second, scale));
    }
  }

  // scores[i][16 b + lane] = sum over pairs of channels of q[i] * key: one chain over the pairs, whatever the tile.
  template <int Vectors, int Lines, class Asked>
  static void score_tile(const std::byte* queries, std::size_t ldq, std::int64_t head_dim,
                         const std::byte* const* tiles, Asked& ahead, float* scores) {
    Vec acc[Vectors][Lines];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int b = 0; b < Lines; b++) acc[i][b] = zeros();
    const Factor* q = reinterpret_cast<const Factor*>(queries);
    const std::int64_t num_pairs = (head_dim + 1) / 2, stride = static_cast<std::int64_t>(ldq / sizeof(Factor));
    for (std::int64_t d = 0; d < num_pairs; d++) {
      ahead.template ask<Lines>();
      add_products(
          q + 2 * d, stride, [&](int b) { return reinterpret_cast<const std::uint16_t*>(tiles[b]) + d * kLine; }, acc);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int b = 0; b < Lines; b++) store(scores + i * kChunkTokens + b * kBlockTokens, acc[i][b]);
  }

  // Scores become weights 2^(score - base), rounded; gives the sum of the weights before they are, in which NaN stays.
  static float set_weights(float* scores, Vec base, const ValueTiles& values, std::byte* out, float&) {
    Factor* weights = reinterpret_cast<Factor*>(out);
    Vec sums = zeros();
    for (std::int64_t b = 0; b < values.num_blocks; b += 2) {
      const Vec first = power_of_2(sub(load(scores + b * kBlockTokens), base));
      const Vec second =
          b + 1 < values.num_blocks ? power_of_2(sub(load(scores + (b + 1) * kBlockTokens), base)) : zeros();
      sums = add(add(sums, first), second);
      store_number_factors(weights + b * kBlockTokens, first, second);
    }
    return sum(sums);
  }

  // out[i][lane] = sum over pairs of tokens of weights[i] * value, channels from `first` on: one chain over the chunk's
  // pairs, whatever the tile. Meanwhile `ahead` is asked for.
  template <int Vectors, int Lines, class Asked>
  static void value_tile(const float*, const std::byte* weights, const float*, const ValueTiles& values,
                         std::int64_t first, Asked& ahead, float* out, std::int64_t ldo) {
    Vec acc[Vectors][Lines];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int l = 0; l < Lines; l++) acc[i][l] = zeros();
    const Factor* factors = reinterpret_cast<const Factor*>(weights);
    constexpr std::int64_t kStride = kWeightBytes / sizeof(Factor);
    for (std::int64_t b = 0; b < values.num_blocks; b++) {
      const std::uint16_t* tile = reinterpret_cast<const std::uint16_t*>(values.tiles[b]) + 2 * first;
      for (std::int64_t t = 0; t < kBlockTokens; t += 2) {
        ahead.template ask<Lines>();
        add_products(
            factors + b * kBlockTokens + t, kStride, [&](int l) { return tile + t * values.outputs + l * kLine; }, acc);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int l = 0; l < Lines; l++) store(out + i * ldo + l * kWidth, acc[i][l]);
  }
};

}  // namespace ridgeline::RIDGELINE_ISA
