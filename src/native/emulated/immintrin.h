// AVX-512 as functions of AVX2: the kernels of avx512 and amx, compiled for a CPU that has neither, to be tested there.
//
// Only where CMake's RIDGELINE_EMULATE is on does the compiler find this file before its own of the same name. The
// functions lie in the kernels' namespace, where they hide the intrinsics of which they have the names. Bits are those
// of the instructions (Intel SDM), with one exception: whether the result of a dot product of bfloat16 is subnormal is
// asked after rounding to a subnormal's precision. What masks leave out is neither read nor written.
//
// Only what the kernels use is here: the compiler names what a new one lacks.
#pragma once

#include_next <immintrin.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#ifndef __OPTIMIZE__
#error "without optimization, compilers have macros of these names"
#endif
#undef _mm512_setr_epi32

namespace ridgeline::RIDGELINE_ISA {

struct IntegerHalves {
  __m256i low, high;
};
struct FloatHalves {
  __m256 low, high;
};
static inline IntegerHalves halves_of(__m512i x) { return std::bit_cast<IntegerHalves>(x); }
static inline FloatHalves halves_of(__m512 x) { return std::bit_cast<FloatHalves>(x); }
static inline __m512i joined(__m256i low, __m256i high) { return std::bit_cast<__m512i>(IntegerHalves{low, high}); }
static inline __m512 joined(__m256 low, __m256 high) { return std::bit_cast<__m512>(FloatHalves{low, high}); }

// f(half), f(half of a, half of b), ...
template <class F, class... V>
static inline auto by_halves(F f, V... x) {
  return joined(f(halves_of(x).low...), f(halves_of(x).high...));
}

template <class T>
struct Lanes {
  T v[64 / sizeof(T)];
};
template <class T, class V>
static inline Lanes<T> lanes_as(V x) {
  return std::bit_cast<Lanes<T>>(x);
}
// Lane i is f(i).
template <class T, class V = __m512i, class F>
static inline V each_lane_of(F f) {
  Lanes<T> out;
  for (int i = 0; i < static_cast<int>(64 / sizeof(T)); i++) out.v[i] = f(i);
  return std::bit_cast<V>(out);
}
static inline bool has(std::uint64_t mask, int lane) { return mask >> lane & 1; }

// Functions of each half, or of each 128 bits of it, that AVX2 has under a like name.
#define RIDGELINE_HALVES_1(type, name, half) \
  [[gnu::noinline, maybe_unused]] static type name(type a) { return by_halves([](auto x) { return half(x); }, a); }
#define RIDGELINE_HALVES_2(type, name, half) \
  [[gnu::noinline, maybe_unused]] static type name(type a, type b) { return by_halves([](auto x, auto y) { return half(x, y); }, a, b); }
#define RIDGELINE_SHIFT(name, half) \
  [[gnu::noinline, maybe_unused]] static __m512i name(__m512i a, unsigned n) { \
    const __m128i count = _mm_cvtsi32_si128(static_cast<int>(n)); \
    return by_halves([&](__m256i x) { return half(x, count); }, a); \
  }
RIDGELINE_HALVES_2(__m512, _mm512_add_ps, _mm256_add_ps)
RIDGELINE_HALVES_2(__m512, _mm512_sub_ps, _mm256_sub_ps)
RIDGELINE_HALVES_2(__m512, _mm512_mul_ps, _mm256_mul_ps)
RIDGELINE_HALVES_2(__m512, _mm512_div_ps, _mm256_div_ps)
RIDGELINE_HALVES_2(__m512, _mm512_max_ps, _mm256_max_ps)
RIDGELINE_HALVES_2(__m512, _mm512_min_ps, _mm256_min_ps)
RIDGELINE_HALVES_2(__m512i, _mm512_add_epi8, _mm256_add_epi8)
RIDGELINE_HALVES_2(__m512i, _mm512_add_epi16, _mm256_add_epi16)
RIDGELINE_HALVES_2(__m512i, _mm512_adds_epi16, _mm256_adds_epi16)
RIDGELINE_HALVES_2(__m512i, _mm512_add_epi32, _mm256_add_epi32)
RIDGELINE_HALVES_2(__m512i, _mm512_sub_epi16, _mm256_sub_epi16)
RIDGELINE_HALVES_2(__m512i, _mm512_sub_epi32, _mm256_sub_epi32)
RIDGELINE_HALVES_2(__m512i, _mm512_mullo_epi16, _mm256_mullo_epi16)
RIDGELINE_HALVES_2(__m512i, _mm512_mullo_epi32, _mm256_mullo_epi32)
RIDGELINE_HALVES_2(__m512i, _mm512_mulhrs_epi16, _mm256_mulhrs_epi16)
RIDGELINE_HALVES_2(__m512i, _mm512_madd_epi16, _mm256_madd_epi16)
RIDGELINE_HALVES_2(__m512i, _mm512_mul_epu32, _mm256_mul_epu32)
RIDGELINE_HALVES_2(__m512i, _mm512_max_epu32, _mm256_max_epu32)
RIDGELINE_HALVES_2(__m512i, _mm512_and_si512, _mm256_and_si256)
RIDGELINE_HALVES_2(__m512i, _mm512_or_si512, _mm256_or_si256)
RIDGELINE_HALVES_2(__m512i, _mm512_xor_si512, _mm256_xor_si256)
RIDGELINE_HALVES_2(__m512i, _mm512_shuffle_epi8, _mm256_shuffle_epi8)
RIDGELINE_HALVES_2(__m512i, _mm512_packs_epi16, _mm256_packs_epi16)
RIDGELINE_HALVES_2(__m512i, _mm512_packs_epi32, _mm256_packs_epi32)
RIDGELINE_HALVES_2(__m512i, _mm512_unpacklo_epi32, _mm256_unpacklo_epi32)
RIDGELINE_HALVES_2(__m512i, _mm512_unpackhi_epi32, _mm256_unpackhi_epi32)
RIDGELINE_HALVES_2(__m512i, _mm512_unpacklo_epi64, _mm256_unpacklo_epi64)
RIDGELINE_HALVES_2(__m512i, _mm512_unpackhi_epi64, _mm256_unpackhi_epi64)
RIDGELINE_HALVES_1(__m512i, _mm512_abs_epi16, _mm256_abs_epi16)
RIDGELINE_SHIFT(_mm512_slli_epi16, _mm256_sll_epi16)
RIDGELINE_SHIFT(_mm512_slli_epi32, _mm256_sll_epi32)
RIDGELINE_SHIFT(_mm512_slli_epi64, _mm256_sll_epi64)
RIDGELINE_SHIFT(_mm512_srli_epi16, _mm256_srl_epi16)
RIDGELINE_SHIFT(_mm512_srli_epi32, _mm256_srl_epi32)
RIDGELINE_SHIFT(_mm512_srli_epi64, _mm256_srl_epi64)
RIDGELINE_SHIFT(_mm512_srai_epi16, _mm256_sra_epi16)
RIDGELINE_SHIFT(_mm512_srai_epi32, _mm256_sra_epi32)
#undef RIDGELINE_HALVES_1
#undef RIDGELINE_HALVES_2
#undef RIDGELINE_SHIFT

[[gnu::noinline, maybe_unused]] static __m512i _mm512_sll_epi32(__m512i a, __m128i count) {
  return by_halves([&](__m256i x) { return _mm256_sll_epi32(x, count); }, a);
}
[[gnu::noinline, maybe_unused]] static __m512 _mm512_fmadd_ps(__m512 a, __m512 b, __m512 c) {
  return by_halves([](__m256 x, __m256 y, __m256 z) { return _mm256_fmadd_ps(x, y, z); }, a, b, c);
}

// Memory.
[[gnu::noinline, maybe_unused]] static __m512 _mm512_loadu_ps(const void* p) {
  __m512 out;
  std::memcpy(&out, p, 64);
  return out;
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_loadu_si512(const void* p) { return std::bit_cast<__m512i>(_mm512_loadu_ps(p)); }
[[gnu::noinline, maybe_unused]] static void _mm512_storeu_ps(void* p, __m512 a) { std::memcpy(p, &a, 64); }
[[gnu::noinline, maybe_unused]] static void _mm512_storeu_si512(void* p, __m512i a) { std::memcpy(p, &a, 64); }
// The instructions fault, too.
static inline void check_aligned(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 64 != 0) std::abort();
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_load_si512(const void* p) {
  check_aligned(p);
  return _mm512_loadu_si512(p);
}
[[gnu::noinline, maybe_unused]] static void _mm512_store_si512(void* p, __m512i a) {
  check_aligned(p);
  _mm512_storeu_si512(p, a);
}
template <class T, class V>
static inline V load_lanes(std::uint64_t mask, const void* p) {
  return each_lane_of<T, V>([&](int i) {
    T x = 0;
    if (has(mask, i)) std::memcpy(&x, static_cast<const std::byte*>(p) + i * static_cast<int>(sizeof x), sizeof x);
    return x;
  });
}
template <class T, int Count = 64 / sizeof(T), class V>
static inline void store_lanes(void* p, std::uint64_t mask, V a) {
  T lanes[Count];
  std::memcpy(lanes, &a, sizeof a);
  for (int i = 0; i < Count; i++)
    if (has(mask, i)) std::memcpy(static_cast<std::byte*>(p) + i * static_cast<int>(sizeof(T)), lanes + i, sizeof(T));
}
[[gnu::noinline, maybe_unused]] static __m512 _mm512_maskz_loadu_ps(__mmask16 m, const void* p) { return load_lanes<float, __m512>(m, p); }
[[gnu::noinline, maybe_unused]] static __m512i _mm512_maskz_loadu_epi32(__mmask16 m, const void* p) {
  return load_lanes<std::uint32_t, __m512i>(m, p);
}
[[gnu::noinline, maybe_unused]] static void _mm512_mask_storeu_ps(void* p, __mmask16 m, __m512 a) { store_lanes<float>(p, m, a); }
[[gnu::noinline, maybe_unused]] static void _mm512_mask_storeu_epi32(void* p, __mmask16 m, __m512i a) { store_lanes<std::uint32_t>(p, m, a); }
[[gnu::noinline, maybe_unused]] static void _mm512_mask_storeu_epi8(void* p, __mmask64 m, __m512i a) { store_lanes<std::uint8_t>(p, m, a); }
static inline void _mm256_mask_storeu_epi16(void* p, __mmask16 m, __m256i a) {
  store_lanes<std::uint16_t, 16>(p, m, a);
}

// Constants and casts.
static inline __m512 _mm512_setzero_ps() { return joined(_mm256_setzero_ps(), _mm256_setzero_ps()); }
static inline __m512i _mm512_setzero_si512() { return joined(_mm256_setzero_si256(), _mm256_setzero_si256()); }
static inline __m512 _mm512_set1_ps(float x) { return joined(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline __m512i _mm512_set1_epi8(char x) { return joined(_mm256_set1_epi8(x), _mm256_set1_epi8(x)); }
static inline __m512i _mm512_set1_epi16(short x) { return joined(_mm256_set1_epi16(x), _mm256_set1_epi16(x)); }
static inline __m512i _mm512_set1_epi32(int x) { return joined(_mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
template <class... T>
static inline __m512i _mm512_setr_epi32(T... x) {
  return std::bit_cast<__m512i>(Lanes<std::int32_t>{{x...}});
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_broadcast_i32x4(__m128i x) {
  const __m256i twice = _mm256_broadcastsi128_si256(x);
  return joined(twice, twice);
}
static inline __m512 _mm512_broadcastss_ps(__m128 x) { return _mm512_set1_ps(_mm_cvtss_f32(x)); }
static inline __m512i _mm512_castps_si512(__m512 x) { return std::bit_cast<__m512i>(x); }
static inline __m512 _mm512_castsi512_ps(__m512i x) { return std::bit_cast<__m512>(x); }
static inline __m256i _mm512_castsi512_si256(__m512i x) { return halves_of(x).low; }
static inline __m128i _mm512_castsi512_si128(__m512i x) { return _mm256_castsi256_si128(halves_of(x).low); }
[[gnu::noinline, maybe_unused]] static __m128i _mm512_extracti32x4_epi32(__m512i x, int which) {
  const __m256i half = which & 2 ? halves_of(x).high : halves_of(x).low;
  return which & 1 ? _mm256_extracti128_si256(half, 1) : _mm256_castsi256_si128(half);
}
[[gnu::noinline, maybe_unused]] static __m256i _mm512_extracti64x4_epi64(__m512i x, int which) {
  return which ? halves_of(x).high : halves_of(x).low;
}

// Lanes of 32 bits change places.
[[gnu::noinline, maybe_unused]] static __m512i _mm512_permutexvar_epi32(__m512i order, __m512i x) {
  const auto from = lanes_as<std::uint32_t>(order), lanes = lanes_as<std::uint32_t>(x);
  return each_lane_of<std::uint32_t>([&](int i) { return lanes.v[from.v[i] % 16]; });
}
// A name of its own: the type of its second argument would lead to the compiler's.
#define _mm512_shuffle_epi32(x, order) shuffled_words(x, order)
[[gnu::noinline, maybe_unused]] static __m512i shuffled_words(__m512i x, int order) {
  const auto lanes = lanes_as<std::uint32_t>(x);
  return each_lane_of<std::uint32_t>([&](int i) { return lanes.v[i / 4 * 4 + (order >> i % 4 * 2 & 3)]; });
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_shuffle_i32x4(__m512i a, __m512i b, int order) {
  const auto first = lanes_as<std::uint32_t>(a), second = lanes_as<std::uint32_t>(b);
  return each_lane_of<std::uint32_t>([&](int i) {
    return (i < 8 ? first : second).v[(order >> i / 4 * 2 & 3) * 4 + i % 4];
  });
}
[[gnu::noinline, maybe_unused]] static __m512 _mm512_permute_ps(__m512 x, int order) {
  return _mm512_castsi512_ps(_mm512_shuffle_epi32(_mm512_castps_si512(x), order));
}
[[gnu::noinline, maybe_unused]] static __m512 _mm512_shuffle_f32x4(__m512 a, __m512 b, int order) {
  return _mm512_castsi512_ps(_mm512_shuffle_i32x4(_mm512_castps_si512(a), _mm512_castps_si512(b), order));
}

// Bit k of `table` is the result where a, b and c have the bits of k.
[[gnu::noinline, maybe_unused]] static __m512i _mm512_ternarylogic_epi64(__m512i a, __m512i b, __m512i c, int table) {
  const auto x = lanes_as<std::uint64_t>(a), y = lanes_as<std::uint64_t>(b), z = lanes_as<std::uint64_t>(c);
  return each_lane_of<std::uint64_t>([&](int i) {
    std::uint64_t out = 0;
    for (int k = 0; k < 8; k++)
      if (has(static_cast<unsigned>(table), k))
        out |= (k & 4 ? x.v[i] : ~x.v[i]) & (k & 2 ? y.v[i] : ~y.v[i]) & (k & 1 ? z.v[i] : ~z.v[i]);
    return out;
  });
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int table) {
  return _mm512_ternarylogic_epi64(a, b, c, table);
}

// Masks.
template <class T, class V>
static inline V chosen(std::uint64_t mask, V no, V yes) {
  const auto first = lanes_as<T>(no), second = lanes_as<T>(yes);
  return each_lane_of<T, V>([&](int i) { return has(mask, i) ? second.v[i] : first.v[i]; });
}
[[gnu::noinline, maybe_unused]] static __m512 _mm512_mask_blend_ps(__mmask16 m, __m512 no, __m512 yes) { return chosen<std::uint32_t>(m, no, yes); }
[[gnu::noinline, maybe_unused]] static __m512i _mm512_mask_blend_epi32(__mmask16 m, __m512i no, __m512i yes) {
  return chosen<std::uint32_t>(m, no, yes);
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_mask_blend_epi16(__mmask32 m, __m512i no, __m512i yes) {
  return chosen<std::uint16_t>(m, no, yes);
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_mask_blend_epi8(__mmask64 m, __m512i no, __m512i yes) {
  return chosen<std::uint8_t>(m, no, yes);
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_mask_add_epi8(__m512i otherwise, __mmask64 m, __m512i a, __m512i b) {
  return chosen<std::uint8_t>(m, otherwise, _mm512_add_epi8(a, b));
}
static inline __m512i _mm512_maskz_set1_epi8(__mmask64 m, char x) {
  return chosen<std::uint8_t>(m, _mm512_setzero_si512(), _mm512_set1_epi8(x));
}
[[gnu::noinline, maybe_unused]] static __mmask64 _mm512_test_epi8_mask(__m512i a, __m512i b) {
  const auto both = lanes_as<std::uint8_t>(_mm512_and_si512(a, b));
  std::uint64_t out = 0;
  for (int i = 0; i < 64; i++) out |= static_cast<std::uint64_t>(both.v[i] != 0) << i;
  return out;
}
static inline __m256 compared(__m256 a, __m256 b, int how) {
  switch (how) {
    case _CMP_LT_OQ: return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
    case _CMP_EQ_OQ: return _mm256_cmp_ps(a, b, _CMP_EQ_OQ);
    case _CMP_NLT_UQ: return _mm256_cmp_ps(a, b, _CMP_NLT_UQ);
    default: std::abort();
  }
}
[[gnu::noinline, maybe_unused]] static __mmask16 _mm512_cmp_ps_mask(__m512 a, __m512 b, int how) {
  const auto x = halves_of(a), y = halves_of(b);
  return static_cast<__mmask16>(_mm256_movemask_ps(compared(x.low, y.low, how)) |
                                _mm256_movemask_ps(compared(x.high, y.high, how)) << 8);
}
static inline __mmask8 _mm_cmp_ps_mask(__m128 a, __m128 b, int how) {
  const __m256 x = _mm256_castps128_ps256(a), y = _mm256_castps128_ps256(b);
  return static_cast<__mmask8>(_mm256_movemask_ps(compared(x, y, how)) & 15);
}
static inline __m128 kept(__mmask8 m, __m128 x) {
  const __m128i bit = _mm_setr_epi32(1, 2, 4, 8);
  return _mm_and_ps(x, _mm_castsi128_ps(_mm_cmpeq_epi32(_mm_and_si128(_mm_set1_epi32(m), bit), bit)));
}
static inline __m128 _mm_maskz_mul_ps(__mmask8 m, __m128 a, __m128 b) { return kept(m, _mm_mul_ps(a, b)); }
static inline __m128 _mm_maskz_div_ps(__mmask8 m, __m128 a, __m128 b) { return kept(m, _mm_div_ps(a, b)); }

// Numbers of other kinds.
[[gnu::noinline, maybe_unused]] static __m512 _mm512_cvtepi32_ps(__m512i x) {
  return by_halves([](__m256i half) { return _mm256_cvtepi32_ps(half); }, x);
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_cvtps_epi32(__m512 x) {
  return by_halves([](__m256 half) { return _mm256_cvtps_epi32(half); }, x);
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_cvtepu16_epi32(__m256i x) {
  return joined(_mm256_cvtepu16_epi32(_mm256_castsi256_si128(x)), _mm256_cvtepu16_epi32(_mm256_extracti128_si256(x, 1)));
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_cvtepu8_epi32(__m128i x) {
  return joined(_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8)));
}
[[gnu::noinline, maybe_unused]] static __m128i _mm512_cvtepi32_epi8(__m512i x) {
  const auto lanes = lanes_as<std::uint32_t>(x);
  std::uint8_t out[16];
  for (int i = 0; i < 16; i++) out[i] = static_cast<std::uint8_t>(lanes.v[i]);
  return std::bit_cast<__m128i>(out);
}
[[gnu::noinline, maybe_unused]] static __m512 _mm512_cvtph_ps(__m256i x) {
  return joined(_mm256_cvtph_ps(_mm256_castsi256_si128(x)), _mm256_cvtph_ps(_mm256_extracti128_si256(x, 1)));
}
[[gnu::noinline, maybe_unused]] static __m256i _mm512_cvtps_ph(__m512 x, int rounding) {
  if ((rounding & ~_MM_FROUND_NO_EXC) != _MM_FROUND_TO_NEAREST_INT) std::abort();
  const auto half = halves_of(x);
  return _mm256_set_m128i(_mm256_cvtps_ph(half.high, _MM_FROUND_TO_NEAREST_INT),
                          _mm256_cvtps_ph(half.low, _MM_FROUND_TO_NEAREST_INT));
}

// Single functions of floats.
[[gnu::noinline, maybe_unused]] static __m512 _mm512_abs_ps(__m512 x) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)));
}
[[gnu::noinline, maybe_unused]] static __m512 _mm512_roundscale_ps(__m512 x, int how) {
  if ((how & ~_MM_FROUND_NO_EXC) == _MM_FROUND_TO_NEAREST_INT)
    return by_halves([](__m256 half) { return _mm256_round_ps(half, 8 | _MM_FROUND_TO_NEAREST_INT); }, x);
  if ((how & ~_MM_FROUND_NO_EXC) == _MM_FROUND_TO_NEG_INF)
    return by_halves([](__m256 half) { return _mm256_round_ps(half, 8 | _MM_FROUND_TO_NEG_INF); }, x);
  std::abort();
}
// What rounding takes away; nothing of an infinity.
[[gnu::noinline, maybe_unused]] static __m512 _mm512_reduce_ps(__m512 x, int how) {
  const __m512 rest = _mm512_sub_ps(x, _mm512_roundscale_ps(x, how));
  const __mmask16 infinite = _mm512_cmp_ps_mask(_mm512_abs_ps(x), _mm512_set1_ps(INFINITY), _CMP_EQ_OQ);
  return _mm512_mask_blend_ps(infinite, rest, _mm512_setzero_ps());
}
// a * 2^floor(b), rounded once; of NaN and infinite b only what a plain product has.
[[gnu::noinline, maybe_unused]] static __m512 _mm512_scalef_ps(__m512 a, __m512 b) {
  const auto x = lanes_as<float>(a), n = lanes_as<float>(b);
  return each_lane_of<float, __m512>([&](int i) {
    if (std::isnan(x.v[i]) || std::isnan(n.v[i])) return x.v[i] + n.v[i];
    return static_cast<float>(std::ldexp(double{x.v[i]}, static_cast<int>(std::floor(std::clamp(n.v[i], -600.0f, 600.0f)))));
  });
}

// Sums and maxima of lanes: i and i + 8, then + 4, + 2, + 1.
template <class T, class F>
static inline T reduced(Lanes<T> x, F f) {
  for (int half = 8; half >= 1; half /= 2)
    for (int i = 0; i < half; i++) x.v[i] = f(x.v[i + half], x.v[i]);
  return x.v[0];
}
[[gnu::noinline, maybe_unused]] static float _mm512_reduce_add_ps(__m512 x) {
  return reduced(lanes_as<float>(x), [](float a, float b) { return a + b; });
}
[[gnu::noinline, maybe_unused]] static float _mm512_reduce_max_ps(__m512 x) {
  return reduced(lanes_as<float>(x), [](float a, float b) { return a > b ? a : b; });
}
[[gnu::noinline, maybe_unused]] static int _mm512_reduce_add_epi32(__m512i x) {
  return static_cast<int>(reduced(lanes_as<std::uint32_t>(x), [](std::uint32_t a, std::uint32_t b) { return a + b; }));
}
[[gnu::noinline, maybe_unused]] static std::uint32_t _mm512_reduce_max_epu32(__m512i x) {
  return reduced(lanes_as<std::uint32_t>(x), [](std::uint32_t a, std::uint32_t b) { return std::max(a, b); });
}

// VNNI. Products of bytes are summed exactly: even and odd ones as words.
template <bool SignedA, bool SignedB>
static inline __m256i dot_bytes(__m256i sum, __m256i a, __m256i b) {
  const auto even = [](__m256i x, bool has_sign) {
    const __m256i moved = _mm256_slli_epi16(x, 8);
    return has_sign ? _mm256_srai_epi16(moved, 8) : _mm256_srli_epi16(moved, 8);
  };
  const auto odd = [](__m256i x, bool has_sign) { return has_sign ? _mm256_srai_epi16(x, 8) : _mm256_srli_epi16(x, 8); };
  const __m256i evens = _mm256_madd_epi16(even(a, SignedA), even(b, SignedB));
  const __m256i odds = _mm256_madd_epi16(odd(a, SignedA), odd(b, SignedB));
  return _mm256_add_epi32(sum, _mm256_add_epi32(evens, odds));
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_dpbusd_epi32(__m512i sum, __m512i a, __m512i b) {
  return by_halves([](auto s, auto x, auto y) { return dot_bytes<false, true>(s, x, y); }, sum, a, b);
}
[[gnu::noinline, maybe_unused]] static __m512i _mm512_dpwssd_epi32(__m512i sum, __m512i a, __m512i b) {
  return by_halves([](auto s, auto x, auto y) { return _mm256_add_epi32(s, _mm256_madd_epi16(x, y)); }, sum, a, b);
}

// BF16. To nearest, ties to even; subnormal numbers are zeros, going in and coming out.
static inline __m256 no_subnormals(__m256 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  const __m256 normal = _mm256_cmp_ps(_mm256_andnot_ps(sign, x), _mm256_set1_ps(FLT_MIN), _CMP_NLT_UQ);
  return _mm256_and_ps(x, _mm256_or_ps(normal, sign));
}
static inline __m256 fma_bfloats(__m256 a, __m256 b, __m256 sum) {
  return no_subnormals(_mm256_fmadd_ps(no_subnormals(a), no_subnormals(b), no_subnormals(sum)));
}
static inline __m256 even_bfloats(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
static inline __m256 odd_bfloats(__m256i x) {
  return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// The odd products first.
[[gnu::noinline, maybe_unused]] static __m512 _mm512_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b) {
  const auto half = [](__m256 s, __m256i x, __m256i y) {
    return fma_bfloats(even_bfloats(x), even_bfloats(y), fma_bfloats(odd_bfloats(x), odd_bfloats(y), s));
  };
  return by_halves(half, sum, std::bit_cast<__m512i>(a), std::bit_cast<__m512i>(b));
}
[[gnu::noinline, maybe_unused]] static __m256bh _mm512_cvtneps_pbh(__m512 x) {
  const auto lanes = lanes_as<std::uint32_t>(by_halves([](__m256 half) { return no_subnormals(half); }, x));
  std::uint16_t out[16];
  for (int i = 0; i < 16; i++) {
    const std::uint32_t bits = lanes.v[i];
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    out[i] = static_cast<std::uint16_t>(is_nan ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  return std::bit_cast<__m256bh>(out);
}
[[gnu::noinline, maybe_unused]] static __m512bh _mm512_cvtne2ps_pbh(__m512 high, __m512 low) {
  return std::bit_cast<__m512bh>(
      joined(std::bit_cast<__m256i>(_mm512_cvtneps_pbh(low)), std::bit_cast<__m256i>(_mm512_cvtneps_pbh(high))));
}

}  // namespace ridgeline::RIDGELINE_ISA
