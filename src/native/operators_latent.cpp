#include "operators_latent.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

namespace ridgeline {
namespace {

// Rows that an item has at most: as in operators_linear.cpp.
constexpr std::int64_t kPartRows = 288;

// f(row, token) for every token of the step, once over all threads.
template <class F>
void each_token(const StepContext& context, Worker& worker, std::int64_t parts, F f) {
  worker.each(context.step.num_tokens * parts, [&](std::int64_t item) {
    const std::int64_t token = item / parts;
    const auto after = std::upper_bound(context.step.rows.begin(), context.step.rows.end(), token,
                                        [](std::int64_t t, const StepRow& row) { return t < row.token_begin; });
    f(*(after - 1), token, item % parts);
  });
}

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
  worker.runs(static_cast<std::int64_t>(segments.size()), [&](std::int64_t begin, std::int64_t end) {
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
      std::byte* tile = context.cache.tile(block, place_.keys());
      const CacheWrites& writes = context.kernels.cache_writes[static_cast<int>(place_.format)];
      writes.keys(rows, place_.key_dim, place_.key_dim, nullptr, tile, segment.position % kBlockTokens, segment.count);
    }
  });
}

LatentAttention::LatentAttention(std::string name, Spec spec)
    : Operator(std::move(name), "latent_attention"),
      spec_(std::move(spec)),
      over_latents_("", Attention::Spec{absorbed(spec_), found(spec_, 0), spec_.place, spec_.num_heads, spec_.scale,
                                        0.0f, true, -1}) {
  for (std::int64_t i = 0; i < (top_k() + kBlockTokens - 1) / kBlockTokens; i++)
    in_order_.push_back(static_cast<std::int32_t>(i));
}

std::size_t LatentAttention::gathered_bytes() const {
  return in_order_.size() * key_tile_bytes(spec_.place.format, spec_.place.key_dim);
}

std::size_t LatentAttention::scratch_bytes(const Kernels& kernels) const {
  std::size_t row = 0;
  for (const auto* matrices : {&spec_.absorb, &spec_.expand})
    row = std::max(row, kernels.activation_row_bytes(kernels.activation_of(matrices->front().layout), matrices->front().k));
  return std::max(gathered_bytes() + over_latents_.scratch_bytes(kernels),
                  aligned(kernels.linear_scratch_bytes()) + kPartRows * row);
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
  const ActivationKind kind = kernels.activation_of(matrices.front().layout);
  const std::size_t row_bytes = kernels.activation_row_bytes(kind, k);
  std::byte* activations = worker.scratch + aligned(kernels.linear_scratch_bytes());
  worker.each(parts * heads, [&](std::int64_t item) {
    const std::int64_t part = item / heads, head = item % heads;
    const std::int64_t begin = rows * part / parts, count = rows * (part + 1) / parts - begin;
    const PackedMatrix& matrix = matrices[static_cast<std::size_t>(head)];
    kernels.quantize_rows(kind, x + begin * ldx + head * k, ldx, count, k, activations, row_bytes);
    kernels.linear(matrix, kind, activations, count, 0, matrix.num_strips(), nullptr, y + begin * ldy + head * y_columns,
                   ldy, worker.scratch, worker.beside);
  });
}

void LatentAttention::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.step.num_tokens, heads = spec_.num_heads;
  if (rows == 0) return;
  const View q = absorbed(spec_), y = found(spec_, rows);
  StepContext inside = context;
  inside.arena = reinterpret_cast<float*>(context.shared);
  each_head(context, worker, spec_.absorb, context.at(spec_.q), spec_.q.ld, inside.at(q), q.ld, spec_.place.key_dim);
  const std::int64_t rank = spec_.place.value_dim, rope = spec_.place.key_dim - rank;
  worker.barrier();
  worker.runs(rows, [&](std::int64_t begin, std::int64_t end) {
    if (begin == 0) over_latents_.place_output(y);
    for (std::int64_t row = begin; row < end; row++)
      for (std::int64_t head = 0; head < heads; head++)
        std::memcpy(inside.at(q) + row * q.ld + head * spec_.place.key_dim + rank,
                    context.at(spec_.turned) + row * spec_.turned.ld + head * rope,
                    static_cast<std::size_t>(rope) * sizeof(float));
  });
  worker.barrier();
  if (selects(context)) {
    attend_chosen(inside, context.at(*spec_.chosen), worker);
  } else {
    over_latents_.run(inside, worker);
  }
  worker.barrier();
  each_head(context, worker, spec_.expand, inside.at(y), y.ld, context.at(spec_.out), spec_.out.ld,
            spec_.out.width / heads);
}

// Whether a row is longer than what a token looks at. Where none is, all are looked at: with the same bits, since what a
// query gives depends on its own keys alone.
bool LatentAttention::selects(const StepContext& context) const {
  if (!spec_.chosen) return false;
  for (const StepRow& row : context.step.rows)
    if (row.num_context + row.num_new > top_k()) return true;
  return false;
}

void LatentAttention::attend_chosen(const StepContext& context, const float* chosen, Worker& worker) const {
  const CacheAttention& attention = over_latents_.attention_of(context.kernels);
  const std::int64_t groups = over_latents_.num_groups();
  // A thread gathers once for all heads, unless there are too few tokens for all threads.
  const std::int64_t parts = context.step.num_tokens < worker.num_threads ? groups : 1;
  std::byte* scratch = worker.scratch + gathered_bytes();
  each_token(context, worker, parts, [&](const StepRow& row, std::int64_t token, std::int64_t part) {
    const std::int64_t query = token - row.token_begin;
    const bool all = row.num_context + query < top_k();
    if (!all) gather(context, row, chosen + token * spec_.chosen->ld, worker.scratch);
    for (std::int64_t group = part; group < groups; group += parts) {
      AttentionArgs args = over_latents_.args(context, row, group);
      if (all) {
        attention.attend(args, query, query + 1, nullptr, scratch);
        continue;
      }
      args.q += query * args.ldq;
      args.out += query * args.ldo;
      args.keys = {0, key_tile_bytes(spec_.place.format, spec_.place.key_dim)};
      args.cache = {worker.scratch, args.keys.num_bytes, 0};
      args.block_table = in_order_.data();
      args.num_context = top_k() - 1;
      args.num_new = 1;
      attention.attend(args, 0, 1, nullptr, scratch);
    }
  });
}

// Pairs of channels are words of a tile; a token is one of 16 columns of them.
void LatentAttention::gather(const StepContext& context, const StepRow& row, const float* chosen,
                             std::byte* tiles) const {
  const std::size_t bytes = key_tile_bytes(spec_.place.format, spec_.place.key_dim);
  const std::int64_t words = static_cast<std::int64_t>(bytes / sizeof(std::uint32_t)) / kBlockTokens;
  if (top_k() % kBlockTokens) std::memset(tiles + gathered_bytes() - bytes, 0, bytes);
  for (std::int64_t i = 0; i < top_k(); i++) {
    const auto position = static_cast<std::int64_t>(chosen[i]);
    const std::int32_t block = row.block_tables[spec_.place.column][position / kBlockTokens];
    const auto* from = reinterpret_cast<const std::uint32_t*>(context.cache.tile(block, spec_.place.keys())) +
                       position % kBlockTokens;
    auto* to = reinterpret_cast<std::uint32_t*>(tiles + static_cast<std::size_t>(i / kBlockTokens) * bytes) +
               i % kBlockTokens;
    for (std::int64_t c = 0; c < words; c++) to[c * kBlockTokens] = from[c * kBlockTokens];
  }
}

SelectTokens::SelectTokens(std::string name, Spec spec) : Operator(std::move(name), "select_tokens"), spec_(spec) {}

// The scores of a row's tokens, their numbers, and what the kernel needs.
std::size_t SelectTokens::scratch_bytes(const Kernels& kernels) const {
  const std::size_t tokens = static_cast<std::size_t>(padded_to_16(spec_.max_context));
  return tokens * (sizeof(float) + sizeof(std::int32_t)) + kernels.index_scratch_bytes(spec_.heads, spec_.place.key_dim);
}

void SelectTokens::run(const StepContext& context, Worker& worker) {
  each_token(context, worker, 1, [&](const StepRow& row, std::int64_t token, std::int64_t) {
    select(context, row, token, worker.scratch);
  });
}

void SelectTokens::select(const StepContext& context, const StepRow& row, std::int64_t token,
                          std::byte* scratch) const {
  const std::int64_t visible = row.num_context + token - row.token_begin + 1, top_k = spec_.out.width;
  float* out = context.at(spec_.out) + token * spec_.out.ld;
  if (visible <= top_k) {
    for (std::int64_t i = 0; i < top_k; i++) out[i] = i < visible ? static_cast<float>(i) : -1.0f;
    return;
  }
  const std::size_t tokens = static_cast<std::size_t>(padded_to_16(spec_.max_context));
  float* scores = reinterpret_cast<float*>(scratch);
  auto* order = reinterpret_cast<std::int32_t*>(scores + tokens);
  const IndexArgs args{spec_.heads,
                       spec_.place.value_dim,
                       spec_.place.key_dim - spec_.place.value_dim,
                       context.at(spec_.q_turned) + token * spec_.q_turned.ld,
                       context.at(spec_.q) + token * spec_.q.ld,
                       context.at(spec_.weights) + token * spec_.weights.ld,
                       context.cache,
                       spec_.place.keys(),
                       row.block_tables[spec_.place.column]};
  const std::int64_t blocks = (visible + kBlockTokens - 1) / kBlockTokens;
  context.kernels.index_scores(args, blocks, scores, reinterpret_cast<std::byte*>(order + tokens));
  for (std::int64_t i = 0; i < visible; i++) {
    order[i] = static_cast<std::int32_t>(i);
    if (!(scores[i] == scores[i])) scores[i] = -std::numeric_limits<float>::infinity();  // a NaN has no order
  }
  std::nth_element(order, order + top_k - 1, order + visible, [&](std::int32_t a, std::int32_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
  });
  std::sort(order, order + top_k);
  for (std::int64_t i = 0; i < top_k; i++) out[i] = static_cast<float>(order[i]);
}

}  // namespace ridgeline
