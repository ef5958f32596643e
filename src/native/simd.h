// Sixteen float32 lanes as values of one instruction set. The kernels of norm, rope, attention, the elementwise
// operators and sampling are written once, in terms of these; each set gives the same bits for the same input wherever
// that falls in a vector, since tails are whole vectors with masked loads and stores.
//
// Functions are static: kernel files are compiled for several sets, and the linker must not share their copies.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "isa.h"

#if defined(RIDGELINE_ISA_avx512) || defined(RIDGELINE_ISA_avx2)
#include <immintrin.h>
#endif
#ifdef RIDGELINE_ISA_avx2
#include "accumulate_avx2.h"
#endif

namespace ridgeline::RIDGELINE_ISA {

inline constexpr int kWidth = 16;

#if defined(RIDGELINE_ISA_avx512)

struct Vec {
  __m512 v;
};
struct Mask {
  __mmask16 m;
};

static inline __mmask16 first_lanes(std::int64_t n) {
  return n >= kWidth ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1);
}
static inline Vec all(float x) { return {_mm512_set1_ps(x)}; }
static inline Vec zeros() { return {_mm512_setzero_ps()}; }
static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline Vec load_n(const float* p, std::int64_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
static inline void store_n(float* p, Vec a, std::int64_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
static inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
// c = fma(a, b, c), where many sums fill the registers.
static inline void accumulate(Vec a, Vec b, Vec& c) { c = fma(a, b, c); }
// If either is NaN, the second.
static inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Vec round_even(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for whole n in [-126, 127].
static inline Vec times_power(Vec a, Vec n) { return {_mm512_scalef_ps(a.v, n.v)}; }
static inline Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
static inline Mask equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
static inline Vec select(Mask m, Vec yes, Vec no) { return {_mm512_mask_blend_ps(m.m, no.v, yes.v)}; }
static inline std::uint32_t bits(Mask m) { return m.m; }
static inline Vec absolute(Vec a) { return {_mm512_abs_ps(a.v)}; }
// Lanes i and i ^ Distance, of 1, 2, 4 and 8, change places.
template <int Distance>
static inline Vec exchange(Vec a) {
  if constexpr (Distance == 1) return {_mm512_permute_ps(a.v, 0xb1)};
  if constexpr (Distance == 2) return {_mm512_permute_ps(a.v, 0x4e)};
  if constexpr (Distance == 4) return {_mm512_shuffle_f32x4(a.v, a.v, 0xb1)};
  if constexpr (Distance == 8) return {_mm512_shuffle_f32x4(a.v, a.v, 0x4e)};
}
static inline Vec load_half(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline void store_half(std::uint16_t* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
// In assembly: a function that does nothing but ask has no effect in g++'s eyes, and calls of it are dropped.
static inline void prefetch(const void* p) {
  __asm__ volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
}
// Into the second level, past the first: for what is read a while later.
static inline void prefetch_far(const void* p) {
  __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
}

struct Words {
  __m512i v;
};
static inline Words all_words(std::uint32_t x) { return {_mm512_set1_epi32(static_cast<int>(x))}; }
static inline Words words_from(std::uint32_t first) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_add_epi32(_mm512_set1_epi32(static_cast<int>(first)), lane)};
}
static inline void store(std::uint32_t* p, Words a) { _mm512_storeu_si512(p, a.v); }
static inline Words exclusive_or(Words a, Words b) { return {_mm512_xor_si512(a.v, b.v)}; }
// The halves of the 64-bit products.
static inline void multiply(Words a, std::uint32_t factor, Words& high, Words& low) {
  const __m512i m = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_mul_epu32(a.v, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), m);
  high = {_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd)};
  low = {_mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32))};
}

#elif defined(RIDGELINE_ISA_avx2)

struct Vec {
  __m256 a, b;
};
struct Mask {
  __m256 a, b;
};

static inline __m256i first_lanes(std::int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : n < 0 ? 0 : static_cast<int>(n)), lane);
}
static inline Vec all(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline Vec zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline Vec load_n(const float* p, std::int64_t n) {
  if (n >= kWidth) return load(p);
  return {_mm256_maskload_ps(p, first_lanes(n)), _mm256_maskload_ps(p + 8, first_lanes(n - 8))};
}
static inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
// A masked store is a program of some 40 steps on AMD's cores: for tails only.
static inline void store_n(float* p, Vec x, std::int64_t n) {
  if (n >= kWidth) return store(p, x);
  _mm256_maskstore_ps(p, first_lanes(n), x.a);
  _mm256_maskstore_ps(p + 8, first_lanes(n - 8), x.b);
}
static inline Vec add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline Vec sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline Vec mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline Vec div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline Vec fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
static inline void accumulate(Vec x, Vec y, Vec& z) { z = {accumulated(x.a, y.a, z.a), accumulated(x.b, y.b, z.b)}; }
static inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline Vec round_even(Vec x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
static inline __m256 power_of_two(__m256 n) {
  const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
static inline Vec times_power(Vec x, Vec n) {
  return {_mm256_mul_ps(x.a, power_of_two(n.a)), _mm256_mul_ps(x.b, power_of_two(n.b))};
}
static inline Mask less(Vec x, Vec y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
static inline Mask equal(Vec x, Vec y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_EQ_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_EQ_OQ)};
}
static inline Vec select(Mask m, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
static inline std::uint32_t bits(Mask m) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(m.a)) | static_cast<std::uint32_t>(_mm256_movemask_ps(m.b)) << 8;
}
static inline Vec absolute(Vec x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
template <int Distance>
static inline Vec exchange(Vec x) {
  if constexpr (Distance == 1) return {_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)};
  if constexpr (Distance == 2) return {_mm256_permute_ps(x.a, 0x4e), _mm256_permute_ps(x.b, 0x4e)};
  if constexpr (Distance == 4) return {_mm256_permute2f128_ps(x.a, x.a, 1), _mm256_permute2f128_ps(x.b, x.b, 1)};
  if constexpr (Distance == 8) return {x.b, x.a};
}
static inline Vec load_half(const std::uint16_t* p) {
  const __m128i* q = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
static inline void store_half(std::uint16_t* p, Vec x) {
  __m128i* q = reinterpret_cast<__m128i*>(p);
  _mm_storeu_si128(q, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(q + 1, _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
// In assembly: a function that does nothing but ask has no effect in g++'s eyes, and calls of it are dropped.
static inline void prefetch(const void* p) {
  __asm__ volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p)));
}
// Into the second level, past the first: for what is read a while later.
static inline void prefetch_far(const void* p) {
  __asm__ volatile("prefetcht1 %0" : : "m"(*static_cast<const char*>(p)));
}

struct Words {
  __m256i a, b;
};
static inline Words all_words(std::uint32_t x) {
  return {_mm256_set1_epi32(static_cast<int>(x)), _mm256_set1_epi32(static_cast<int>(x))};
}
static inline Words words_from(std::uint32_t first) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), lane),
          _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first + 8)), lane)};
}
static inline void store(std::uint32_t* p, Words x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.b);
}
static inline Words exclusive_or(Words x, Words y) { return {_mm256_xor_si256(x.a, y.a), _mm256_xor_si256(x.b, y.b)}; }
static inline void multiply_half(__m256i a, __m256i m, __m256i& high, __m256i& low) {
  const __m256i even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
  high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}
// The halves of the 64-bit products.
static inline void multiply(Words x, std::uint32_t factor, Words& high, Words& low) {
  const __m256i m = _mm256_set1_epi32(static_cast<int>(factor));
  multiply_half(x.a, m, high.a, low.a);
  multiply_half(x.b, m, high.b, low.b);
}

#else

struct Vec {
  float v[kWidth];
};
struct Mask {
  bool m[kWidth];
};

template <class F>
static inline Vec each_lane(F f) {
  Vec out;
  for (int i = 0; i < kWidth; i++) out.v[i] = f(i);
  return out;
}
template <class F>
static inline Mask each_flag(F f) {
  Mask out;
  for (int i = 0; i < kWidth; i++) out.m[i] = f(i);
  return out;
}
static inline float float_of(std::uint32_t word) {
  float x;
  std::memcpy(&x, &word, 4);
  return x;
}
static inline std::uint32_t word_of(float x) {
  std::uint32_t word;
  std::memcpy(&word, &x, 4);
  return word;
}
static inline Vec all(float x) {
  return each_lane([&](int) { return x; });
}
static inline Vec zeros() { return all(0.0f); }
static inline Vec load(const float* p) {
  return each_lane([&](int i) { return p[i]; });
}
static inline Vec load_n(const float* p, std::int64_t n) {
  return each_lane([&](int i) { return i < n ? p[i] : 0.0f; });
}
static inline void store(float* p, const Vec& a) { std::memcpy(p, a.v, sizeof a.v); }
static inline void store_n(float* p, const Vec& a, std::int64_t n) {
  for (int i = 0; i < kWidth && i < n; i++) p[i] = a.v[i];
}
static inline Vec add(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.v[i] + b.v[i]; });
}
static inline Vec sub(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.v[i] - b.v[i]; });
}
static inline Vec mul(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.v[i] * b.v[i]; });
}
static inline Vec div(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.v[i] / b.v[i]; });
}
// Rounded twice: a fused multiply-add is a library call on the oldest machines.
static inline Vec fma(const Vec& a, const Vec& b, const Vec& c) {
  return each_lane([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
static inline void accumulate(const Vec& a, const Vec& b, Vec& c) { c = fma(a, b, c); }
static inline Vec max(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
static inline Vec min(const Vec& a, const Vec& b) {
  return each_lane([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
// By the addition that leaves no fraction bits; |a| < 2^22.
static inline Vec round_even(const Vec& a) {
  return each_lane([&](int i) { return (a.v[i] + 0x1.8p23f) - 0x1.8p23f; });
}
static inline Vec times_power(const Vec& a, const Vec& n) {
  return each_lane([&](int i) {
    return a.v[i] * float_of(static_cast<std::uint32_t>(static_cast<std::int32_t>(n.v[i]) + 127) << 23);
  });
}
static inline Mask less(const Vec& a, const Vec& b) {
  return each_flag([&](int i) { return a.v[i] < b.v[i]; });
}
static inline Mask equal(const Vec& a, const Vec& b) {
  return each_flag([&](int i) { return a.v[i] == b.v[i]; });
}
static inline Vec select(const Mask& m, const Vec& yes, const Vec& no) {
  return each_lane([&](int i) { return m.m[i] ? yes.v[i] : no.v[i]; });
}
static inline std::uint32_t bits(const Mask& m) {
  std::uint32_t out = 0;
  for (int i = 0; i < kWidth; i++) out |= static_cast<std::uint32_t>(m.m[i]) << i;
  return out;
}
static inline Vec absolute(const Vec& a) {
  return each_lane([&](int i) { return a.v[i] < 0 ? -a.v[i] : a.v[i]; });
}
static inline float widen_half(std::uint16_t half) {
  const std::uint32_t magnitude = (half & 0x7fffu) << 13, sign = (half & 0x8000u) << 16;
  // The exponents' biases differ by 112; the multiplication makes subnormals right, too.
  std::uint32_t word = word_of(float_of(magnitude) * 0x1p112f);
  if ((half & 0x7c00u) == 0x7c00u) word = magnitude | 0x7f800000u;
  return float_of(word | sign);
}
// To nearest, ties to even.
static inline std::uint16_t narrow_half(float x) {
  const std::uint32_t word = word_of(x), sign = word >> 16 & 0x8000u, magnitude = word & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {
    // Below 2^-14: the addition of 0.5 rounds to multiples of 2^-24, which is what a subnormal half counts.
    return static_cast<std::uint16_t>(sign | (word_of(float_of(magnitude) + 0.5f) - word_of(0.5f)));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
  return static_cast<std::uint16_t>(sign | (rounded - 0x38000000u) >> 13);
}
template <int Distance>
static inline Vec exchange(const Vec& a) {
  return each_lane([&](int i) { return a.v[i ^ Distance]; });
}
static inline Vec load_half(const std::uint16_t* p) {
  return each_lane([&](int i) { return widen_half(p[i]); });
}
static inline void store_half(std::uint16_t* p, const Vec& a) {
  for (int i = 0; i < kWidth; i++) p[i] = narrow_half(a.v[i]);
}
static inline void prefetch(const void*) {}
static inline void prefetch_far(const void*) {}

struct Words {
  std::uint32_t v[kWidth];
};
template <class F>
static inline Words each_word(F f) {
  Words out;
  for (int i = 0; i < kWidth; i++) out.v[i] = f(i);
  return out;
}
static inline Words all_words(std::uint32_t x) {
  return each_word([&](int) { return x; });
}
static inline Words words_from(std::uint32_t first) {
  return each_word([&](int i) { return first + static_cast<std::uint32_t>(i); });
}
static inline void store(std::uint32_t* p, const Words& a) { std::memcpy(p, a.v, sizeof a.v); }
static inline Words exclusive_or(const Words& a, const Words& b) {
  return each_word([&](int i) { return a.v[i] ^ b.v[i]; });
}
// The halves of the 64-bit products.
static inline void multiply(const Words& a, std::uint32_t factor, Words& high, Words& low) {
  for (int i = 0; i < kWidth; i++) {
    const std::uint64_t product = static_cast<std::uint64_t>(a.v[i]) * factor;
    high.v[i] = static_cast<std::uint32_t>(product >> 32);
    low.v[i] = static_cast<std::uint32_t>(product);
  }
}

#endif

// The sum of the lanes as a tree of fixed shape: i + (i + 8), then + 4, + 2, + 1.
static inline float sum(Vec a) {
#if defined(RIDGELINE_ISA_avx512)
  return _mm512_reduce_add_ps(a.v);
#elif defined(RIDGELINE_ISA_avx2)
  const __m256 eight = _mm256_add_ps(a.a, a.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
  float lane[kWidth];
  store(lane, a);
  for (int half = kWidth / 2; half >= 1; half /= 2)
    for (int i = 0; i < half; i++) lane[i] = lane[i] + lane[i + half];
  return lane[0];
#endif
}

static inline float largest(Vec a) {
#if defined(RIDGELINE_ISA_avx512)
  return _mm512_reduce_max_ps(a.v);
#elif defined(RIDGELINE_ISA_avx2)
  const __m256 eight = _mm256_max_ps(a.a, a.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
#else
  float lane[kWidth];
  store(lane, a);
  float out = lane[0];
  for (int i = 1; i < kWidth; i++) out = lane[i] > out ? lane[i] : out;
  return out;
#endif
}

// e^x within 2 ulp where the result is normal; below 2^-126 it is 0, above the largest float infinity; NaN stays.
// x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7 (remainder 5e-9); ln 2 in two parts.
static inline Vec exp(Vec x) {
  const Vec low = all(-87.33654f), high = all(88.72284f);
  const Vec clamped = min(high, max(low, x));
  const Vec n = round_even(mul(clamped, all(1.44269504f)));
  Vec r = fma(n, all(-0.693359375f), clamped);
  r = fma(n, all(2.12194440e-4f), r);
  Vec p = all(1.0f / 5040);
  p = fma(p, r, all(1.0f / 720));
  p = fma(p, r, all(1.0f / 120));
  p = fma(p, r, all(1.0f / 24));
  p = fma(p, r, all(1.0f / 6));
  p = fma(p, r, all(0.5f));
  p = fma(p, r, all(1.0f));
  p = fma(p, r, all(1.0f));
  // n may be 128, one more than a float's exponent reaches: the power is applied in two steps.
  const Vec half = round_even(mul(n, all(0.5f)));
  const Vec y = times_power(times_power(p, half), sub(n, half));
  return select(less(x, low), zeros(), select(less(high, x), all(INFINITY), y));
}

// tanh within 3 ulp: an odd polynomial near 0, elsewhere 1 - 2 / (e^2|x| + 1).
static inline Vec tanh(Vec x) {
  const Vec size = absolute(x), square = mul(x, x);
  Vec p = all(-1382.0f / 155925);
  p = fma(p, square, all(62.0f / 2835));
  p = fma(p, square, all(-17.0f / 315));
  p = fma(p, square, all(2.0f / 15));
  p = fma(p, square, all(-1.0f / 3));
  p = fma(mul(p, square), x, x);
  const Vec far = sub(all(1.0f), div(all(2.0f), add(exp(add(size, size)), all(1.0f))));
  return select(less(size, all(0.3f)), p, select(less(x, zeros()), sub(zeros(), far), far));
}

// The vector functions on one number: the same code, the same bits.
static inline float exp_one(float x) {
  float lane[kWidth];
  store(lane, exp(all(x)));
  return lane[0];
}

}  // namespace ridgeline::RIDGELINE_ISA
