#include "operators_cross.h"

#include <algorithm>
#include <new>
#include <stdexcept>
#include <utility>

namespace ridgeline {
namespace {

// f(row, item) for the items of all rows of the step, each once over all threads.
template <class ItemsOf, class F>
void each_row_item(const StepContext& context, Worker& worker, ItemsOf items_of, F f) {
  std::int64_t count = 0;
  for (const StepRow& row : context.step.rows) count += items_of(row);
  worker.runs(count, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;
    for (const StepRow& row : context.step.rows) {
      const std::int64_t last = first + items_of(row);
      for (std::int64_t i = std::max(begin, first); i < std::min(end, last); i++) f(row, i - first);
      first = last;
    }
  });
}

}  // namespace

CrossMemory::CrossMemory(std::int64_t positions, std::int64_t rows, const std::vector<Layer>& layers,
                         CacheFormat format, bool counts_only)
    : positions_(positions), rows_(rows) {
  for (const std::int64_t size : {positions, rows})
    if (size < 1 || size > INT32_MAX) throw std::invalid_argument("a memory of encoders has positions and rows");
  for (const Layer& layer : layers) {
    for (const std::int64_t size : {layer.kv_heads, layer.key_dim, layer.value_dim})
      if (size < 1 || size > 1 << 20) throw std::invalid_argument("a layer of an encoder's memory has no heads");
    if (format == CacheFormat::int8 && std::max(layer.key_dim, layer.value_dim) > kMaxCodedChannels)
      throw std::invalid_argument("heads are too wide for int8");
    KvPlace place{0, block_stride_, 0, layer.kv_heads, layer.key_dim, layer.value_dim, 0, format, false};
    const std::size_t heads = static_cast<std::size_t>(layer.kv_heads);
    place.value_offset = place.key_offset + heads * key_tile_bytes(format, layer.key_dim);
    block_stride_ = aligned(place.value_offset + heads * value_tile_bytes(format, layer.value_dim));
    places_.push_back(place);
  }
  // As of the cache: blocks a whole number of 4 KB apart would share cache sets.
  while (block_stride_ > 0 && block_stride_ / 64 % 64 != 33) block_stride_ += 64;
  for (std::int64_t block = 0; block < (positions + kBlockTokens - 1) / kBlockTokens; block++)
    table_.push_back(static_cast<std::int32_t>(block));
  if (row_bytes() > 0 && static_cast<std::size_t>(rows) > SIZE_MAX / 2 / row_bytes()) throw std::bad_alloc();
  const std::size_t bytes = static_cast<std::size_t>(rows) * row_bytes();
  memory_ = counts_only ? Memory::counted(bytes) : Memory(bytes);
}

CrossWrite::CrossWrite(std::string name, View k, View v, const CrossMemory& memory, KvPlace place)
    : Operator(std::move(name), "cross_write"), k_(k), v_(v), memory_(memory), place_(place) {}

// Heads count keys first, then values.
void CrossWrite::run(const StepContext& context, Worker& worker) {
  const CacheWrites& writes = context.kernels.cache_writes[static_cast<int>(place_.format)];
  const std::int64_t heads = place_.kv_heads;
  const auto items_of = [&](const StepRow& row) { return (row.num_new + kBlockTokens - 1) / kBlockTokens * 2 * heads; };
  each_row_item(context, worker, items_of, [&](const StepRow& row, std::int64_t i) {
    const std::int64_t block = i / (2 * heads), head = i % (2 * heads) % heads;
    const bool is_key = i % (2 * heads) < heads;
    const std::int64_t position = block * kBlockTokens, count = std::min(kBlockTokens, row.num_new - position);
    const View& view = is_key ? k_ : v_;
    const std::int64_t channels = is_key ? place_.key_dim : place_.value_dim;
    const float* x = context.at(view) + (row.token_begin + position) * view.ld + head * channels;
    std::byte* out =
        memory_.blocks(row.row).tile(static_cast<std::int32_t>(block), is_key ? place_.keys(head) : place_.values(head));
    if (is_key)
      writes.keys(x, view.ld, channels, nullptr, out, 0, count);
    else
      writes.values(x, view.ld, channels, out, 0, count);
  });
}

CrossAttention::CrossAttention(std::string name, View q, View out, const CrossMemory& memory, KvPlace place,
                               std::int64_t num_heads, float scale)
    : Operator(std::move(name), "cross_attention"),
      q_(q),
      out_(out),
      memory_(memory),
      place_(place),
      num_heads_(num_heads),
      scale_(scale) {}

std::size_t CrossAttention::scratch_bytes(const Kernels& kernels) const {
  return kernels.cache_attention[static_cast<int>(place_.format)].scratch_bytes(num_heads_ / place_.kv_heads,
                                                                               place_.key_dim, place_.value_dim);
}

// To the kernels a row whose new tokens are the last of as many as the encoder has positions: who is not causal sees
// all of these, wherever it stands, and so a query has the same bits in any step.
AttentionArgs CrossAttention::args(const StepContext& context, const StepRow& row, std::int64_t kv_head) const {
  const std::int64_t group = num_heads_ / place_.kv_heads;
  AttentionArgs out{};
  out.q = context.at(q_) + row.token_begin * q_.ld + kv_head * group * place_.key_dim;
  out.ldq = q_.ld;
  out.out = context.at(out_) + row.token_begin * out_.ld + kv_head * group * place_.value_dim;
  out.ldo = out_.ld;
  out.group = group;
  out.head_dim = place_.key_dim;
  out.value_dim = place_.value_dim;
  out.scale = scale_;
  out.causal = false;
  out.ahead = -1;
  out.cache = memory_.blocks(row.row);
  out.keys = place_.keys(kv_head);
  out.values = place_.values(kv_head);
  out.block_table = memory_.table();
  out.num_context = memory_.positions() - row.num_new;
  out.num_new = row.num_new;
  return out;
}

void CrossAttention::run(const StepContext& context, Worker& worker) {
  const CacheAttention& attention = context.kernels.cache_attention[static_cast<int>(place_.format)];
  const std::int64_t kv_heads = place_.kv_heads, each = queries_per_item(num_heads_ / kv_heads, place_.key_dim);
  const auto items_of = [&](const StepRow& row) { return (row.num_new + each - 1) / each * kv_heads; };
  each_row_item(context, worker, items_of, [&](const StepRow& row, std::int64_t i) {
    const std::int64_t kv_head = i % kv_heads, block = i / kv_heads;
    attention.attend(args(context, row, kv_head), block * each, std::min((block + 1) * each, row.num_new), nullptr,
                     worker.scratch);
  });
}

}  // namespace ridgeline
