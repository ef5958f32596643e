#include "operators_linear.h"

#include <algorithm>
#include <utility>

namespace ridgeline {
namespace {

// Up to this many rows a step is bound by reading weights: each thread reads long contiguous runs of them.
constexpr std::int64_t kStaticRows = 8;

// Rows that an item has at most: their activations stay in a thread's L2 while weights pass by. Fewer than the least would
// make widening the weights' codes dear, and all parts read all weights.
constexpr std::int64_t kPartRows = 288, kLeastPartRows = 128;

// Activations of a part that stay in L2 while all of K passes; where there are more, items have several strips.
constexpr std::int64_t kPartBytes = 1 << 20, kMostStrips = 8, kItemsPerThread = 4;

// Channels of a gated linear that an item of many rows computes: a block of activations.
constexpr std::int64_t kGatedChannels = 64;

// As far as a kernel asks ahead of one row: the first of a run's weights, which it does not ask for itself.
constexpr std::int64_t kAheadBytes = 8192;

std::size_t strip_bytes(const Kernels& kernels, const LinearPart& part) {
  return kernels.packed_bytes(part.matrix.layout, kStripChannels, part.matrix.k);
}

// Weights that both threads can read for little.
constexpr std::size_t kSharedBytes = 3 << 19;

// The row parts of a step. Items are ordered by part, so that a thread's own run of them has its own rows. Two threads have
// rows of their own from fewer on where weights are few: what operators hand on stays in a thread's caches.
struct RowParts {
  std::int64_t rows, count;

  RowParts(const StepContext& context, const LinearPart& part, std::int64_t rows, int threads)
      : rows(rows),
        count(std::max({std::int64_t{1}, (rows + kPartRows - 1) / kPartRows,
                        std::min<std::int64_t>(threads, rows / least(context, part, threads))})) {}
  std::int64_t begin(std::int64_t part) const { return rows * part / count; }
  std::int64_t end(std::int64_t part) const { return rows * (part + 1) / count; }

 private:
  static std::int64_t least(const StepContext& context, const LinearPart& part, int threads) {
    const bool is_float = part.kind == ActivationKind::bf16 || part.kind == ActivationKind::f32;
    const PackedMatrix& matrix = part.matrix;
    const bool is_small = context.kernels.packed_bytes(matrix.layout, matrix.n, matrix.k) <= kSharedBytes;
    return threads == 2 && !is_float && is_small ? context.kernels.least_own_rows : kLeastPartRows;
  }
};

}  // namespace

void ask_for_weights(const std::byte* first, std::int64_t rows) {
  const std::int64_t bytes = rows > 1 ? 2 * kAheadBytes : kAheadBytes;
  for (std::int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(first + i, 0, 2);
}

PackedMatrix from_strip(const Kernels& kernels, const PackedMatrix& matrix, std::int64_t strip) {
  PackedMatrix out = matrix;
  out.n -= strip * kStripChannels;
  out.data += kernels.packed_bytes(matrix.layout, strip * kStripChannels, matrix.k);
  return out;
}

LinearInput::LinearInput(View x, const std::vector<LinearPart>& parts) : x_(x) {
  for (const LinearPart& part : parts)
    if (std::find(kinds_.begin(), kinds_.end(), part.kind) == kinds_.end()) kinds_.push_back(part.kind);
}

std::size_t LinearInput::shared_bytes(const Kernels& kernels) const {
  std::size_t total = 0;
  if (x_.kind) return total;
  for (const ActivationKind kind : kinds_) total += aligned(kernels.activation_row_bytes(kind, x_.width));
  return total;
}

// In the shared activations kind lies after kind, each [rows, activation_row_bytes].
const std::byte* LinearInput::at(const StepContext& context, ActivationKind kind, std::int64_t row) const {
  if (x_.kind) return context.activations_at(x_, row);
  const std::byte* out = context.activations;
  for (const ActivationKind each : kinds_) {
    const std::size_t row_bytes = context.kernels.activation_row_bytes(each, x_.width);
    if (each == kind) return out + static_cast<std::size_t>(row) * row_bytes;
    out += aligned(static_cast<std::size_t>(context.rows(x_)) * row_bytes);
  }
  return nullptr;
}

void LinearInput::quantize(const StepContext& context, std::int64_t begin, std::int64_t end) const {
  const std::int64_t rows = context.rows(x_);
  std::byte* out = context.activations;
  for (const ActivationKind kind : kinds_) {
    const std::size_t row_bytes = context.kernels.activation_row_bytes(kind, x_.width);
    context.kernels.quantize_rows(kind, context.at(x_) + begin * x_.ld, x_.ld, end - begin, x_.width,
                                  out + static_cast<std::size_t>(begin) * row_bytes, row_bytes);
    out += aligned(static_cast<std::size_t>(rows) * row_bytes);
  }
}

void LinearInput::prepare(const StepContext& context, Worker& worker) const {
  if (x_.kind) return;
  worker.runs(context.rows(x_), [&](std::int64_t begin, std::int64_t end) { quantize(context, begin, end); });
  worker.barrier();
}

Linear::Linear(std::string name, View x, View y, std::vector<LinearPart> parts)
    : Operator(std::move(name), "linear"), x_(x, parts), y_(y), parts_(std::move(parts)) {
  for (const LinearPart& part : parts_) num_strips_ += part.matrix.num_strips();
}

std::int64_t Linear::row_bytes(const Kernels& kernels) const {
  std::size_t most = 0;
  for (const LinearPart& part : parts_)
    most = std::max(most, kernels.activation_row_bytes(part.kind, part.matrix.k));
  return static_cast<std::int64_t>(most);
}

void Linear::multiply(const StepContext& context, Worker& worker, std::int64_t strip_begin, std::int64_t strip_end,
                      std::int64_t row_begin, std::int64_t row_end) const {
  std::int64_t first = 0;
  for (const LinearPart& part : parts_) {
    const std::int64_t strips = part.matrix.num_strips();
    const std::int64_t begin = std::max<std::int64_t>(strip_begin - first, 0);
    const std::int64_t end = std::min(strip_end - first, strips);
    first += strips;
    if (begin < end)
      context.kernels.linear(part.matrix, part.kind, x_.at(context, part.kind, row_begin), row_end - row_begin, begin,
                             end, part.bias, context.at(y_) + row_begin * y_.ld + part.column, y_.ld, worker.scratch,
                             worker.beside);
  }
}

void Linear::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.rows(y_);
  if (rows == 0) return;
  x_.prepare(context, worker);
  if (rows <= kStaticRows) {
    return worker.stretches(num_strips_, strip_bytes(context.kernels, parts_.front()),
                            [&](std::int64_t begin, std::int64_t end) { multiply(context, worker, begin, end, 0, rows); });
  }
  const RowParts parts(context, parts_.front(), rows, worker.num_threads);
  // Where a part's activations outgrow a thread's L2, an item has more strips: a kernel takes them a stretch of K at a time.
  const std::int64_t part_bytes = (rows + parts.count - 1) / parts.count * row_bytes(context.kernels);
  const std::int64_t most = std::max<std::int64_t>(1, parts.count * num_strips_ / (kItemsPerThread * worker.num_threads));
  const std::int64_t strips = part_bytes <= kPartBytes ? 1 : std::min(most, kMostStrips);
  const std::int64_t each = (num_strips_ + strips - 1) / strips;
  worker.each(parts.count * each, [&](std::int64_t item) {
    const std::int64_t part = item / each, strip = item % each * strips;
    multiply(context, worker, strip, std::min(strip + strips, num_strips_), parts.begin(part), parts.end(part));
  });
}

void Linear::ask_ahead(const StepContext& context, int thread, int num_threads) const {
  const std::int64_t rows = context.rows(y_);
  std::int64_t strip = RowParts(context, parts_.front(), rows, num_threads).count > 1 ? 0 : num_strips_ * thread / num_threads;
  for (const LinearPart& part : parts_) {
    if (strip < part.matrix.num_strips()) return ask_for_weights(from_strip(context.kernels, part.matrix, strip).data, rows);
    strip -= part.matrix.num_strips();
  }
}

GatedLinear::GatedLinear(std::string name, View x, View y, std::vector<LinearPart> parts, Activation activation)
    : Operator(std::move(name), "gated_linear"),
      x_(x, parts),
      y_(y),
      parts_(std::move(parts)),
      activation_(activation) {}

namespace {

// Both halves of an item's channels; the second may begin within a strip.
constexpr std::int64_t tile_width(std::int64_t channels) { return 2 * channels + kStripChannels; }

}  // namespace

std::size_t GatedLinear::scratch_bytes(const Kernels& kernels) const {
  const std::int64_t floats =
      std::max(kPartRows * tile_width(kGatedChannels), kStaticRows * tile_width(y_.width + kStripChannels));
  return aligned(kernels.linear_scratch_bytes()) + static_cast<std::size_t>(floats) * sizeof(float);
}

// Channels [first, first + count) of a part into `out`, from the column that is returned on.
std::int64_t GatedLinear::half(const StepContext& context, Worker& worker, const LinearPart& part, std::int64_t first,
                               std::int64_t count, std::int64_t row_begin, std::int64_t rows, float* out,
                               std::int64_t ldo) const {
  const std::int64_t strip = first / kStripChannels, shift = first % kStripChannels;
  PackedMatrix matrix = from_strip(context.kernels, part.matrix, strip);
  matrix.n = std::min(matrix.n, shift + count);
  context.kernels.linear(matrix, part.kind, x_.at(context, part.kind, row_begin), rows, 0, matrix.num_strips(),
                         part.bias ? part.bias + strip * kStripChannels : nullptr, out, ldo, worker.scratch, worker.beside);
  return shift;
}

void GatedLinear::item(const StepContext& context, Worker& worker, std::int64_t row_begin, std::int64_t row_end,
                       std::int64_t channel_begin, std::int64_t channel_end) const {
  const std::int64_t rows = row_end - row_begin, channels = channel_end - channel_begin;
  const std::int64_t padded = (channels + kStripChannels - 1) / kStripChannels * kStripChannels;
  const std::int64_t ld = 2 * padded + kStripChannels;
  float* gate = reinterpret_cast<float*>(worker.scratch + aligned(context.kernels.linear_scratch_bytes()));
  float* up = gate + padded;
  const std::int64_t first = parts_.size() == 1 ? y_.width + channel_begin : channel_begin;
  const PackedMatrix second = from_strip(context.kernels, parts_.back().matrix, first / kStripChannels);
  ask_for_weights(second.data, 1);
  half(context, worker, parts_.front(), channel_begin, channels, row_begin, rows, gate, ld);
  up += half(context, worker, parts_.back(), first, channels, row_begin, rows, up, ld);
  float* y = gate;
  std::int64_t ldy = ld;
  if (!y_.kind) {
    y = context.at(y_) + row_begin * y_.ld + channel_begin;
    ldy = y_.ld;
  }
  context.kernels.gated_rows(activation_, gate, ld, up, ld, y, ldy, rows, channels);
  if (y_.kind) context.store(y_, y, ldy, row_begin, rows, channel_begin, channels);
}

void GatedLinear::ask_ahead(const StepContext& context, int thread, int num_threads) const {
  const std::int64_t rows = context.rows(y_), blocks = (y_.width + kGatedChannels - 1) / kGatedChannels;
  const std::int64_t block = RowParts(context, parts_.front(), rows, num_threads).count > 1 ? 0 : blocks * thread / num_threads;
  const std::int64_t strip = block * kGatedChannels / kStripChannels;
  if (strip < parts_.front().matrix.num_strips())
    ask_for_weights(from_strip(context.kernels, parts_.front().matrix, strip).data, rows);
}

void GatedLinear::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.rows(y_);
  if (rows == 0) return;
  x_.prepare(context, worker);
  const std::int64_t blocks = (y_.width + kGatedChannels - 1) / kGatedChannels;
  if (rows <= kStaticRows) {
    const std::size_t block_bytes = 2 * kGatedChannels / kStripChannels * strip_bytes(context.kernels, parts_.front());
    return worker.stretches(blocks, block_bytes, [&](std::int64_t begin, std::int64_t end) {
      item(context, worker, 0, rows, begin * kGatedChannels, std::min(end * kGatedChannels, y_.width));
    });
  }
  const RowParts parts(context, parts_.front(), rows, worker.num_threads);
  worker.each(parts.count * blocks, [&](std::int64_t index) {
    const std::int64_t part = index / blocks, channel = index % blocks * kGatedChannels;
    item(context, worker, parts.begin(part), parts.end(part), channel,
         std::min(channel + kGatedChannels, y_.width));
  });
}

}  // namespace ridgeline
