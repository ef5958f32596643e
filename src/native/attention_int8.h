// attention over a cache of int8 codes with a float32 scale for each token of a head.
//
// Keys lie evened out (KeyBalance) and mixed (hadamard.h). Queries are multiplied by the same powers and mixed, too: their
// products with what lies there are those of q and k, less what q makes of the centres, which is the same for all keys
// and does not show behind softmax.
//
// Queries become integers of 16 bits, q = code * query scale, |code| <= 32512 = 127 * 256; softmax weights times the
// values' scales become integers in [0, 32767] under one scale for a vector's chunk. Their products with codes are added
// up exactly (quads.h), so scores and outputs are rounded where integers become float32 and nowhere in between, alike
// on every instruction set: what rounding adds lies below 2^-15 of the largest number beside it.
#pragma once

#include "attention_parts.h"
#include "hadamard.h"
#include "quads.h"

namespace ridgeline::RIDGELINE_ISA {

struct Int8Cache {
  static constexpr CacheFormat kFormat = CacheFormat::int8;
  static constexpr bool kWholeChunks = false;
#if defined(RIDGELINE_ISA_avx512)
  static constexpr int kVectors = kTileVectors, kTileLines = 2;
#elif defined(RIDGELINE_ISA_avx2)
  static constexpr int kVectors = 4, kTileLines = 1;  // products of even and odd codes need registers beside the sums
#else
  static constexpr int kVectors = kTileVectors, kTileLines = 1;
#endif
  static constexpr float kLargestQuery = 127 * 256, kLargestWeight = 32767;
  // Below this numbers count as zero: their reciprocals would overflow.
  static constexpr float kLeast = 0x1p-100f;

  // Behind a query's factors.
  struct QueryEnd {
    float scale;
    FactorSums sums;
  };

  static std::size_t query_bytes(std::int64_t head_dim) {
    return static_cast<std::size_t>(padded_to_16(head_dim)) * kFactorBytes + 64;
  }
  static QueryEnd* end_of(std::byte* query, std::int64_t head_dim) {
    return reinterpret_cast<QueryEnd*>(query + static_cast<std::size_t>(padded_to_16(head_dim)) * kFactorBytes);
  }

  // Mixed as the keys are; the number of channels that were is a power of two, so that dividing by it rounds nothing.
  static void set_query(const float* x, std::int64_t head_dim, float scale, const float* powers, std::byte* out) {
    alignas(64) float mixed[kMaxCodedChannels];
    const Vec factor = all(scale / static_cast<float>(mixed_channels(head_dim)));
    for (std::int64_t i = 0; i < head_dim; i += kWidth) {
      const Vec here = mul(load_n(x + i, head_dim - i), factor);
      store(mixed + i, powers ? mul(here, load_n(powers + i, head_dim - i)) : here);
    }
    mix_channels(mixed, head_dim);
    Vec top = zeros(), faults = zeros();
    for (std::int64_t i = 0; i < head_dim; i += kWidth) {
      const Vec here = load(mixed + i);
      top = max(top, absolute(here));
      faults = fma(here, zeros(), faults);  // NaN and infinity give NaN
    }
    const float largest_one = largest(top);
    const bool is_zero = largest_one < kLeast;
    const Vec inverse = all(is_zero ? 0.0f : kLargestQuery / largest_one);
    FactorSums sums{};
    for (std::int64_t i = 0; i < head_dim; i += kWidth) {
      store_signed_factors(out + static_cast<std::size_t>(i) * kFactorBytes, round_even(mul(load(mixed + i), inverse)),
                           sums);
    }
    QueryEnd* end = end_of(out, head_dim);
    end->scale = is_zero ? 0.0f : largest_one / kLargestQuery + sum(faults);
    end->sums = sums;
  }

  template <int Vectors, int Lines, class Asked>
  static void score_tile(const std::byte* queries, std::size_t ldq, std::int64_t head_dim,
                         const std::byte* const* tiles, Asked& ahead, float* scores) {
    const std::int64_t num_quads = (head_dim + 3) / 4;
    const std::byte* ends = queries + static_cast<std::size_t>(padded_to_16(head_dim)) * kFactorBytes;
    const auto end = [&](int i) { return reinterpret_cast<const QueryEnd*>(ends + static_cast<std::size_t>(i) * ldq); };
    Sums acc[Vectors][Lines];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int b = 0; b < Lines; b++) acc[i][b] = sums_against_bias(end(i)->sums);
    for (std::int64_t d = 0; d < num_quads; d++) {
      ahead.template ask<Lines>();
      Quads keys[Lines];
#pragma GCC unroll 8
      for (int b = 0; b < Lines; b++) keys[b] = load_quads(tiles[b] + d * kQuadLine);
#pragma GCC unroll 8
      for (int i = 0; i < Vectors; i++) {
        const Factors factors = all_factors(queries + static_cast<std::size_t>(i) * ldq + d * 4 * kFactorBytes);
#pragma GCC unroll 8
        for (int b = 0; b < Lines; b++) acc[i][b] = dot_biased(keys[b], factors, acc[i][b]);
      }
    }
#pragma GCC unroll 8
    for (int b = 0; b < Lines; b++) {
      const Vec scales = load(reinterpret_cast<const float*>(tiles[b] + num_quads * kQuadLine));
#pragma GCC unroll 8
      for (int i = 0; i < Vectors; i++)
        store(scores + i * kChunkTokens + b * kBlockTokens, mul(mul(floats(acc[i][b]), all(end(i)->scale)), scales));
    }
  }

  // A token without weight adds nothing, whatever its scale.
  static float set_weights(float* scores, Vec base, const ValueTiles& values, std::byte* out, float& weight_scale) {
    Vec sums = zeros(), top = zeros(), faults = zeros();
    for (std::int64_t b = 0; b < values.num_blocks; b++) {
      const float* scales = reinterpret_cast<const float*>(values.tiles[b] + values.outputs * kBlockTokens);
      const Vec weights = power_of_2(sub(load(scores + b * kBlockTokens), base));
      sums = add(sums, weights);
      const Vec scaled = select(less(zeros(), weights), mul(weights, load(scales)), zeros());
      top = max(top, scaled);
      faults = fma(scaled, zeros(), faults);
      store(scores + b * kBlockTokens, scaled);
    }
    const float largest_one = largest(top), fault = sum(faults);
    const bool is_zero = largest_one < kLeast || fault != fault;
    const Vec inverse = all(is_zero ? 0.0f : kLargestWeight / largest_one);
    for (std::int64_t b = 0; b < values.num_blocks; b++)
      store_unsigned_factors(out + static_cast<std::size_t>(b * kBlockTokens) * kFactorBytes,
                             round_even(mul(load(scores + b * kBlockTokens), inverse)));
    weight_scale = (is_zero ? 0.0f : largest_one / kLargestWeight) + fault;
    return sum(sums);
  }

  template <int Vectors, int Lines, class Asked>
  static void value_tile(const float*, const std::byte* weights, const float* weight_scales, const ValueTiles& values,
                         std::int64_t first, Asked& ahead, float* out, std::int64_t ldo) {
    Sums acc[Vectors][Lines];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int l = 0; l < Lines; l++) acc[i][l] = Sums{};
    for (std::int64_t b = 0; b < values.num_blocks; b++) {
      const std::byte* tile = values.tiles[b] + 4 * first;
#pragma GCC unroll 1  // or g++ makes products of four steps, on the stack, before it adds them
      for (std::int64_t t = 0; t < kBlockTokens; t += 4) {
        ahead.template ask<Lines>();
        Quads lines[Lines];
#pragma GCC unroll 8
        for (int l = 0; l < Lines; l++) lines[l] = load_quads(tile + t * values.outputs + l * kQuadLine);
#pragma GCC unroll 8
        for (int i = 0; i < Vectors; i++) {
          const std::byte* of_vector = weights + static_cast<std::size_t>(i) * kWeightBytes;
          const Factors factors = all_factors(of_vector + static_cast<std::size_t>(b * kBlockTokens + t) * kFactorBytes);
#pragma GCC unroll 8
          for (int l = 0; l < Lines; l++) acc[i][l] = dot_signed(lines[l], factors, acc[i][l]);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; i++)
#pragma GCC unroll 8
      for (int l = 0; l < Lines; l++)
        store(out + i * ldo + l * kWidth, mul(floats(acc[i][l]), all(weight_scales[i])));
  }
};

}  // namespace ridgeline::RIDGELINE_ISA
