// linear over integer weights on AMX: the integer sums of a group come from tiles, all else is what linear.cpp does, in
// its order, so that the bits are those of the AVX-512 kernel whatever the number of rows.
//
// A panel is a stretch of K of one pair of strips: codes widened to signed bytes, scales and remainders to floats. A tile
// of kRows tokens x both strips runs along it, a few groups at a time: tiles multiply them into sums in memory, then the
// sums are scaled and added up in registers, half of the rows at a time, so that a row's scales serve both strips. The
// latter, not the multiplying, takes the time: 16 x 16 sums are 16 conversions, multiplications and one or two fused
// multiply-adds, where a tile product takes 16 cycles; and loads bound it as much as arithmetic does.
#include "linear_amx.h"

#include <algorithm>

#include "amx.h"
#include "linear_kernels.h"
#include "linear_packed.h"

// Compiled for AVX-512 and AMX, in the namespace of the former.
namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr int kRows = 16;                   // tokens of a tile
constexpr std::int64_t kLeastRows = 5;      // below, a panel does not pay: AVX-512
constexpr std::int64_t kPanelBlocks = 12;   // most of K in a panel, in blocks: it stays in L1,
constexpr std::int64_t kFewBlocks = 4;      // and beside it the activations of so few rows, which come again and again
constexpr std::int64_t kFewRows = 48;
constexpr std::int64_t kRowGroup = 288;     // tokens whose activations stay in L2 beside a panel

// Tiles: sums of both strips, two sets in turns; activations, two in turns; codes of both strips.
enum { kSums = 0, kX = 4, kCodes = 6 };

template <Layout L>
struct Panel {
  static constexpr IntegerShape kShape = integer_shape(L);
  static constexpr int kGroups = kShape.groups();
  static constexpr std::int64_t kCodesBytes = 2 * kSteps * kLineBytes;
  static constexpr std::int64_t kFloatsBytes = 2 * kGroups * kLineBytes;  // scales or minima: [group][strip][16]
  static constexpr std::int64_t kBlockBytes = kCodesBytes + (kShape.minima ? 2 : 1) * kFloatsBytes;

  static void unpack(const std::uint8_t* packed, std::uint8_t* out) {
    using From = Packed<L>;
    constexpr int kGroupSteps = kShape.group / 4;
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
      const std::uint8_t* strip = packed + c * From::kStripBytes;
      std::uint8_t* codes = out + c * kSteps * kLineBytes;
      for (int g = 0; g < kGroups; g++) {
#pragma GCC unroll 8
        for (int i = 0; i < kGroupSteps; i++) {
          store_line(codes + (g * kGroupSteps + i) * kLineBytes,
                     _mm512_xor_si512(From::line(strip, g, i), _mm512_set1_epi8(-128)));
        }
        float* scales = reinterpret_cast<float*>(out + kCodesBytes + (2 * g + c) * kLineBytes);
        store(scales, From::scales(strip, g));
        if constexpr (kShape.minima) store(scales + kFloatsBytes / 4, From::minima(strip, g));
      }
    }
  }
};

struct Stretch {
  const std::uint8_t* panel;
  const ActivationBlock* x;
  std::int64_t x_stride, blocks;
  int terms;
  float* y;
  std::int64_t ldy, channels;
  bool first, last;
  float scale;
  const float* bias;
  const std::uint8_t* ahead;  // what the next panel is made of: lines_ahead for each group (many at once would stall)
  std::int64_t lines_ahead;
};

// Sums of a few groups, both strips: they are all made before they are read. 16 KB.
constexpr int kSumGroups = 8;
using Sums32 = std::int32_t[kSumGroups][2][kRows][kLanes];

// Blocks of which `Sums32` has room.
template <Layout L>
constexpr int sum_blocks() { return kSumGroups / Panel<L>::kGroups; }

// The sums of a group into set Set of tiles.
template <int Set>
[[gnu::always_inline]] inline void multiply_group(const std::uint8_t* codes, const std::int8_t* q, std::int64_t stride) {
  constexpr int kFirst = kSums + 2 * Set;
  load_tile<kX + Set>(q, stride);
  load_tile<kCodes>(codes, kLineBytes);
  zero_tile<kFirst>();
  multiply_bytes<kFirst, kX + Set, kCodes>();
  load_tile<kCodes + 1>(codes + kSteps * kLineBytes, kLineBytes);
  zero_tile<kFirst + 1>();
  multiply_bytes<kFirst + 1, kX + Set, kCodes + 1>();
}
template <int Set>
[[gnu::always_inline]] inline void store_group(std::int32_t (&out)[2][kRows][kLanes]) {
  store_tile<kSums + 2 * Set>(out[0], kLineBytes);
  store_tile<kSums + 2 * Set + 1>(out[1], kLineBytes);
}

// Rows of a half tile; a row's scales serve both strips.
constexpr int kHalfRows = kRows / 2;

// The groups of a block, of rows [0, Rows) from x and of `sums` on.
template <Layout L, int Rows>
[[gnu::always_inline]] inline void add_block(const std::uint8_t* panel, const ActivationBlock* x, std::int64_t x_stride,
                                             const std::int32_t (*sums)[2][kRows][kLanes], Floats (&acc)[Rows][2]) {
  using P = Panel<L>;
  constexpr int kGroups = P::kGroups;
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; g++) {
    Floats scales[2], minima[2];
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
      const float* p = reinterpret_cast<const float*>(panel + P::kCodesBytes + (2 * g + c) * kLineBytes);
      scales[c] = load(p);
      if constexpr (P::kShape.minima) minima[c] = load(p + P::kFloatsBytes / 4);
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const ActivationBlock& a = x[r * x_stride];
      const Floats scale = all(a.scale[g * 2 / kGroups]);
#pragma GCC unroll 2
      for (int c = 0; c < 2; c++) {
        const Floats sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[g][c][r]));
        acc[r][c] = fma(mul(sum, scale), scales[c], acc[r][c]);
      }
      if constexpr (P::kShape.minima) {
        const Floats total = all(kGroups == 2 ? a.sum32[g] : a.sum16[g]);
#pragma GCC unroll 2
        for (int c = 0; c < 2; c++) acc[r][c] = fma(minima[c], total, acc[r][c]);
      }
    }
    keep_loads_here();
  }
}

// Rows [first, first + Rows) of the tile: `blocks` blocks of activations from x, whose sums are there.
template <Layout L, int Rows>
[[gnu::noinline]] void add_rows(const Stretch& s, const std::uint8_t* panel, const ActivationBlock* x, int term,
                                std::int64_t blocks, int first, const Sums32& sums, bool begins, bool ends) {
  using P = Panel<L>;
  const std::int64_t x_stride = s.x_stride;
  const int terms = s.terms;
  float* y = s.y + first * s.ldy;
  x += first * x_stride;
  Floats acc[Rows][2];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
    for (int c = 0; c < 2; c++) {
      acc[r][c] = begins ? zeros() : load_channels(y + r * s.ldy + c * kLanes, s.channels - c * kLanes);
    }
  }
  const auto* from = reinterpret_cast<const std::int32_t(*)[2][kRows][kLanes]>(&sums[0][0][first]);
  for (std::int64_t b = 0; b < blocks; b++) {
    add_block<L, Rows>(panel, x, x_stride, from, acc);
    from += P::kGroups;
    x++;
    if (++term == terms) {
      term = 0;
      panel += P::kBlockBytes;
    }
  }
#pragma GCC unroll 2
  for (int c = 0; c < 2; c++) {
    const std::int64_t channels = s.channels - c * kLanes;
    const Floats bias = ends && s.bias ? load_channels(s.bias + c * kLanes, channels) : zeros();
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) {
      const Floats sum = ends ? fma(acc[r][c], all(s.scale), bias) : acc[r][c];
      store_channels(y + r * s.ldy + c * kLanes, sum, channels);
    }
  }
}

template <Layout L, int Rows>
void add_rows_of(const Stretch& s, const std::uint8_t* panel, const ActivationBlock* x, int term, std::int64_t blocks,
                 int first, int rows, const Sums32& sums, bool begins, bool ends) {
  if (rows == Rows) return add_rows<L, Rows>(s, panel, x, term, blocks, first, sums, begins, ends);
  if constexpr (Rows > 1) add_rows_of<L, Rows - 1>(s, panel, x, term, blocks, first, rows, sums, begins, ends);
}

template <Layout L>
[[gnu::noinline]] void tile(const Stretch& s, int rows) {
  using P = Panel<L>;
  constexpr std::int64_t kGroupCodes = P::kShape.group / 4 * kLineBytes;
  alignas(64) Sums32 sums;
  const std::int64_t stride = s.x_stride * static_cast<std::int64_t>(sizeof(ActivationBlock));
  const std::int64_t count = s.blocks * s.terms;
  const int terms = s.terms;
  const std::uint8_t *panel = s.panel, *ahead = s.ahead;
  const ActivationBlock* x = s.x;
  int term = 0;
  for (std::int64_t begin = 0; begin < count; begin += sum_blocks<L>()) {
    const std::int64_t blocks = std::min<std::int64_t>(sum_blocks<L>(), count - begin);
    const std::uint8_t* first_panel = panel;
    const int first_term = term;
    for (std::int64_t b = 0; b < blocks; b++) {
      // A set of sums is stored while the other is being multiplied.
#pragma GCC unroll 2
      for (int g = 0; g < P::kGroups; g += 2) {
        const std::int64_t at = b * P::kGroups + g;
        for (std::int64_t i = 0; i < 2 * s.lines_ahead; i++) prefetch_far(ahead + i * kLineBytes);
        ahead += 2 * s.lines_ahead * kLineBytes;
        multiply_group<0>(panel + g * kGroupCodes, x[b].q + g * P::kShape.group, stride);
        if (at > 0) store_group<1>(sums[at - 1]);
        multiply_group<1>(panel + (g + 1) * kGroupCodes, x[b].q + (g + 1) * P::kShape.group, stride);
        store_group<0>(sums[at]);
      }
      if (++term == terms) {
        term = 0;
        panel += P::kBlockBytes;
      }
    }
    store_group<1>(sums[blocks * P::kGroups - 1]);
    const bool begins = s.first && begin == 0, ends = s.last && begin + blocks == count;
    for (int first = 0; first < rows; first += kHalfRows) {
      add_rows_of<L, kHalfRows>(s, first_panel, x, first_term, blocks, first, std::min(kHalfRows, rows - first), sums,
                                begins, ends);
    }
    x += blocks;
  }
}

template <int Group>
TileConfig config_of(std::int64_t rows) {
  TileConfig config;
  for (int i = 0; i < 4; i++) config.shape(kSums + i, rows, kLineBytes);
  for (int i = 0; i < 2; i++) {
    config.shape(kX + i, rows, Group);
    config.shape(kCodes + i, Group / 4, kLineBytes);
  }
  return config;
}

template <Layout L>
void linear_integer_amx(const PackedMatrix& w, int terms, const ActivationBlock* x, std::int64_t m,
                        std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y,
                        std::int64_t ldy, std::uint8_t* panel) {
  using From = Packed<L>;
  using To = Panel<L>;
  const std::int64_t blocks = num_blocks(w.k), pair_bytes = blocks * 2 * From::kStripBytes;
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  const std::int64_t rest = m % kRows;
  const TileConfig whole = config_of<From::kShape.group>(kRows), last = config_of<From::kShape.group>(rest);
  Stretch s{};
  s.panel = panel;
  s.x_stride = blocks * terms;
  s.ldy = ldy;
  s.terms = terms;
  s.scale = 1.0f / (w.prescale * static_cast<float>(1 << (8 - From::kShape.number_bits())));
  const std::int64_t most = m <= kFewRows ? kFewBlocks : kPanelBlocks, stretches = (blocks + most - 1) / most;
  if (m >= kRows) whole.load();
  for (std::int64_t row = 0; row < m; row += kRowGroup) {
    const std::int64_t row_end = std::min(m, row + kRowGroup), tiles = (row_end - row + kRows - 1) / kRows;
    for (std::int64_t i = 0; i < stretches; i++) {
      const std::int64_t block = blocks * i / stretches;
      s.blocks = blocks * (i + 1) / stretches - block;
      s.first = i == 0;
      s.last = i + 1 == stretches;
      s.lines_ahead = (2 * From::kStripBytes / kLineBytes / To::kGroups + tiles * terms - 1) / (tiles * terms);
      for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
        const std::uint8_t* packed = data + pair * pair_bytes + block * 2 * From::kStripBytes;
        for (std::int64_t b = 0; b < s.blocks; b++) {
          To::unpack(packed + b * 2 * From::kStripBytes, panel + b * To::kBlockBytes);
        }
        s.channels = std::min(kStripChannels, w.n - pair * kStripChannels);
        s.bias = bias ? bias + pair * kStripChannels : nullptr;
        s.ahead = packed + pair_bytes;
        for (std::int64_t r = row; r < row_end; r += kRows) {
          const std::int64_t rows = std::min<std::int64_t>(kRows, row_end - r);
          s.x = x + r * s.x_stride + block * terms;
          s.y = y + r * ldy + pair * kStripChannels;
          if (rows < kRows && (m >= kRows || (i == 0 && pair == strip_begin))) last.load();
          tile<L>(s, static_cast<int>(rows));
          s.ahead += s.lines_ahead * s.blocks * To::kGroups * terms * kLineBytes;
          if (rows < kRows && m >= kRows) whole.load();
        }
      }
    }
  }
  release_tiles();
}

}  // namespace

std::size_t linear_amx_scratch_bytes() {
  return std::max<std::size_t>(linear_scratch_bytes(), kPanelBlocks * Panel<Layout::i4g16m>::kBlockBytes);
}

void linear_amx(const PackedMatrix& w, ActivationKind kind, const std::byte* activations, std::int64_t m,
                std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y, std::int64_t ldy,
                std::byte* scratch) {
  if (w.layout == Layout::bf16) return linear_bf16_amx(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  const bool by_tiles = m >= kLeastRows && with_integer_layout(w.layout, [&]<Layout L>() {
    linear_integer_amx<L>(w, kind == ActivationKind::int8x2 ? 2 : 1,
                          reinterpret_cast<const ActivationBlock*>(activations), m, strip_begin, strip_end, bias, y, ldy,
                          reinterpret_cast<std::uint8_t*>(scratch));
  });
  if (!by_tiles) linear(w, kind, activations, m, strip_begin, strip_end, bias, y, ldy, scratch);
}

std::int64_t spin_arithmetic_amx(ActivationKind kind, std::int64_t steps) {
  if (kind == ActivationKind::f32) return spin_arithmetic(kind, steps);
  TileConfig config;
  for (int i = 0; i < 8; i++) config.shape(i, 16, 64);
  config.load();
  for (std::int64_t i = 0; i < steps; i++) {
    if (kind == ActivationKind::bf16) {
      multiply_bfloats<0, 4, 6>();
      multiply_bfloats<1, 4, 7>();
      multiply_bfloats<2, 5, 6>();
      multiply_bfloats<3, 5, 7>();
    } else {
      multiply_bytes<0, 4, 6>();
      multiply_bytes<1, 4, 7>();
      multiply_bytes<2, 5, 6>();
      multiply_bytes<3, 5, 7>();
    }
  }
  release_tiles();
  return steps * 4 * 16 * 16 * (kind == ActivationKind::bf16 ? 64 : 128);
}

}  // namespace ridgeline::RIDGELINE_ISA
