#include "operators_streams.h"

#include <algorithm>
#include <utility>

namespace ridgeline {
namespace {

// Rows that an item has at most: as in operators_linear.cpp.
constexpr std::int64_t kPartRows = 288;
// Columns of an item of a mix.
constexpr std::int64_t kMixColumns = 512;

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
                   context.at(y_) + begin * y_.ld + block * n, y_.ld, worker.scratch);
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

MatchSize::MatchSize(std::string name, View x, View like, View y, float floor)
    : Operator(std::move(name), "match_size"), x_(x), like_(like), y_(y), floor_(floor) {}

void MatchSize::run(const StepContext& context, Worker& worker) {
  std::int64_t begin, end;
  worker.share(context.rows(y_), begin, end);
  context.kernels.match_rows(floor_, context.at(x_) + begin * x_.ld, x_.ld, context.at(like_) + begin * like_.ld,
                             like_.ld, context.at(y_) + begin * y_.ld, y_.ld, end - begin, y_.width);
}

ScaleColumns::ScaleColumns(std::string name, View x, View y, const float* factors)
    : Operator(std::move(name), "scale_by"), x_(x), y_(y), factors_(factors) {}

void ScaleColumns::run(const StepContext& context, Worker& worker) {
  std::int64_t begin, end;
  worker.share(context.rows(y_), begin, end);
  context.kernels.gated_rows(Activation::identity, factors_, 0, context.at(x_) + begin * x_.ld, x_.ld,
                             context.at(y_) + begin * y_.ld, y_.ld, end - begin, y_.width);
}

KeepLargest::KeepLargest(std::string name, View x, View y, float z)
    : Operator(std::move(name), "keep_largest"), x_(x), y_(y), z_(z) {}

void KeepLargest::run(const StepContext& context, Worker& worker) {
  std::int64_t begin, end;
  worker.share(context.rows(y_), begin, end);
  context.kernels.keep_rows(z_, context.at(x_) + begin * x_.ld, x_.ld, context.at(y_) + begin * y_.ld, y_.ld,
                            end - begin, y_.width);
}

}  // namespace ridgeline
