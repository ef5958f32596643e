#include "operators.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace ridgeline {
namespace {

// f(block) for parts of a rows x cols grid: rows if there are enough for all threads, else columns in steps of 64.
struct Block {
  std::int64_t row_begin, row_end, col_begin, col_end;
};
template <class F>
void each_block(Worker& worker, std::int64_t rows, std::int64_t cols, F f) {
  if (rows >= 2 * worker.num_threads) {
    worker.runs(rows, [&](std::int64_t begin, std::int64_t end) { f(Block{begin, end, 0, cols}); });
  } else if (rows > 0) {
    worker.runs((cols + 63) / 64, [&](std::int64_t begin, std::int64_t end) {
      f(Block{0, rows, begin * 64, std::min(end * 64, cols)});
    });
  }
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
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; r++) {
      float* out = context.at(y_) + r * y_.ld;
      const std::size_t id = static_cast<std::size_t>(context.step.token_ids[static_cast<std::size_t>(r)]);
      context.kernels.decode_row(format_.c_str(), table_ + id * row_bytes_, y_.width, out);
      if (scale_ != 1.0f) context.kernels.scale_rows(scale_, out, y_.ld, out, y_.ld, 1, y_.width);
    }
  });
}

PositionEmbed::PositionEmbed(std::string name, View y, LookupTable table, std::int64_t first)
    : Operator(std::move(name), "position_embed"), y_(y), table_(std::move(table)), first_(first) {}

void PositionEmbed::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (const StepRow& row : context.step.rows) {
      const std::int64_t last = std::min(end, row.token_begin + row.num_new);
      for (std::int64_t t = std::max(begin, row.token_begin); t < last; t++)
        table_.row(context.kernels, first_ + row.num_context + t - row.token_begin, y_.width,
                   context.at(y_) + t * y_.ld);
    }
  });
}

TypeEmbed::TypeEmbed(std::string name, View y, LookupTable table, std::int32_t separator)
    : Operator(std::move(name), "type_embed"), y_(y), table_(std::move(table)), separator_(separator) {}

void TypeEmbed::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (const StepRow& row : context.step.rows) {
      const std::int64_t last = std::min(end, row.token_begin + row.num_new);
      std::int64_t type = 0;
      for (std::int64_t t = row.token_begin; t < last; t++) {
        if (t >= begin) table_.row(context.kernels, type, y_.width, context.at(y_) + t * y_.ld);
        if (context.step.token_ids[static_cast<std::size_t>(t)] == separator_)
          type = std::min(type + 1, table_.rows - 1);
      }
    }
  });
}

// ---- norm

Norm::Norm(std::string name, View x, View y, NormArgs args)
    : Operator(std::move(name), "norm"), x_(x), y_(y), args_(args) {}

// A row as floats, on its way to activations.
std::size_t Norm::scratch_bytes(const Kernels&) const {
  return y_.kind ? static_cast<std::size_t>(y_.width) * sizeof(float) : 0;
}

void Norm::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(x_), [&](std::int64_t begin, std::int64_t end) {
    const float* x = context.at(x_) + begin * x_.ld;
    if (!y_.kind) return context.kernels.norm(args_, x, x_.ld, context.at(y_) + begin * y_.ld, y_.ld, end - begin);
    float* y = reinterpret_cast<float*>(worker.scratch);
    for (std::int64_t r = begin; r < end; r++, x += x_.ld) {
      context.kernels.norm(args_, x, x_.ld, y, y_.width, 1);
      context.store(y_, y, y_.width, r, 1, 0, y_.width);
    }
  });
}

namespace {

// Asks for two rows: they come from memory or another core's cache, and one row's sums are too short to hide that.
void prefetch(const float* a, const float* b, std::int64_t width) {
  for (std::int64_t i = 0; i < width; i += 16) {
    __builtin_prefetch(a + i);
    __builtin_prefetch(b + i);
  }
}

}  // namespace

AddNorm::AddNorm(std::string name, View a, View b, View total, View y, NormArgs args)
    : Operator(std::move(name), "add_norm"), a_(a), b_(b), total_(total), y_(y), args_(args) {}

std::size_t AddNorm::scratch_bytes(const Kernels&) const {
  return y_.kind ? static_cast<std::size_t>(y_.width) * sizeof(float) : 0;
}

void AddNorm::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.rows(a_);
  worker.runs(rows, [&](std::int64_t begin, std::int64_t end) {
    const float *a = context.at(a_) + begin * a_.ld, *b = context.at(b_) + begin * b_.ld;
    float* total = context.at(total_) + begin * total_.ld;
    if (!y_.kind)
      return context.kernels.add_norm(args_, a, a_.ld, b, b_.ld, total, total_.ld, context.at(y_) + begin * y_.ld,
                                      y_.ld, end - begin);
    float* y = reinterpret_cast<float*>(worker.scratch);
    for (std::int64_t r = begin; r < end; r++, a += a_.ld, b += b_.ld, total += total_.ld) {
      if (r + 1 < rows) prefetch(a + a_.ld, b + b_.ld, y_.width);
      context.kernels.add_norm(args_, a, a_.ld, b, b_.ld, total, total_.ld, y, y_.width, 1);
      context.store(y_, y, y_.width, r, 1, 0, y_.width);
    }
  });
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
  const Kernels& kernels = context.kernels;
  each_block(worker, context.rows(y_), y_.width, [&](const Block& block) {
    const std::int64_t rows = block.row_end - block.row_begin, cols = block.col_end - block.col_begin;
    const auto at = [&](const View& view) { return context.at(view) + block.row_begin * view.ld + block.col_begin; };
    switch (kind_) {
      case Kind::add:
        return kernels.add_rows(at(a_), a_.ld, at(b_), b_.ld, at(y_), y_.ld, rows, cols);
      case Kind::scale:
        return kernels.scale_rows(number_, at(a_), a_.ld, at(y_), y_.ld, rows, cols);
      case Kind::softcap:
        return kernels.softcap_rows(number_, at(a_), a_.ld, at(y_), y_.ld, rows, cols);
      case Kind::weigh: {  // b is one number for each equal run of a row's columns
        const std::int64_t run = y_.width / b_.width;
        for (std::int64_t g = block.col_begin / run; g * run < block.col_end; g++) {
          const std::int64_t begin = std::max(block.col_begin, g * run), end = std::min(block.col_end, (g + 1) * run);
          kernels.weigh_rows(context.at(a_) + block.row_begin * a_.ld + begin, a_.ld,
                             context.at(b_) + block.row_begin * b_.ld + g, b_.ld,
                             context.at(y_) + block.row_begin * y_.ld + begin, y_.ld, rows, end - begin);
        }
        return;
      }
      case Kind::gate:
        return kernels.gated_rows(activation_, at(a_), a_.ld, at(b_), b_.ld, at(y_), y_.ld, rows, cols);
      case Kind::activate:
        return kernels.activate_rows(activation_, at(a_), a_.ld, at(y_), y_.ld, rows, cols);
    }
  });
}

ScaleByPosition::ScaleByPosition(std::string name, View x, View y, Spec spec)
    : Operator(std::move(name), "scale_by_position"), x_(x), y_(y), spec_(spec) {}

void ScaleByPosition::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (const StepRow& row : context.step.rows) {
      const std::int64_t last = std::min(end, row.token_begin + row.num_new);
      for (std::int64_t t = std::max(begin, row.token_begin); t < last; t++) {
        const auto position = static_cast<double>(row.num_context + t - row.token_begin + spec_.first);
        const double factor = 1.0 + spec_.beta * std::log1p(std::floor(position / spec_.period));
        context.kernels.scale_rows(static_cast<float>(factor), context.at(x_) + t * x_.ld, x_.ld,
                                   context.at(y_) + t * y_.ld, y_.ld, 1, y_.width);
      }
    }
  });
}

Pool::Pool(std::string name, View x, View y, bool mean)
    : Operator(std::move(name), "pool"), x_(x), y_(y), mean_(mean) {}

// A run is some columns of all sequences; a sequence's tokens are added in their order.
void Pool::run(const StepContext& context, Worker& worker) {
  const Kernels& kernels = context.kernels;
  worker.runs((y_.width + 63) / 64, [&](std::int64_t block, std::int64_t end) {
    const std::int64_t begin = block * 64, columns = std::min(end * 64, y_.width) - begin;
    for (const StepRow& row : context.step.rows) {
      if (row.num_logits == 0) continue;
      const float* x = context.at(x_) + row.token_begin * x_.ld + begin;
      float* y = context.at(y_) + row.sampled_begin * y_.ld + begin;
      std::memcpy(y, x, static_cast<std::size_t>(columns) * sizeof(float));
      if (!mean_) continue;
      for (std::int64_t t = 1; t < row.num_new; t++)
        kernels.add_rows(y, y_.ld, x + t * x_.ld, x_.ld, y, y_.ld, 1, columns);
      kernels.scale_rows(1.0f / static_cast<float>(row.num_new), y, y_.ld, y, y_.ld, 1, columns);
    }
  });
}

SelectRows::SelectRows(std::string name, View x, View y) : Operator(std::move(name), "select_rows"), x_(x), y_(y) {}

void SelectRows::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; r++) {
      const float* x = context.at(x_) + context.step.sampled[static_cast<std::size_t>(r)] * x_.ld;
      if (y_.kind) {
        context.store(y_, x, x_.ld, r, 1, 0, y_.width);
      } else {
        std::memcpy(context.at(y_) + r * y_.ld, x, static_cast<std::size_t>(y_.width) * sizeof(float));
      }
    }
  });
}

}  // namespace ridgeline
