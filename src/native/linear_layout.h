// How packed integer weights and int8 activations lie in memory.
//
// A strip is 16 output channels. A matrix is a sequence of pairs of strips (32 channels); a pair is
// one sequential stream: for each block of 64 along K, strip 0, then strip 1.
//
// A strip's block, in order:
//   codes     16 steps of 4 along K; a line is 64 bytes, lane = channel, 4 bytes = 4 neighbours
//             along K. Four bits: line j holds step 2j in its low halves and 2j + 1 in its high
//             ones. Eight bits: a line a step.
//   planes    five bits: 16 words of 64 bits, word j = the fifth bits of step j's 64 codes.
//             six bits: 4 lines, bits 2i and 2i + 1 of line t = the upper bits of step 4t + i.
//   scales    16 float16 a group
//   minima    (layouts with m) 16 float16 a group
//
// Of AVX2 a strip's block is its groups one after the other, each as it is read: codes, scales, minima. There are no
// planes, whose bits take many instructions there.
//   five bits: of eight steps 5 lines, line j with code j in the low five bits of a byte. What is above is, from the low
//             bits on: of line 0 code 5's low three; of 1 the fourth of code 7, the upper two of code 5; of 2 and 3 code 6
//             likewise, the fifth of code 7; of 4 code 7's low three.
//   six bits: of four steps 3 lines, line j with code j in the low six bits, and above bits 2j and 2j + 1 of code 3.
//
// Layouts with a table: a code of four bits stands for its entry, which is a byte q + 128, and all is
// as of eight bits from there on.
//
// A code of b bits stands for q = code - 2^(b-1), and a weight is scale * q + remainder, where the
// remainder is the minimum + 2^(b-1) * scale: what a centred group has not, and so small. (With
// bfloat16 remainders and sums, two groups would fit one instruction; on real files that costs a
// relative error of 1e-3, which is an eighth of what int8 activations do.) Scales are stored times
// the matrix's prescale, and sums are kept times 2^(8-b): kernels use codes times 2^(8-b), that is,
// q * 2^(8-b) + 128 in a byte. Remainders come to that by 2^(4-b) of their own and kSumUnit of the
// activations' sums.
//
// Padding: channels beyond n and weights beyond k have scale and remainder 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "isa.h"
#include "linear.h"

namespace ridgeline::RIDGELINE_ISA {

inline constexpr std::int64_t kLanes = 16;       // channels of a strip
inline constexpr std::int64_t kBlock = 64;       // weights of a channel in a block
inline constexpr int kSteps = 16;                // dot products of 4 in a block
inline constexpr std::int64_t kLineBytes = 64;   // 16 channels x 4 bytes
inline constexpr int kCodeOffset = 128;          // a byte's code minus this is the integer

inline constexpr float kSumUnit = 16;

// The numbers of four-bit codes, plus 128. (MXFP4's are doubled, its scales halved.)
alignas(16) inline constexpr std::uint8_t kIq4NlCodes[16] = {
    1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};
alignas(16) inline constexpr std::uint8_t kMxfp4Codes[16] = {
    128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116};

struct IntegerShape {
  int bits;
  int group;
  bool minima;
  const std::uint8_t* table = nullptr;  // of 16 bytes, or null: codes are numbers

  constexpr int groups() const { return static_cast<int>(kBlock) / group; }
  // Of what is multiplied.
  constexpr int number_bits() const { return table ? 8 : bits; }
  constexpr int zero() const { return 1 << (bits - 1); }
  constexpr std::int64_t codes_bytes() const {
    return kLineBytes * (bits == 4 ? 8 : bits == 5 ? 10 : bits == 6 ? 12 : 16);
  }
  constexpr std::int64_t scales_bytes() const { return groups() * kLanes * 2; }
  constexpr std::int64_t minima_bytes() const { return minima ? scales_bytes() : 0; }
  constexpr std::int64_t strip_bytes() const {
    return codes_bytes() + scales_bytes() + minima_bytes();
  }
};

constexpr IntegerShape integer_shape(Layout layout) {
  switch (layout) {
    case Layout::i4g32: return {4, 32, false};
    case Layout::i4g32m: return {4, 32, true};
    case Layout::i4g32nl: return {4, 32, false, kIq4NlCodes};
    case Layout::i4g32mx: return {4, 32, false, kMxfp4Codes};
    case Layout::i4g16: return {4, 16, false};
    case Layout::i4g16m: return {4, 16, true};
    case Layout::i5g32: return {5, 32, false};
    case Layout::i5g32m: return {5, 32, true};
    case Layout::i6g16: return {6, 16, false};
    case Layout::i8g32: return {8, 32, false};
    default: return {0, 32, false};
  }
}

// Calls run.operator()<L>() for an integer layout; false for another.
template <class Run>
static inline bool with_integer_layout(Layout layout, Run run) {
  switch (layout) {
    case Layout::i4g32: return run.template operator()<Layout::i4g32>(), true;
    case Layout::i4g32m: return run.template operator()<Layout::i4g32m>(), true;
    case Layout::i4g32nl: return run.template operator()<Layout::i4g32nl>(), true;
    case Layout::i4g32mx: return run.template operator()<Layout::i4g32mx>(), true;
    case Layout::i4g16: return run.template operator()<Layout::i4g16>(), true;
    case Layout::i4g16m: return run.template operator()<Layout::i4g16m>(), true;
    case Layout::i5g32: return run.template operator()<Layout::i5g32>(), true;
    case Layout::i5g32m: return run.template operator()<Layout::i5g32m>(), true;
    case Layout::i6g16: return run.template operator()<Layout::i6g16>(), true;
    case Layout::i8g32: return run.template operator()<Layout::i8g32>(), true;
    default: return false;
  }
}

constexpr std::int64_t num_blocks(std::int64_t k) { return (k + kBlock - 1) / kBlock; }

// Layouts whose groups are multiplied two at a time, in whole numbers (linear_pairs.h): scales and minima are int16, the
// two groups' side by side for each channel, the second's first, and behind a pair's blocks stand its channels' units as
// bfloat16.
constexpr bool in_pairs([[maybe_unused]] Layout layout) {
#ifdef RIDGELINE_ISA_avx512
  return layout == Layout::i4g32 || layout == Layout::i4g32m;
#else
  return false;
#endif
}
constexpr std::int64_t units_bytes(Layout layout) { return in_pairs(layout) ? kStripChannels * 2 : 0; }

// Of k weights of a pair of strips.
constexpr std::int64_t integer_pair_bytes(Layout layout, std::int64_t k) {
  return num_blocks(k) * 2 * integer_shape(layout).strip_bytes() + units_bytes(layout);
}

// 64 int8 activations of one token. int8x2 rows have two terms of each: the second quantizes what the first left over, and
// its sums (sum32, sum16) are those of both. A group of a row whose scale is well below the row's others' has no second term:
// what it would add is little beside what theirs do, and a tile multiplies it only where a row has it (kLeastShare).
#ifdef RIDGELINE_ISA_avx512
struct alignas(64) ActivationBlock {
  std::int8_t q[kBlock];
  float scale[2];            // one a group of 32
  std::int32_t start32[2];   // -kCodeOffset * sum of the group's q: where integer sums start
  std::int32_t start16[4];
  float sum32[2];            // kSumUnit * scale * sum of the group's q
  // Both groups at once (linear_pairs.h): where their sums of four-bit codes start; the larger scale; and, of the second
  // group and the first, what its scale is of that, in steps of 2^-15, and the sum of its q in that.
  std::int32_t pair_start[2];
  float pair_scale;
  std::int16_t ratio[2], pair_sum[2];
  std::uint8_t more[2];      // of a second term: whether a group has any of it
  std::uint8_t pad[2];
};
#else
struct alignas(64) ActivationBlock {
  std::int8_t q[kBlock];
  float scale[2];            // one a group of 32
  // -kCodeOffset * sum of the group's q: where integer sums start. Of AVX2, in two words: -8 * sums of the
  // first two q of each quad, and of the last two.
  std::int32_t start32[2];
  std::int32_t start16[4];
  float sum32[2];            // kSumUnit * scale * sum of the group's q
  float sum16[4];
  std::uint8_t more[2];      // of a second term: whether a group has any of it
  std::uint8_t pad[6];
};
#endif
static_assert(sizeof(ActivationBlock) == 128);

// Of a first term of an int8x2 row a step is so many of its second term's.
inline constexpr int kFirstTermSteps = 254;

// The same 64 of an int8x2 row. Of AVX2 both terms are one number, 254 times the first and the second, as a word.
#ifdef RIDGELINE_ISA_avx2
struct alignas(64) FineBlock {
  std::int16_t q[kBlock];    // of each four the first, the third, the second, the fourth
  float scale[2];            // of the second term
  std::int32_t start32[2];   // -8 * sum of the group's q
  std::int32_t start16[4];
  float sum32[2];
  float sum16[4];
  std::uint8_t pad[8];
};
static_assert(sizeof(FineBlock) == 192);
using FineTerm = FineBlock;

// Its two terms again, as bytes, which take fewer instructions for codes below eight bits and more registers: one row and
// two are multiplied by them. No row lies so: a multiplication makes them of its rows' blocks.
struct TermBlock {
  std::int8_t terms[2][kBlock];
  std::int32_t start32[2][2];  // of each term, as an ActivationBlock's
  std::int32_t start16[2][4];
  float scale[2];              // as the FineBlock's
  float sum32[2];
  float sum16[4];
};
static_assert(sizeof(TermBlock) == 208);
#else
struct FineBlock {
  ActivationBlock terms[2];
};
using FineTerm = ActivationBlock;
#endif
// What a block of weights is multiplied by, one after the other.
inline constexpr int kFineTerms = sizeof(FineBlock) / sizeof(FineTerm);

// A row of int16 activations, of k numbers in blocks of 64: for each block 64 high and 64 low bytes; then for each its sums;
// then for each stretch of blocks its scales. A number is scale[0] * high + scale[1] * low; scale[1] is a 28th of scale[0].
inline constexpr float kLowSteps = 28;
inline constexpr std::int64_t kStretchBlocks = 6;  // at most, in a stretch; stretches are as even as can be
constexpr std::int64_t num_stretches(std::int64_t blocks) { return (blocks + kStretchBlocks - 1) / kStretchBlocks; }
constexpr std::int64_t stretch_begin(std::int64_t blocks, std::int64_t stretch) {
  return blocks * stretch / num_stretches(blocks);
}

// Of high bytes, and of low ones.
struct WideSums {
  std::int32_t start32[2][2];  // -kCodeOffset * sum, of groups of 32
  std::int32_t start16[2][4];  // and of 16
  std::int16_t sum32[2][2];
  std::int16_t sum16[2][4];
};
static_assert(sizeof(WideSums) == 72);

struct WideScales {
  float scale[2];
};

inline constexpr std::int64_t kWideCodes = 2 * kBlock;

constexpr std::size_t wide_row_bytes(std::int64_t k) {
  const std::int64_t blocks = num_blocks(k);
  const std::int64_t bytes = blocks * (kWideCodes + static_cast<std::int64_t>(sizeof(WideSums))) +
                             num_stretches(blocks) * static_cast<std::int64_t>(sizeof(WideScales));
  const std::int64_t lines = (bytes + kLineBytes - 1) / kLineBytes;
  // Sixteen rows a multiple of 4 KB apart would share few sets of the first-level cache.
  return static_cast<std::size_t>((lines + (lines > 0 && lines % 8 == 0 ? 1 : 0)) * kLineBytes);
}

}  // namespace ridgeline::RIDGELINE_ISA
