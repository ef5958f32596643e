// The 16 channels of a strip in pairs of AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "accumulate_avx2.h"
#include "linear_layout.h"

namespace ridgeline::RIDGELINE_ISA {

struct Floats { __m256 v[2]; };
struct Sums { __m256i v[2]; };
struct Line { __m256i v[2]; };  // 4 codes a channel, as bytes 0 .. 2^bits - 1; eight bits: q, signed
using Quad = __m256i;
// Of a FineBlock: its first and third number, and its second and fourth.
struct FineQuad { __m256i even, odd; };
struct FineStart { std::int32_t value; };
struct FineSums { __m256i v[2]; };
// Of a TermBlock.
struct TermQuads { __m256i v[2]; };
struct TermStarts { std::int32_t value[2]; };
struct TermSums { Sums of[2]; };

static inline Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline void store(float* p, Floats a) {
  _mm256_storeu_ps(p, a.v[0]);
  _mm256_storeu_ps(p + 8, a.v[1]);
}
static inline __m256i first_lanes(std::int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline Floats load_channels(const float* p, std::int64_t count) {
  if (count >= 16) return load(p);
  return {_mm256_maskload_ps(p, first_lanes(count)),
          _mm256_maskload_ps(p + 8, first_lanes(count - 8))};
}
// (A masked store takes as long as a dozen others.)
static inline void store_channels(float* p, Floats a, std::int64_t count) {
  if (count >= 16) return store(p, a);
  _mm256_maskstore_ps(p, first_lanes(count), a.v[0]);
  _mm256_maskstore_ps(p + 8, first_lanes(count - 8), a.v[1]);
}
static inline Floats zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Floats all(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
static inline Floats mul(Floats a, Floats b) {
  return {_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1])};
}
static inline Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.v[0], b.v[0], c.v[0]), _mm256_fmadd_ps(a.v[1], b.v[1], c.v[1])};
}
// c = fma(a, b, c), where many sums fill the registers.
static inline void accumulate(Floats a, Floats b, Floats& c) {
  c = {accumulated(a.v[0], b.v[0], c.v[0]), accumulated(a.v[1], b.v[1], c.v[1])};
}
static inline Floats load_halves(const std::uint8_t* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_load_si128(halves)), _mm256_cvtph_ps(_mm_load_si128(halves + 1))};
}
static inline __m256 widen_bfloats(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
static inline Floats load_bfloats(const std::uint16_t* p) {
  const __m128i* bits = reinterpret_cast<const __m128i*>(p);
  return {widen_bfloats(_mm_loadu_si128(bits)), widen_bfloats(_mm_loadu_si128(bits + 1))};
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

static inline __m256i load_half_line(const std::uint8_t* p, int half) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p) + half);
}
// Without it the compiler loads the lines of all steps at once, and has no registers left for sums.
static inline void keep_loads_here() { __asm__ volatile("" ::: "memory"); }

static inline Line load_line(const std::uint8_t* p) {
  return {load_half_line(p, 0), load_half_line(p, 1)};
}
static inline void store_line(std::uint8_t* p, Line a) {
  _mm256_store_si256(reinterpret_cast<__m256i*>(p), a.v[0]);
  _mm256_store_si256(reinterpret_cast<__m256i*>(p) + 1, a.v[1]);
}

static inline Line byte_line(const std::uint8_t* codes, int step) {
  const Line x = load_line(codes + step * kLineBytes);
  const __m256i sign = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(x.v[0], sign), _mm256_xor_si256(x.v[1], sign)};
}
static inline __m256i nibbles(__m256i x, int step) {
  return _mm256_and_si256(step % 2 ? _mm256_srli_epi16(x, 4) : x, _mm256_set1_epi8(15));
}
static inline Line nibble_line(const std::uint8_t* codes, int step) {
  const Line x = load_line(codes + step / 2 * kLineBytes);
  return {nibbles(x.v[0], step), nibbles(x.v[1], step)};
}
// Numbers of a table of 16 by four-bit codes, signed as those of eight bits.
static inline Line table_line(const std::uint8_t* codes, const std::uint8_t* table, int step) {
  const Line code = nibble_line(codes, step);
  const __m128i entries = _mm_xor_si128(_mm_load_si128(reinterpret_cast<const __m128i*>(table)),
                                        _mm_set1_epi8(-128));
  const __m256i twice = _mm256_broadcastsi128_si256(entries);
  return {_mm256_shuffle_epi8(twice, code.v[0]), _mm256_shuffle_epi8(twice, code.v[1])};
}
// Bits of every byte, moved down by `shift`; `mask` is where they are then.
static inline __m256i bits_of(__m256i x, int shift, char mask) {
  return _mm256_and_si256(shift ? _mm256_srli_epi16(x, shift) : x, _mm256_set1_epi8(mask));
}
// Of eight steps in five lines, step `step`: codes 0 to 4 lie in the low five bits of a line each.
static inline __m256i five_bit_half(const std::uint8_t* lines, int half, int step) {
  const auto line = [&](int i) { return load_half_line(lines + i * kLineBytes, half); };
  if (step < 5) return bits_of(line(step), 0, 31);
  if (step == 7) {
    const __m256i upper = _mm256_or_si256(bits_of(line(1), 2, 8), bits_of(line(3), 1, 16));
    return _mm256_or_si256(bits_of(line(4), 5, 7), upper);
  }
  const int first = step == 5 ? 0 : 2;
  return _mm256_or_si256(bits_of(line(first), 5, 7), bits_of(line(first + 1), 3, 24));
}
static inline Line five_bit_line(const std::uint8_t* codes, int step) {
  return {five_bit_half(codes, 0, step), five_bit_half(codes, 1, step)};
}
// Of four steps in three lines: codes 0 to 2 lie in the low six bits of a line each.
static inline __m256i six_bit_half(const std::uint8_t* lines, int half, int step) {
  const auto line = [&](int i) { return load_half_line(lines + i * kLineBytes, half); };
  if (step < 3) return bits_of(line(step), 0, 63);
  const __m256i upper = _mm256_or_si256(bits_of(line(1), 4, 12), bits_of(line(2), 2, 48));
  return _mm256_or_si256(bits_of(line(0), 6, 3), upper);
}
static inline Line six_bit_line(const std::uint8_t* codes, int step) {
  return {six_bit_half(codes, 0, step), six_bit_half(codes, 1, step)};
}

static inline __m256i load_four_bytes(const void* p) {
  std::int32_t bits;
  std::memcpy(&bits, p, 4);
  return _mm256_set1_epi32(bits);
}
static inline Quad load_quad(const std::int8_t* q) { return load_four_bytes(q); }
// begin, then dots, then finish: the float of sum(q * 2^(8-bits) * activation), exactly.
//
// vpmaddubsw adds two products in 16 bits, and vpmaddwd two of those in 32. What codes are more than q
// is in the start, of which the two words of a quad have a part each. A group's sums fit 16 bits, and what is in between
// may wrap: of four bits, in eight steps, 16 * 8 * 127 in magnitude, of five 16 * 16 * 127, of six, in four, 8 * 32 * 127. Of
// eight, only one step does, with the weight's sign on the activation: 2 * 128 * 127.
static inline __m256i add_pairs_of_words(__m256i pairs, std::int16_t factor = 1) {
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(factor));
}
// The start is two words, -8 times the sum of what each is multiplied by.
template <int Bits>
static inline Sums begin(std::int32_t start) {
  if constexpr (Bits == 8) return {_mm256_setzero_si256(), _mm256_setzero_si256()};
  __m256i sums = _mm256_set1_epi32(start);
  if constexpr (Bits != 4) sums = _mm256_slli_epi16(sums, Bits - 4);
  return {sums, sums};
}
// Or the additions wait together, their terms on the stack.
static inline __m256i now(__m256i sums) {
  __asm__ volatile("" : "+x"(sums));
  return sums;
}
template <int Bits>
static inline __m256i dot_half(__m256i sums, __m256i codes, __m256i activations) {
  if constexpr (Bits != 8) {
    return now(_mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, activations)));
  } else {
    const __m256i pairs =
        _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(activations, codes));
    return now(_mm256_add_epi32(sums, add_pairs_of_words(pairs)));
  }
}
template <int Bits>
static inline Sums dot(Sums sums, Line codes, Quad activations) {
  if constexpr (Bits != 8) {
    // Products before the additions that wait for them: in turns they take a tenth longer.
    const __m256i first = now(_mm256_maddubs_epi16(codes.v[0], activations));
    const __m256i second = now(_mm256_maddubs_epi16(codes.v[1], activations));
    return {now(_mm256_add_epi16(sums.v[0], first)), now(_mm256_add_epi16(sums.v[1], second))};
  }
  return {dot_half<Bits>(sums.v[0], codes.v[0], activations),
          dot_half<Bits>(sums.v[1], codes.v[1], activations)};
}
template <int Bits>
static inline Floats finish(Sums sums) {
  if constexpr (Bits != 8) {
    constexpr std::int16_t kFactor = 1 << (8 - Bits);
    sums = {add_pairs_of_words(sums.v[0], kFactor), add_pairs_of_words(sums.v[1], kFactor)};
  }
  return {_mm256_cvtepi32_ps(sums.v[0]), _mm256_cvtepi32_ps(sums.v[1])};
}

// The same of a FineBlock, of sum(q * activation) alone: a power of two of it is missing, kFineSumScale, which scales take
// over once. Words of codes as they are stored, 0 .. 2^Bits - 1, by words of activations.
template <int Bits>
inline constexpr float kFineSumScale = 1 << (8 - Bits);
static inline FineQuad load_quad(const std::int16_t* q) { return {load_four_bytes(q), load_four_bytes(q + 2)}; }
template <int Bits>
static inline FineSums begin(FineStart start) {
  const __m256i sums = _mm256_slli_epi32(_mm256_set1_epi32(start.value), Bits - 4);
  return {sums, sums};
}
template <int Bits>
static inline FineSums dot(FineSums sums, Line codes, FineQuad activations) {
  const auto add_products = [&](__m256i first, __m256i second, __m256i numbers) {
    first = now(_mm256_madd_epi16(first, numbers));
    second = now(_mm256_madd_epi16(second, numbers));
    sums = {now(_mm256_add_epi32(sums.v[0], first)), now(_mm256_add_epi32(sums.v[1], second))};
  };
  const auto whole = [](__m256i half) { return Bits == 8 ? _mm256_xor_si256(half, _mm256_set1_epi8(-128)) : half; };
  const __m256i first = whole(codes.v[0]), second = whole(codes.v[1]), even = _mm256_set1_epi16(255);
  add_products(_mm256_and_si256(first, even), _mm256_and_si256(second, even), activations.even);
  add_products(_mm256_srli_epi16(first, 8), _mm256_srli_epi16(second, 8), activations.odd);
  return sums;
}
template <int Bits>
static inline Floats finish(FineSums sums) {
  return {_mm256_cvtepi32_ps(sums.v[0]), _mm256_cvtepi32_ps(sums.v[1])};
}

// And of a TermBlock, each of whose terms is summed in words as the only one of int8 is: the same whole number in the end.
static inline TermQuads load_quads(const std::int8_t* first, const std::int8_t* second) {
  return {load_four_bytes(first), load_four_bytes(second)};
}
template <int Bits>
static inline TermSums begin(TermStarts starts) {
  return {begin<Bits>(starts.value[0]), begin<Bits>(starts.value[1])};
}
template <int Bits>
static inline TermSums dot(TermSums sums, Line codes, TermQuads activations) {
  return {dot<Bits>(sums.of[0], codes, activations.v[0]), dot<Bits>(sums.of[1], codes, activations.v[1])};
}
template <int Bits>
static inline Floats finish(TermSums sums) {
  const auto whole = [&](int half) {
    return _mm256_cvtepi32_ps(_mm256_add_epi32(add_pairs_of_words(sums.of[0].v[half], kFirstTermSteps),
                                               add_pairs_of_words(sums.of[1].v[half])));
  };
  return {whole(0), whole(1)};
}

static inline __m256 add_pairs_half(__m256 acc, const std::uint8_t* pairs, float s0, float s1) {
  const __m256i both = _mm256_load_si256(reinterpret_cast<const __m256i*>(pairs));
  const __m256 m0 = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  const __m256 m1 = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-65536)));
  return _mm256_fmadd_ps(m1, _mm256_set1_ps(s1), _mm256_fmadd_ps(m0, _mm256_set1_ps(s0), acc));
}
static inline float widen_bfloat(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
// acc + w0 * x0 + w1 * x1: each channel's two bfloat16 lie side by side, and x's are the same for all.
static inline Floats add_pairs(Floats acc, const std::uint8_t* pairs, const std::uint16_t* x) {
  const float s0 = widen_bfloat(x[0]), s1 = widen_bfloat(x[1]);
  return {add_pairs_half(acc.v[0], pairs, s0, s1), add_pairs_half(acc.v[1], pairs + 32, s0, s1)};
}

}  // namespace ridgeline::RIDGELINE_ISA
