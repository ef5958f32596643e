// rope: rotary position embedding of the rows of one head.
#include "rope.h"

#include "family_kernels.h"
#include "simd.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin), 16 pairs at a time.
inline void turn(Vec x1, Vec x2, Vec cosine, Vec sine, Vec& y1, Vec& y2) {
  y1 = sub(mul(x1, cosine), mul(x2, sine));
  y2 = add(mul(x2, cosine), mul(x1, sine));
}

void turn_halves(const float* x, float* y, const float* table, std::int64_t half) {
  for (std::int64_t i = 0; i < half; i += kWidth) {
    const std::int64_t n = half - i;
    Vec y1, y2;
    turn(load_n(x + i, n), load_n(x + half + i, n), load_n(table + i, n), load_n(table + half + i, n), y1, y2);
    store_n(y + i, y1, n);
    store_n(y + half + i, y2, n);
  }
}

void turn_neighbours(const float* x, float* y, const float* table, std::int64_t half) {
  for (std::int64_t i = 0; i < half; i++) {
    const float x1 = x[2 * i], x2 = x[2 * i + 1], cosine = table[i], sine = table[half + i];
    y[2 * i] = x1 * cosine - x2 * sine;
    y[2 * i + 1] = x2 * cosine + x1 * sine;
  }
}

}  // namespace

void rope(const RopeArgs& args, const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
          std::int64_t first_position, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r++) {
    const float* table = args.table + (first_position + r) * 2 * args.half;
    const float* from = x + r * ldx;
    float* to = y + r * ldy;
    if (args.interleaved) {
      turn_neighbours(from, to, table, args.half);
    } else {
      turn_halves(from, to, table, args.half);
    }
    for (std::int64_t i = 2 * args.half; i < args.head_dim; i++) to[i] = from[i];
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
