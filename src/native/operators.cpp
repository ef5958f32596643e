#include "operators.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace ridgeline {
namespace {

std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// A thread's block of a rows x cols grid: rows if there are enough for all threads, else columns in steps of 64.
struct Block {
  std::int64_t row_begin, row_end, col_begin, col_end;
};
Block share_block(const Worker& worker, std::int64_t rows, std::int64_t cols) {
  Block out{0, rows, 0, cols};
  if (rows >= 2 * worker.num_threads) {
    worker.share(rows, out.row_begin, out.row_end);
  } else {
    worker.share((cols + 63) / 64, out.col_begin, out.col_end);
    out.col_begin *= 64;
    out.col_end = std::min(out.col_end * 64, cols);
  }
  return out;
}

}  // namespace

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

// ---- embed

Embed::Embed(std::string name, View y, std::string format, const std::byte* table, std::size_t row_bytes, float scale)
    : Operator(std::move(name), "embed"),
      y_(y),
      format_(std::move(format)),
      table_(table),
      row_bytes_(row_bytes),
      scale_(scale) {}

void Embed::run(const StepContext& context, Worker& worker) {
  std::int64_t begin, end;
  worker.share(context.rows(y_), begin, end);
  for (std::int64_t r = begin; r < end; r++) {
    float* out = context.at(y_) + r * y_.ld;
    const std::size_t id = static_cast<std::size_t>(context.step.token_ids[static_cast<std::size_t>(r)]);
    context.kernels.decode_row(format_.c_str(), table_ + id * row_bytes_, y_.width, out);
    if (scale_ != 1.0f) context.kernels.scale_rows(scale_, out, y_.ld, out, y_.ld, 1, y_.width);
  }
}

// ---- norm

Norm::Norm(std::string name, View x, View y, NormArgs args)
    : Operator(std::move(name), "norm"), x_(x), y_(y), args_(args) {}

void Norm::run(const StepContext& context, Worker& worker) {
  std::int64_t begin, end;
  worker.share(context.rows(x_), begin, end);
  context.kernels.norm(args_, context.at(x_) + begin * x_.ld, x_.ld, context.at(y_) + begin * y_.ld, y_.ld,
                       end - begin);
}

AddNorm::AddNorm(std::string name, View a, View b, View total, View y, NormArgs args)
    : Operator(std::move(name), "add_norm"), a_(a), b_(b), total_(total), y_(y), args_(args) {}

void AddNorm::run(const StepContext& context, Worker& worker) {
  std::int64_t begin, end;
  worker.share(context.rows(a_), begin, end);
  context.kernels.add_norm(args_, context.at(a_) + begin * a_.ld, a_.ld, context.at(b_) + begin * b_.ld, b_.ld,
                           context.at(total_) + begin * total_.ld, total_.ld, context.at(y_) + begin * y_.ld, y_.ld,
                           end - begin);
}

// ---- elementwise

Elementwise::Elementwise(std::string name, std::string type, Kind kind, View a, View b, View y, float number,
                         Activation activation)
    : Operator(std::move(name), std::move(type)),
      kind_(kind),
      a_(a),
      b_(b),
      y_(y),
      number_(number),
      activation_(activation) {}

void Elementwise::run(const StepContext& context, Worker& worker) {
  const Block block = share_block(worker, context.rows(y_), y_.width);
  const std::int64_t rows = block.row_end - block.row_begin, cols = block.col_end - block.col_begin;
  if (rows <= 0 || cols <= 0) return;
  const auto at = [&](const View& view) { return context.at(view) + block.row_begin * view.ld + block.col_begin; };
  switch (kind_) {
    case Kind::add:
      return context.kernels.add_rows(at(a_), a_.ld, at(b_), b_.ld, at(y_), y_.ld, rows, cols);
    case Kind::scale:
      return context.kernels.scale_rows(number_, at(a_), a_.ld, at(y_), y_.ld, rows, cols);
    case Kind::softcap:
      return context.kernels.softcap_rows(number_, at(a_), a_.ld, at(y_), y_.ld, rows, cols);
    case Kind::gate:
      return context.kernels.gated_rows(activation_, at(a_), a_.ld, at(b_), b_.ld, at(y_), y_.ld, rows, cols);
  }
}

SelectRows::SelectRows(std::string name, View x, View y) : Operator(std::move(name), "select_rows"), x_(x), y_(y) {}

void SelectRows::run(const StepContext& context, Worker& worker) {
  std::int64_t begin, end;
  worker.share(context.rows(y_), begin, end);
  for (std::int64_t r = begin; r < end; r++)
    std::memcpy(context.at(y_) + r * y_.ld,
                context.at(x_) + context.step.sampled[static_cast<std::size_t>(r)] * x_.ld,
                static_cast<std::size_t>(y_.width) * sizeof(float));
}

// ---- linear

namespace {

// Up to this many rows a step is bound by reading weights: each thread reads one contiguous run of them.
constexpr std::int64_t kStaticRows = 8;

}  // namespace

Linear::Linear(std::string name, View x, View y, std::vector<LinearPart> parts)
    : Operator(std::move(name), "linear"), x_(x), y_(y), parts_(std::move(parts)) {
  for (const LinearPart& part : parts_) {
    num_strips_ += part.matrix.num_strips();
    if (std::find(kinds_.begin(), kinds_.end(), part.kind) == kinds_.end()) kinds_.push_back(part.kind);
  }
}

std::size_t Linear::activation_bytes(const Kernels& kernels) const {
  std::size_t total = 0;
  for (const ActivationKind kind : kinds_) total += aligned(kernels.activation_row_bytes(kind, x_.width));
  return total;
}

// Activations lie kind after kind, each kind [rows, activation_row_bytes].
void Linear::quantize(const StepContext& context, std::int64_t begin, std::int64_t end, std::byte* out,
                      std::int64_t rows) const {
  if (begin == end) return;
  for (const ActivationKind kind : kinds_) {
    const std::size_t row_bytes = context.kernels.activation_row_bytes(kind, x_.width);
    context.kernels.quantize_rows(kind, context.at(x_) + begin * x_.ld, x_.ld, end - begin, x_.width,
                                  out + static_cast<std::size_t>(begin) * row_bytes);
    out += aligned(static_cast<std::size_t>(rows) * row_bytes);
  }
}

void Linear::multiply(const StepContext& context, Worker& worker, const std::byte* activations,
                      std::int64_t strip_begin, std::int64_t strip_end, std::int64_t row_begin, std::int64_t row_end,
                      std::int64_t rows) const {
  std::int64_t first = 0;
  for (const LinearPart& part : parts_) {
    const std::int64_t strips = part.matrix.num_strips();
    const std::int64_t begin = std::max<std::int64_t>(strip_begin - first, 0);
    const std::int64_t end = std::min(strip_end - first, strips);
    first += strips;
    if (begin >= end) continue;
    const std::byte* source = activations;
    for (const ActivationKind kind : kinds_) {
      const std::size_t row_bytes = context.kernels.activation_row_bytes(kind, x_.width);
      if (kind == part.kind) {
        source += static_cast<std::size_t>(row_begin) * row_bytes;
        break;
      }
      source += aligned(static_cast<std::size_t>(rows) * row_bytes);
    }
    context.kernels.linear(part.matrix, part.kind, source, row_end - row_begin, begin, end, part.bias,
                           context.at(y_) + row_begin * y_.ld + part.column, y_.ld, worker.scratch);
  }
}

void Linear::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.rows(x_);
  if (rows == 0) return;
  if (rows <= kOwnActivationRows) {
    if (!reuses_activations) quantize(context, 0, rows, worker.activations, rows);
  } else if (!reuses_activations) {
    std::int64_t begin, end;
    worker.share(rows, begin, end);
    quantize(context, begin, end, context.activations, rows);
    worker.barrier();
  }
  const std::byte* activations = rows <= kOwnActivationRows ? worker.activations : context.activations;

  if (rows <= kStaticRows || worker.num_threads == 1) {
    std::int64_t begin, end;
    worker.share(num_strips_, begin, end);
    if (begin < end) multiply(context, worker, activations, begin, end, 0, rows, rows);
    return;
  }
  // Items of whole strips, all rows each; where strips are few for the threads, rows are parted, too.
  std::int64_t row_parts = 1;
  while (num_strips_ * row_parts < 4 * worker.num_threads && rows / (row_parts * 2) >= 32) row_parts *= 2;
  const std::int64_t strips = std::max<std::int64_t>(1, num_strips_ / (16 * worker.num_threads));
  const std::int64_t strip_items = (num_strips_ + strips - 1) / strips;
  for (;;) {
    const std::int64_t item = next_item.fetch_add(1, std::memory_order_relaxed);
    if (item >= strip_items * row_parts) return;
    const std::int64_t part = item % row_parts, strip = item / row_parts * strips;
    multiply(context, worker, activations, strip, std::min(strip + strips, num_strips_), rows * part / row_parts,
             rows * (part + 1) / row_parts, rows);
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

void HeadsToCache::head(const StepContext& context, Worker& worker, const Segment& segment, std::int64_t head) const {
  const auto at = [&](const View& view, std::int64_t column) {
    return context.at(view) + segment.token_begin * view.ld + column;
  };
  if (head < spec_.q_heads) {
    const std::int64_t column = head * spec_.head_dim;
    return turn(context, spec_.has_q_norm ? &spec_.q_norm : nullptr, at(spec_.q, column), spec_.q.ld,
                at(spec_.q_out, column), spec_.q_out.ld, segment);
  }
  const KvPlace& place = spec_.place;
  const std::int64_t slot = segment.position % kBlockTokens;
  std::byte* block = context.kv + static_cast<std::size_t>(segment.block) * context.kv_block_stride;
  head -= spec_.q_heads;
  if (head < place.kv_heads) {
    const float* k = at(spec_.k, head * place.key_dim);
    std::int64_t ldk = spec_.k.ld;
    if (spec_.table || spec_.has_k_norm) {
      float* turned = reinterpret_cast<float*>(worker.scratch);
      turn(context, spec_.has_k_norm ? &spec_.k_norm : nullptr, k, ldk, turned, place.key_dim, segment);
      k = turned;
      ldk = place.key_dim;
    }
    std::byte* tile = block + place.key_offset + static_cast<std::size_t>(head) * key_tile_bytes(place.key_dim);
    context.kernels.write_keys(k, ldk, place.key_dim, tile, slot, segment.count);
  } else {
    head -= place.kv_heads;
    std::byte* tile = block + place.value_offset + static_cast<std::size_t>(head) * value_tile_bytes(place.value_dim);
    context.kernels.write_values(at(spec_.v, head * place.value_dim), spec_.v.ld, place.value_dim, tile, slot,
                                 segment.count);
  }
}

void HeadsToCache::run(const StepContext& context, Worker& worker) {
  const std::int64_t heads = spec_.q_heads + (spec_.writes_kv ? 2 * spec_.place.kv_heads : 0);
  std::int64_t begin, end;
  worker.share(static_cast<std::int64_t>(context.step.segments.size()) * heads, begin, end);
  for (std::int64_t i = begin; i < end; i++)
    head(context, worker, context.step.segments[static_cast<std::size_t>(i / heads)], i % heads);
}

// ---- attention

Attention::Attention(std::string name, Spec spec) : Operator(std::move(name), "attention"), spec_(spec) {}

std::size_t Attention::scratch_bytes(const Kernels& kernels) const {
  return kernels.attention_scratch_bytes(spec_.num_heads / spec_.place.kv_heads, spec_.place.key_dim,
                                         spec_.place.value_dim);
}

std::int64_t Attention::partials_floats(std::int64_t num_chunks) const {
  return num_chunks * spec_.num_heads * ridgeline::partial_floats(spec_.place.value_dim);
}

AttentionArgs Attention::args(const StepContext& context, const StepRow& row, std::int64_t kv_head) const {
  const KvPlace& place = spec_.place;
  const std::int64_t group = spec_.num_heads / place.kv_heads;
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
  out.causal = spec_.causal;
  out.keys = context.kv + place.key_offset + static_cast<std::size_t>(kv_head) * key_tile_bytes(place.key_dim);
  out.values = context.kv + place.value_offset + static_cast<std::size_t>(kv_head) * value_tile_bytes(place.value_dim);
  out.block_stride = context.kv_block_stride;
  out.block_table = row.block_table;
  out.num_context = row.num_context;
  out.num_new = row.num_new;
  return out;
}

namespace {

// Chunks that a row's new tokens can see.
struct Chunks {
  std::int64_t begin, end;
};
Chunks chunks_of(const StepRow& row, std::int64_t window) {
  std::int64_t first = 0;
  if (window > 0 && row.num_context >= window) first = row.num_context - window + 1;
  return {first / kChunkTokens, (row.num_context + row.num_new - 1) / kChunkTokens + 1};
}

}  // namespace

// Whether rows are too few for the threads, and their contexts long enough to be parted.
bool Attention::splits_context(const StepContext& context, int num_threads) const {
  const std::int64_t kv_heads = spec_.place.kv_heads, group = spec_.num_heads / kv_heads;
  const std::vector<StepRow>& rows = context.step.rows;
  if (num_threads == 1 || static_cast<std::int64_t>(rows.size()) * kv_heads >= 4 * num_threads) return false;
  std::int64_t most = 0, floats = 0;
  for (const StepRow& row : rows) {
    if (row.num_new > queries_per_item(group, spec_.place.key_dim)) return false;
    const Chunks chunks = chunks_of(row, spec_.place.window);
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
  const std::int64_t kv_heads = spec_.place.kv_heads;
  std::int64_t begin, end;
  worker.share(static_cast<std::int64_t>(context.step.rows.size()) * kv_heads, begin, end);
  const auto item = [&](std::int64_t i) {
    return args(context, context.step.rows[static_cast<std::size_t>(i / kv_heads)], i % kv_heads);
  };
  for (std::int64_t i = begin; i < end; i++) {
    if (i + 1 < end) context.kernels.prefetch_context(item(i + 1));
    context.kernels.attend(item(i), 0, 1, worker.scratch);
  }
}

void Attention::run_whole(const StepContext& context, Worker& worker) {
  const std::int64_t kv_heads = spec_.place.kv_heads;
  const std::int64_t queries = queries_per_item(spec_.num_heads / kv_heads, spec_.place.key_dim);
  std::int64_t item = next_item.fetch_add(1, std::memory_order_relaxed), first = 0;
  for (const StepRow& row : context.step.rows) {
    const std::int64_t blocks = (row.num_new + queries - 1) / queries;
    for (; item < first + blocks * kv_heads; item = next_item.fetch_add(1, std::memory_order_relaxed)) {
      // Last queries first: they see most, and short items at the end even the threads out.
      const std::int64_t block = blocks - 1 - (item - first) / kv_heads;
      context.kernels.attend(args(context, row, (item - first) % kv_heads), block * queries,
                             std::min((block + 1) * queries, row.num_new), worker.scratch);
    }
    first += blocks * kv_heads;
  }
}

void Attention::run_split(const StepContext& context, Worker& worker) const {
  const std::int64_t kv_heads = spec_.place.kv_heads, group = spec_.num_heads / kv_heads;
  const std::int64_t stride = ridgeline::partial_floats(spec_.place.value_dim);
  std::int64_t total = 0;
  for (const StepRow& row : context.step.rows) {
    const Chunks chunks = chunks_of(row, spec_.place.window);
    total += (chunks.end - chunks.begin) * kv_heads;
  }
  std::int64_t begin, end;
  worker.share(total, begin, end);
  std::int64_t first = 0;
  float* partials = context.partials;
  for (const StepRow& row : context.step.rows) {
    const Chunks chunks = chunks_of(row, spec_.place.window);
    const std::int64_t count = chunks.end - chunks.begin, floats = row.num_new * group * stride;
    for (std::int64_t i = std::max(begin - first, std::int64_t{0}); i < std::min(end - first, count * kv_heads); i++)
      context.kernels.attend_chunk(args(context, row, i / count), 0, row.num_new, chunks.begin + i % count,
                                   partials + i * floats, worker.scratch);
    first += count * kv_heads;
    partials += count * kv_heads * floats;
  }
  worker.barrier();
  std::int64_t item = 0;
  partials = context.partials;
  for (const StepRow& row : context.step.rows) {
    const Chunks chunks = chunks_of(row, spec_.place.window);
    const std::int64_t floats = (chunks.end - chunks.begin) * row.num_new * group * stride;
    for (std::int64_t kv_head = 0; kv_head < kv_heads; kv_head++, item++, partials += floats)
      if (item % worker.num_threads == worker.thread)
        context.kernels.merge_chunks(args(context, row, kv_head), 0, row.num_new, chunks.begin, chunks.end, partials,
                                     worker.scratch);
  }
}

}  // namespace ridgeline
