// Rotation and cache writes, and attention, parted over the threads.
#include "operators_attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace ridgeline {

void RopeTable::extend(std::int64_t num_positions) {
  const std::int64_t half = static_cast<std::int64_t>(frequencies.size());
  float* rows = reinterpret_cast<float*>(memory.data());
  for (; num_ready < num_positions; num_ready++)
    for (std::int64_t i = 0; i < half; i++) {
      const double angle = static_cast<double>(num_ready) * frequencies[static_cast<std::size_t>(i)];
      rows[num_ready * 2 * half + i] = static_cast<float>(std::cos(angle) * magnitude);
      rows[num_ready * 2 * half + half + i] = static_cast<float>(std::sin(angle) * magnitude);
    }
}

// ---- rope and cache writes

HeadsToCache::HeadsToCache(std::string name, std::string type, Spec spec)
    : Operator(std::move(name), std::move(type)), spec_(std::move(spec)) {}

std::size_t HeadsToCache::scratch_bytes(const Kernels&) const {
  return static_cast<std::size_t>(2 * kBlockTokens * padded_to_16(std::max(spec_.head_dim, spec_.place.key_dim))) *
         sizeof(float);
}

void HeadsToCache::turn(const StepContext& context, const NormArgs* norm, const float* x, std::int64_t ldx, float* y,
                        std::int64_t ldy, const Segment& segment) const {
  if (norm) {
    context.kernels.norm(*norm, x, ldx, y, ldy, segment.count);
    x = y;
    ldx = ldy;
  }
  if (spec_.table) {
    const std::int64_t first = spec_.first;
    const RopeArgs args{spec_.head_dim - first, static_cast<std::int64_t>(spec_.table->frequencies.size()),
                        spec_.interleaved, spec_.table->data()};
    for (std::int64_t r = 0; first > 0 && y != x && r < segment.count; r++)
      std::memcpy(y + r * ldy, x + r * ldx, static_cast<std::size_t>(first) * sizeof(float));
    if (!spec_.axes.empty() && context.step.num_axes > 0)
      return turn_by_axes(context, args, x + first, ldx, y + first, ldy, segment);
    if (spec_.every == 1)
      return context.kernels.rope(args, x + first, ldx, y + first, ldy, segment.position, segment.count);
    for (std::int64_t r = 0; r < segment.count; r++)
      context.kernels.rope(args, x + r * ldx + first, ldx, y + r * ldy + first, ldy,
                           (segment.position + r) / spec_.every * spec_.every, 1);
  } else if (!norm) {
    for (std::int64_t r = 0; r < segment.count; r++)
      std::memcpy(y + r * ldy, x + r * ldx, static_cast<std::size_t>(spec_.head_dim) * sizeof(float));
  }
}

// A row of the table is put together of those of a token's positions, unless they are one.
void HeadsToCache::turn_by_axes(const StepContext& context, const RopeArgs& args, const float* x, std::int64_t ldx,
                                float* y, std::int64_t ldy, const Segment& segment) const {
  const Step& step = context.step;
  const std::int64_t half = args.half;
  float own[kMostTurnedByAxes];
  for (std::int64_t r = 0; r < segment.count; r++) {
    const std::int32_t* at = step.axis_positions.data() + (segment.token_begin + r) * step.num_axes;
    if (std::all_of(at, at + step.num_axes, [&](std::int32_t position) { return position == at[0]; })) {
      context.kernels.rope(args, x + r * ldx, ldx, y + r * ldy, ldy, at[0], 1);
      continue;
    }
    for (std::int64_t i = 0; i < half; i++) {
      const float* row = args.table + at[spec_.axes[static_cast<std::size_t>(i)]] * 2 * half;
      own[i] = row[i];
      own[half + i] = row[half + i];
    }
    RopeArgs by_axes = args;
    by_axes.table = own;
    context.kernels.rope(by_axes, x + r * ldx, ldx, y + r * ldy, ldy, 0, 1);
  }
}

void HeadsToCache::turn_query(const StepContext& context, const Segment& segment, std::int64_t head) const {
  const std::int64_t column = head * spec_.head_dim;
  turn(context, spec_.has_q_norm ? &spec_.q_norm : nullptr,
       context.at(spec_.q) + segment.token_begin * spec_.q.ld + column, spec_.q.ld,
       context.at(spec_.q_out) + segment.token_begin * spec_.q_out.ld + column, spec_.q_out.ld, segment);
}

// Heads count keys first, then values.
std::byte* HeadsToCache::tile(const StepContext& context, const Segment& segment, std::int64_t head) const {
  const KvPlace& place = spec_.place;
  const std::int32_t index_of_block = segment.block_tables[place.column][segment.entry];
  return context.cache.tile(index_of_block,
                            head < place.kv_heads ? place.keys(head) : place.values(head - place.kv_heads));
}

void HeadsToCache::write(const StepContext& context, Worker& worker, const Segment& segment, std::int64_t head) const {
  const KvPlace& place = spec_.place;
  const CacheWrites& writes = context.kernels.cache_writes[static_cast<int>(place.format)];
  const std::int64_t slot = segment.position % kBlockTokens;
  std::byte* out = tile(context, segment, head);
  const auto at = [&](const View& view, std::int64_t column) {
    return context.at(view) + segment.token_begin * view.ld + column;
  };
  if (head >= place.kv_heads) {
    const float* v = at(spec_.v, (head - place.kv_heads) * place.value_dim);
    return writes.values(v, spec_.v.ld, place.value_dim, out, slot, segment.count);
  }
  const float* k = at(spec_.k, head * place.key_dim);
  std::int64_t ldk = spec_.k.ld;
  if (spec_.table || spec_.has_k_norm) {
    float* turned = reinterpret_cast<float*>(worker.scratch);
    turn(context, spec_.has_k_norm ? &spec_.k_norm : nullptr, k, ldk, turned, place.key_dim, segment);
    k = turned;
    ldk = place.key_dim;
  }
  const std::int64_t first = head * place.key_dim;
  KeyBalance balance = place.balance;
  if (balance.centres) balance = {balance.centres + first, balance.powers + first, balance.inverse_powers + first};
  writes.keys(k, ldk, place.key_dim, balance.centres ? &balance : nullptr, out, slot, segment.count);
}

// What `write` will touch: every line of a key tile, a few of a value tile.
void HeadsToCache::prefetch(const StepContext& context, const Segment& segment, std::int64_t head) const {
  const KvPlace& place = spec_.place;
  const std::byte* begin = tile(context, segment, head);
  if (head < place.kv_heads)
    return context.kernels.prefetch_slots(begin, key_tile_bytes(place.format, place.key_dim));
  const std::int64_t together = tokens_together(place.format), slot = segment.position % kBlockTokens;
  const std::size_t scales = place.format == CacheFormat::int8 ? kScaleBytes : 0;
  const std::size_t codes = value_tile_bytes(place.format, place.value_dim) - scales;
  const std::size_t row_bytes = codes / static_cast<std::size_t>(kBlockTokens / together);
  const std::int64_t first = slot / together, last = (slot + segment.count - 1) / together;
  context.kernels.prefetch_slots(begin + static_cast<std::size_t>(first) * row_bytes,
                                 static_cast<std::size_t>(last - first + 1) * row_bytes);
  if (scales > 0) context.kernels.prefetch_slots(begin + codes, scales);
}

// Of a segment, an item is one head of k or v and its part of q's heads. The cache's lines are cold: nobody has touched
// them since the layer's last step. They are asked for one head ahead.
void HeadsToCache::run(const StepContext& context, Worker& worker) {
  const std::vector<Segment>& segments = context.step.segments;
  const std::int64_t heads = spec_.writes_kv ? 2 * spec_.place.kv_heads : 0, q_heads = spec_.q_heads;
  const std::int64_t items = heads > 0 ? heads : q_heads, count = static_cast<std::int64_t>(segments.size()) * items;
  const auto segment = [&](std::int64_t i) -> const Segment& { return segments[static_cast<std::size_t>(i / items)]; };
  const std::int64_t own = worker.first_of(count);
  if (heads > 0 && own < count) prefetch(context, segment(own), own % heads);
  worker.runs(count, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; i++) {
      if (heads > 0 && i + 1 < count) prefetch(context, segment(i + 1), (i + 1) % heads);
      for (std::int64_t q = i % items * q_heads / items; q < (i % items + 1) * q_heads / items; q++)
        turn_query(context, segment(i), q);
      if (heads > 0) write(context, worker, segment(i), i % heads);
    }
  });
}

// ---- attention

Attention::Attention(std::string name, Spec spec) : Operator(std::move(name), "attention"), spec_(spec) {}

std::int64_t Attention::num_groups() const {
  if (!spec_.place.latent) return spec_.place.kv_heads;
  constexpr std::int64_t kTogether = 24;  // a multiple of every tile's height; see queries_per_item
  std::int64_t groups = (spec_.num_heads + kTogether - 1) / kTogether;
  while (spec_.num_heads % groups) groups++;
  return groups;
}

std::size_t Attention::scratch_bytes(const Kernels& kernels) const {
  return attention_of(kernels).scratch_bytes(spec_.num_heads / num_groups(), spec_.place.key_dim,
                                         spec_.place.value_dim);
}

std::int64_t Attention::partials_floats(std::int64_t num_chunks) const {
  return num_chunks * spec_.num_heads * ridgeline::partial_floats(spec_.place.value_dim);
}

AttentionArgs Attention::args(const StepContext& context, const StepRow& row, std::int64_t kv_head) const {
  const KvPlace& place = spec_.place;
  const std::int64_t group = spec_.num_heads / num_groups();
  AttentionArgs out;
  out.q = context.at(spec_.q) + row.token_begin * spec_.q.ld + kv_head * group * place.key_dim;
  out.ldq = spec_.q.ld;
  out.out = context.at(spec_.out) + row.token_begin * spec_.out.ld + kv_head * group * place.value_dim;
  out.ldo = spec_.out.ld;
  out.group = group;
  out.head_dim = place.key_dim;
  out.value_dim = place.value_dim;
  out.scale = spec_.scale;
  out.softcap = spec_.softcap;
  out.window = place.window;
  out.chunked = spec_.chunked;
  out.causal = spec_.causal;
  out.ahead = spec_.ahead;
  out.last_seen =
      spec_.whole_images && !context.step.last_seen.empty() ? context.step.last_seen.data() + row.token_begin : nullptr;
  out.first_seen = nullptr;
  if (spec_.parts && !context.step.first_seen.empty()) {
    out.first_seen = context.step.first_seen.data() + row.token_begin;
    out.last_seen = context.step.last_seen.data() + row.token_begin;
  }
  out.powers = place.balance.powers ? place.balance.powers + kv_head * place.key_dim : nullptr;
  out.sinks = spec_.sinks ? spec_.sinks + kv_head * group : nullptr;
  out.cache = context.cache;
  out.keys = place.keys(place.latent ? 0 : kv_head);
  out.values = place.values(kv_head);
  out.block_table = row.block_tables[place.column];
  out.num_context = row.num_context;
  out.num_new = row.num_new;
  return out;
}

void Attention::foretell(const StepContext& context, int thread, int num_threads, CacheReads& reads) const {
  reads.begin(context.step, context.cache, spec_.place, spec_.chunked, context.kernels.asks_for_own, thread, num_threads);
}

namespace {

// Chunks that a row's new tokens can see.
struct Chunks {
  std::int64_t begin, end;
};
Chunks chunks_of(const StepRow& row, std::int64_t window, bool chunked) {
  const std::int64_t first = first_visible(window, chunked, row.num_context);
  return {first / kChunkTokens, (row.num_context + row.num_new - 1) / kChunkTokens + 1};
}

}  // namespace

// Whether rows are too few for the threads, and their contexts long enough to be parted.
bool Attention::splits_context(const StepContext& context, int num_threads) const {
  const std::int64_t kv_heads = num_groups(), group = spec_.num_heads / kv_heads;
  const std::vector<StepRow>& rows = context.step.rows;
  if (num_threads == 1 || static_cast<std::int64_t>(rows.size()) * kv_heads >= 4 * num_threads) return false;
  std::int64_t most = 0, floats = 0;
  for (const StepRow& row : rows) {
    if (row.num_new > queries_per_item(group, spec_.place.key_dim)) return false;
    const Chunks chunks = chunks_of(row, spec_.place.window, spec_.chunked);
    most = std::max(most, chunks.end - chunks.begin);
    floats += partials_floats(chunks.end - chunks.begin) * row.num_new;
  }
  return most > 1 && floats <= context.partials_floats;
}

void Attention::run(const StepContext& context, Worker& worker) {
  if (splits_context(context, worker.num_threads)) {
    run_split(context, worker);
  } else if (context.step.num_tokens == static_cast<std::int64_t>(context.step.rows.size())) {
    run_decode(context, worker);
  } else {
    run_whole(context, worker);
  }
}

// One new token a row: an item is a (row, KV head). The keys of the one after it are asked for meanwhile.
void Attention::run_decode(const StepContext& context, Worker& worker) const {
  const std::int64_t kv_heads = num_groups(), count = static_cast<std::int64_t>(context.step.rows.size()) * kv_heads;
  const auto args_of = [&](std::int64_t i) {
    return args(context, context.step.rows[static_cast<std::size_t>(i / kv_heads)], i % kv_heads);
  };
  worker.each(count, [&](std::int64_t i) {
    const bool last = i + 1 == count;
    const AttentionArgs now = args_of(i), next = args_of(last ? i : i + 1);
    attention_of(context.kernels).attend(now, 0, 1, last ? nullptr : &next, worker.scratch);
  });
}

namespace {

// Items of rows, counted through them in order: where one lies. A thread asks for them mostly in order.
template <class CountOf>
class RowItems {
 public:
  RowItems(const std::vector<StepRow>& rows, CountOf count_of) : rows_(rows), count_of_(count_of) {}
  std::int64_t total() const {
    std::int64_t total = 0;
    for (const StepRow& row : rows_) total += count_of_(row);
    return total;
  }
  // The row that an item is of; `item` becomes its number there.
  const StepRow& row_of(std::int64_t& item) {
    if (item < begin_) begin_ = 0, index_ = 0;
    while (item >= begin_ + count_of_(rows_[index_])) begin_ += count_of_(rows_[index_++]);
    item -= begin_;
    return rows_[index_];
  }

 private:
  const std::vector<StepRow>& rows_;
  CountOf count_of_;
  std::size_t index_ = 0;
  std::int64_t begin_ = 0;
};

}  // namespace

void Attention::run_whole(const StepContext& context, Worker& worker) const {
  const std::int64_t kv_heads = num_groups();
  const std::int64_t queries = queries_per_item(spec_.num_heads / kv_heads, spec_.place.key_dim);
  const auto blocks_of = [&](const StepRow& row) { return (row.num_new + queries - 1) / queries; };
  RowItems items(context.step.rows, [&](const StepRow& row) { return blocks_of(row) * kv_heads; });
  worker.each(items.total(), [&](std::int64_t item) {
    const StepRow& row = items.row_of(item);
    // Last queries first: they see most, and short items at the end even the threads out.
    const std::int64_t block = blocks_of(row) - 1 - item / kv_heads;
    attention_of(context.kernels).attend(args(context, row, item % kv_heads), block * queries,
                                         std::min((block + 1) * queries, row.num_new), nullptr, worker.scratch);
  });
}

// An item is a chunk of a (row, KV head); then, after a barrier, all chunks of one.
void Attention::run_split(const StepContext& context, Worker& worker) const {
  const std::int64_t kv_heads = num_groups(), group = spec_.num_heads / kv_heads;
  const std::int64_t stride = group * ridgeline::partial_floats(spec_.place.value_dim);
  const auto chunks = [&](const StepRow& row) { return chunks_of(row, spec_.place.window, spec_.chunked); };
  const auto count_of = [&](const StepRow& row) { return chunks(row).end - chunks(row).begin; };
  // Of a row's first item; queries of a row are few.
  const auto partials_of = [&](const StepRow& row) {
    float* out = context.partials;
    for (const StepRow* before = context.step.rows.data(); before != &row; before++)
      out += count_of(*before) * kv_heads * before->num_new * stride;
    return out;
  };
  RowItems items(context.step.rows, [&](const StepRow& row) { return count_of(row) * kv_heads; });
  worker.each(items.total(), [&](std::int64_t item) {
    const StepRow& row = items.row_of(item);
    const std::int64_t count = count_of(row), begin = chunks(row).begin, next = item + 1;
    const AttentionArgs now = args(context, row, item / count), then = args(context, row, next / count % kv_heads);
    attention_of(context.kernels).attend_chunk(now, 0, row.num_new, begin + item % count,
                                               {next < count * kv_heads ? &then : nullptr, begin + next % count},
                                               partials_of(row) + item * row.num_new * stride, worker.scratch);
  });
  worker.barrier();
  worker.each(static_cast<std::int64_t>(context.step.rows.size()) * kv_heads, [&](std::int64_t item) {
    const StepRow& row = context.step.rows[static_cast<std::size_t>(item / kv_heads)];
    const float* partials = partials_of(row) + item % kv_heads * count_of(row) * row.num_new * stride;
    context.kernels.merge_chunks(args(context, row, item % kv_heads), 0, row.num_new, chunks(row).begin,
                                 chunks(row).end, partials, worker.scratch);
  });
}

}  // namespace ridgeline
