// Integer weights on AMX: a channel's weights are whole numbers, times one float of the channel.
//
//     weight = unit [channel] * (scale [group] * q + remainder [group]), all of these integers, |weight / unit| < 2^15
//
// A pair of strips is stored as linear_layout.h has it, but its scales and remainders are int16, those of two groups side
// by side for each channel (a line), and behind its blocks stand the 32 channels' units. So a sum over a stretch of K
// of weights times int16 activations is an integer, the same in whatever order and by whatever instructions it is made:
// few rows use vpdpbusd over codes as they are stored, many rows tiles over weights widened to two bytes. Per output, in
// this order and no other: for each stretch, sum = fma(float(high), scale[0], sum), sum = fma(float(low), scale[1],
// sum), where high and low are the sums over high and low bytes of activations; then fma(sum, unit, bias).
//
// Scales as integers round: a group whose scale is the channel's largest to 2^-12 of itself (four bits; 2^-8 of eight
// bits), smaller ones to the same absolute size.
#pragma once

#include <cstdint>

#include "linear_lanes.h"
#include "linear_layout.h"
#include "linear_packed.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

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
};

inline constexpr std::int64_t kUnitsBytes = kStripChannels * static_cast<std::int64_t>(sizeof(float));

template <Layout L>
constexpr std::int64_t common_pair_bytes(std::int64_t blocks) {
  return blocks * 2 * Common<L>::kStripBytes + kUnitsBytes;
}

// No sum over a stretch of products of weights and bytes of activations leaves int32.
constexpr std::int64_t largest_weight(std::int64_t blocks) {
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

// What both kernels do with a stretch's sums.
[[gnu::always_inline]] inline Floats add_stretch(Floats acc, __m512i high, __m512i low, const WideScales& scales) {
  acc = fma(_mm512_cvtepi32_ps(high), all(scales.scale[0]), acc);
  return fma(_mm512_cvtepi32_ps(low), all(scales.scale[1]), acc);
}

}  // namespace

// linear_amx_rows.cpp: up to kFewRows rows.
inline constexpr std::int64_t kFewRows = 4;
void linear_common_rows(const PackedMatrix& w, const std::byte* activations, std::int64_t m, std::int64_t strip_begin,
                        std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy);

}  // namespace ridgeline::RIDGELINE_ISA
