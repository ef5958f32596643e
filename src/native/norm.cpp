// norm: root-mean-square and layer norm over groups of a row, alone or after a residual addition.
#include "norm.h"

#include "family_kernels.h"
#include "row_sums.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

void norm_slice(const NormArgs& args, const float* x, float* y) {
  const std::int64_t width = args.width;
  float mean = 0.0f;
  if (args.layer) {
    mean = sum_over(width, [&](std::int64_t i, std::int64_t n, Vec acc) { return add(acc, load_part(x + i, n)); }) /
           static_cast<float>(width);
  }
  const float squares = sum_over(width, [&](std::int64_t i, std::int64_t n, Vec acc) {
    Vec v = load_part(x + i, n);
    if (args.layer) {
      v = first_part(sub(v, all(mean)), n);
    }
    return fma(v, v, acc);
  });
  const Vec inverse = all(1.0f / std::sqrt(squares / static_cast<float>(width) + args.eps));
  for (std::int64_t i = 0; i < width; i += kWidth) {
    const std::int64_t n = width - i;
    Vec v = load_part(x + i, n);
    if (args.layer) v = sub(v, all(mean));
    v = mul(mul(v, inverse), load_part(args.weight + i, n));
    if (args.bias) v = add(v, load_part(args.bias + i, n));
    store_part(y + i, v, n);
  }
}

}  // namespace

void norm(const NormArgs& args, const float* x, std::int64_t ldx, float* y, std::int64_t ldy, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r++)
    for (std::int64_t g = 0; g < args.groups; g++)
      norm_slice(args.slice(g), x + r * ldx + g * args.width, y + r * ldy + g * args.width);
}

void add_norm(const NormArgs& args, const float* a, std::int64_t lda, const float* b, std::int64_t ldb, float* total,
              std::int64_t ldt, float* y, std::int64_t ldy, std::int64_t rows) {
  for (std::int64_t r = 0; r < rows; r++) {
    add_rows(a + r * lda, lda, b + r * ldb, ldb, total + r * ldt, ldt, 1, args.groups * args.width);
    norm(args, total + r * ldt, ldt, y + r * ldy, ldy, 1);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
