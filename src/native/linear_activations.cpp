// Rows of float32 -> what linear multiplies: int8 with a scale per token and group of 32, bf16, or
// float32 with padding. Nothing of one row reaches another, NaN and infinity included: such a row's
// scales are not finite, and so are its outputs.
#include <cstring>
#include <type_traits>

#include "linear_float.h"
#include "linear_kernels.h"
#include "linear_layout.h"
#include "linear_quantize.h"

#ifndef RIDGELINE_ISA_portable
#include <immintrin.h>
#endif

namespace ridgeline::RIDGELINE_ISA {
namespace {

std::uint32_t bits_of(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
// Round to nearest, ties to even; NaN stays NaN.
std::uint16_t to_bfloat(float x) {
  const std::uint32_t bits = bits_of(x);
  const std::uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  return static_cast<std::uint16_t>((nan ? bits | 0x400000 : rounded) >> 16);
}

#ifdef RIDGELINE_ISA_avx512

// Of 16 lanes' maxima for each of two groups: eight lanes of the first's, eight of the second's.
__m512i max_of_groups(__m512i first, __m512i second) {
  __m512i m = _mm512_max_epu32(_mm512_shuffle_i32x4(first, second, 0x44),
                               _mm512_shuffle_i32x4(first, second, 0xee));
  m = _mm512_max_epu32(m, _mm512_shuffle_i32x4(m, m, 0xb1));
  m = _mm512_max_epu32(m, _mm512_shuffle_epi32(m, _MM_PERM_ENUM(0x4e)));
  return _mm512_max_epu32(m, _mm512_shuffle_epi32(m, _MM_PERM_ENUM(0xb1)));
}

// What both groups have in common (linear_pairs.h). largest: their largest magnitudes, in lanes 0 and 1.
void finish_pair(__m128 largest, __m128i sum32, ActivationBlock& block) {
  // Among bit patterns, so that NaN stays.
  const __m128i bits = _mm_castps_si128(largest);
  const __m128 most = _mm_castsi128_ps(_mm_max_epu32(bits, _mm_shuffle_epi32(bits, 0xe1)));
  const __mmask8 something = _mm_cmp_ps_mask(most, _mm_set1_ps(kNothing), _CMP_NLT_UQ);
  // The second group's first.
  const __m128 share = _mm_maskz_div_ps(something, _mm_castsi128_ps(_mm_shuffle_epi32(bits, 0xe1)), most);
  const __m128i ratio = _mm_packs_epi32(_mm_cvtps_epi32(_mm_mul_ps(share, _mm_set1_ps(kWholeRatio))), _mm_setzero_si128());
  const __m128 scale = _mm_maskz_mul_ps(something, most, _mm_set1_ps(0x1p15f / kWholeRatio / kLargest));
  const __m128i sum = _mm_mulhrs_epi16(_mm_packs_epi32(_mm_shuffle_epi32(sum32, 0xe1), sum32), ratio);
  // Sums of codes, that is, of numbers + 8.
  const __m128i start = _mm_sub_epi32(_mm_setr_epi32(0, 0x8000, 0, 0), _mm_slli_epi32(sum32, 3));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(block.pair_start), start);
  // pair_scale; ratio[2], pair_sum[2]; more and what is behind it
  const __m128i words = _mm_slli_si128(_mm_move_epi64(_mm_unpacklo_epi32(ratio, sum)), 4);
  const __m128i first = _mm_castps_si128(_mm_move_ss(_mm_setzero_ps(), scale));
  _mm_store_si128(reinterpret_cast<__m128i*>(&block.pair_scale), _mm_or_si128(words, first));
}

void quantize_block(const float* x, ActivationBlock* out, int terms) {
  __m512 v[4];
  __m512i magnitude[4];
  for (int i = 0; i < 4; i++) {
    v[i] = _mm512_loadu_ps(x + i * 16);
    magnitude[i] = _mm512_and_si512(_mm512_castps_si512(v[i]), _mm512_set1_epi32(0x7fffffff));
  }
  const __m512i m = max_of_groups(_mm512_max_epu32(magnitude[0], magnitude[1]),
                                  _mm512_max_epu32(magnitude[2], magnitude[3]));
  const __m128 largest = _mm_castsi128_ps(
      _mm_unpacklo_epi32(_mm512_castsi512_si128(m), _mm512_extracti32x4_epi32(m, 2)));
  const __mmask8 something = _mm_cmp_ps_mask(largest, _mm_set1_ps(kNothing), _CMP_NLT_UQ);
  __m128 scale = _mm_maskz_mul_ps(something, largest, _mm_set1_ps(1.0f / kLargest));
  const __m128 inverse = _mm_maskz_div_ps(something, _mm_set1_ps(kLargest), largest);
  const __m512 by[2] = {_mm512_broadcastss_ps(inverse),
                        _mm512_broadcastss_ps(_mm_movehdup_ps(inverse))};
  for (int i = 0; i < 4; i++) v[i] = _mm512_mul_ps(v[i], by[i / 2]);
  __m128i all16 = _mm_setzero_si128();  // sums of all terms up to this one, in its steps
  for (int term = 0; term < terms; term++) {
    ActivationBlock& block = out[term];
    __m512i q[4];
    for (int i = 0; i < 4; i++) {
      q[i] = _mm512_cvtps_epi32(v[i]);
      if (terms > 1) {
        v[i] = _mm512_mul_ps(_mm512_sub_ps(v[i], _mm512_cvtepi32_ps(q[i])),
                             _mm512_set1_ps(kResidueSteps));
      }
    }
    const __m512i bytes = to_bytes(q);
    _mm512_store_si512(block.q, in_order(bytes));
    const __m128i sum16 = sums_of_codes(bytes);
    const __m128i sum32 = _mm_hadd_epi32(sum16, sum16);
    const __m128i start16 = _mm_slli_epi32(_mm_sub_epi32(_mm_setzero_si128(), sum16), 7);
    const __m128i start32 = _mm_slli_epi32(_mm_sub_epi32(_mm_setzero_si128(), sum32), 7);
    all16 = _mm_add_epi32(_mm_mullo_epi32(all16, _mm_set1_epi32(kFirstTermSteps)), sum16);
    const __m128i all32 = _mm_hadd_epi32(all16, all16);
    const __m128 unit = _mm_mul_ps(scale, _mm_set1_ps(kSumUnit));
    const __m128 s32 = _mm_mul_ps(_mm_cvtepi32_ps(all32), unit);
    // scale[2], start32[2]; start16[4]; sum32[2]: the line after the codes.
    auto* rest = reinterpret_cast<__m128i*>(block.scale);
    _mm_store_si128(rest, _mm_unpacklo_epi64(_mm_castps_si128(scale), start32));
    _mm_store_si128(rest + 1, start16);
    _mm_storel_pi(reinterpret_cast<__m64*>(block.sum32), s32);
    finish_pair(largest, sum32, block);
    scale = _mm_mul_ps(scale, _mm_set1_ps(1.0f / kResidueSteps));
  }
}

#elif defined(RIDGELINE_ISA_avx2)

// The largest magnitude of 32 numbers, in each lane: found among bit patterns, in which NaN is above
// infinity and that above all others.
__m128 largest_of(const __m256* v) {
  const auto magnitude = [](__m256 x) {
    return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff));
  };
  const __m256i m = _mm256_max_epu32(_mm256_max_epu32(magnitude(v[0]), magnitude(v[1])),
                                     _mm256_max_epu32(magnitude(v[2]), magnitude(v[3])));
  __m128i half = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
  half = _mm_max_epu32(half, _mm_shuffle_epi32(half, 0x4e));
  return _mm_castsi128_ps(_mm_max_epu32(half, _mm_shuffle_epi32(half, 0xb1)));
}

// The numbers of 64 in units of their group's scale.
struct Scaled {
  __m256 v[8];
  __m128 scale;  // lanes 0 and 1
};
// (Unrolled, or g++ copies x to the stack in halves that no whole load can be forwarded from.)
[[gnu::always_inline]] inline Scaled scaled(const float* x) {
  Scaled out;
  __m256(&v)[8] = out.v;
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) v[i] = _mm256_loadu_ps(x + i * 8);
  // The groups' in lanes 0 and 1.
  const __m128 largest = _mm_unpacklo_ps(largest_of(v), largest_of(v + 4));
  const __m128 something = _mm_cmp_ps(largest, _mm_set1_ps(kNothing), _CMP_NLT_UQ);
  out.scale = _mm_and_ps(something, _mm_mul_ps(largest, _mm_set1_ps(1.0f / kLargest)));
  const __m128 inverse = _mm_and_ps(something, _mm_div_ps(_mm_set1_ps(kLargest), largest));
  const __m256 by[2] = {_mm256_broadcastss_ps(inverse), _mm256_broadcastss_ps(_mm_movehdup_ps(inverse))};
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) v[i] = _mm256_mul_ps(v[i], by[i / 4]);
  return out;
}

// The sums of 16 bytes each and of 32, as two words each: of the first two of each four, and of the last two.
struct WordSums {
  __m128i of16, of32;  // of32 in lanes 0 and 1
};
[[gnu::always_inline]] inline WordSums sums_in_words(const __m256i (&bytes)[2]) {
  __m128i words[2];  // of the groups
#pragma GCC unroll 2
  for (int g = 0; g < 2; g++) {
    __m256i sums = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes[g]);
    sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32(sums, 0x4e));
    sums = _mm256_add_epi16(sums, _mm256_shuffle_epi32(sums, 0xb1));
    words[g] = _mm_unpacklo_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  }
  const __m128i of16 = _mm_unpacklo_epi64(words[0], words[1]);
  return {of16, _mm_shuffle_epi32(_mm_add_epi16(of16, _mm_shuffle_epi32(of16, 0xb1)), 0x08)};
}
__m128i start_of(__m128i sums) { return _mm_slli_epi16(_mm_sub_epi16(_mm_setzero_si128(), sums), 3); }

void quantize_block(const float* x, ActivationBlock* block) {
  const Scaled in = scaled(x);
  __m256i bytes[2];
#pragma GCC unroll 2
  for (int g = 0; g < 2; g++) {
    __m256i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) q[i] = _mm256_cvtps_epi32(in.v[g * 4 + i]);
    const __m256i mixed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    bytes[g] = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_store_si256(reinterpret_cast<__m256i*>(block->q) + g, bytes[g]);
  }
  const auto [words16, words32] = sums_in_words(bytes);
  const auto whole = [](__m128i sums) { return _mm_cvtepi32_ps(_mm_madd_epi16(sums, _mm_set1_epi16(1))); };
  const __m128 unit = _mm_mul_ps(in.scale, _mm_set1_ps(kSumUnit));
  // scale[2], start32[2]; start16[4]; sum32[2], sum16[4]: the line after the codes.
  auto* rest = reinterpret_cast<__m128i*>(block->scale);
  _mm_store_si128(rest, _mm_unpacklo_epi64(_mm_castps_si128(in.scale), start_of(words32)));
  _mm_store_si128(rest + 1, start_of(words16));
  _mm_storel_pi(reinterpret_cast<__m64*>(block->sum32), _mm_mul_ps(whole(words32), unit));
  _mm_storeu_ps(block->sum16, _mm_mul_ps(whole(words16), _mm_unpacklo_ps(unit, unit)));
}

void quantize_block(const float* x, FineBlock* block) {
  const Scaled in = scaled(x);
  __m128i pairs[4];  // of 16 numbers each: two halves of their sum, in lanes 0 and 1
#pragma GCC unroll 4
  for (int h = 0; h < 4; h++) {
    __m256i q[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++) {
      const __m256 v = in.v[h * 2 + i];
      const __m256i first = _mm256_cvtps_epi32(v);
      const __m256 left = _mm256_mul_ps(_mm256_sub_ps(v, _mm256_cvtepi32_ps(first)), _mm256_set1_ps(kResidueSteps));
      const __m256i steps = _mm256_set1_epi32(static_cast<int>(kResidueSteps));
      q[i] = _mm256_add_epi32(_mm256_mullo_epi32(first, steps), _mm256_cvtps_epi32(left));
    }
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(q[0], q[1]), 0xd8);
    const __m256i in_turns = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8);
    _mm256_store_si256(reinterpret_cast<__m256i*>(block->q) + h, in_turns);
    const __m256i sums = _mm256_madd_epi16(words, _mm256_set1_epi16(1));
    const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    pairs[h] = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  }
  const __m128i sum16 = _mm_hadd_epi32(_mm_unpacklo_epi64(pairs[0], pairs[1]), _mm_unpacklo_epi64(pairs[2], pairs[3]));
  const __m128i sum32 = _mm_hadd_epi32(sum16, sum16);
  const auto start = [](__m128i sums) { return _mm_slli_epi32(_mm_sub_epi32(_mm_setzero_si128(), sums), 3); };
  const __m128 scale = _mm_mul_ps(in.scale, _mm_set1_ps(1.0f / kResidueSteps));
  const __m128 unit = _mm_mul_ps(scale, _mm_set1_ps(kSumUnit));
  auto* rest = reinterpret_cast<__m128i*>(block->scale);
  _mm_store_si128(rest, _mm_unpacklo_epi64(_mm_castps_si128(scale), start(sum32)));
  _mm_store_si128(rest + 1, start(sum16));
  _mm_storel_pi(reinterpret_cast<__m64*>(block->sum32), _mm_mul_ps(_mm_cvtepi32_ps(sum32), unit));
  _mm_storeu_ps(block->sum16, _mm_mul_ps(_mm_cvtepi32_ps(sum16), _mm_unpacklo_ps(unit, unit)));
}

#else

constexpr int kGroup = 32, kHalf = 16;

float float_of(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// The scale of 32 numbers and its inverse. The largest magnitude is found among bit patterns, in
// which NaN is above infinity and that above all others.
void scale_of(std::uint32_t largest_bits, float& scale, float& inverse) {
  const float largest = float_of(largest_bits);
  const bool something = !(largest < kNothing);
  scale = something ? largest * (1.0f / kLargest) : 0.0f;
  inverse = something ? kLargest / largest : 0.0f;
}

// Starts and sums of a block whose q and scales are there. all16: sums of all terms up to this one, in its steps.
void finish_block(ActivationBlock& block, const std::int32_t sum16[4], const std::int32_t all16[4]) {
  for (int h = 0; h < 4; h++) {
    block.start16[h] = -kCodeOffset * sum16[h];
    block.sum16[h] = static_cast<float>(all16[h]) * (kSumUnit * block.scale[h / 2]);
  }
  for (int g = 0; g < 2; g++) {
    block.start32[g] = -kCodeOffset * (sum16[2 * g] + sum16[2 * g + 1]);
    block.sum32[g] = static_cast<float>(all16[2 * g] + all16[2 * g + 1]) * (kSumUnit * block.scale[g]);
  }
}

// The nearest integer, ties to even, of |x| < 2^22; anything for other x.
std::int32_t nearest(float x) {
  constexpr float magic = 12582912.0f;
  return static_cast<std::int32_t>(bits_of(x + magic) - bits_of(magic));
}

void quantize_block(const float* x, ActivationBlock* out, int terms) {
  float scale[2], inverse[2], v[kBlock];
  for (int g = 0; g < 2; g++) {
    std::uint32_t largest = 0;
    for (int i = 0; i < kGroup; i++) {
      const std::uint32_t magnitude = bits_of(x[g * kGroup + i]) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
    scale_of(largest, scale[g], inverse[g]);
    for (int i = g * kGroup; i < (g + 1) * kGroup; i++) v[i] = x[i] * inverse[g];
  }
  std::int32_t all16[4] = {};
  for (int term = 0; term < terms; term++) {
    ActivationBlock& block = out[term];
    std::int32_t sum16[4];
    for (int h = 0; h < 4; h++) {
      std::int32_t sum = 0;
      for (int i = h * kHalf; i < (h + 1) * kHalf; i++) {
        const std::int32_t q = nearest(v[i]);
        block.q[i] = static_cast<std::int8_t>(q);
        sum += block.q[i];
        v[i] = (v[i] - static_cast<float>(q)) * kResidueSteps;
      }
      sum16[h] = sum;
      all16[h] = all16[h] * kFirstTermSteps + sum;
    }
    for (int g = 0; g < 2; g++) {
      block.scale[g] = scale[g];
      scale[g] *= 1.0f / kResidueSteps;
    }
    finish_block(block, sum16, all16);
  }
}

#endif

#ifdef RIDGELINE_ISA_avx2

// 16 numbers of a FineBlock as their two terms. What is beyond them, of a row that is not finite, becomes the least that is
// not: zero or not and of the same sign, and so the same outputs as by words.
struct Terms {
  __m256i first, second;
};
Terms terms_of(const std::int16_t* q) {
  constexpr int kMost = kFirstTermSteps * 127 + 127;
  const __m256i number = _mm256_max_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(q)), _mm256_set1_epi16(-kMost));
  // 258 / 2^16 is so little below 1 / 254 that no second term is beyond 127 in magnitude, where a half is rounded up.
  const __m256i more = _mm256_add_epi16(_mm256_abs_epi16(number), _mm256_set1_epi16(128));
  const __m256i first = _mm256_sign_epi16(_mm256_mulhi_epi16(more, _mm256_set1_epi16(258)), number);
  return {first, _mm256_sub_epi16(number, _mm256_mullo_epi16(first, _mm256_set1_epi16(kFirstTermSteps)))};
}

// Words of 32 numbers of a FineBlock as bytes in order.
__m256i bytes_in_order(__m256i first_words, __m256i last_words) {
  const __m256i bytes = _mm256_permute4x64_epi64(_mm256_packs_epi16(first_words, last_words), 0xd8);
  const __m128i swap = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  return _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(swap));
}

}  // namespace

void split_terms(const FineBlock* x, std::int64_t count, TermBlock* out) {
  for (const FineBlock* end = x + count; x < end; x++, out++) {
    __m256i bytes[2][2];  // [term][group]
    for (int g = 0; g < 2; g++) {
      const Terms a = terms_of(x->q + g * 32), b = terms_of(x->q + g * 32 + 16);
      bytes[0][g] = bytes_in_order(a.first, b.first);
      bytes[1][g] = bytes_in_order(a.second, b.second);
    }
    for (int term = 0; term < 2; term++) {
      for (int g = 0; g < 2; g++) _mm256_storeu_si256(reinterpret_cast<__m256i*>(out->terms[term]) + g, bytes[term][g]);
      const auto [of16, of32] = sums_in_words(bytes[term]);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out->start32[term]), start_of(of32));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out->start16[term]), start_of(of16));
    }
    std::memcpy(out->scale, x->scale, sizeof x->scale);
    std::memcpy(out->sum32, x->sum32, sizeof x->sum32);
    std::memcpy(out->sum16, x->sum16, sizeof x->sum16);
  }
}

namespace {

#else
void quantize_block(const float* x, ActivationBlock* out) { quantize_block(x, out, 1); }
void quantize_block(const float* x, FineBlock* out) { quantize_block(x, out->terms, 2); }

// Leaves a group that is small in its row without a second term. One that is not finite keeps it.
void drop_small_terms(FineBlock* row, std::int64_t blocks, std::int64_t groups) {
  float total = 0;
  for (std::int64_t b = 0; b < blocks; b++)
    for (const float scale : row[b].terms[0].scale) total += scale * scale;
  const float least = kLeastShare * kLeastShare * total / static_cast<float>(groups);
  for (std::int64_t b = 0; b < blocks; b++) {
    const ActivationBlock& first = row[b].terms[0];
    ActivationBlock& second = row[b].terms[1];
    for (int g = 0; g < 2; g++) {
      const bool small = first.scale[g] * first.scale[g] < least;
      second.more[g] = small ? 0 : 1;
      if (!small) continue;
      std::memset(second.q + g * 32, 0, 32);
      second.start32[g] = second.start16[2 * g] = second.start16[2 * g + 1] = 0;
      second.sum32[g] = first.sum32[g];
#ifndef RIDGELINE_ISA_avx512
      second.sum16[2 * g] = first.sum16[2 * g];
      second.sum16[2 * g + 1] = first.sum16[2 * g + 1];
#endif
    }
  }
}
#endif

template <class Block>
void quantize_row(const float* x, std::int64_t k, Block* out) {
  const std::int64_t whole = k / kBlock;
  for (std::int64_t b = 0; b < whole; b++) quantize_block(x + b * kBlock, out + b);
  if (k % kBlock) {
    float last[kBlock] = {};
    std::memcpy(last, x + whole * kBlock, static_cast<std::size_t>(k % kBlock) * sizeof(float));
    quantize_block(last, out + whole);
  }
#ifndef RIDGELINE_ISA_avx2
  if constexpr (std::is_same_v<Block, FineBlock>) drop_small_terms(out, num_blocks(k), (k + 31) / 32);
#endif
}

}  // namespace

std::size_t activation_row_bytes(ActivationKind kind, std::int64_t k) {
  switch (kind) {
    case ActivationKind::int8: return num_blocks(k) * sizeof(ActivationBlock);
    case ActivationKind::int8x2: return num_blocks(k) * sizeof(FineBlock);
    case ActivationKind::int16: return wide_row_bytes(k);
    case ActivationKind::bf16: return padded(k, 32) * 2;
    case ActivationKind::f32: return padded(k, 16) * 4;
  }
  return 0;
}

void quantize_rows(ActivationKind kind, const float* x, std::int64_t ldx, std::int64_t m,
                   std::int64_t k, std::byte* out, std::size_t out_stride) {
  for (std::int64_t row = 0; row < m; row++, x += ldx, out += out_stride) {
    if (kind == ActivationKind::int8) {
      quantize_row(x, k, reinterpret_cast<ActivationBlock*>(out));
    } else if (kind == ActivationKind::int8x2) {
      quantize_row(x, k, reinterpret_cast<FineBlock*>(out));
    } else if (kind == ActivationKind::bf16) {
      auto* numbers = reinterpret_cast<std::uint16_t*>(out);
      for (std::int64_t i = 0; i < k; i++) numbers[i] = to_bfloat(x[i]);
      for (std::int64_t i = k; i < padded(k, 32); i++) numbers[i] = 0;
    } else {
      std::memcpy(out, x, static_cast<std::size_t>(k) * 4);
      std::memset(out + k * 4, 0, static_cast<std::size_t>(padded(k, 16) - k) * 4);
    }
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
