// index: scores by which attention's tokens are selected; tokens in lanes, queries rounded to bfloat16 as attention's are.
#include "index.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "family_kernels.h"
#include "pairs.h"

namespace ridgeline::RIDGELINE_ISA {
namespace {

constexpr std::int64_t kTogether = 4;  // heads whose sums run side by side

std::int64_t padded(std::int64_t channels) { return (channels + 2 * kWidth - 1) / (2 * kWidth) * (2 * kWidth); }

std::int64_t padded_heads(std::int64_t heads) { return (heads + kTogether - 1) / kTogether * kTogether; }

// Queries [padded heads, width] as bfloat16, zeros where there are none; row [width]: for one at a time.
void round_queries(const IndexArgs& args, std::int64_t width, float* row, std::uint16_t* q) {
  std::memset(row, 0, static_cast<std::size_t>(width) * sizeof(float));
  for (std::int64_t h = 0; h < padded_heads(args.heads); h++) {
    if (h < args.heads) {
      std::memcpy(row, args.q_turned + h * args.turned, static_cast<std::size_t>(args.turned) * sizeof(float));
      if (args.rest > 0)
        std::memcpy(row + args.turned, args.q + h * args.rest, static_cast<std::size_t>(args.rest) * sizeof(float));
    } else {
      std::memset(row, 0, static_cast<std::size_t>(args.turned + args.rest) * sizeof(float));
    }
    for (std::int64_t c = 0; c < width; c += 2 * kWidth)
      store_pairs(q + h * width + c, join(load(row + c), load(row + c + kWidth)));
  }
}

// Products of kTogether heads with a tile's 16 keys.
inline void tile_products(const IndexArgs& args, std::int64_t tile, const std::uint16_t* q, std::int64_t width,
                          Vec* sums) {
  const auto* keys = reinterpret_cast<const std::uint16_t*>(
      args.cache.tile(args.block_table[tile], args.keys));
  for (std::int64_t j = 0; j < kTogether; j++) sums[j] = zeros();
  for (std::int64_t c = 0; c < args.turned + args.rest; c += 2) {
    const Pairs pair = load_pairs(keys + c * kBlockTokens);
    for (std::int64_t j = 0; j < kTogether; j++) sums[j] = dot(pair, all_pairs(q + j * width + c), sums[j]);
  }
}

}  // namespace

std::size_t index_scratch_bytes(std::int64_t heads, std::int64_t channels) {
  const std::int64_t width = padded(channels), count = padded_heads(heads);
  return static_cast<std::size_t>(width) * sizeof(float) +
         static_cast<std::size_t>(count * width) * sizeof(std::uint16_t) + static_cast<std::size_t>(count) * sizeof(float);
}

// scores [blocks * 16]: of each token the sum, head by head, of its weight times what is positive of the product.
void index_scores(const IndexArgs& args, std::int64_t blocks, float* scores, std::byte* scratch) {
  const std::int64_t width = padded(args.turned + args.rest), count = padded_heads(args.heads);
  float* row = reinterpret_cast<float*>(scratch);
  float* weights = row + width;
  auto* q = reinterpret_cast<std::uint16_t*>(weights + count);
  for (std::int64_t h = 0; h < count; h++) weights[h] = h < args.heads ? args.weights[h] : 0.0f;
  round_queries(args, width, row, q);
  for (std::int64_t b = 0; b < blocks; b++) {
    Vec total = zeros();
    for (std::int64_t h = 0; h < count; h += kTogether) {
      Vec sums[kTogether];
      tile_products(args, b, q + h * width, width, sums);
      for (std::int64_t j = 0; j < kTogether; j++) total = fma(all(weights[h + j]), max(zeros(), sums[j]), total);
    }
    store(scores + b * kBlockTokens, total);
  }
}

void index_maxima(const IndexArgs& args, std::int64_t visible, std::int64_t tokens, float* maxima, std::int64_t ld,
                  std::byte* scratch) {
  const std::int64_t width = padded(args.turned + args.rest), count = padded_heads(args.heads);
  const std::int64_t each = tokens / kBlockTokens, tiles = (visible + kBlockTokens - 1) / kBlockTokens;
  float* row = reinterpret_cast<float*>(scratch);
  auto* q = reinterpret_cast<std::uint16_t*>(row + width + count);
  round_queries(args, width, row, q);
  for (std::int64_t h = 0; h < args.heads; h++)
    for (std::int64_t b = 0; b < (tiles + each - 1) / each; b++)
      maxima[h * ld + b] = -std::numeric_limits<float>::infinity();
  for (std::int64_t tile = 0; tile < tiles; tile++) {
    const std::int64_t seen = std::min(kBlockTokens, visible - tile * kBlockTokens);
    for (std::int64_t h = 0; h < count; h += kTogether) {
      Vec sums[kTogether];
      tile_products(args, tile, q + h * width, width, sums);
      for (std::int64_t j = 0; j < kTogether && h + j < args.heads; j++) {
        float lanes[kBlockTokens];
        store(lanes, sums[j]);
        float& most = maxima[(h + j) * ld + tile / each];
        for (std::int64_t t = 0; t < seen; t++) most = lanes[t] > most ? lanes[t] : most;
      }
    }
  }
}

}  // namespace ridgeline::RIDGELINE_ISA
