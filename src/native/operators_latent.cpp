#include "operators_latent.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ridgeline {
namespace {

// Rows that an item has at most: as in operators_linear.cpp.
constexpr std::int64_t kPartRows = 288;

// Where absorbed queries and what is found in the latents lie while attention runs: an arena of their own.
View absorbed(const LatentAttention::Spec& spec) {
  const std::int64_t width = spec.num_heads * spec.place.key_dim;
  return {0, width, width, false};
}
View found(const LatentAttention::Spec& spec, std::int64_t rows) {
  const std::int64_t width = spec.num_heads * spec.place.value_dim;
  return {rows * absorbed(spec).ld, width, width, false};
}

}  // namespace

LatentWrite::LatentWrite(std::string name, View latent, View turned, KvPlace place)
    : Operator(std::move(name), "kv_write"), latent_(latent), turned_(turned), place_(place) {}

std::size_t LatentWrite::scratch_bytes(const Kernels&) const {
  return static_cast<std::size_t>(kBlockTokens * padded_to_16(place_.key_dim)) * sizeof(float);
}

void LatentWrite::run(const StepContext& context, Worker& worker) {
  const std::vector<Segment>& segments = context.step.segments;
  float* rows = reinterpret_cast<float*>(worker.scratch);
  std::int64_t begin, end;
  worker.share(static_cast<std::int64_t>(segments.size()), begin, end);
  for (std::int64_t i = begin; i < end; i++) {
    const Segment& segment = segments[static_cast<std::size_t>(i)];
    for (std::int64_t r = 0; r < segment.count; r++) {
      const std::int64_t token = segment.token_begin + r;
      float* row = rows + r * place_.key_dim;
      std::memcpy(row, context.at(latent_) + token * latent_.ld, static_cast<std::size_t>(latent_.width) * sizeof(float));
      std::memcpy(row + latent_.width, context.at(turned_) + token * turned_.ld,
                  static_cast<std::size_t>(turned_.width) * sizeof(float));
    }
    const std::int32_t block = segment.block_tables[place_.column][segment.entry];
    std::byte* tile = context.kv + static_cast<std::size_t>(block) * context.kv_block_stride + place_.key_offset;
    const CacheWrites& writes = context.kernels.cache_writes[static_cast<int>(place_.format)];
    writes.keys(rows, place_.key_dim, place_.key_dim, tile, segment.position % kBlockTokens, segment.count);
  }
}

LatentAttention::LatentAttention(std::string name, Spec spec)
    : Operator(std::move(name), "latent_attention"),
      spec_(std::move(spec)),
      over_latents_("", Attention::Spec{absorbed(spec_), found(spec_, 0), spec_.place, spec_.num_heads, spec_.scale,
                                        0.0f, true, -1}) {}

std::size_t LatentAttention::scratch_bytes(const Kernels& kernels) const {
  std::size_t row = 0;
  for (const auto* matrices : {&spec_.absorb, &spec_.expand})
    row = std::max(row, kernels.activation_row_bytes(activation_of(matrices->front().layout), matrices->front().k));
  return std::max(over_latents_.scratch_bytes(kernels), aligned(kernels.linear_scratch_bytes()) + kPartRows * row);
}

std::size_t LatentAttention::shared_bytes(const Kernels&, std::int64_t max_rows) const {
  const std::int64_t width = spec_.num_heads * (spec_.place.key_dim + spec_.place.value_dim);
  return static_cast<std::size_t>(max_rows * width) * sizeof(float);
}

void LatentAttention::each_head(const StepContext& context, Worker& worker, const std::vector<PackedMatrix>& matrices,
                                const float* x, std::int64_t ldx, float* y, std::int64_t ldy,
                                std::int64_t y_columns) const {
  const Kernels& kernels = context.kernels;
  const std::int64_t rows = context.step.num_tokens, heads = spec_.num_heads, k = matrices.front().k;
  const std::int64_t parts = (rows + kPartRows - 1) / kPartRows;
  const ActivationKind kind = activation_of(matrices.front().layout);
  const std::size_t row_bytes = kernels.activation_row_bytes(kind, k);
  std::byte* activations = worker.scratch + aligned(kernels.linear_scratch_bytes());
  worker.each(parts * heads, [&](std::int64_t item) {
    const std::int64_t part = item / heads, head = item % heads;
    const std::int64_t begin = rows * part / parts, count = rows * (part + 1) / parts - begin;
    const PackedMatrix& matrix = matrices[static_cast<std::size_t>(head)];
    kernels.quantize_rows(kind, x + begin * ldx + head * k, ldx, count, k, activations, row_bytes);
    kernels.linear(matrix, kind, activations, count, 0, matrix.num_strips(), nullptr, y + begin * ldy + head * y_columns,
                   ldy, worker.scratch);
  });
}

void LatentAttention::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.step.num_tokens, heads = spec_.num_heads;
  if (rows == 0) return;
  const View q = absorbed(spec_), y = found(spec_, rows);
  StepContext inside = context;
  inside.arena = reinterpret_cast<float*>(context.shared);
  if (worker.thread == 0) over_latents_.place_output(y);
  each_head(context, worker, spec_.absorb, context.at(spec_.q), spec_.q.ld, inside.at(q), q.ld, spec_.place.key_dim);
  const std::int64_t rank = spec_.place.value_dim, rope = spec_.place.key_dim - rank;
  std::int64_t begin, end;
  worker.share(rows, begin, end);
  for (std::int64_t row = begin; row < end; row++)
    for (std::int64_t head = 0; head < heads; head++)
      std::memcpy(inside.at(q) + row * q.ld + head * spec_.place.key_dim + rank,
                  context.at(spec_.turned) + row * spec_.turned.ld + head * rope,
                  static_cast<std::size_t>(rope) * sizeof(float));
  worker.barrier();
  over_latents_.run(inside, worker);
  worker.barrier();
  worker.take_turn();
  each_head(context, worker, spec_.expand, inside.at(y), y.ld, context.at(spec_.out), spec_.out.ld,
            spec_.out.width / heads);
}

}  // namespace ridgeline
