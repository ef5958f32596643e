// sample: noise that is a function of (seed, position, token id): Philox 4x32-10 (Salmon et al. 2011) as Gumbel noise.
#pragma once

#include <cmath>

#include "sample_scan.h"

namespace ridgeline::RIDGELINE_ISA {
constexpr std::uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kStep0 = 0x9E3779B9u, kStep1 = 0xBB67AE85u;
constexpr int kRounds = 10;

// kind: 0 for a token's noise, kCoin for a draw that is the row's own.
constexpr std::uint32_t kCoin = 1;

// A block of four words has the noise of four tokens, 16 ids apart: of 64 successive ids the blocks of 16 lanes.
constexpr std::uint32_t kBlockIds = 64, kIdsApart = 16;

inline std::uint32_t philox_word(std::uint64_t seed, std::uint64_t position, std::uint32_t id, std::uint32_t kind = 0) {
  std::uint32_t c[4] = {static_cast<std::uint32_t>(position), static_cast<std::uint32_t>(position >> 32),
                        id / kBlockIds * kIdsApart + id % kIdsApart, kind};
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; round++) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kFactor0) * c[0], p1 = static_cast<std::uint64_t>(kFactor1) * c[2];
    c[0] = static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0;
    c[2] = static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1;
    c[1] = static_cast<std::uint32_t>(p1);
    c[3] = static_cast<std::uint32_t>(p0);
    k0 += kStep0;
    k1 += kStep1;
  }
  return c[id % kBlockIds / kIdsApart];
}

// philox_word of kBlockIds successive ids, of which the first is a multiple of kBlockIds.
inline void philox_words(std::uint64_t seed, std::uint64_t position, std::uint32_t first_id, std::uint32_t* out) {
  static_assert(kWidth == kIdsApart);
  Words c0 = all_words(static_cast<std::uint32_t>(position)), c1 = all_words(static_cast<std::uint32_t>(position >> 32));
  Words c2 = words_from(first_id / kBlockIds * kIdsApart), c3 = all_words(0);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; round++) {
    Words high0, low0, high1, low1;
    multiply(c0, kFactor0, high0, low0);
    multiply(c2, kFactor1, high1, low1);
    c0 = exclusive_or(exclusive_or(high1, c1), all_words(k0));
    c2 = exclusive_or(exclusive_or(high0, c3), all_words(k1));
    c1 = low1;
    c3 = low0;
    k0 += kStep0;
    k1 += kStep1;
  }
  store(out, c0);
  store(out + kIdsApart, c1);
  store(out + 2 * kIdsApart, c2);
  store(out + 3 * kIdsApart, c3);
}

// Uniform in (0, 1), never an end of it.
inline double uniform_of(std::uint32_t word) { return (static_cast<double>(word) + 0.5) * 0x1p-32; }

// 1 - u, which a token that wins has small: at least kLeastRest.
constexpr float kLeastRest = 0x1p-33f;
inline float rest_of(std::uint32_t word) { return (static_cast<float>(~word) + 0.5f) * 0x1p-32f; }

// No noise exceeds it.
constexpr float kMostNoise = 23.0f;

// e^(score - best), with room for rounding: a token whose 1 - u is not below it has less than `best`, since with
// -log(-log(u)) >= best - score 1 - u <= e^(score - best).
static inline Vec most_rest(Vec score, float best) { return exp(add(sub(score, all(best)), all(1e-3f))); }

// logits / temperature, held at the largest and the lowest float where a low temperature would go beyond.
static inline Vec tempered(Vec logits, Vec temperature) {
  const Vec limit = all(kLargest);
  return max(sub(zeros(), limit), min(limit, div(logits, temperature)));
}

inline float noisy(float score, std::uint32_t word) {
  return score + static_cast<float>(-std::log(-std::log(uniform_of(word))));
}

}  // namespace ridgeline::RIDGELINE_ISA
