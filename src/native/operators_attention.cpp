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
    const RopeArgs args{spec_.head_dim, static_cast<std::int64_t>(spec_.table->frequencies.size()), spec_.interleaved,
                        spec_.table->data()};
    context.kernels.rope(args, x, ldx, y, ldy, segment.position, segment.count);
  } else if (!norm) {
    for (std::int64_t r = 0; r < segment.count; r++)
      std::memcpy(y + r * ldy, x + r * ldx, static_cast<std::size_t>(spec_.head_dim) * sizeof(float));
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
  std::byte* block = context.kv + static_cast<std::size_t>(index_of_block) * context.kv_block_stride;
  const std::size_t index = static_cast<std::size_t>(head % place.kv_heads);
  if (head < place.kv_heads) return block + place.key_offset + index * key_tile_bytes(place.format, place.key_dim);
  return block + place.value_offset + index * value_tile_bytes(place.format, place.value_dim);
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

// The cache's lines are cold: nobody has touched them since the layer's last step. They are asked for one head ahead.
void HeadsToCache::run(const StepContext& context, Worker& worker) {
  const std::vector<Segment>& segments = context.step.segments;
  const std::int64_t count = static_cast<std::int64_t>(segments.size());
  const std::int64_t heads = spec_.writes_kv ? 2 * spec_.place.kv_heads : 0;
  const auto segment = [&](std::int64_t i) -> const Segment& { return segments[static_cast<std::size_t>(i)]; };
  std::int64_t begin, end, q_begin, q_end;
  worker.share(count * heads, begin, end);
  worker.share(count * spec_.q_heads, q_begin, q_end);
  if (begin < end) prefetch(context, segment(begin / heads), begin % heads);
  for (std::int64_t i = q_begin; i < q_end; i++)
    turn_query(context, segment(i / spec_.q_heads), i % spec_.q_heads);
  for (std::int64_t i = begin; i < end; i++) {
    if (i + 1 < end) prefetch(context, segment((i + 1) / heads), (i + 1) % heads);
    write(context, worker, segment(i / heads), i % heads);
  }
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
  out.powers = place.balance.powers ? place.balance.powers + kv_head * place.key_dim : nullptr;
  out.sinks = spec_.sinks ? spec_.sinks + kv_head * group : nullptr;
  const std::size_t tile = place.latent ? 0 : static_cast<std::size_t>(kv_head);
  out.keys = context.kv + place.key_offset + tile * key_tile_bytes(place.format, place.key_dim);
  out.values = place.latent ? nullptr
                            : context.kv + place.value_offset + tile * value_tile_bytes(place.format, place.value_dim);
  out.block_stride = context.kv_block_stride;
  out.block_table = row.block_tables[place.column];
  out.num_context = row.num_context;
  out.num_new = row.num_new;
  return out;
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

// One new token a row: each thread takes a run of (row, KV head), and asks for the next one's keys before it computes.
void Attention::run_decode(const StepContext& context, Worker& worker) const {
  const std::int64_t kv_heads = num_groups();
  std::int64_t begin, end;
  worker.share(static_cast<std::int64_t>(context.step.rows.size()) * kv_heads, begin, end);
  const auto item = [&](std::int64_t i) {
    return args(context, context.step.rows[static_cast<std::size_t>(i / kv_heads)], i % kv_heads);
  };
  if (begin == end) return;
  AttentionArgs now = item(begin);
  for (std::int64_t i = begin; i < end; i++) {
    const AttentionArgs next = item(i + 1 < end ? i + 1 : i);
    attention_of(context.kernels).attend(now, 0, 1, i + 1 < end ? &next : nullptr, worker.scratch);
    now = next;
  }
}

void Attention::run_whole(const StepContext& context, Worker& worker) {
  const std::int64_t kv_heads = num_groups();
  const std::int64_t queries = queries_per_item(spec_.num_heads / kv_heads, spec_.place.key_dim);
  std::int64_t item = next_item.fetch_add(1, std::memory_order_relaxed), first = 0;
  for (const StepRow& row : context.step.rows) {
    const std::int64_t blocks = (row.num_new + queries - 1) / queries;
    for (; item < first + blocks * kv_heads; item = next_item.fetch_add(1, std::memory_order_relaxed)) {
      // Last queries first: they see most, and short items at the end even the threads out.
      const std::int64_t block = blocks - 1 - (item - first) / kv_heads;
      attention_of(context.kernels).attend(args(context, row, (item - first) % kv_heads), block * queries,
                             std::min((block + 1) * queries, row.num_new), nullptr, worker.scratch);
    }
    first += blocks * kv_heads;
  }
}

void Attention::run_split(const StepContext& context, Worker& worker) const {
  const std::int64_t kv_heads = num_groups(), group = spec_.num_heads / kv_heads;
  const std::int64_t stride = ridgeline::partial_floats(spec_.place.value_dim);
  std::int64_t total = 0;
  for (const StepRow& row : context.step.rows) {
    const Chunks chunks = chunks_of(row, spec_.place.window, spec_.chunked);
    total += (chunks.end - chunks.begin) * kv_heads;
  }
  std::int64_t begin, end;
  worker.share(total, begin, end);
  std::int64_t first = 0;
  float* partials = context.partials;
  for (const StepRow& row : context.step.rows) {
    const Chunks chunks = chunks_of(row, spec_.place.window, spec_.chunked);
    const std::int64_t count = chunks.end - chunks.begin, floats = row.num_new * group * stride;
    const std::int64_t last = std::min(end - first, count * kv_heads) - 1;
    for (std::int64_t i = std::max(begin - first, std::int64_t{0}); i <= last; i++) {
      const AttentionArgs now = args(context, row, i / count), then = args(context, row, (i + 1) / count % kv_heads);
      const AttentionNext next{i < last ? &then : nullptr, chunks.begin + (i + 1) % count};
      attention_of(context.kernels).attend_chunk(now, 0, row.num_new, chunks.begin + i % count, next, partials + i * floats,
                                   worker.scratch);
    }
    first += count * kv_heads;
    partials += count * kv_heads * floats;
  }
  worker.barrier();
  std::int64_t item = 0;
  partials = context.partials;
  for (const StepRow& row : context.step.rows) {
    const Chunks chunks = chunks_of(row, spec_.place.window, spec_.chunked);
    const std::int64_t floats = (chunks.end - chunks.begin) * row.num_new * group * stride;
    for (std::int64_t kv_head = 0; kv_head < kv_heads; kv_head++, item++, partials += floats)
      if (item % worker.num_threads == worker.thread)
        context.kernels.merge_chunks(args(context, row, kv_head), 0, row.num_new, chunks.begin, chunks.end, partials,
                                     worker.scratch);
  }
}

}  // namespace ridgeline
