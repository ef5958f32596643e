// Integer weights on AMX: a channel's weights are whole numbers, times one float of the channel.
//
//     weight = unit [channel] * (scale [group] * q + remainder [group]), all of these integers
//
// A pair of strips is stored as linear_layout.h has it, but its scales and remainders are int16, those of two groups side
// by side for each channel (a line), and behind its blocks stand the 32 channels' units. Activations have two bytes under a
// scale for a stretch of K, the second of which counts a 28th of the first. So a sum over a stretch of weights
// times bytes is an integer, the same in whatever order and by whatever instructions it is made: few rows use vpdpbusd over
// codes as they are stored, many rows tiles over weights widened to two bytes. There are two kinds.
//
// Four and five bits (`in_digits`): |weight / unit| <= 3,430, of which 28 * upper + lower = weight, both below 128, and linear in a
// code's four bits: upper = upper digit of the scale * (four bits - 8) + that of an offset, and lower likewise (a fifth bit
// chooses between two offsets). lower * low counts for less than what rounding does, and is left out. Per output, in this order and no other:
// for each stretch, sum = fma(float(sum of weight * high + upper * low), scale[0], sum); then fma(sum, unit, bias).
//
// All others: |weight / unit| < 2^15. For each stretch, sum = fma(float(high), scale[0], sum), sum = fma(float(low), scale[1],
// sum), where high and low are the sums of weights times high and low bytes; then fma(sum, unit, bias).
//
// Scales as integers round: a group whose scale is the channel's largest to 2^-9.7 of itself (four bits; 2^-8.7 of five, 2^-9 of
// six, 2^-8 of eight), smaller ones to the same absolute size.
#pragma once

#include <cstdint>
#include <cstring>

#include "beside.h"
#include "linear_lanes.h"
#include "linear_layout.h"
#include "linear_packed.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr bool in_digits(Layout layout) { return integer_shape(layout).number_bits() <= 5; }

template <Layout L>
struct Common {
  static constexpr IntegerShape kShape = integer_shape(L);
  static constexpr std::int64_t kStripBytes = kShape.strip_bytes();
  static constexpr int kPairs = kShape.groups() / 2;  // of groups
  static constexpr int kShift = 8 - kShape.number_bits();  // of a line's numbers

  static const std::uint8_t* scales_at(const std::uint8_t* strip, int pair) {
    return strip + kShape.codes_bytes() + pair * kLineBytes;
  }
  static const std::uint8_t* remainders_at(const std::uint8_t* strip, int pair) {
    return scales_at(strip, pair) + kShape.scales_bytes();
  }
  // Five bits: the fifth ones of a step.
  static std::uint64_t fifths(const std::uint8_t* strip, int step) {
    std::uint64_t bits;
    std::memcpy(&bits, strip + kSteps / 2 * kLineBytes + step * 8, 8);
    return bits;
  }
};

// v = 28 * upper + lower of int16 |v| <= 3,600: |lower| <= 14.
[[gnu::always_inline]] inline __m512i upper_digit(__m512i v) { return _mm512_mulhrs_epi16(v, _mm512_set1_epi16(1170)); }
[[gnu::always_inline]] inline __m512i lower_digit(__m512i v, __m512i upper) {
  return _mm512_sub_epi16(v, _mm512_mullo_epi16(upper, _mm512_set1_epi16(28)));
}
// 28 * upper + mixed.
[[gnu::always_inline]] inline __m512i join_digits(__m512i upper, __m512i mixed) {
  const __m512i times_28 = _mm512_sub_epi32(_mm512_slli_epi32(upper, 5), _mm512_slli_epi32(upper, 2));
  return _mm512_add_epi32(times_28, mixed);
}

// What a pair of groups says of its weights: scale * (four bits - 8) + offset [fifth bit], and the upper digits of these.
template <Layout L>
struct Digits {
  static constexpr int kOffsets = integer_shape(L).bits == 5 ? 2 : 1;
  __m512i scale, upper_scale, offset[kOffsets], upper_offset[kOffsets];

  [[gnu::always_inline]] inline Digits(const std::uint8_t* strip, int pair) {
    using C = Common<L>;
    scale = _mm512_load_si512(C::scales_at(strip, pair));
    __m512i remainder = _mm512_setzero_si512();
    if constexpr (C::kShape.minima) remainder = _mm512_load_si512(C::remainders_at(strip, pair));
    offset[0] = remainder;
    if constexpr (kOffsets == 2) {
      const __m512i half = _mm512_slli_epi16(scale, 3);
      offset[0] = _mm512_sub_epi16(remainder, half);
      offset[1] = _mm512_add_epi16(remainder, half);
    }
    upper_scale = upper_digit(scale);
    for (int i = 0; i < kOffsets; i++) upper_offset[i] = upper_digit(offset[i]);
  }
};

inline constexpr std::int64_t kUnitsBytes = kStripChannels * static_cast<std::int64_t>(sizeof(float));

template <Layout L>
constexpr std::int64_t common_pair_bytes(std::int64_t blocks) {
  return blocks * 2 * Common<L>::kStripBytes + kUnitsBytes;
}

// Of a weight, in units. In digits: both are bytes. Otherwise: no sum over a stretch of weights times bytes leaves int32.
constexpr std::int64_t largest_weight(Layout layout, std::int64_t blocks) {
  if (in_digits(layout)) return 3430;
  const std::int64_t stretches = num_stretches(blocks), longest = (blocks + stretches - 1) / stretches * kBlock;
  const std::int64_t most = 0x7fffffff / (127 * longest);
  return most < 0x7fff ? most : 0x7fff;
}

// Where a row of activations has what.
struct WideRows {
  const std::uint8_t* first;
  std::int64_t stride, blocks;

  WideRows(const std::byte* activations, std::int64_t k)
      : first(reinterpret_cast<const std::uint8_t*>(activations)),
        stride(static_cast<std::int64_t>(wide_row_bytes(k))),
        blocks(num_blocks(k)) {}
  const std::int8_t* codes(std::int64_t row, std::int64_t block) const {
    return reinterpret_cast<const std::int8_t*>(first + row * stride + block * kWideCodes);
  }
  const WideSums& sums(std::int64_t row, std::int64_t block) const {
    return *reinterpret_cast<const WideSums*>(first + row * stride + blocks * kWideCodes +
                                              block * static_cast<std::int64_t>(sizeof(WideSums)));
  }
  const WideScales& scales(std::int64_t row, std::int64_t stretch) const {
    return *reinterpret_cast<const WideScales*>(
        first + row * stride + blocks * (kWideCodes + static_cast<std::int64_t>(sizeof(WideSums))) +
        stretch * static_cast<std::int64_t>(sizeof(WideScales)));
  }
};

// What both kernels, for few rows and for many, do with a stretch's sums.
[[gnu::always_inline]] inline Floats add_stretch(Floats acc, __m512i high, __m512i low, const WideScales& scales) {
  acc = fma(_mm512_cvtepi32_ps(high), all(scales.scale[0]), acc);
  return fma(_mm512_cvtepi32_ps(low), all(scales.scale[1]), acc);
}
[[gnu::always_inline]] inline Floats add_digit_stretch(Floats acc, __m512i joined, const WideScales& scales) {
  return fma(_mm512_cvtepi32_ps(joined), all(scales.scale[0]), acc);
}

}  // namespace

// linear_amx_rows.cpp: up to kFewRows rows.
inline constexpr std::int64_t kFewRows = 4;
void linear_common_rows(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                        std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy);

// Scratch of more rows: a stretch of a pair of strips, in tiles (linear_amx_tiles.h).
inline constexpr std::int64_t kPanelBytes = 24 << 10;
// linear_amx_digits.cpp: those of weights in digits.
void linear_digits_amx(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                       std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy, std::byte* scratch,
                       Beside* beside);

}  // namespace ridgeline::RIDGELINE_ISA
