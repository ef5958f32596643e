// linear over weights that are floats. Per output: sums over K in order, a fused multiply-add (f16,
// f32) or a pair of products (bf16) at a time.
#include "linear_float.h"

#include <algorithm>
#include <type_traits>

#include "linear_kernels.h"
#include "linear_lanes.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// Sums of a tile's strips fill the registers.
#if defined(RIDGELINE_ISA_avx512)
constexpr int kTileRows = 12;
constexpr int strips_of(int) { return 2; }
#elif defined(RIDGELINE_ISA_avx2)
constexpr int kTileRows = 6;
constexpr int strips_of(int) { return 1; }
#else
constexpr int kTileRows = 4;
constexpr int strips_of(int) { return 1; }
#endif
#ifdef RIDGELINE_ISA_avx2
constexpr std::int64_t kStretchBytes = 24576;   // weights of a pair that many tiles read again, in turns with their rows
#else
constexpr std::int64_t kStretchBytes = 49152;
#endif
constexpr std::int64_t kPrefetchBytes = 8192;
constexpr std::int64_t kRowGroup = 288;

#ifdef RIDGELINE_ISA_avx2

inline __m256i first_numbers(__m256i pairs) { return _mm256_slli_epi32(pairs, 16); }
inline __m256i second_numbers(__m256i pairs) { return _mm256_and_si256(pairs, _mm256_set1_epi32(-65536)); }

// All first numbers of the pairs of weights, then all second ones: both beside the sums would not fit the registers.
template <int Rows, int Strips, class Half>
inline void add_half_pairs(Floats (&acc)[Rows][Strips], const std::uint8_t* w, const std::uint16_t* x,
                           std::int64_t x_stride, Half half) {
  Floats weights[Strips];
#pragma GCC unroll 2
  for (int c = 0; c < Strips; c++) {
    const Line pairs = load_line(w + c * kLineBytes);
    weights[c] = {_mm256_castsi256_ps(half(pairs.v[0])), _mm256_castsi256_ps(half(pairs.v[1]))};
  }
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) {
    const __m256 number =
        _mm256_castsi256_ps(half(load_quad(reinterpret_cast<const std::int8_t*>(x + r * x_stride))));
#pragma GCC unroll 2
    for (int c = 0; c < Strips; c++) accumulate(weights[c], {number, number}, acc[r][c]);
  }
}

#endif

// How one step along K multiplies: kAlong numbers of x; a strip's weights are kStripBytes.
struct Bf16 {
  using Number = std::uint16_t;
  static constexpr std::int64_t kAlong = 2, kStripBytes = 64, kRowMultiple = 32;
  template <int Rows, int Strips>
  static void add(Floats (&acc)[Rows][Strips], const std::uint8_t* w, const Number* x, std::int64_t x_stride) {
#ifdef RIDGELINE_ISA_avx2
    add_half_pairs(acc, w, x, x_stride, first_numbers);
    add_half_pairs(acc, w, x, x_stride, second_numbers);
#else
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
      for (int c = 0; c < Strips; c++) acc[r][c] = add_pairs(acc[r][c], w + c * kStripBytes, x + r * x_stride);
    }
#endif
  }
};

template <class Widen, int Rows, int Strips>
inline void add_floats(Floats (&acc)[Rows][Strips], const float* x, std::int64_t x_stride, Widen weights_of) {
  Floats weights[Strips];
#pragma GCC unroll 2
  for (int c = 0; c < Strips; c++) weights[c] = weights_of(c);
#pragma GCC unroll 16
  for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
    for (int c = 0; c < Strips; c++) accumulate(weights[c], all(x[r * x_stride]), acc[r][c]);
  }
}

#ifdef RIDGELINE_ISA_avx2

inline Floats widened(const std::uint8_t* w, __m256i (*half)(__m256i)) {
  const Line pairs = load_line(w);
  return {_mm256_castsi256_ps(half(pairs.v[0])), _mm256_castsi256_ps(half(pairs.v[1]))};
}
// bf16 whose rows were widened for a stretch of K: a number takes one load, and nothing beside the products.
struct WideBf16 {
  using Number = float;
  static constexpr std::int64_t kAlong = 2, kStripBytes = 64;
  template <int Rows, int Strips>
  static void add(Floats (&acc)[Rows][Strips], const std::uint8_t* w, const Number* x, std::int64_t x_stride) {
    add_floats(acc, x, x_stride, [&](int c) { return widened(w + c * kStripBytes, first_numbers); });
    add_floats(acc, x + 1, x_stride, [&](int c) { return widened(w + c * kStripBytes, second_numbers); });
  }
};

#endif

struct F16 {
  using Number = float;
  static constexpr std::int64_t kAlong = 1, kStripBytes = 32, kRowMultiple = 16;
  template <int Rows, int Strips>
  static void add(Floats (&acc)[Rows][Strips], const std::uint8_t* w, const Number* x, std::int64_t x_stride) {
    add_floats(acc, x, x_stride, [&](int c) { return load_halves(w + c * kStripBytes); });
  }
};
struct F32 {
  using Number = float;
  static constexpr std::int64_t kAlong = 1, kStripBytes = 64, kRowMultiple = 16;
  template <int Rows, int Strips>
  static void add(Floats (&acc)[Rows][Strips], const std::uint8_t* w, const Number* x, std::int64_t x_stride) {
    add_floats(acc, x, x_stride, [&](int c) { return load(reinterpret_cast<const float*>(w + c * kStripBytes)); });
  }
};

template <class W>
struct Stretch {
  const std::uint8_t* weights;
  const typename W::Number* x;
  std::int64_t x_stride, steps;
  float* y;
  std::int64_t ldy, channels;
  bool first, last;
  bool near;                 // whether this pass asks for what it will read a little later
  const std::uint8_t* far;   // what the next pair's passes will read, a line a step, or null
  const float* bias;
};

template <class W, int Rows, int Strips>
[[gnu::noinline]] void tile(const Stretch<W>& s) {
  for (int strip = 0; strip < 2; strip += Strips) {
    Floats acc[Rows][Strips];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
      for (int c = 0; c < Strips; c++) {
        const std::int64_t at = (strip + c) * kLanes;
        prefetch_channels(s.y + r * s.ldy + at);
        acc[r][c] = s.first ? zeros() : load_channels(s.y + r * s.ldy + at, s.channels - at);
      }
    }
    const std::uint8_t* weights = s.weights + strip * W::kStripBytes;
    const typename W::Number* x = s.x;
    const bool near = s.near;
    const std::uint8_t* far = s.far;
    for (std::int64_t step = 0; step < s.steps; step++) {
      if (near) {
        prefetch_near(weights + kPrefetchBytes);
        if (Strips * W::kStripBytes > 64) prefetch_near(weights + kPrefetchBytes + 64);
      } else if (far) {
        prefetch_far(far);
        far += 64;
      }
      W::add(acc, weights, x, s.x_stride);
      weights += 2 * W::kStripBytes;
      x += W::kAlong;
    }
#pragma GCC unroll 2
    for (int c = 0; c < Strips; c++) {
      const std::int64_t at = (strip + c) * kLanes;
      const Floats bias = s.last && s.bias ? load_channels(s.bias + at, s.channels - at) : zeros();
#pragma GCC unroll 16
      for (int r = 0; r < Rows; r++) {
        const Floats y = s.last ? fma(acc[r][c], all(1.0f), bias) : acc[r][c];
        store_channels(s.y + r * s.ldy + at, y, s.channels - at);
      }
    }
  }
}

template <class W, int Rows>
void tile_of(const Stretch<W>& s, std::int64_t rows) {
  if (rows == Rows) return tile<W, Rows, strips_of(Rows)>(s);
  if constexpr (Rows > 1) tile_of<W, Rows - 1>(s, rows);
}

#ifdef RIDGELINE_ISA_avx2

constexpr std::int64_t kWideNumbers = kStretchBytes / (2 * Bf16::kStripBytes) * Bf16::kAlong;
constexpr std::int64_t kWideStride = kWideNumbers + 8;  // rows a multiple of 256 bytes apart would share a bank

// The same through rows that are widened first: of many rows, with a stretch of K that fits.
void wide_tile(const Stretch<Bf16>& s, std::int64_t rows) {
  alignas(64) float numbers[kTileRows * kWideStride];
  const std::int64_t count = s.steps * Bf16::kAlong;
  for (std::int64_t r = 0; r < rows; r++) {
    const std::uint16_t* from = s.x + r * s.x_stride;
    float* to = numbers + r * kWideStride;
    std::int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) store(to + i, load_bfloats(from + i));
    for (; i < count; i++) to[i] = widen_bfloat(from[i]);
  }
  tile_of<WideBf16, kTileRows>({s.weights, numbers, kWideStride, s.steps, s.y, s.ldy, s.channels, s.first, s.last, s.near,
                                s.far, s.bias},
                               rows);
}

#endif

#ifdef RIDGELINE_ISA_avx2

// Few rows read memory as several streams, and ask for nothing: what reads ahead for a core of its own accord does best
// with four (docs/log.md), and so many lines of each lie within its window of instructions.
constexpr int kFewRows = kTileRows, kStreams = 4;
constexpr std::int64_t kTurnBytes = 256;

// `count` pairs from s.weights on, over all of K: a turn of each, one after the other.
template <class W, int Rows>
[[gnu::noinline]] void side_by_side(const Stretch<W>& s, std::int64_t pair_bytes, std::int64_t count) {
  constexpr int kTileStrips = Rows <= 3 ? 2 : 1;  // whose sums fit the registers
  constexpr std::int64_t kTurn = kTurnBytes / (2 * W::kStripBytes);
  Floats sums[kStreams][Rows][2];
  for (std::int64_t p = 0; p < count; p++) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; r++) sums[p][r][0] = sums[p][r][1] = zeros();
  }
  for (std::int64_t step = 0; step < s.steps; step += kTurn) {
    const std::int64_t turn = std::min(kTurn, s.steps - step);
    for (std::int64_t p = 0; p < count; p++) {
      for (int strip = 0; strip < 2; strip += kTileStrips) {
        const std::uint8_t* weights = s.weights + p * pair_bytes + step * 2 * W::kStripBytes + strip * W::kStripBytes;
        const typename W::Number* x = s.x + step * W::kAlong;
        Floats acc[Rows][kTileStrips];
#pragma GCC unroll 8
        for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
          for (int c = 0; c < kTileStrips; c++) acc[r][c] = sums[p][r][strip + c];
        }
        for (std::int64_t i = 0; i < turn; i++) {
          W::add(acc, weights, x, s.x_stride);
          weights += 2 * W::kStripBytes;
          x += W::kAlong;
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; r++) {
#pragma GCC unroll 2
          for (int c = 0; c < kTileStrips; c++) sums[p][r][strip + c] = acc[r][c];
        }
      }
    }
  }
  for (std::int64_t p = 0; p < count; p++)
    for (int c = 0; c < 2; c++) {
      const std::int64_t at = p * kStripChannels + c * kLanes;
      const Floats bias = s.bias ? load_channels(s.bias + at, s.channels - at) : zeros();
      for (int r = 0; r < Rows; r++)
        store_channels(s.y + r * s.ldy + at, fma(sums[p][r][c], all(1.0f), bias), s.channels - at);
    }
}

// The same for rows [0, rows), rows <= kFewRows, and strips [strip_begin, strip_end).
template <class W, int Rows = kFewRows>
void few_rows(Stretch<W> s, std::int64_t pair_bytes, std::int64_t rows, std::int64_t n, std::int64_t strip_begin,
              std::int64_t strip_end) {
  if constexpr (Rows > 1) {
    if (rows < Rows) return few_rows<W, Rows - 1>(s, pair_bytes, rows, n, strip_begin, strip_end);
  }
  const std::int64_t groups = (strip_end - strip_begin + kStreams - 1) / kStreams;
  const auto first_of = [&](std::int64_t group) {
    return strip_begin + (strip_end - strip_begin) * group / groups;
  };
  const Stretch<W> whole = s;
  for (std::int64_t group = 0; group < groups; group++) {
    const std::int64_t first = first_of(group);
    s.weights = whole.weights + first * pair_bytes;
    s.channels = n - first * kStripChannels;
    s.y = whole.y + first * kStripChannels;
    s.bias = whole.bias ? whole.bias + first * kStripChannels : nullptr;
    side_by_side<W, Rows>(s, pair_bytes, first_of(group + 1) - first);
  }
}

#endif

template <class W>
void linear_of(const PackedMatrix& w, const std::byte* activations, std::int64_t m,
               std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y,
               std::int64_t ldy) {
  const std::int64_t steps = (w.k + W::kAlong - 1) / W::kAlong;
  const std::int64_t pair_bytes = steps * 2 * W::kStripBytes;
  const std::int64_t stretch = m <= kTileRows ? steps : kStretchBytes / (2 * W::kStripBytes);
  const auto* data = reinterpret_cast<const std::uint8_t*>(w.data);
  const auto* x = reinterpret_cast<const typename W::Number*>(activations);
  Stretch<W> s{};
  s.x_stride = padded(w.k, W::kRowMultiple);
  s.ldy = ldy;
#ifdef RIDGELINE_ISA_avx2
  if (m <= kFewRows) {
    s.weights = data;
    s.x = x;
    s.steps = steps;
    s.y = y;
    s.bias = bias;
    return few_rows(s, pair_bytes, m, w.n, strip_begin, strip_end);
  }
#endif
  const std::int64_t groups = (m + kRowGroup - 1) / kRowGroup;
  std::int64_t row = 0;
  for (std::int64_t i = 0; i < groups; i++) {
    const std::int64_t rows = (m - row) / (groups - i), row_end = row + rows;
    for (std::int64_t step = 0; step < steps; step += stretch) {
      s.steps = std::min(stretch, steps - step);
      s.first = step == 0;
      s.last = step + s.steps == steps;
      for (std::int64_t pair = strip_begin; pair < strip_end; pair++) {
        s.weights = data + pair * pair_bytes + step * 2 * W::kStripBytes;
        s.channels = std::min(kStripChannels, w.n - pair * kStripChannels);
        s.bias = bias ? bias + pair * kStripChannels : nullptr;
        const std::int64_t count = (rows + kTileRows - 1) / kTileRows;
        std::int64_t r = row;
        for (std::int64_t t = 0; t < count; t++) {
          const std::int64_t height = (row_end - r) / (count - t);
          s.x = x + r * s.x_stride + step * W::kAlong;
          s.y = y + r * ldy + pair * kStripChannels;
          // Two passes between them ask for the next pair's stretch.
          s.near = count == 1;
          s.far = !s.near && t * 64 < 2 * W::kStripBytes ? s.weights + pair_bytes + t * s.steps * 64
                                                         : nullptr;
#ifdef RIDGELINE_ISA_avx2
          if constexpr (std::is_same_v<W, Bf16>) {
            if (m > kTileRows) {
              wide_tile(s, height);
              r += height;
              continue;
            }
          }
#endif
          tile_of<W, kTileRows>(s, height);
          r += height;
        }
      }
    }
    row = row_end;
  }
}

}  // namespace

void linear_float(const PackedMatrix& w, const std::byte* activations, std::int64_t m,
                  std::int64_t strip_begin, std::int64_t strip_end, const float* bias, float* y,
                  std::int64_t ldy) {
  if (w.layout == Layout::bf16) {
    linear_of<Bf16>(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  } else if (w.layout == Layout::f16) {
    linear_of<F16>(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  } else {
    linear_of<F32>(w, activations, m, strip_begin, strip_end, bias, y, ldy);
  }
}

std::int64_t streamed_rows([[maybe_unused]] Layout layout) {
#ifdef RIDGELINE_ISA_avx2
  if (layout == Layout::bf16 || layout == Layout::f16 || layout == Layout::f32) return kFewRows;
#endif
  return 0;
}

}  // namespace ridgeline::RIDGELINE_ISA
