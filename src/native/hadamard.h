// hadamard: the Walsh-Hadamard transform of a head's channels, by which one that is far larger than the rest becomes many
// alike. Its matrix is symmetric and its square is the identity times the number of channels: the product of two
// transforms is so many times the product of what they were made of. Sums and differences only, in one order: the same
// bits on every instruction set.
#pragma once

#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {

// How many neighbours are mixed with each other: the largest power of two that divides the channels.
static inline std::int64_t mixed_channels(std::int64_t channels) { return channels & -channels; }

// Lanes that are Distance apart: their sum in the first, first - second in the second.
template <int Distance>
struct Signs {
  alignas(64) float of[kWidth] = {};
  constexpr Signs() {
    for (int i = 0; i < kWidth; i++) of[i] = i & Distance ? -1.0f : 1.0f;
  }
};
template <int Distance>
static inline Vec mix_lanes(Vec x) {
  static constexpr Signs<Distance> kSigns;
  return fma(x, load(kSigns.of), exchange<Distance>(x));
}

static inline Vec mix_within(Vec x, std::int64_t mixed) {
  if (mixed >= 2) x = mix_lanes<1>(x);
  if (mixed >= 4) x = mix_lanes<2>(x);
  if (mixed >= 8) x = mix_lanes<4>(x);
  if (mixed >= 16) x = mix_lanes<8>(x);
  return x;
}

// x [channels, padded to whole vectors], in place.
static inline void mix_channels(float* x, std::int64_t channels) {
  const std::int64_t mixed = mixed_channels(channels);
  for (std::int64_t i = 0; i < channels; i += kWidth) store(x + i, mix_within(load(x + i), mixed));
  for (std::int64_t distance = kWidth; distance < mixed; distance *= 2)
    for (std::int64_t begin = 0; begin < channels; begin += 2 * distance)
      for (std::int64_t i = begin; i < begin + distance; i += kWidth) {
        const Vec first = load(x + i), second = load(x + i + distance);
        store(x + i, add(first, second));
        store(x + i + distance, sub(first, second));
      }
}

}  // namespace ridgeline::RIDGELINE_ISA
