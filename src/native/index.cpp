// index: scores by which attention's tokens are selected; tokens in lanes, queries rounded to bfloat16 as attention's are.
#include "index.h"

#include <cstring>

#include "family_kernels.h"
#include "pairs.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kTogether = 4;  // heads whose sums run side by side

std::int64_t padded(std::int64_t channels) { return (channels + 2 * kWidth - 1) / (2 * kWidth) * (2 * kWidth); }

}  // namespace

std::size_t index_scratch_bytes(std::int64_t heads, std::int64_t channels) {
  const std::int64_t width = padded(channels), count = (heads + kTogether - 1) / kTogether * kTogether;
  return static_cast<std::size_t>(width) * sizeof(float) +
         static_cast<std::size_t>(count * width) * sizeof(std::uint16_t) + static_cast<std::size_t>(count) * sizeof(float);
}

// scores [blocks * 16]: of each token the sum, head by head, of its weight times what is positive of the product.
void index_scores(const IndexArgs& args, std::int64_t blocks, float* scores, std::byte* scratch) {
  const std::int64_t dim = args.turned + args.rest, width = padded(dim);
  const std::int64_t count = (args.heads + kTogether - 1) / kTogether * kTogether;
  float* row = reinterpret_cast<float*>(scratch);
  float* weights = row + width;
  auto* q = reinterpret_cast<std::uint16_t*>(weights + count);
  std::memset(row, 0, static_cast<std::size_t>(width) * sizeof(float));
  for (std::int64_t h = 0; h < count; h++) {
    const bool real = h < args.heads;
    weights[h] = real ? args.weights[h] : 0.0f;
    if (real) {
      std::memcpy(row, args.q_turned + h * args.turned, static_cast<std::size_t>(args.turned) * sizeof(float));
      std::memcpy(row + args.turned, args.q + h * args.rest, static_cast<std::size_t>(args.rest) * sizeof(float));
    } else {
      std::memset(row, 0, static_cast<std::size_t>(dim) * sizeof(float));
    }
    for (std::int64_t c = 0; c < width; c += 2 * kWidth)
      store_pairs(q + h * width + c, join(load(row + c), load(row + c + kWidth)));
  }
  for (std::int64_t b = 0; b < blocks; b++) {
    const auto* tile = reinterpret_cast<const std::uint16_t*>(
        args.keys + static_cast<std::size_t>(args.block_table[b]) * args.block_stride);
    Vec total = zeros();
    for (std::int64_t h = 0; h < count; h += kTogether) {
      Vec sums[kTogether] = {zeros(), zeros(), zeros(), zeros()};
      for (std::int64_t c = 0; c < dim; c += 2) {
        const Pairs keys = load_pairs(tile + c * kBlockTokens);
        for (std::int64_t j = 0; j < kTogether; j++) sums[j] = dot(keys, all_pairs(q + (h + j) * width + c), sums[j]);
      }
      for (std::int64_t j = 0; j < kTogether; j++) total = fma(all(weights[h + j]), max(zeros(), sums[j]), total);
    }
    store(scores + b * kBlockTokens, total);
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
