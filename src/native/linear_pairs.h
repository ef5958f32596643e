// linear over weights of four bits on AVX-512: two groups of 32 at a time, in whole numbers up to one conversion.
//
// A group's end is what costs: between its 8 products a float sum takes a conversion, two scales and a remainder. Here sums
// of both groups lie side by side in a channel's 32 bits, so that instructions for words do the ends of both at once:
//
//   sums    of (code - 8) * q, within 16 bits: 8 * 127 * 32 = 32,512
//   ratio   times what each group's scale is of the larger of both, a row's own, in steps of 2^-15, rounded: half a step of a sum
//           that rounding q has put 7 steps off already
//   scale   times a channel's int16 of each group, both products together; and remainders times sums of q likewise
//
// Per output, in this order and no other: for each block, sum = fma(float(that), the row's larger scale, sum); then
// fma(sum, the channel's unit, bias). A channel's unit is as small as keeps every sum of a block within 32 bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "linear_ahead.h"
#include "linear_layout.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// What |8 * scale| + |remainder| of a group, and either alone, may be in units: 2 * 127 * 32 times the first is below 2^31.
inline constexpr float kLargestPairWeight = 264000.0f, kLargestPairNumber = 32700.0f;

inline __m512i all_channels(const void* two_words) {
  std::int32_t bits;
  std::memcpy(&bits, two_words, 4);
  return _mm512_set1_epi32(bits);
}

// A block of Strips strips from the first of acc on, of weights W.
template <class W, int Rows, int Strips>
[[gnu::always_inline]] inline void multiply_pair(const std::uint8_t* weights, const ActivationBlock* x, std::int64_t x_stride,
                                                 const std::uint8_t* ahead, Floats (&acc)[Rows][2], int first) {
  constexpr int kAheadLines = Strips * W::kStripBytes / kLineBytes;
  constexpr std::int64_t kScalesAt = W::kShape.codes_bytes(), kMinimaAt = kScalesAt + kLineBytes;
  __m512i sums[Rows][Strips];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
    for (int c = 0; c < Strips; c++) sums[r][c] = _mm512_set1_epi32(x[r * x_stride].pair_start[0]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSteps; i++) {
    if (i == kSteps / 2) {
      // The first group's sums go to the upper words; the second's start half a word up, so that they never borrow.
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
        for (int c = 0; c < Strips; c++) {
          sums[r][c] = _mm512_add_epi32(_mm512_slli_epi32(sums[r][c], 16), _mm512_set1_epi32(x[r * x_stride].pair_start[1]));
        }
      }
    }
    if (W::kStreams && ahead) {
#pragma GCC unroll 4
      for (int l = i * kAheadLines / kSteps; l < (i + 1) * kAheadLines / kSteps; l++) ask<Rows>(ahead + l * kLineBytes);
    }
    __m512i lines[Strips];
#pragma GCC unroll 2
    for (int c = 0; c < Strips; c++) lines[c] = low_nibble_line(weights + c * W::kNextStrip, i);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const Quad quad = load_quad(x[r * x_stride].q + i * 4);
#pragma GCC unroll 2
      for (int c = 0; c < Strips; c++) sums[r][c] = _mm512_dpbusd_epi32(sums[r][c], lines[c], quad);
    }
    keep_loads_here();
  }
  __m512i scales[Strips], minima[Strips];
#pragma GCC unroll 2
  for (int c = 0; c < Strips; c++) {
    scales[c] = load_line(weights + c * W::kNextStrip + kScalesAt);
    if constexpr (W::kShape.minima) minima[c] = load_line(weights + c * W::kNextStrip + kMinimaAt);
  }
  const __m512i half_word = _mm512_set1_epi32(0x8000);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
    const ActivationBlock& a = x[r * x_stride];
    const __m512i ratio = all_channels(a.ratio);
#pragma GCC unroll 2
    for (int c = 0; c < Strips; c++) {
      const __m512i both = _mm512_mulhrs_epi16(_mm512_xor_si512(sums[r][c], half_word), ratio);
      __m512i sum = _mm512_madd_epi16(both, scales[c]);
      if constexpr (W::kShape.minima) sum = _mm512_dpwssd_epi32(sum, minima[c], all_channels(a.pair_sum));
      Floats& to = acc[r][first + c];
      to = fma(_mm512_cvtepi32_ps(sum), all(a.pair_scale), to);
    }
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
