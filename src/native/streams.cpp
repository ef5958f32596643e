// streams: rows mixed among residual streams, made as large as others, and cut to their largest numbers.
#include "streams.h"

#include <algorithm>
#include <cmath>

#include "family_kernels.h"
#include "row_sums.h"

namespace ridgeline::RIDGELINE_ISA {

void mix_rows(const MixArgs& args, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; r++) {
    const float* numbers = args.numbers + r * args.ldn;
    for (int i = 0; i < args.outputs; i++) {
      Vec weight[kMaxStreams];
      for (int j = 0; j < args.inputs; j++) weight[j] = all(numbers[i * args.inputs + j] + args.offset);
      for (std::int64_t c = 0; c < cols; c += kWidth) {
        Vec y = mul(weight[0], load_part(args.x[0] + r * args.ldx[0] + c, cols - c));
        for (int j = 1; j < args.inputs; j++)
          y = fma(weight[j], load_part(args.x[j] + r * args.ldx[j] + c, cols - c), y);
        store_part(args.y[i] + r * args.ldy[i] + c, y, cols - c);
      }
    }
  }
}

namespace {

float mean_square(const float* x, std::int64_t cols) {
  const float squares = sum_over(cols, [&](std::int64_t i, std::int64_t n, Vec acc) {
    const Vec v = load_part(x + i, n);
    return fma(v, v, acc);
  });
  return squares / static_cast<float>(cols);
}

}  // namespace

void match_rows(float floor, const float* x, std::int64_t ldx, const float* like, std::int64_t ldl, float* y,
                std::int64_t ldy, std::int64_t rows, std::int64_t cols) {
  for (std::int64_t r = 0; r < rows; r++, x += ldx, like += ldl, y += ldy) {
    const Vec factor = all(std::sqrt(mean_square(like, cols) / std::max(mean_square(x, cols), floor)));
    for (std::int64_t c = 0; c < cols; c += kWidth)
      store_part(y + c, mul(load_part(x + c, cols - c), factor), cols - c);
  }
}

void keep_rows(float z, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows,
               std::int64_t cols) {
  const float count = static_cast<float>(cols);
  for (std::int64_t r = 0; r < rows; r++, x += ldx, y += ldy) {
    const float mean =
        sum_over(cols, [&](std::int64_t i, std::int64_t n, Vec acc) { return add(acc, load_part(x + i, n)); }) / count;
    const float squares = sum_over(cols, [&](std::int64_t i, std::int64_t n, Vec acc) {
      const Vec v = first_part(sub(load_part(x + i, n), all(mean)), n);
      return fma(v, v, acc);
    });
    const Vec cut = all(mean + z * std::sqrt(squares / count));
    for (std::int64_t c = 0; c < cols; c += kWidth)
      store_part(y + c, max(zeros(), sub(load_part(x + c, cols - c), cut)), cols - c);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
