#include "operators.h"

#include <algorithm>
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

}  // namespace ridgeline
