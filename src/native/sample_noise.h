// sample: noise that is a function of (seed, position, token id): Philox 4x32-10 (Salmon et al. 2011) as Gumbel noise.
#pragma once

#include <cmath>

#include "sample_scan.h"

namespace ridgeline::RIDGELINE_ISA {
constexpr std::uint32_t kFactor0 = 0xD2511F53u, kFactor1 = 0xCD9E8D57u, kStep0 = 0x9E3779B9u, kStep1 = 0xBB67AE85u;
constexpr int kRounds = 10;

// kind: 0 for a token's word, kCoin for a draw that is the row's own, kLuck for a strip's word.
constexpr std::uint32_t kCoin = 1, kLuck = 2;

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
inline void philox_words(std::uint64_t seed, std::uint64_t position, std::uint32_t first_id, std::uint32_t* out,
                         std::uint32_t kind = 0) {
  static_assert(kWidth == kIdsApart);
  Words c0 = all_words(static_cast<std::uint32_t>(position)), c1 = all_words(static_cast<std::uint32_t>(position >> 32));
  Words c2 = words_from(first_id / kBlockIds * kIdsApart), c3 = all_words(kind);
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

// Of 32 successive tokens, a strip, the luckiest one's noise has a word of its own. -log(u) of a word is a time after which
// something comes that comes once in a unit; noise is -log of a token's time. The first of 32 comes 32 times as soon, and those
// behind it as much later as if it had not come: that is the strip's time, and to it each token's own is added, less the
// least of them. So one word says of 32 tokens that none can win.
constexpr std::int64_t kLuckyIds = 32;

// 1 - u, which is small of what comes soon: at least kLeastRest, and no more than -log(u).
constexpr float kLeastRest = 0x1p-33f;
inline float rest_of(std::uint32_t word) { return (static_cast<float>(~word) + 0.5f) * 0x1p-32f; }
inline double time_of(std::uint32_t word) { return -std::log(uniform_of(word)); }

// No noise exceeds it.
constexpr float kMostNoise = 27.0f;

// e^(score - best), with room for rounding: the time of a token that may have `best` with this score is not beyond it.
static inline Vec most_time(Vec score, float best) { return exp(add(sub(score, all(best)), all(1e-3f))); }

// logits / temperature, held at the largest and the lowest float where a low temperature would go beyond.
static inline Vec tempered(Vec logits, Vec temperature) {
  const Vec limit = all(kLargest);
  return max(sub(zeros(), limit), min(limit, div(logits, temperature)));
}

// The noise of a strip's tokens.
class StripNoise {
 public:
  // luck: the strip's word; words: its tokens'.
  StripNoise(std::uint32_t luck, const std::uint32_t* words) : words_(words), first_(time_of(luck) / kLuckyIds) {
    std::uint32_t soonest = 0;
    for (int i = 0; i < kLuckyIds; i++) soonest = words[i] > soonest ? words[i] : soonest;
    least_ = time_of(soonest);
  }
  float noisy(float score, std::int64_t i) const {
    return score + static_cast<float>(-std::log(first_ + (time_of(words_[i]) - least_)));
  }
  // Which of kWidth tokens from i on, of n that there are, may have `best` with their noise; what is no number may.
  std::uint32_t open(Vec score, std::int64_t i, std::int64_t n, float best) const {
    float rest[kWidth];
    for (int j = 0; j < kWidth; j++) rest[j] = rest_of(words_[i + j]);
    const Vec first = all(static_cast<float>(first_) * (1 - 1e-6f));
    const Vec later = all(static_cast<float>(first_ - least_) - 1e-6f * (1 + static_cast<float>(first_)));
    const std::uint32_t closed = bits(less(most_time(score, best), max(first, add(load(rest), later))));
    return ~closed & (n < kWidth ? (1u << n) - 1 : 0xffffu);
  }

 private:
  const std::uint32_t* words_;
  double first_, least_;
};

// A row's noise. What it made last is kept, so strips are best asked for in order.
class Noise {
 public:
  Noise(std::uint64_t seed, std::uint64_t position) : seed_(seed), position_(position) {}

  std::uint32_t luck(std::int64_t strip) { return *lucks_.of(*this, strip, kLuck); }
  // The least that the times of the luckiest tokens of strips from `first` on may be: to the next multiple of kWidth.
  Vec least_times(std::int64_t first) {
    const std::uint32_t* words = lucks_.of(*this, first, kLuck);
    float least[kWidth];
    for (int j = 0; j < kWidth; j++) least[j] = rest_of(words[j]) / kLuckyIds;
    return load(least);
  }
  // Until the next one is asked for.
  StripNoise strip(std::int64_t strip) { return {luck(strip), tokens_.of(*this, strip * kLuckyIds, 0)}; }

 private:
  struct Block {
    std::int64_t first = -1;
    std::uint32_t words[kBlockIds + kWidth] = {};  // so that kWidth may be looked at from any of them on

    const std::uint32_t* of(const Noise& noise, std::int64_t index, std::uint32_t kind) {
      const std::int64_t block = index / kBlockIds * kBlockIds;
      if (block != first) philox_words(noise.seed_, noise.position_, static_cast<std::uint32_t>(block), words, kind);
      first = block;
      return words + (index - block);
    }
  };

  std::uint64_t seed_, position_;
  Block lucks_, tokens_;
};

}  // namespace ridgeline::RIDGELINE_ISA
