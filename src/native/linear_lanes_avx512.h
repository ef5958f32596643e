// The 16 channels of a strip in AVX-512 registers (VNNI, BF16).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "linear_layout.h"

namespace ridgeline::RIDGELINE_ISA {

using Floats = __m512;       // a float a channel
using Sums = __m512i;        // an int32 a channel
using Line = __m512i;        // 4 codes a channel, as bytes q * 2^(8-bits) + 128
using Quad = __m512i;        // 4 activations, the same for every channel

static inline Floats load(const float* p) { return _mm512_loadu_ps(p); }
static inline void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
static inline __mmask16 first_lanes(std::int64_t count) {
  return static_cast<__mmask16>(_bzhi_u32(0xffff, count < 0 ? 0 : static_cast<unsigned>(count)));
}
static inline Floats load_channels(const float* p, std::int64_t count) {
  return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
static inline void store_channels(float* p, Floats v, std::int64_t count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), v);
}
static inline Floats zeros() { return _mm512_setzero_ps(); }
static inline Floats all(float v) { return _mm512_set1_ps(v); }
static inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
static inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// c = fma(a, b, c), where many sums fill the registers.
static inline void accumulate(Floats a, Floats b, Floats& c) { c = fma(a, b, c); }
static inline Floats load_halves(const std::uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline Floats load_bfloats(const std::uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
// To the first- and the second-level cache. (In assembly: g++ drops calls that do nothing else.)
static inline void prefetch_near(const std::uint8_t* p) {
  __asm__ volatile("prefetcht0 %0" : : "m"(*p));
}
static inline void prefetch_far(const std::uint8_t* p) {
  __asm__ volatile("prefetcht1 %0" : : "m"(*p));
}
// To be written: otherwise each first store of a tile waits for its line.
static inline void prefetch_channels(const float* p) {
  __asm__ volatile("prefetchw %0" : : "m"(*p));
}

// Without it the compiler loads the lines of all steps at once, and has no registers left for sums.
static inline void keep_loads_here() { __asm__ volatile("" ::: "memory"); }

static inline Line load_line(const std::uint8_t* p) { return _mm512_load_si512(p); }
static inline void store_line(std::uint8_t* p, Line v) { _mm512_store_si512(p, v); }

static inline Line byte_line(const std::uint8_t* codes, int step) {
  return load_line(codes + step * kLineBytes);
}
static inline Line nibble_line(const std::uint8_t* codes, int step) {
  const __m512i x = load_line(codes + step / 2 * kLineBytes);
  return _mm512_and_si512(step % 2 ? x : _mm512_slli_epi16(x, 4), _mm512_set1_epi8(-16));
}
// The codes themselves.
static inline Line low_nibble_line(const std::uint8_t* codes, int step) {
  const __m512i x = load_line(codes + step / 2 * kLineBytes);
  return _mm512_and_si512(step % 2 ? _mm512_srli_epi16(x, 4) : x, _mm512_set1_epi8(15));
}
// Of a line of two int16 a channel, those of the first group, which stand second, or of the second.
static inline Floats words_of_pair(const std::uint8_t* line, int group) {
  const __m512i x = load_line(line);
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(group ? _mm512_slli_epi32(x, 16) : x, 16));
}
// Numbers of a table of 16 by four-bit codes.
static inline Line table_line(const std::uint8_t* codes, const std::uint8_t* table, int step) {
  const __m512i x = load_line(codes + step / 2 * kLineBytes);
  const __m512i code = _mm512_and_si512(step % 2 ? _mm512_srli_epi16(x, 4) : x, _mm512_set1_epi8(15));
  const __m128i entries = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(entries), code);
}
static inline Line five_bit_line(const std::uint8_t* codes, const std::uint8_t* fifths, int step) {
  const __m512i x = load_line(codes + step / 2 * kLineBytes);
  const __m512i low = _mm512_and_si512(step % 2 ? _mm512_srli_epi16(x, 1) : _mm512_slli_epi16(x, 3),
                                       _mm512_set1_epi8(0x78));
  std::uint64_t fifth;
  std::memcpy(&fifth, fifths + step * 8, 8);
  return _mm512_mask_add_epi8(low, fifth, low, _mm512_set1_epi8(-128));
}
static inline Line six_bit_line(const std::uint8_t* codes, const std::uint8_t* uppers, int step) {
  const __m512i x = load_line(codes + step / 2 * kLineBytes);
  const __m512i low = _mm512_and_si512(step % 2 ? _mm512_srli_epi16(x, 2) : _mm512_slli_epi16(x, 2),
                                       _mm512_set1_epi8(0x3c));
  const __m512i upper = load_line(uppers + step / 4 * kLineBytes);
  const __m512i moved = step % 4 == 3 ? upper : _mm512_slli_epi16(upper, 6 - step % 4 * 2);
  // low | (moved & 0xc0)
  return _mm512_ternarylogic_epi64(low, moved, _mm512_set1_epi8(-64), 0xf8);
}

static inline Quad load_quad(const std::int8_t* q) {
  std::int32_t bits;
  std::memcpy(&bits, q, 4);
  return _mm512_set1_epi32(bits);
}
// begin, then dots, then finish: the float of sum(q * 2^(8-bits) * activation), exactly.
template <int Bits>
static inline Sums begin(std::int32_t start) {
  return _mm512_set1_epi32(start);
}
template <int Bits>
static inline Sums dot(Sums sums, Line codes, Quad activations) {
  return _mm512_dpbusd_epi32(sums, codes, activations);
}
// Sums of first terms in steps of second ones.
static inline Sums in_second_terms(Sums sums) {
  static_assert(kFirstTermSteps == 256 - 2);
  return _mm512_sub_epi32(_mm512_slli_epi32(sums, 8), _mm512_slli_epi32(sums, 1));
}
static inline Sums plus(Sums a, Sums b) { return _mm512_add_epi32(a, b); }
template <int Bits>
static inline Floats finish(Sums sums) {
  return _mm512_cvtepi32_ps(sums);
}

// acc + w0 * x0 + w1 * x1: each channel's two bfloat16 lie side by side, and x's are the same for all.
static inline Floats add_pairs(Floats acc, const std::uint8_t* pairs, const std::uint16_t* x) {
  std::int32_t bits;
  std::memcpy(&bits, x, 4);
  return _mm512_dpbf16_ps(acc, (__m512bh)_mm512_load_si512(pairs),
                          (__m512bh)_mm512_set1_epi32(bits));
}

}  // namespace ridgeline::RIDGELINE_ISA
