#include "operators_conv1d.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace ridgeline {
namespace {

// Frames that an item makes: their gathered inputs stay in a thread's cache while the weights pass by.
constexpr std::int64_t kItemFrames = 96;

}  // namespace

Conv1d::Conv1d(std::string name, Spec spec) : Operator(std::move(name), "conv1d"), spec_(std::move(spec)) {}

std::size_t Conv1d::scratch_bytes(const Kernels& kernels) const {
  const std::int64_t k = spec_.taps * spec_.channels;
  const std::size_t row = kernels.activation_row_bytes(kernels.activation_of(spec_.matrix.layout), k);
  return aligned(kernels.linear_scratch_bytes()) + kItemFrames * row +
         aligned(static_cast<std::size_t>(kItemFrames * k) * sizeof(float)) +
         static_cast<std::size_t>(kItemFrames * spec_.matrix.n) * sizeof(float);
}

// The inputs of output frame `frame` of a row: the frames around it, zeros beyond the row's ends.
void Conv1d::gather(const StepContext& context, const StepRow& row, std::int64_t frame, float* out) const {
  const std::int64_t num_frames = row.num_new * spec_.frames;
  const std::size_t bytes = static_cast<std::size_t>(spec_.channels) * sizeof(float);
  for (std::int64_t tap = 0; tap < spec_.taps; tap++, out += spec_.channels) {
    const std::int64_t at = frame * spec_.stride + tap - spec_.taps / 2;
    if (at < 0 || at >= num_frames) {
      std::memset(out, 0, bytes);
    } else {
      std::memcpy(out,
                  context.at(spec_.x) + (row.token_begin + at / spec_.frames) * spec_.x.ld +
                      at % spec_.frames * spec_.channels,
                  bytes);
    }
  }
}

void Conv1d::run(const StepContext& context, Worker& worker) {
  const Kernels& kernels = context.kernels;
  const std::int64_t k = spec_.taps * spec_.channels, n = spec_.matrix.n, each = spec_.frames / spec_.stride;
  const ActivationKind kind = context.kernels.activation_of(spec_.matrix.layout);
  const std::size_t row_bytes = kernels.activation_row_bytes(kind, k);
  std::byte* activations = worker.scratch + aligned(kernels.linear_scratch_bytes());
  float* gathered = reinterpret_cast<float*>(activations + aligned(kItemFrames * row_bytes));
  float* made = gathered + aligned(static_cast<std::size_t>(kItemFrames * k) * sizeof(float)) / sizeof(float);
  std::int64_t total = 0;
  for (const StepRow& row : context.step.rows) total += (row.num_new * each + kItemFrames - 1) / kItemFrames;
  worker.each(total, [&](std::int64_t item) {
    for (const StepRow& row : context.step.rows) {
      const std::int64_t frames = row.num_new * each, items = (frames + kItemFrames - 1) / kItemFrames;
      if (item >= items) {
        item -= items;
        continue;
      }
      const std::int64_t first = item * kItemFrames, count = std::min(kItemFrames, frames - first);
      for (std::int64_t i = 0; i < count; i++) gather(context, row, first + i, gathered + i * k);
      kernels.quantize_rows(kind, gathered, k, count, k, activations, row_bytes);
      kernels.linear(spec_.matrix, kind, activations, count, 0, spec_.matrix.num_strips(), spec_.bias, made, n,
                     worker.scratch, worker.beside);
      for (std::int64_t i = 0; i < count; i++) {
        const std::int64_t frame = first + i;
        std::memcpy(context.at(spec_.y) + (row.token_begin + frame / each) * spec_.y.ld + frame % each * n, made + i * n,
                    static_cast<std::size_t>(n) * sizeof(float));
      }
      break;
    }
  });
}

}  // namespace ridgeline
