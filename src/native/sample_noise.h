// sample: noise that is a function of (seed, position, token id): Philox 4x32-10 (Salmon et al. 2011) as Gumbel noise.
#pragma once

#include <cmath>

#include "sample_scan.h"

namespace ridgeline::RIDGELINE_ISA {
constexpr std::uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kStep0 = 0x9E3779B9u, kStep1 = 0xBB67AE85u;
constexpr int kRounds = 10;

// kind: 0 for a token's noise, kCoin for a draw that is the row's own.
constexpr std::uint32_t kCoin = 1;

inline std::uint32_t philox_word(std::uint64_t seed, std::uint64_t position, std::uint32_t id, std::uint32_t kind = 0) {
  std::uint32_t c0 = static_cast<std::uint32_t>(position), c1 = static_cast<std::uint32_t>(position >> 32), c2 = id,
                c3 = kind;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; round++) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kFactor0) * c0, p1 = static_cast<std::uint64_t>(kFactor1) * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    k0 += kStep0;
    k1 += kStep1;
  }
  return c0;
}

// philox_word of kSpan successive ids; several vectors side by side, since a round is one long chain.
inline void philox_words(std::uint64_t seed, std::uint64_t position, std::uint32_t first_id, std::uint32_t* out) {
  constexpr int kVectors = kSpan / kWidth;
  Words c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
  for (int i = 0; i < kVectors; i++) {
    c0[i] = all_words(static_cast<std::uint32_t>(position));
    c1[i] = all_words(static_cast<std::uint32_t>(position >> 32));
    c2[i] = words_from(first_id + static_cast<std::uint32_t>(i * kWidth));
    c3[i] = all_words(0);
  }
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < kRounds; round++) {
    for (int i = 0; i < kVectors; i++) {
      Words high0, low0, high1, low1;
      multiply(c0[i], kFactor0, high0, low0);
      multiply(c2[i], kFactor1, high1, low1);
      c0[i] = exclusive_or(exclusive_or(high1, c1[i]), all_words(k0));
      c2[i] = exclusive_or(exclusive_or(high0, c3[i]), all_words(k1));
      c1[i] = low1;
      c3[i] = low0;
    }
    k0 += kStep0;
    k1 += kStep1;
  }
  for (int i = 0; i < kVectors; i++) store(out + i * kWidth, c0[i]);
}

// Uniform in (0, 1), never an end of it.
inline double uniform_of(std::uint32_t word) { return (static_cast<double>(word) + 0.5) * 0x1p-32; }

inline float noisy(float score, std::uint32_t word) {
  return score + static_cast<float>(-std::log(-std::log(uniform_of(word))));
}

}  // namespace ridgeline::RIDGELINE_ISA
