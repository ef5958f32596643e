#include "operators_blocks.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace ridgeline {
namespace {

const StepRow& row_of(const Step& step, std::int64_t token) {
  const auto after = std::upper_bound(step.rows.begin(), step.rows.end(), token,
                                      [](std::int64_t t, const StepRow& row) { return t < row.token_begin; });
  return *(after - 1);
}

}  // namespace

SelectBlocks::SelectBlocks(std::string name, Spec spec) : Operator(std::move(name), "select_blocks"), spec_(spec) {}

// The largest products of all heads' blocks, numbers of blocks, and what the kernel needs.
std::size_t SelectBlocks::scratch_bytes(const Kernels& kernels) const {
  const std::size_t blocks = static_cast<std::size_t>(padded_to_16(max_blocks()));
  return blocks * (static_cast<std::size_t>(spec_.heads) * sizeof(float) + sizeof(std::int32_t)) +
         kernels.index_scratch_bytes(spec_.heads, spec_.place.key_dim);
}

void SelectBlocks::run(const StepContext& context, Worker& worker) {
  worker.each(context.step.num_tokens,
              [&](std::int64_t token) { select(context, row_of(context.step, token), token, worker.scratch); });
}

void SelectBlocks::select(const StepContext& context, const StepRow& row, std::int64_t token,
                          std::byte* scratch) const {
  const std::int64_t visible = row.num_context + token - row.token_begin + 1, top = spec_.top;
  const std::int64_t count = (visible - 1) / spec_.tokens + 1, taken = std::min(count, top);
  float* out = context.at(spec_.out) + token * spec_.out.ld;
  if (count <= top) {
    for (std::int64_t h = 0; h < spec_.heads; h++)
      for (std::int64_t i = 0; i < top; i++) out[h * top + i] = i < count ? static_cast<float>(i) : -1.0f;
    return;
  }
  const std::int64_t blocks = padded_to_16(max_blocks());
  float* maxima = reinterpret_cast<float*>(scratch);
  auto* order = reinterpret_cast<std::int32_t*>(maxima + spec_.heads * blocks);
  const IndexArgs args{spec_.heads,
                       spec_.place.key_dim,
                       0,
                       context.at(spec_.q) + token * spec_.q.ld,
                       nullptr,
                       nullptr,
                       context.cache,
                       spec_.place.keys(),
                       row.block_tables[spec_.place.column]};
  context.kernels.index_maxima(args, visible, spec_.tokens, maxima, blocks,
                               reinterpret_cast<std::byte*>(order + blocks));
  for (std::int64_t h = 0; h < spec_.heads; h++) {
    float* scores = maxima + h * blocks;
    for (std::int64_t i = 0; i < count; i++) {
      order[i] = static_cast<std::int32_t>(i);
      if (std::isnan(scores[i])) scores[i] = -std::numeric_limits<float>::infinity();  // a NaN has no order
      if (i >= count - spec_.local) scores[i] = std::numeric_limits<float>::infinity();
    }
    std::nth_element(order, order + taken - 1, order + count, [&](std::int32_t a, std::int32_t b) {
      return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
    });
    std::sort(order, order + taken);
    for (std::int64_t i = 0; i < top; i++) out[h * top + i] = i < taken ? static_cast<float>(order[i]) : -1.0f;
  }
}

BlockAttention::BlockAttention(std::string name, Spec spec)
    : Operator(std::move(name), "attention"), spec_(spec), plain_("", spec.plain) {}

std::size_t BlockAttention::table_bytes() const {
  const std::int64_t entries = padded_to_16(spec_.top * spec_.tokens / kBlockTokens);
  return static_cast<std::size_t>(entries) * sizeof(std::int32_t);
}

std::size_t BlockAttention::scratch_bytes(const Kernels& kernels) const {
  return table_bytes() + plain_.scratch_bytes(kernels);
}

std::int64_t BlockAttention::gather(const StepRow& row, std::int64_t position, const float* chosen,
                                    std::int32_t* table) const {
  const std::int32_t* from = row.block_tables[spec_.plain.place.column];
  const std::int64_t each = spec_.tokens / kBlockTokens, last = position / kBlockTokens;
  std::int64_t entries = 0;
  for (std::int64_t i = 0; i < spec_.top && chosen[i] >= 0; i++) {
    const std::int64_t first = static_cast<std::int64_t>(chosen[i]) * each;
    for (std::int64_t entry = first; entry < std::min(first + each, last + 1); entry++) table[entries++] = from[entry];
  }
  // The last of them is the token's own.
  return (entries - 1) * kBlockTokens + position % kBlockTokens + 1;
}

// Where a row is no longer than what is looked at, all is: with the same bits, since what a query gives depends on its own
// keys alone. A longer row's tokens are items of their own.
void BlockAttention::run(const StepContext& context, Worker& worker) {
  const std::int64_t reach = spec_.top * spec_.tokens;
  const auto is_short = [&](const StepRow& row) { return row.num_context + row.num_new <= reach; };
  if (std::all_of(context.step.rows.begin(), context.step.rows.end(), is_short)) return plain_.run(context, worker);
  const CacheAttention& attention = plain_.attention_of(context.kernels);
  const std::int64_t groups = plain_.num_groups();
  auto* table = reinterpret_cast<std::int32_t*>(worker.scratch);
  std::byte* scratch = worker.scratch + table_bytes();
  worker.each(context.step.num_tokens * groups, [&](std::int64_t item) {
    const std::int64_t token = item / groups, group = item % groups;
    const StepRow& row = row_of(context.step, token);
    const std::int64_t query = token - row.token_begin, position = row.num_context + query;
    AttentionArgs args = plain_.args(context, row, group);
    if (position < reach) return attention.attend(args, query, query + 1, nullptr, scratch);
    const float* chosen = context.at(spec_.chosen) + token * spec_.chosen.ld + (spec_.first + group) * spec_.top;
    args.q += query * args.ldq;
    args.out += query * args.ldo;
    args.block_table = table;
    args.num_context = gather(row, position, chosen, table) - 1;
    args.num_new = 1;
    attention.attend(args, 0, 1, nullptr, scratch);
  });
}

}  // namespace ridgeline
