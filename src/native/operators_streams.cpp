#include "operators_streams.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace ridgeline {
namespace {

// Rows that an item has at most: as in operators_linear.cpp.
constexpr std::int64_t kPartRows = 288;
// Columns of an item of a mix, and rows of one of what streams are mixed by.
constexpr std::int64_t kMixColumns = 512, kWeighedRows = 16;

// In a fixed order, sixteen sums side by side.
float sum_of_squares(const float* x, std::int64_t count) {
  float sums[16] = {};
  std::int64_t i = 0;
  for (; i + 16 <= count; i += 16)
    for (std::int64_t j = 0; j < 16; j++) sums[j] += x[i + j] * x[i + j];
  for (std::int64_t j = 0; i + j < count; j++) sums[j] += x[i + j] * x[i + j];
  float total = 0;
  for (const float each : sums) total += each;
  return total;
}

float sigmoid_of(float x) { return 1.0f / (1.0f + std::exp(-x)); }

}  // namespace

BlockLinear::BlockLinear(std::string name, View x, View y, std::vector<Block> blocks)
    : Operator(std::move(name), "block_linear"), x_(x), y_(y), blocks_(std::move(blocks)) {}

std::size_t BlockLinear::scratch_bytes(const Kernels& kernels) const {
  const PackedMatrix& matrix = blocks_.front().matrix;
  const std::size_t row = kernels.activation_row_bytes(kernels.activation_of(matrix.layout), matrix.k);
  return aligned(kernels.linear_scratch_bytes()) + static_cast<std::size_t>(kPartRows) * row;
}

void BlockLinear::run(const StepContext& context, Worker& worker) {
  const Kernels& kernels = context.kernels;
  const std::int64_t rows = context.rows(y_), blocks = static_cast<std::int64_t>(blocks_.size());
  const std::int64_t k = x_.width / blocks, n = y_.width / blocks, parts = (rows + kPartRows - 1) / kPartRows;
  const ActivationKind kind = context.kernels.activation_of(blocks_.front().matrix.layout);
  const std::size_t row_bytes = kernels.activation_row_bytes(kind, k);
  std::byte* activations = worker.scratch + aligned(kernels.linear_scratch_bytes());
  worker.each(parts * blocks, [&](std::int64_t item) {
    const std::int64_t part = item / blocks, block = item % blocks;
    const std::int64_t begin = rows * part / parts, count = rows * (part + 1) / parts - begin;
    const auto& [matrix, bias] = blocks_[static_cast<std::size_t>(block)];
    kernels.quantize_rows(kind, context.at(x_) + begin * x_.ld + block * k, x_.ld, count, k, activations, row_bytes);
    kernels.linear(matrix, kind, activations, count, 0, matrix.num_strips(), bias,
                   context.at(y_) + begin * y_.ld + block * n, y_.ld, worker.scratch, worker.beside);
  });
}

Mix::Mix(std::string name, std::vector<View> x, View numbers, std::vector<View> y, float offset)
    : Operator(std::move(name), "mix"), x_(std::move(x)), y_(std::move(y)), numbers_(numbers), offset_(offset) {}

void Mix::run(const StepContext& context, Worker& worker) {
  const std::int64_t width = x_.front().width, parts = (width + kMixColumns - 1) / kMixColumns;
  worker.each(context.rows(numbers_) * parts, [&](std::int64_t item) {
    const std::int64_t row = item / parts, column = item % parts * kMixColumns;
    MixArgs args{};
    args.inputs = static_cast<int>(x_.size());
    args.outputs = static_cast<int>(y_.size());
    args.offset = offset_;
    args.numbers = context.at(numbers_) + row * numbers_.ld;
    for (std::size_t j = 0; j < x_.size(); j++) args.x[j] = context.at(x_[j]) + row * x_[j].ld + column;
    for (std::size_t i = 0; i < y_.size(); i++) args.y[i] = context.at(y_[i]) + row * y_[i].ld + column;
    context.kernels.mix_rows(args, 1, std::min(kMixColumns, width - column));
  });
}

StreamWeights::StreamWeights(std::string name, Spec spec)
    : Operator(std::move(name), "stream_weights"), spec_(std::move(spec)) {}

std::size_t StreamWeights::scratch_bytes(const Kernels& kernels) const {
  const PackedMatrix& matrix = spec_.matrices.front();
  const std::size_t row = kernels.activation_row_bytes(kernels.activation_of(matrix.layout), matrix.k);
  return aligned(kernels.linear_scratch_bytes()) + aligned(static_cast<std::size_t>(kWeighedRows) * row) +
         static_cast<std::size_t>(2 * kWeighedRows * matrix.n) * sizeof(float);
}

void StreamWeights::run(const StepContext& context, Worker& worker) {
  const Kernels& kernels = context.kernels;
  const PackedMatrix& shape = spec_.matrices.front();
  const std::int64_t rows = context.rows(spec_.one), width = shape.k, n = shape.n;
  const ActivationKind kind = kernels.activation_of(shape.layout);
  const std::size_t row_bytes = kernels.activation_row_bytes(kind, width);
  std::byte* activations = worker.scratch + aligned(kernels.linear_scratch_bytes());
  float* part = reinterpret_cast<float*>(activations + aligned(static_cast<std::size_t>(kWeighedRows) * row_bytes));
  float* sums = part + kWeighedRows * n;
  worker.each((rows + kWeighedRows - 1) / kWeighedRows, [&](std::int64_t item) {
    const std::int64_t begin = item * kWeighedRows, count = std::min(kWeighedRows, rows - begin);
    float squares[kWeighedRows] = {};
    for (std::size_t j = 0; j < spec_.x.size(); j++) {
      const float* x = context.at(spec_.x[j]) + begin * spec_.x[j].ld;
      for (std::int64_t r = 0; r < count; r++) squares[r] += sum_of_squares(x + r * spec_.x[j].ld, width);
      kernels.quantize_rows(kind, x, spec_.x[j].ld, count, width, activations, row_bytes);
      const PackedMatrix& matrix = spec_.matrices[j];
      kernels.linear(matrix, kind, activations, count, 0, matrix.num_strips(), nullptr, j ? part : sums, n,
                     worker.scratch, worker.beside);
      for (std::int64_t i = 0; j > 0 && i < count * n; i++) sums[i] += part[i];
    }
    const float total = static_cast<float>(width * static_cast<std::int64_t>(spec_.x.size()));
    for (std::int64_t r = 0; r < count; r++) {
      float* y = sums + r * n;
      const float factor = 1.0f / std::sqrt(squares[r] / total + spec_.eps);
      for (std::int64_t i = 0; i < n; i++) y[i] *= factor;
      weigh(y, context.at(spec_.one) + (begin + r) * spec_.one.ld,
            spec_.last ? nullptr : context.at(spec_.again) + (begin + r) * spec_.again.ld);
    }
  });
}

// y: W x / rms of one row.
void StreamWeights::weigh(const float* y, float* one, float* again) const {
  const std::int64_t n = static_cast<std::int64_t>(spec_.x.size());
  for (std::int64_t i = 0; i < n; i++) one[i] = sigmoid_of(y[i] * spec_.scales[0] + spec_.bias[i]) + spec_.floor;
  if (spec_.last) return;
  float c[kMaxStreams * kMaxStreams];
  for (std::int64_t i = 0; i < n; i++) {
    float* row = c + i * n;
    float most = -INFINITY, sum = 0;
    for (std::int64_t j = 0; j < n; j++) {
      const std::int64_t at = 2 * n + i * n + j;
      row[j] = y[at] * spec_.scales[2] + spec_.bias[at];
      most = std::max(most, row[j]);
    }
    for (std::int64_t j = 0; j < n; j++) sum += row[j] = std::exp(row[j] - most);
    for (std::int64_t j = 0; j < n; j++) row[j] = row[j] / sum + spec_.floor;
  }
  for (std::int64_t turn = 0; turn < spec_.iterations; turn++) {
    for (std::int64_t i = 0; turn > 0 && i < n; i++) {
      float sum = spec_.floor;
      for (std::int64_t j = 0; j < n; j++) sum += c[i * n + j];
      for (std::int64_t j = 0; j < n; j++) c[i * n + j] /= sum;
    }
    for (std::int64_t j = 0; j < n; j++) {
      float sum = spec_.floor;
      for (std::int64_t i = 0; i < n; i++) sum += c[i * n + j];
      for (std::int64_t i = 0; i < n; i++) c[i * n + j] /= sum;
    }
  }
  for (std::int64_t k = 0; k < n; k++) {
    for (std::int64_t j = 0; j < n; j++) again[k * (n + 1) + j] = c[j * n + k];
    again[k * (n + 1) + n] = 2.0f * sigmoid_of(y[n + k] * spec_.scales[1] + spec_.bias[n + k]);
  }
}

MatchSize::MatchSize(std::string name, View x, View like, View y, float floor)
    : Operator(std::move(name), "match_size"), x_(x), like_(like), y_(y), floor_(floor) {}

void MatchSize::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    context.kernels.match_rows(floor_, context.at(x_) + begin * x_.ld, x_.ld, context.at(like_) + begin * like_.ld,
                               like_.ld, context.at(y_) + begin * y_.ld, y_.ld, end - begin, y_.width);
  });
}

ScaleColumns::ScaleColumns(std::string name, View x, View y, const float* factors)
    : Operator(std::move(name), "scale_by"), x_(x), y_(y), factors_(factors) {}

void ScaleColumns::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    context.kernels.gated_rows(Activation::identity, factors_, 0, context.at(x_) + begin * x_.ld, x_.ld,
                               context.at(y_) + begin * y_.ld, y_.ld, end - begin, y_.width);
  });
}

KeepLargest::KeepLargest(std::string name, View x, View y, float z)
    : Operator(std::move(name), "keep_largest"), x_(x), y_(y), z_(z) {}

void KeepLargest::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    context.kernels.keep_rows(z_, context.at(x_) + begin * x_.ld, x_.ld, context.at(y_) + begin * y_.ld, y_.ld,
                              end - begin, y_.width);
  });
}

Xielu::Xielu(std::string name, View x, View y, float positive, float negative)
    : Operator(std::move(name), "xielu"), x_(x), y_(y), positive_(positive), negative_(negative) {}

void Xielu::run(const StepContext& context, Worker& worker) {
  const std::int64_t parts = (y_.width + kMixColumns - 1) / kMixColumns;
  worker.each(context.rows(y_) * parts, [&](std::int64_t item) {
    const std::int64_t row = item / parts, column = item % parts * kMixColumns;
    context.kernels.xielu_rows(positive_, negative_, context.at(x_) + row * x_.ld + column, x_.ld,
                               context.at(y_) + row * y_.ld + column, y_.ld, 1,
                               std::min(kMixColumns, y_.width - column));
  });
}

}  // namespace ridgeline
