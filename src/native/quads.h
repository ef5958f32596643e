// Sixteen fours of 8-bit codes, a four a lane: what an int8 cache holds; and the integers of 16 bits that they are
// multiplied with. A lane's four products are added to a sum of 32 bits, exactly as long as it holds them
// (kMaxCodedChannels). Written once for all instruction sets, as simd.h.
//
// Codes of keys are biased: stored + 128. Factors lie four in 8 bytes, in whichever order the set multiplies them.
#pragma once

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {

inline constexpr std::int64_t kQuadLine = 4 * kWidth;  // bytes
inline constexpr std::size_t kFactorBytes = 2;

#if defined(RIDGELINE_ISA_avx512)

// Factors are 256 * high + low, each of 8 bits: four highs, then four lows.
struct Quads {
  __m512i v;
};
struct Factors {
  __m512i high, low;
};
struct Sums {
  __m512i high = _mm512_setzero_si512(), low = _mm512_setzero_si512();
};
// -128 times the sum of a query's factors.
struct FactorSums {
  std::int32_t high, low;
};

static inline Quads load_quads(const std::byte* p) { return {_mm512_loadu_si512(p)}; }
static inline Factors all_factors(const std::byte* p) {
  std::int32_t high, low;
  std::memcpy(&high, p, 4);
  std::memcpy(&low, p + 4, 4);
  return {_mm512_set1_epi32(high), _mm512_set1_epi32(low)};
}
static inline Sums sums_against_bias(FactorSums sums) {
  return {_mm512_set1_epi32(sums.high), _mm512_set1_epi32(sums.low)};
}
static inline Sums dot_biased(Quads keys, Factors factors, Sums sums) {
  return {_mm512_dpbusd_epi32(sums.high, keys.v, factors.high), _mm512_dpbusd_epi32(sums.low, keys.v, factors.low)};
}
static inline Sums dot_signed(Quads values, Factors factors, Sums sums) {
  return {_mm512_dpbusd_epi32(sums.high, factors.high, values.v), _mm512_dpbusd_epi32(sums.low, factors.low, values.v)};
}
static inline Vec floats(Sums sums) {
  return {_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sums.high, 8), sums.low))};
}
static inline void store_factors(std::byte* out, __m512i high, __m512i low) {
  const __m128i highs = _mm512_cvtepi32_epi8(high), lows = _mm512_cvtepi32_epi8(low);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_unpacklo_epi32(highs, lows));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out) + 1, _mm_unpackhi_epi32(highs, lows));
}
// Whole numbers in [-32512, 32512], each low in [-128, 127]; `sums` grows by what they add to it.
static inline void store_signed_factors(std::byte* out, Vec numbers, FactorSums& sums) {
  const __m512i whole = _mm512_cvtps_epi32(numbers.v);
  const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
  const __m512i low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
  store_factors(out, high, low);
  sums.high -= 128 * _mm512_reduce_add_epi32(high);
  sums.low -= 128 * _mm512_reduce_add_epi32(low);
}
// Whole numbers in [0, 32767], each low in [0, 255].
static inline void store_unsigned_factors(std::byte* out, Vec numbers) {
  const __m512i whole = _mm512_cvtps_epi32(numbers.v);
  store_factors(out, _mm512_srli_epi32(whole, 8), _mm512_and_si512(whole, _mm512_set1_epi32(255)));
}
// Whole numbers in [-128, 127].
static inline void store_codes(std::int8_t* out, Vec numbers) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(numbers.v)));
}

#elif defined(RIDGELINE_ISA_avx2)

// Four factors of 16 bits: those of the first and third code of a four, then those of the second and fourth.
struct Quads {
  __m256i a, b;
};
struct Factors {
  __m256i even, odd;
};
struct Sums {
  __m256i a = _mm256_setzero_si256(), b = _mm256_setzero_si256();
};
struct FactorSums {
  std::int32_t all;
};

static inline Quads load_quads(const std::byte* p) {
  const __m256i* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
static inline Factors all_factors(const std::byte* p) {
  std::int32_t even, odd;
  std::memcpy(&even, p, 4);
  std::memcpy(&odd, p + 4, 4);
  return {_mm256_set1_epi32(even), _mm256_set1_epi32(odd)};
}
static inline Sums sums_against_bias(FactorSums sums) {
  return {_mm256_set1_epi32(sums.all), _mm256_set1_epi32(sums.all)};
}
static inline __m256i add_products(__m256i even, __m256i odd, Factors factors, __m256i sums) {
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even, factors.even));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(odd, factors.odd));
}
static inline __m256i dot_biased_half(__m256i keys, Factors factors, __m256i sums) {
  return add_products(_mm256_and_si256(keys, _mm256_set1_epi16(255)), _mm256_srli_epi16(keys, 8), factors, sums);
}
static inline __m256i dot_signed_half(__m256i values, Factors factors, __m256i sums) {
  return add_products(_mm256_srai_epi16(_mm256_slli_epi16(values, 8), 8), _mm256_srai_epi16(values, 8), factors, sums);
}
static inline Sums dot_biased(Quads keys, Factors factors, Sums sums) {
  return {dot_biased_half(keys.a, factors, sums.a), dot_biased_half(keys.b, factors, sums.b)};
}
static inline Sums dot_signed(Quads values, Factors factors, Sums sums) {
  return {dot_signed_half(values.a, factors, sums.a), dot_signed_half(values.b, factors, sums.b)};
}
static inline Vec floats(Sums sums) { return {_mm256_cvtepi32_ps(sums.a), _mm256_cvtepi32_ps(sums.b)}; }
// Sixteen numbers of 16 bits in order: packs works within 128-bit lanes.
static inline __m256i narrowed(Vec numbers) {
  const __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(numbers.a), _mm256_cvtps_epi32(numbers.b));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
static inline void store_factors(std::byte* out, __m256i numbers) {
  numbers = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(numbers, 0xd8), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), numbers);
}
static inline void store_signed_factors(std::byte* out, Vec numbers, FactorSums& sums) {
  const __m256i narrow = narrowed(numbers);
  store_factors(out, narrow);
  alignas(32) std::int32_t pairs[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(pairs), _mm256_madd_epi16(narrow, _mm256_set1_epi16(1)));
  for (const std::int32_t pair : pairs) sums.all -= 128 * pair;
}
static inline void store_unsigned_factors(std::byte* out, Vec numbers) { store_factors(out, narrowed(numbers)); }
static inline void store_codes(std::int8_t* out, Vec numbers) {
  const __m256i narrow = narrowed(numbers);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(narrow), _mm256_extracti128_si256(narrow, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
}

#else

struct Quads {
  std::uint8_t v[4 * kWidth];
};
struct Factors {
  std::int16_t v[4];
};
struct Sums {
  std::int32_t v[kWidth] = {};
};
struct FactorSums {};

static inline Quads load_quads(const std::byte* p) {
  Quads out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
static inline Factors all_factors(const std::byte* p) {
  Factors out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
static inline Sums sums_against_bias(FactorSums) { return {}; }
static inline Sums dot_biased(const Quads& keys, const Factors& factors, Sums sums) {
  for (int i = 0; i < kWidth; i++)
    for (int j = 0; j < 4; j++) sums.v[i] += factors.v[j] * (keys.v[4 * i + j] - 128);
  return sums;
}
static inline Sums dot_signed(const Quads& values, const Factors& factors, Sums sums) {
  for (int i = 0; i < kWidth; i++)
    for (int j = 0; j < 4; j++) sums.v[i] += factors.v[j] * static_cast<std::int8_t>(values.v[4 * i + j]);
  return sums;
}
static inline Vec floats(const Sums& sums) {
  return each_lane([&](int i) { return static_cast<float>(sums.v[i]); });
}
// NaN has no whole number; its scale says that it was there.
static inline int whole(float x) { return x == x ? static_cast<int>(x) : 0; }
static inline void store_unsigned_factors(std::byte* out, const Vec& numbers) {
  std::int16_t factors[kWidth];
  for (int i = 0; i < kWidth; i++) factors[i] = static_cast<std::int16_t>(whole(numbers.v[i]));
  std::memcpy(out, factors, sizeof factors);
}
static inline void store_signed_factors(std::byte* out, const Vec& numbers, FactorSums&) {
  store_unsigned_factors(out, numbers);
}
static inline void store_codes(std::int8_t* out, const Vec& numbers) {
  for (int i = 0; i < kWidth; i++) out[i] = static_cast<std::int8_t>(whole(numbers.v[i]));
}

#endif

}  // namespace ridgeline::RIDGELINE_ISA
