// What quantizing activations to int8 terms shares, of groups of 32 (linear_activations.cpp) and of stretches
// (linear_amx_pack.cpp).
#pragma once

#include "isa.h"

#ifdef RIDGELINE_ISA_avx512
#include <immintrin.h>
#endif

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr float kLargest = 127.0f;
constexpr float kWholeRatio = 32767.0f;  // what a scale is of itself, in steps of 2^-15, so nearly
constexpr float kResidueSteps = 254.0f;  // what rounding left is at most half a step: 127 / 254
// Of int8x2 rows, groups have a second term from this share of the root mean square of the row's scales on. What rounding
// leaves of the others is, together, at most the share squared of what one term would leave, and mostly a tenth of it, since few groups
// have most of the magnitude (docs/log.md).
constexpr float kLeastShare = 0.85f;
constexpr float kNothing = 1e-30f;       // numbers below this are zero: 1 / scale would overflow

#ifdef RIDGELINE_ISA_avx512

// 64 integers, saturated to bytes: dword 4 i + j has four of v[j]'s, from lane 4 i on.
__m512i to_bytes(const __m512i (&v)[4]) {
  return _mm512_packs_epi16(_mm512_packs_epi32(v[0], v[1]), _mm512_packs_epi32(v[2], v[3]));
}

// The same in order.
__m512i in_order(__m512i bytes) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, bytes);
}

// The sums of 16 codes each, of bytes as `to_bytes` gives them.
__m128i sums_of_codes(__m512i bytes) {
  const __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), bytes);
  const __m256i halves = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

#endif

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
