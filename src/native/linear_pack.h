// Raw rows of a GGUF format as the blocks of packed layouts: 16 channels side by side, codes in lines, scales in floats.
#pragma once

#include <algorithm>
#include <cstring>

#include "linear_formats.h"
#include "linear_layout.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

#ifdef RIDGELINE_ISA_avx2
// See linear_layout.h: eight steps of five bits in five lines, byte by byte.
void store_five_bits(const std::uint8_t (*steps)[kLineBytes], std::uint8_t* out) {
  for (int i = 0; i < kLineBytes; i++) {
    const auto code = [&](int step) { return static_cast<int>(steps[step][i]); };
    const int upper[5] = {code(5) & 7, code(5) >> 3 << 1 | (code(7) >> 3 & 1), code(6) & 7,
                          code(6) >> 3 << 1 | code(7) >> 4, code(7) & 7};
    for (int j = 0; j < 5; j++) out[j * kLineBytes + i] = static_cast<std::uint8_t>(code(j) | upper[j] << 5);
  }
}

// Four steps of six bits in three lines.
void store_six_bits(const std::uint8_t (*steps)[kLineBytes], std::uint8_t* out) {
  for (int i = 0; i < kLineBytes; i++)
    for (int j = 0; j < 3; j++)
      out[j * kLineBytes + i] = static_cast<std::uint8_t>(steps[j][i] | (steps[3][i] >> 2 * j & 3) << 6);
}

// Lines of codes, one a step, as the layout has a group's.
template <int Bits>
void store_codes(const std::uint8_t (*lines)[kLineBytes], int steps, std::uint8_t* out) {
  if constexpr (Bits == 8) {
    std::memcpy(out, lines, static_cast<std::size_t>(steps * kLineBytes));
  } else if constexpr (Bits == 6) {
    for (int t = 0; t < steps; t += 4) store_six_bits(lines + t, out + t / 4 * 3 * kLineBytes);
  } else if constexpr (Bits == 5) {
    for (int t = 0; t < steps; t += 8) store_five_bits(lines + t, out + t / 8 * 5 * kLineBytes);
  } else {
    for (int t = 0; t < steps; t += 2)
      for (int i = 0; i < kLineBytes; i++)
        out[t / 2 * kLineBytes + i] = static_cast<std::uint8_t>((lines[t][i] & 15) | lines[t + 1][i] << 4);
  }
}
#else
// Bit i = bit 4 of byte i.
std::uint64_t fifth_bits_of(const std::uint8_t* line) {
#if defined(RIDGELINE_ISA_avx512)
  return _mm512_test_epi8_mask(_mm512_load_si512(line), _mm512_set1_epi8(16));
#else
  std::uint64_t bits = 0;
  for (int i = 0; i < kLineBytes; i++) bits |= static_cast<std::uint64_t>(line[i] >> 4 & 1) << i;
  return bits;
#endif
}

// Sixteen lines of codes, one a step, into the layout's codes and planes.
template <int Bits>
void store_codes(const std::uint8_t (&lines)[kSteps][kLineBytes], std::uint8_t* out) {
  if constexpr (Bits == 8) {
    std::memcpy(out, lines, sizeof lines);
    return;
  }
  for (int j = 0; j < kSteps / 2; j++) {
    for (int i = 0; i < kLineBytes; i++) {
      out[j * kLineBytes + i] =
          static_cast<std::uint8_t>((lines[2 * j][i] & 15) | lines[2 * j + 1][i] << 4);
    }
  }
  std::uint8_t* planes = out + kSteps / 2 * kLineBytes;
  if constexpr (Bits == 5) {
    for (int j = 0; j < kSteps; j++) {
      const std::uint64_t bits = fifth_bits_of(lines[j]);
      std::memcpy(planes + j * 8, &bits, 8);
    }
  }
  if constexpr (Bits == 6) {
    for (int t = 0; t < kSteps / 4; t++) {
      const auto& four = &lines[t * 4];
      for (int i = 0; i < kLineBytes; i++) {
        planes[t * kLineBytes + i] = static_cast<std::uint8_t>(
            four[0][i] >> 4 | four[1][i] >> 4 << 2 | four[2][i] >> 4 << 4 | four[3][i] >> 4 << 6);
      }
    }
  }
}
#endif

// The blocks of one strip in order: block(lines of codes, scales, remainders), the latter of each group and channel; a
// weight is scale * (code - zero) + remainder. (What it is given may be written to.)
template <class Codec, class Block>
void each_block(const std::uint8_t* raw, std::int64_t k, std::int64_t channels, Block block) {
  constexpr IntegerShape kShape = integer_shape(Codec::kLayout);
  static_assert(kShape.group == Codec::kGroup && kShape.minima == Codec::kMinima);
  constexpr int kUnit = Codec::kElements < kBlock ? kBlock : Codec::kElements;
  constexpr int kUnitGroups = kUnit / Codec::kGroup;
  constexpr int kBlockGroups = Codec::kElements / Codec::kGroup;
  constexpr int kCentre = kShape.zero() - Codec::kShift - Codec::kZero;
  const std::int64_t row_bytes = k / Codec::kElements * Codec::kBytes;

  alignas(64) std::uint8_t codes[kLanes][kUnit];
  alignas(64) std::uint8_t lines[kSteps][kLineBytes];
  float scales[kUnitGroups][kLanes], remainders[kUnitGroups][kLanes];
  for (std::int64_t at = 0; at < k; at += kUnit) {
    std::memset(codes, kShape.zero(), sizeof codes);
    std::memset(scales, 0, sizeof scales);
    std::memset(remainders, 0, sizeof remainders);
    const std::int64_t end = std::min<std::int64_t>(k, at + kUnit);
    for (std::int64_t c = 0; c < channels; c++) {
      const std::uint8_t* from = raw + c * row_bytes + at / Codec::kElements * Codec::kBytes;
      for (std::int64_t i = at; i < end; i += Codec::kElements, from += Codec::kBytes) {
        const std::int64_t local = i - at;
        float d[kBlockGroups], offset[kBlockGroups];
        Codec::decode(from, codes[c] + local, d, offset);
        for (int g = 0; g < kBlockGroups; g++) {
          const std::int64_t to = local / Codec::kGroup + g;
          scales[to][c] = d[g];
          if constexpr (kShape.minima) remainders[to][c] = offset[g] + kCentre * d[g];
        }
        if constexpr (Codec::kShift != 0) {
          for (int e = 0; e < Codec::kElements; e++) codes[c][local + e] += Codec::kShift;
        }
      }
    }
    for (std::int64_t b = 0; at + b * kBlock < end; b++) {
      for (std::int64_t c = 0; c < kLanes; c++) {
        for (int j = 0; j < kSteps; j++) std::memcpy(lines[j] + c * 4, codes[c] + b * kBlock + j * 4, 4);
      }
      const std::int64_t first = b * kShape.groups();
      block(lines, scales + first, remainders + first);
    }
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
