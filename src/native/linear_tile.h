// linear over integer weights, a tile: int8 activations, exact integer sums in a group, float32 across.
//
// One kernel serves every layout and instruction set: a tile of Rows tokens x Strips strips, whose
// sums stay in registers while K runs. Tiles read the packed weights as they stream by; where widening
// their codes is dear, many rows read a panel: a stretch of K of one pair of strips, widened once, in
// cache.
//
// Per output, in this order and no other: for each group, sum += float(integer sum) * activation
// scale * weight scale, then += remainder * sum of activations. Rows of two terms have one integer sum of both. A stretch
// of K ends by storing the sums in y and the next begins by loading them, which changes no bit. (Four-bit weights on AVX-512:
// linear_pairs.h.)
#pragma once

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "linear_ahead.h"
#include "linear_kernels.h"
#include "linear_lanes.h"
#include "linear_packed.h"
#ifdef RIDGELINE_ISA_avx512
#include "linear_pairs.h"
#endif

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kAlwaysDirect = std::int64_t{1} << 62;

#ifdef RIDGELINE_ISA_avx512
constexpr int kTileRows = 6, kTileStrips = 2, kUnrolledSteps = 8, kFewRows = 0;
// Up to here, unpacking again per tile is cheaper than a panel.
constexpr std::int64_t direct_rows(const IntegerShape& shape) {
  return shape.bits % 4 == 0 ? kAlwaysDirect : 128;
}
#elif defined(RIDGELINE_ISA_avx2)
constexpr int kTileRows = 4, kTileStrips = 1, kUnrolledSteps = 8, kFewRows = 2;
constexpr std::int64_t direct_rows(const IntegerShape&) { return 12; }
#else
constexpr int kTileRows = 2, kTileStrips = 1, kUnrolledSteps = 1, kFewRows = 0;
constexpr std::int64_t direct_rows(const IntegerShape&) { return 12; }
#endif
// kFewRows: so many have a way of their own.
constexpr int kInOrderRows = 2;  // up to here, strips one after the other, as they lie in memory
constexpr std::int64_t kPanelBlocks = 12;        // K of a panel, in blocks: the panel stays in L1 or L2
constexpr std::int64_t kDirectBlocks = 24;       // K that several tiles read in turn: it stays in L1 or L2
constexpr std::int64_t kRowGroup = 288;          // tokens whose activations stay in L2 beside a panel,
constexpr std::int64_t kDirectRowGroup = 144;    // and beside a stretch of K twice as long

// The same with codes as the dot product takes them and scales, of its sums, as floats: codes, scales, minima, the
// strips' lines in turns. (Lines a multiple of 256 bytes apart share the first-level cache's bank: a
// tile that reads two such at once runs at 80 %.)
template <Layout L>
struct Unpacked {
  static constexpr bool kStreams = false, kWidens = false;
  static constexpr Layout kLayout = L;
  static constexpr IntegerShape kShape = integer_shape(L);
  static constexpr std::int64_t kStep = 2 * kLineBytes;  // from a strip's line to its next
  static constexpr std::int64_t kScalesAt = kSteps * kStep;
  static constexpr std::int64_t kMinimaAt = kScalesAt + kShape.groups() * kStep;
  static constexpr std::int64_t kStripBytes =
      kSteps * kLineBytes + (kShape.minima ? 2 : 1) * kShape.groups() * kLineBytes;
  static constexpr std::int64_t kNextStrip = kLineBytes;

  static Line line(const std::uint8_t* strip, int group, int i) {
    return load_line(strip + (group * (kShape.group / 4) + i) * kStep);
  }
  static Floats scales(const std::uint8_t* strip, int group) {
    return load(reinterpret_cast<const float*>(strip + kScalesAt + group * kStep));
  }
  static Floats minima(const std::uint8_t* strip, int group) {
    return load(reinterpret_cast<const float*>(strip + kMinimaAt + group * kStep));
  }

  static void keep(std::uint8_t* strip, std::int64_t at, int group, Floats numbers) {
    store(reinterpret_cast<float*>(strip + at + group * kStep), numbers);
  }
  static void unpack(const std::uint8_t* strip, std::uint8_t* out) {
    using From = Packed<L>;
    constexpr int kGroupSteps = kShape.group / 4;
    for (int g = 0; g < kShape.groups(); g++) {
#pragma GCC unroll kUnrolledSteps
      for (int i = 0; i < kGroupSteps; i++) {
        store_line(out + (g * kGroupSteps + i) * kStep, From::line(strip, g, i));
      }
    }
    for (int g = 0; g < kShape.groups(); g++) {
      keep(out, kScalesAt, g, From::scales(strip, g));
      if (kShape.minima) keep(out, kMinimaAt, g, From::minima(strip, g));
    }
  }
};

// Packed weights that several tiles read in turn: each asks for its part of what is read next, so that memory works all
// the while and not only beside the first.
template <Layout L>
struct Shared : Packed<L> {
  static constexpr bool kStreams = false;
};

// Packed weights that the tile which reads them first leaves as a panel for the others: its stores and loads go beside
// the products, of which it has as many as they have.
template <Layout L>
struct Widened : Packed<L> {
  using Panel = Unpacked<L>;
  static constexpr bool kStreams = false, kWidens = true;
};

// Where a group's integer sums start: they count codes, which are kCodeOffset more than q.
template <int Groups>
std::int32_t start(const ActivationBlock& x, int group) {
  return Groups == 2 ? x.start32[group] : x.start16[group];
}
inline auto quad_at(const ActivationBlock& x, int k) { return load_quad(x.q + k); }

// Rows whose blocks are two, one for each term: the blocks of the first.
template <class X>
inline constexpr bool kHasTerms = std::is_same_v<X, FineBlock> && kFineTerms == 2;
template <class X>
const auto* first_terms(const X* x) {
  if constexpr (kHasTerms<X>) {
    return x->terms;
  } else {
    return x;
  }
}
#ifdef RIDGELINE_ISA_avx2
template <class X>
inline constexpr bool kIsFine = !std::is_same_v<X, ActivationBlock>;
template <int Groups>
FineStart start(const FineBlock& x, int group) {
  return {Groups == 2 ? x.start32[group] : x.start16[group]};
}
inline FineQuad quad_at(const FineBlock& x, int k) { return load_quad(x.q + k); }
template <int Groups>
TermStarts start(const TermBlock& x, int group) {
  const auto of = [&](int term) { return Groups == 2 ? x.start32[term][group] : x.start16[term][group]; };
  return {{of(0), of(1)}};
}
inline TermQuads quad_at(const TermBlock& x, int k) { return load_quads(x.terms[0] + k, x.terms[1] + k); }
#endif

// kSumUnit * scale * sum of a group's q, of all terms of a row.
template <int Groups, class X, class Row>
float sum_of(const Row& row, int group) {
#ifdef RIDGELINE_ISA_avx512
  if constexpr (Groups == 4) {
    std::int32_t start = row.start16[group];
    if constexpr (kHasTerms<X>) start += kFirstTermSteps * (&row)[-1].start16[group];
    return static_cast<float>(start) * (-kSumUnit / kCodeOffset * row.scale[group / 2]);
  } else {
    return row.sum32[group];
  }
#else
  return Groups == 2 ? row.sum32[group] : row.sum16[group];
#endif
}

// Whether the first tile of a panel makes it.
#ifdef RIDGELINE_ISA_avx2
template <class X>
inline constexpr bool kWidensInTile = true;
#else
template <class X>
inline constexpr bool kWidensInTile = false;
#endif

constexpr std::int64_t kMaxPanelStripBytes = 1024 + 4 * 64 + 4 * 64;
constexpr std::int64_t kScratchBytes = kPanelBlocks * 2 * kMaxPanelStripBytes;

// One stretch of K for one pair of strips and some rows, whose activations are X's.
template <class X>
struct Stretch {
  const std::uint8_t* weights;       // the pair's blocks, strip 0 and strip 1 in turns
  std::uint8_t* panel;               // where a first tile leaves them for the others
  const X* x;                        // the rows' blocks from the same place in K
  std::int64_t x_stride;             // blocks from row to row
  std::int64_t blocks;
  float* y;                          // the pair's first channel of the first row
  std::int64_t ldy;
  std::int64_t channels;             // of the pair that exist
  bool first, last;                  // starts at k = 0; ends at k
  float scale;                       // from the unit of sums to y,
  const std::uint16_t* units;        // or, of weights in pairs, to the pair's channels' units, which are bfloat16
  const float* bias;                 // of the pair's first channel, or null
  const std::uint8_t* ahead;         // where to ask memory for what comes next,
  std::int64_t ahead_bytes;          // and how much for each block
  const std::uint8_t* beside;        // and the same of what is not weights
  std::int64_t beside_bytes;
};

// Sums of one group of a block and term: Strips strips from the first of acc, a line of each at a time. panel: of weights
// that are widened, where.
template <class W, int Rows, int Strips, class X>
[[gnu::always_inline]] inline void multiply_group(const std::uint8_t* weights, int g, const X* x, std::int64_t x_stride,
                                                  const std::uint8_t* ahead, Floats (&acc)[Rows][2], int first,
                                                  [[maybe_unused]] std::uint8_t* panel = nullptr) {
  constexpr IntegerShape kShape = W::kShape;
  constexpr int kBits = kShape.number_bits(), kGroups = kShape.groups(), kGroupSteps = kShape.group / 4;
  constexpr int kAheadLines = Strips * W::kStripBytes / kLineBytes;
  const auto* row = first_terms(x);
  const std::int64_t stride = x_stride * (kHasTerms<X> ? 2 : 1);
  decltype(begin<kBits>(start<kGroups>(*row, g))) sums[Rows][Strips];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
    for (int c = 0; c < Strips; c++) sums[r][c] = begin<kBits>(start<kGroups>(row[r * stride], g));
  }
  // Few rows wait for memory: both terms are multiplied as a line passes by, with sums of their own.
  constexpr bool kTogether = kHasTerms<X> && Rows <= kInOrderRows;
  [[maybe_unused]] decltype(begin<kBits>(start<kGroups>(*row, g))) more[Rows][Strips];
  if constexpr (kTogether) {
#pragma GCC unroll 2
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
      for (int c = 0; c < Strips; c++) more[r][c] = begin<kBits>(start<kGroups>(row[r * stride + 1], g));
    }
  }
  const auto multiply = [&]() __attribute__((always_inline)) {
#pragma GCC unroll kUnrolledSteps
    for (int i = 0; i < kGroupSteps; i++) {
      // In order, or what the hardware reads ahead of its own accord is of no use: the last group's last steps also ask
      // for the lines that do not divide among the groups.
      constexpr int kEach = kAheadLines / kGroups, kRest = kAheadLines % kGroups;
      if (W::kStreams && ahead) {
        const std::uint8_t* p = ahead + g * kEach * kLineBytes;
#pragma GCC unroll 8
        for (int l = i * kEach / kGroupSteps; l < (i + 1) * kEach / kGroupSteps; l++) ask<Rows>(p + l * kLineBytes);
        const int rest = i - (kGroupSteps - kRest);
        if (rest >= 0 && g == kGroups - 1) ask<Rows>(p + (kEach + rest) * kLineBytes);
      }
      Line lines[Strips];
#pragma GCC unroll 2
      for (int c = 0; c < Strips; c++) lines[c] = W::line(weights + c * W::kNextStrip, g, i);
      if constexpr (W::kWidens) {
        using Panel = typename W::Panel;
#pragma GCC unroll 2
        for (int c = 0; c < Strips; c++)
          store_line(panel + c * Panel::kNextStrip + (g * kGroupSteps + i) * Panel::kStep, lines[c]);
      }
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
        const auto quad = quad_at(row[r * stride], g * kShape.group + i * 4);
#pragma GCC unroll 2
        for (int c = 0; c < Strips; c++) sums[r][c] = dot<kBits>(sums[r][c], lines[c], quad);
        if constexpr (kTogether) {
          const auto second = quad_at(row[r * stride + 1], g * kShape.group + i * 4);
#pragma GCC unroll 2
          for (int c = 0; c < Strips; c++) more[r][c] = dot<kBits>(more[r][c], lines[c], second);
        }
      }
      keep_loads_here();
    }
  };
  multiply();
  if constexpr (kHasTerms<X>) {
    // In steps of the second term. Of more rows it is multiplied where one has any of it; to the others that adds zeros.
    row++;
    int any = 0;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      any |= row[r * stride].more[g * 2 / kGroups];
#pragma GCC unroll 2
      for (int c = 0; c < Strips; c++) {
        sums[r][c] = in_second_terms(sums[r][c]);
        if constexpr (kTogether) sums[r][c] = plus(sums[r][c], more[r][c]);
      }
    }
    if (!kTogether && any) {
      ahead = nullptr;
#pragma GCC unroll 8
      for (int r = 0; r < Rows; r++) {
        const auto start_of_second = begin<kBits>(start<kGroups>(row[r * stride], g));
#pragma GCC unroll 2
        for (int c = 0; c < Strips; c++) sums[r][c] = plus(sums[r][c], start_of_second);
      }
      multiply();
    }
  }
#pragma GCC unroll 2
  for (int c = 0; c < Strips; c++) {
    Floats scales = W::scales(weights + c * W::kNextStrip, g);
    if constexpr (W::kWidens) W::Panel::keep(panel + c * W::Panel::kNextStrip, W::Panel::kScalesAt, g, scales);
#ifdef RIDGELINE_ISA_avx2
    if constexpr (kIsFine<X> && kBits != 8) scales = mul(scales, all(kFineSumScale<kBits>));
#endif
    Floats minima;
    if constexpr (kShape.minima) {
      minima = W::minima(weights + c * W::kNextStrip, g);
      if constexpr (W::kWidens) W::Panel::keep(panel + c * W::Panel::kNextStrip, W::Panel::kMinimaAt, g, minima);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const auto& a = row[r * stride];
      const Floats sum = finish<kBits>(sums[r][c]);
      Floats& to = acc[r][first + c];
      to = fma(mul(sum, all(a.scale[g * 2 / kGroups])), scales, to);
      if constexpr (kShape.minima) to = fma(minima, all(sum_of<kGroups, X>(a, g)), to);
    }
  }
}

// The same of a whole block.
template <class W, int Rows, int Strips, class X>
[[gnu::always_inline]] inline void multiply_block(const std::uint8_t* weights, const X* x, std::int64_t x_stride,
                                                  const std::uint8_t* ahead, Floats (&acc)[Rows][2], int first,
                                                  std::uint8_t* panel) {
#ifdef RIDGELINE_ISA_avx512
  if constexpr (in_pairs(W::kLayout) && std::is_same_v<X, ActivationBlock>)
    return multiply_pair<W, Rows, Strips>(weights, x, x_stride, ahead, acc, first);
#endif
#pragma GCC unroll 1
  for (int g = 0; g < W::kShape.groups(); g++)
    multiply_group<W, Rows, Strips>(weights, g, x, x_stride, ahead, acc, first, panel);
}

template <class W, int Rows, class X>
[[gnu::noinline]] void tile(const Stretch<X>& s) {
  constexpr int kStrips = Rows <= kInOrderRows && W::kStreams ? 1 : kTileStrips;
  const std::int64_t blocks = s.blocks, ahead_bytes = s.ahead_bytes, x_stride = s.x_stride;
  Floats acc[Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
      prefetch_channels(s.y + r * s.ldy + c * kLanes);
      acc[r][c] = s.first ? zeros() : load_channels(s.y + r * s.ldy + c * kLanes, s.channels - c * kLanes);
    }
  }
  const std::uint8_t* weights = s.weights;
  [[maybe_unused]] std::uint8_t* panel = s.panel;
  const std::uint8_t* ahead = s.ahead;
  [[maybe_unused]] const std::uint8_t* beside = s.beside;
  const X* x = s.x;
  for (std::int64_t b = 0; b < blocks; b++) {
    if constexpr (!W::kStreams) {
      for (std::int64_t i = 0; i < ahead_bytes; i += 64) prefetch_far(ahead + i);
      for (std::int64_t i = 0; i < s.beside_bytes; i += 64) prefetch_far(beside + i);
      beside += s.beside_bytes;
    }
#pragma GCC unroll 2
    for (int c = 0; c < 2; c += kStrips) {
      std::uint8_t* to = nullptr;
      if constexpr (W::kWidens) to = panel + c * W::Panel::kNextStrip;
      const std::uint8_t* next = ahead_bytes ? ahead + c * W::kStripBytes : nullptr;
      multiply_block<W, Rows, kStrips>(weights + c * W::kNextStrip, x, x_stride, next, acc, c, to);
    }
    x++;
    weights += 2 * W::kStripBytes;
    if constexpr (W::kWidens) panel += 2 * W::Panel::kStripBytes;
    ahead += ahead_bytes;
  }
  // A line that is not asked for within the stream is waited for.
  if constexpr (W::kStreams && in_pairs(W::kLayout)) ask<Rows>(ahead);
#pragma GCC unroll 2
  for (int c = 0; c < 2; c++) {
    const std::int64_t channels = s.channels - c * kLanes;
    const Floats bias = s.last && s.bias ? load_channels(s.bias + c * kLanes, channels) : zeros();
    Floats scale = all(s.scale);
    if constexpr (in_pairs(W::kLayout)) scale = mul(scale, load_bfloats(s.units + c * kLanes));
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const Floats y = s.last ? fma(acc[r][c], scale, bias) : acc[r][c];
      store_channels(s.y + r * s.ldy + c * kLanes, y, channels);
    }
  }
}

}  // namespace
}  // namespace ridgeline::RIDGELINE_ISA
