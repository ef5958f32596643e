// Sixteen pairs of bfloat16, a pair a lane: what the cache holds and what attention multiplies. The first of a pair lies
// in the low half of its 32 bits. Written once for all instruction sets, as simd.h.
//
// What pairs are multiplied by are factors, 32 numbers rounded to bfloat16, in order: neighbours meet a pair's two. They
// lie as bfloat16 where the instructions take them so, else widened: one load and no more makes 16 lanes of a float32.
//
// Rounding to bfloat16 is to nearest, ties to even; NaN stays. On AVX-512 subnormal numbers count as zero.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {

#if defined(RIDGELINE_ISA_avx512)

struct Pairs {
  __m512i v;
};

static inline Pairs load_pairs(const std::uint16_t* p) { return {_mm512_loadu_si512(p)}; }
static inline void store_pairs(std::uint16_t* p, Pairs a) { _mm512_storeu_si512(p, a.v); }
// The pair at p in every lane.
static inline Pairs all_pairs(const std::uint16_t* p) {
  std::int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return {_mm512_set1_epi32(pair)};
}
static inline __m512bh halves(Pairs a) { return reinterpret_cast<__m512bh>(a.v); }
// Lane by lane: c + a.first * b.first + a.second * b.second.
static inline Vec dot(Pairs a, Pairs b, Vec c) { return {_mm512_dpbf16_ps(c.v, halves(a), halves(b))}; }
// (first[i], second[i]) in lane i.
static inline Pairs zip(Vec first, Vec second) {
  const __m512i low = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(first.v)));
  const __m512i high = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(second.v)));
  return {_mm512_or_si512(low, _mm512_slli_epi32(high, 16))};
}
// 32 numbers in order: neighbours are pairs.
static inline Pairs join(Vec first, Vec second) {
  return {reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second.v, first.v))};
}
static inline Vec firsts(Pairs a) { return {_mm512_castsi512_ps(_mm512_slli_epi32(a.v, 16))}; }

using Factor = std::uint16_t;
static inline void store_factors(Factor* out, Vec first, Vec second) { store_pairs(out, join(first, second)); }
// NaN need not stay.
static inline void store_number_factors(Factor* out, Vec first, Vec second) { store_factors(out, first, second); }
template <int Rows, int Lines, class LineAt>
static inline void add_products(const Factor* factors, std::int64_t stride, LineAt line_at, Vec (&acc)[Rows][Lines]) {
  Pairs lines[Lines];
#pragma GCC unroll 8
  for (int l = 0; l < Lines; l++) lines[l] = load_pairs(line_at(l));
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++) {
    const Pairs pair = all_pairs(factors + i * stride);
#pragma GCC unroll 8
    for (int l = 0; l < Lines; l++) acc[i][l] = dot(pair, lines[l], acc[i][l]);
  }
}

#elif defined(RIDGELINE_ISA_avx2)

struct Pairs {
  __m256i a, b;
};

static inline Pairs load_pairs(const std::uint16_t* p) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
static inline void store_pairs(std::uint16_t* p, Pairs x) {
  __m256i* q = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(q, x.a);
  _mm256_storeu_si256(q + 1, x.b);
}
static inline Pairs all_pairs(const std::uint16_t* p) {
  std::int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
static inline __m256 low_floats(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
static inline __m256 high_floats(__m256i x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
static inline Vec firsts(Pairs x) { return {low_floats(x.a), low_floats(x.b)}; }
static inline Vec seconds(Pairs x) { return {high_floats(x.a), high_floats(x.b)}; }
static inline Vec dot(Pairs x, Pairs y, Vec z) { return fma(seconds(x), seconds(y), fma(firsts(x), firsts(y), z)); }
// Rounded, in the high halves; the low halves hold what was cut off. `rounded_number`: of what is not NaN.
static inline __m256i rounded_number(__m256 x) {
  const __m256i word = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
  return _mm256_add_epi32(word, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
}
static inline __m256i rounded(__m256 x) {
  const __m256i word = _mm256_castps_si256(x), up = rounded_number(x);
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(up, _mm256_or_si256(word, _mm256_set1_epi32(0x400000)), is_nan);
}
// Rounded to bfloat16, as float32.
static inline Vec cut(Vec x) { return {high_floats(rounded(x.a)), high_floats(rounded(x.b))}; }
static inline Vec cut_number(Vec x) { return {high_floats(rounded_number(x.a)), high_floats(rounded_number(x.b))}; }
static inline __m256i zip_half(__m256 first, __m256 second) {
  return _mm256_blend_epi16(_mm256_srli_epi32(rounded(first), 16), rounded(second), 0xaa);
}
static inline Pairs zip(Vec first, Vec second) {
  return {zip_half(first.a, second.a), zip_half(first.b, second.b)};
}
// packus works within 128-bit lanes: the permutation puts its quarters in order.
static inline __m256i join_half(__m256 first, __m256 second) {
  const __m256i packed =
      _mm256_packus_epi32(_mm256_srli_epi32(rounded(first), 16), _mm256_srli_epi32(rounded(second), 16));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
static inline Pairs join(Vec first, Vec second) { return {join_half(first.a, first.b), join_half(second.a, second.b)}; }

#else

struct Pairs {
  std::uint32_t v[kWidth];
};

static inline Pairs load_pairs(const std::uint16_t* p) {
  Pairs out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
static inline void store_pairs(std::uint16_t* p, const Pairs& a) { std::memcpy(p, a.v, sizeof a.v); }
static inline Pairs all_pairs(const std::uint16_t* p) {
  std::uint32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  Pairs out;
  for (std::uint32_t& lane : out.v) lane = pair;
  return out;
}
static inline Vec firsts(const Pairs& a) {
  return each_lane([&](int i) { return float_of(a.v[i] << 16); });
}
static inline Vec seconds(const Pairs& a) {
  return each_lane([&](int i) { return float_of(a.v[i] & 0xffff0000u); });
}
static inline Vec dot(const Pairs& a, const Pairs& b, const Vec& c) {
  return fma(seconds(a), seconds(b), fma(firsts(a), firsts(b), c));
}
static inline std::uint32_t narrow_bfloat(float x) {
  const std::uint32_t word = word_of(x);
  if ((word & 0x7fffffffu) > 0x7f800000u) return word >> 16 | 0x40u;
  return (word + 0x7fffu + (word >> 16 & 1u)) >> 16;
}
static inline Vec cut(const Vec& x) {
  return each_lane([&](int i) { return float_of(narrow_bfloat(x.v[i]) << 16); });
}
static inline Vec cut_number(const Vec& x) { return cut(x); }
static inline Pairs zip(const Vec& first, const Vec& second) {
  Pairs out;
  for (int i = 0; i < kWidth; i++) out.v[i] = narrow_bfloat(first.v[i]) | narrow_bfloat(second.v[i]) << 16;
  return out;
}
static inline Pairs join(const Vec& first, const Vec& second) {
  Pairs out;
  for (int i = 0; i < kWidth / 2; i++) {
    out.v[i] = narrow_bfloat(first.v[2 * i]) | narrow_bfloat(first.v[2 * i + 1]) << 16;
    out.v[i + kWidth / 2] = narrow_bfloat(second.v[2 * i]) | narrow_bfloat(second.v[2 * i + 1]) << 16;
  }
  return out;
}

#endif

#if !defined(RIDGELINE_ISA_avx512)

using Factor = float;
static inline void store_factors(Factor* out, Vec first, Vec second) {
  store(out, cut(first));
  store(out + kWidth, cut(second));
}
static inline void store_number_factors(Factor* out, Vec first, Vec second) {
  store(out, cut_number(first));
  store(out + kWidth, cut_number(second));
}
// First numbers and second ones in turn: a line's both halves beside the sums would not fit the registers.
template <int Rows, int Lines, class LineAt>
static inline void add_products(const Factor* factors, std::int64_t stride, LineAt line_at, Vec (&acc)[Rows][Lines]) {
  Vec lines[Lines];
#pragma GCC unroll 8
  for (int l = 0; l < Lines; l++) lines[l] = firsts(load_pairs(line_at(l)));
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
    for (int l = 0; l < Lines; l++) accumulate(all(factors[i * stride]), lines[l], acc[i][l]);
#pragma GCC unroll 8
  for (int l = 0; l < Lines; l++) lines[l] = seconds(load_pairs(line_at(l)));
#pragma GCC unroll 8
  for (int i = 0; i < Rows; i++)
#pragma GCC unroll 8
    for (int l = 0; l < Lines; l++) accumulate(all(factors[i * stride + 1]), lines[l], acc[i][l]);
}

#endif

}  // namespace ridgeline::RIDGELINE_ISA
