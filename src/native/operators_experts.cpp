#include "operators_experts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace ridgeline {
namespace {

// As in operators_linear.cpp: rows whose activations stay in a thread's L2 while weights pass by.
constexpr std::int64_t kPartRows = 288;
// Up to this many rows an expert's weights are read once, in long runs.
constexpr std::int64_t kStreamRows = 8;
// Channels of gate and up that an item computes, and of down.
constexpr std::int64_t kFewChannels = 64, kManyChannels = 256, kDownChannels = 256;

std::int64_t blocks_of(std::int64_t channels, std::int64_t size) { return (channels + size - 1) / size; }

bool above(double a, double b) { return a > b || (std::isnan(b) && !std::isnan(a)); }

// Of `count` numbers, the positions of the `wanted` largest, largest first; of equals the first. NaN is below all.
void largest(const double* values, std::int64_t count, std::int64_t wanted, std::int32_t* out) {
  std::int64_t found = 0;
  for (std::int64_t i = 0; i < count; i++) {
    if (found == wanted && !above(values[i], values[out[found - 1]])) continue;
    std::int64_t at = found < wanted ? found++ : wanted - 1;
    for (; at > 0 && above(values[i], values[out[at - 1]]); at--) out[at] = out[at - 1];
    out[at] = static_cast<std::int32_t>(i);
  }
}

}  // namespace

// ---- route

Route::Route(std::string name, const Spec& spec, const Kernels& kernels)
    : Operator(std::move(name), "route"),
      spec_(spec),
      x_(spec.x, {LinearPart{spec.router, kernels.activation_of(spec.router.layout), nullptr, 0}}) {}

std::size_t Route::scratch_bytes(const Kernels& kernels) const {
  const auto experts = static_cast<std::size_t>(spec_.router.n);
  return std::max(kernels.linear_scratch_bytes(),
                  aligned(3 * experts * sizeof(double)) + 2 * aligned(experts * sizeof(std::int32_t)));
}

std::size_t Route::shared_bytes(const Kernels&, std::int64_t max_rows) const {
  return static_cast<std::size_t>(max_rows * spec_.router.n) * sizeof(float);
}

void Route::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.rows(spec_.slots), experts = spec_.router.n;
  if (rows == 0) return;
  x_.prepare(context, worker);
  float* logits = reinterpret_cast<float*>(context.shared);
  const auto multiply = [&](std::int64_t row, std::int64_t count, std::int64_t strip_begin, std::int64_t strip_end) {
    context.kernels.linear(spec_.router, context.kernels.activation_of(spec_.router.layout),
                           x_.at(context, context.kernels.activation_of(spec_.router.layout), row), count, strip_begin, strip_end,
                           spec_.bias, logits + row * experts, experts, worker.scratch, worker.beside);
  };
  const bool few = rows < 2 * worker.num_threads;
  if (few) {
    worker.runs(spec_.router.num_strips(), [&](std::int64_t begin, std::int64_t end) { multiply(0, rows, begin, end); });
    worker.barrier();
  }
  worker.runs(rows, [&](std::int64_t begin, std::int64_t end) {
    if (!few) multiply(begin, end - begin, 0, spec_.router.num_strips());
    for (std::int64_t row = begin; row < end; row++)
      choose(logits + row * experts,
             spec_.table.empty() ? nullptr
                                 : spec_.table.data() + context.step.token_ids[static_cast<std::size_t>(row)] * spec_.top_k,
             context.at(spec_.slots) + row * spec_.slots.ld, worker.scratch);
  });
}

// SparseMixer: one expert after the other, each weighed against those left whose logits are near its own.
void Route::choose_sparse(const float* logits, float* slots, std::byte* scratch) const {
  const std::int64_t count = spec_.router.n;
  double* left = reinterpret_cast<double*>(scratch);
  for (std::int64_t i = 0; i < count; i++) left[i] = logits[i];
  for (std::int64_t k = 0; k < spec_.top_k; k++) {
    std::int32_t best = 0;
    largest(left, count, 1, &best);
    const double most = left[best];
    double sum = 0;
    for (std::int64_t i = 0; i < count; i++) {
      const double factor = std::max(std::abs(static_cast<double>(logits[i])), most);
      if (!(most - logits[i] > 2 * spec_.jitter * factor)) sum += std::exp(left[i] - most);
    }
    slots[k] = static_cast<float>(best);
    slots[spec_.top_k + k] = static_cast<float>(1 / sum);
    left[best] = -std::numeric_limits<double>::infinity();
  }
}

// One token's slots, in float64.
void Route::choose(const float* logits, const std::int32_t* given, float* slots, std::byte* scratch) const {
  if (spec_.jitter >= 0) return choose_sparse(logits, slots, scratch);
  const std::int64_t count = spec_.router.n, top_k = spec_.top_k;
  double* scores = reinterpret_cast<double*>(scratch);
  double *by = scores + count, *sums = by + count;
  auto* chosen = reinterpret_cast<std::int32_t*>(scratch + aligned(static_cast<std::size_t>(3 * count) * sizeof(double)));
  auto* groups = chosen + aligned(static_cast<std::size_t>(count) * sizeof(std::int32_t)) / sizeof(std::int32_t);
  // Softmax chooses as the logits do, and what is normalized afterwards needs no sum over all.
  const bool logits_do = spec_.scores == RouteScores::softmax && spec_.normalize && !spec_.correction && spec_.num_groups == 1;
  const double most = *std::max_element(logits, logits + count);
  if (logits_do) {
    for (std::int64_t i = 0; i < count; i++) by[i] = logits[i];
  } else if (spec_.scores == RouteScores::sqrt_softplus) {
    for (std::int64_t i = 0; i < count; i++) {
      const double l = logits[i];
      scores[i] = std::sqrt(std::max(l, 0.0) + std::log1p(std::exp(-std::abs(l))));
    }
  } else if (spec_.scores == RouteScores::sigmoid) {
    for (std::int64_t i = 0; i < count; i++) scores[i] = 1.0 / (1.0 + std::exp(-static_cast<double>(logits[i])));
  } else {
    double sum = 0;
    for (std::int64_t i = 0; i < count; i++) sum += scores[i] = std::exp(logits[i] - most);
    for (std::int64_t i = 0; i < count; i++) scores[i] /= sum;
  }
  if (!logits_do)
    for (std::int64_t i = 0; i < count; i++) by[i] = scores[i] + (spec_.correction ? spec_.correction[i] : 0.0f);
  if (spec_.num_groups > 1) {
    const std::int64_t each = count / spec_.num_groups;
    for (std::int64_t g = 0; g < spec_.num_groups; g++) {
      largest(by + g * each, each, spec_.group_best, chosen);
      sums[g] = 0;
      for (std::int64_t i = spec_.group_best - 1; i >= 0; i--) sums[g] += by[g * each + chosen[i]];
    }
    largest(sums, spec_.num_groups, spec_.top_groups, groups);
    for (std::int64_t g = 0; g < spec_.num_groups; g++)
      if (std::find(groups, groups + spec_.top_groups, static_cast<std::int32_t>(g)) == groups + spec_.top_groups)
        std::fill(by + g * each, by + (g + 1) * each, -std::numeric_limits<double>::infinity());
  }
  if (given) {
    std::copy(given, given + top_k, chosen);
  } else {
    largest(by, count, top_k, chosen);
  }
  double total = 0;
  for (std::int64_t k = 0; k < top_k; k++) {
    const double score = logits_do ? std::exp(logits[chosen[k]] - most) : scores[chosen[k]];
    sums[k] = score;
    total += score;
  }
  for (std::int64_t k = 0; k < top_k; k++) {
    slots[k] = static_cast<float>(chosen[k]);
    const double gain = spec_.gain ? spec_.gain[chosen[k]] : 1.0;
    slots[top_k + k] = static_cast<float>((spec_.normalize ? sums[k] / total : sums[k]) * spec_.scale * gain);
  }
}

// ---- experts

// Where the rows of a step lie, sorted by expert: what every thread finds out by itself, in its scratch, from slots that
// stay while it is in the operator. A slot's place
// is its row among the sorted ones, or -1.
struct Experts::Places {
  struct Segment {
    std::int64_t expert, begin, end;
  };
  std::int64_t rows, num_sorted, num_segments;
  std::int32_t* place;   // [rows, top_k]
  Segment* segments;     // in the order of experts and rows
  // In the shared memory: activations of the sorted rows, of what is between the matrices, and the outputs.
  std::byte *in[2], *mid;
  float* hidden;  // what is between, where activations are not made by pieces
  float* out;
  std::size_t in_bytes[2], mid_bytes;  // of a row
  std::byte* scratch;  // of the thread, for the above
};

Experts::Experts(std::string name, Spec spec, const Kernels& kernels)
    : Operator(std::move(name), "experts"), spec_(std::move(spec)) {
  in_[1] = kernels.activation_of(spec_.experts[0].up.layout);
  in_[0] = spec_.gated ? kernels.activation_of(spec_.experts[0].gate.layout) : in_[1];
  mid_ = kernels.activation_of(spec_.experts[0].down.layout);
  chosen_.resize(static_cast<std::size_t>(spec_.max_rows * spec_.top_k));
}

std::size_t Experts::shared_bytes(const Kernels& kernels, std::int64_t max_rows) const {
  const auto sorted = static_cast<std::size_t>(max_rows * spec_.top_k);
  std::size_t row = kernels.activation_row_bytes(in_[0], spec_.x.width) + kernels.activation_row_bytes(mid_, spec_.hidden);
  if (in_[1] != in_[0]) row += kernels.activation_row_bytes(in_[1], spec_.x.width);
  if (!by_pieces(mid_)) row += static_cast<std::size_t>(spec_.hidden) * sizeof(float);
  return sorted * (row + static_cast<std::size_t>(spec_.y.width) * sizeof(float)) + 5 * 64;
}

namespace {

// Floats of gate and up of an item.
constexpr std::size_t kTileFloats = static_cast<std::size_t>(
    2 * std::max(kPartRows * kFewChannels, kStreamRows * kManyChannels));

}  // namespace

// For what multiplies; sorting has what comes after it.
std::size_t Experts::tile_bytes(const Kernels& kernels) const {
  return std::max(aligned(kernels.linear_scratch_bytes()) + aligned(kTileFloats * sizeof(float)),
                  aligned(static_cast<std::size_t>(spec_.x.width) * sizeof(float)));
}

std::size_t Experts::scratch_bytes(const Kernels& kernels) const {
  const auto slots = static_cast<std::size_t>(spec_.max_rows * spec_.top_k), experts = spec_.experts.size();
  const std::size_t segments = std::min(slots, experts) + slots / kPartRows;
  return tile_bytes(kernels) + aligned(slots * sizeof(std::int32_t)) + aligned((experts + 1) * sizeof(std::int64_t)) +
         aligned(segments * sizeof(Places::Segment));
}

void Experts::sort(const StepContext& context, Places& at) const {
  const auto experts = static_cast<std::int64_t>(spec_.experts.size());
  at.rows = context.rows(spec_.y);
  const std::int64_t slots = at.rows * spec_.top_k;
  std::byte* memory = at.scratch;
  const auto take = [&](std::size_t bytes) { return std::exchange(memory, memory + aligned(bytes)); };
  at.place = reinterpret_cast<std::int32_t*>(take(static_cast<std::size_t>(slots) * sizeof(std::int32_t)));
  auto* next = reinterpret_cast<std::int64_t*>(take(static_cast<std::size_t>(experts + 1) * sizeof(std::int64_t)));
  at.segments = reinterpret_cast<Places::Segment*>(memory);
  const auto expert_of = [&](std::int64_t slot) {
    const float* row = context.at(spec_.slots) + slot / spec_.top_k * spec_.slots.ld;
    const std::int64_t expert = static_cast<std::int64_t>(row[slot % spec_.top_k]) - spec_.first_expert;
    return expert >= 0 && expert < experts ? expert : experts;
  };
  std::fill(next, next + experts + 1, 0);
  for (std::int64_t slot = 0; slot < slots; slot++) next[expert_of(slot)]++;
  at.num_sorted = at.num_segments = 0;
  for (std::int64_t expert = 0; expert < experts; expert++) {
    const std::int64_t count = next[expert], parts = blocks_of(count, kPartRows);
    next[expert] = at.num_sorted;
    for (std::int64_t part = 0; part < parts; part++)
      at.segments[at.num_segments++] = {expert, at.num_sorted + count * part / parts,
                                        at.num_sorted + count * (part + 1) / parts};
    at.num_sorted += count;
  }
  for (std::int64_t slot = 0; slot < slots; slot++) {
    const std::int64_t expert = expert_of(slot);
    at.place[slot] = expert == experts ? -1 : static_cast<std::int32_t>(next[expert]++);
  }

  std::byte* shared = context.shared;
  const auto sorted = static_cast<std::size_t>(at.num_sorted);
  for (int i = 0; i < 2; i++) {
    at.in_bytes[i] = context.kernels.activation_row_bytes(in_[i], spec_.x.width);
    at.in[i] = i && in_[1] == in_[0] ? at.in[0] : std::exchange(shared, shared + aligned(sorted * at.in_bytes[i]));
  }
  at.mid_bytes = context.kernels.activation_row_bytes(mid_, spec_.hidden);
  at.mid = std::exchange(shared, shared + aligned(sorted * at.mid_bytes));
  at.hidden = nullptr;
  if (!by_pieces(mid_)) {
    const std::size_t bytes = aligned(sorted * static_cast<std::size_t>(spec_.hidden) * sizeof(float));
    at.hidden = reinterpret_cast<float*>(std::exchange(shared, shared + bytes));
  }
  at.out = reinterpret_cast<float*>(shared);
}

// Each token's activations, to the places of its slots; and which experts these are.
void Experts::give_rows(const StepContext& context, Worker& worker, const Places& at) {
  float* scaled = reinterpret_cast<float*>(worker.scratch);
  worker.each(at.rows, [&](std::int64_t row) {
    if (row == 0) num_chosen_ = static_cast<std::size_t>(at.rows * spec_.top_k);
    const float* slots = context.at(spec_.slots) + row * spec_.slots.ld;
    for (std::int64_t k = 0; k < spec_.top_k; k++)
      chosen_[static_cast<std::size_t>(row * spec_.top_k + k)] = static_cast<std::int32_t>(slots[k]);
    const float* x = context.at(spec_.x) + row * spec_.x.ld;
    const float* weights = slots + spec_.top_k;
    for (int i = 0; i < (in_[1] == in_[0] ? 1 : 2); i++) {
      const std::byte* first = nullptr;
      for (std::int64_t k = 0; k < spec_.top_k; k++) {
        const std::int64_t place = at.place[row * spec_.top_k + k];
        if (place < 0) continue;
        std::byte* out = at.in[i] + static_cast<std::size_t>(place) * at.in_bytes[i];
        if (first && !spec_.weigh_input) {
          std::copy(first, first + at.in_bytes[i], out);
          continue;
        }
        const float* from = x;
        if (spec_.weigh_input) {
          context.kernels.scale_rows(weights[k], x, spec_.x.width, scaled, spec_.x.width, 1, spec_.x.width);
          from = scaled;
        }
        context.kernels.quantize_rows(in_[i], from, spec_.x.width, 1, spec_.x.width, out, at.in_bytes[i]);
        first = out;
      }
    }
  });
}

void Experts::multiply_hidden(const StepContext& context, Worker& worker, const Places& at) const {
  const Kernels& kernels = context.kernels;
  float* tile = reinterpret_cast<float*>(worker.scratch + aligned(kernels.linear_scratch_bytes()));
  const std::int64_t few = blocks_of(spec_.hidden, kFewChannels);
  worker.each(at.num_segments * few, [&](std::int64_t item) {
    const Places::Segment& segment = at.segments[item / few];
    const Expert& expert = spec_.experts[static_cast<std::size_t>(segment.expert)];
    const std::int64_t rows = segment.end - segment.begin;
    // With few rows an item has more channels, and the items that they would have had do nothing.
    const std::int64_t each = rows <= kStreamRows ? kManyChannels : kFewChannels;
    const std::int64_t channel = item % few * each;
    if (channel >= spec_.hidden) return;
    const std::int64_t channels = std::min(each, spec_.hidden - channel), strip = channel / kStripChannels;
    const std::int64_t ld = 2 * each;
    const auto half = [&](const PackedMatrix& weights, const float* bias, int i, float* out) {
      PackedMatrix matrix = from_strip(kernels, weights, strip);
      matrix.n = std::min(matrix.n, channels);
      kernels.linear(matrix, in_[i], at.in[i] + static_cast<std::size_t>(segment.begin) * at.in_bytes[i], rows, 0,
                     matrix.num_strips(), bias ? bias + channel : nullptr, out, ld, worker.scratch, worker.beside);
    };
    if (spec_.gated) {
      const std::byte* second = from_strip(kernels, expert.up, strip).data;
      ask_for_weights(second, 1);
      half(expert.gate, expert.gate_bias, 0, tile);
      half(expert.up, expert.up_bias, 1, tile + each);
      kernels.gated_rows(spec_.activation, tile, ld, tile + each, ld, tile, ld, rows, channels);
    } else {
      half(expert.up, expert.up_bias, 1, tile);
      kernels.activate_rows(spec_.activation, tile, ld, tile, ld, rows, channels);
    }
    if (at.hidden) {
      for (std::int64_t row = 0; row < rows; row++) {
        std::copy_n(tile + row * ld, channels, at.hidden + (segment.begin + row) * spec_.hidden + channel);
      }
      return;
    }
    kernels.quantize_rows(mid_, tile, ld, rows, channels,
                          at.mid + static_cast<std::size_t>(segment.begin) * at.mid_bytes +
                              kernels.activation_row_bytes(mid_, channel),
                          at.mid_bytes);
  });
  if (!at.hidden) return;
  worker.barrier();
  worker.runs(at.num_sorted, [&](std::int64_t begin, std::int64_t end) {
    kernels.quantize_rows(mid_, at.hidden + begin * spec_.hidden, spec_.hidden, end - begin, spec_.hidden,
                          at.mid + static_cast<std::size_t>(begin) * at.mid_bytes, at.mid_bytes);
  });
}

void Experts::multiply_down(const StepContext& context, Worker& worker, const Places& at) const {
  const Kernels& kernels = context.kernels;
  const std::int64_t width = spec_.y.width, blocks = blocks_of(width, kDownChannels);
  worker.each(at.num_segments * blocks, [&](std::int64_t item) {
    const Places::Segment& segment = at.segments[item / blocks];
    const Expert& expert = spec_.experts[static_cast<std::size_t>(segment.expert)];
    const std::int64_t channel = item % blocks * kDownChannels;
    PackedMatrix matrix = from_strip(kernels, expert.down, channel / kStripChannels);
    matrix.n = std::min(matrix.n, kDownChannels);
    kernels.linear(matrix, mid_, at.mid + static_cast<std::size_t>(segment.begin) * at.mid_bytes,
                   segment.end - segment.begin, 0, matrix.num_strips(),
                   expert.down_bias ? expert.down_bias + channel : nullptr, at.out + segment.begin * width + channel,
                   width, worker.scratch, worker.beside);
  });
}

void Experts::add_up(const StepContext& context, Worker& worker, const Places& at) const {
  const std::int64_t width = spec_.y.width;
  const auto add = [&](std::int64_t row_begin, std::int64_t row_end, std::int64_t column, std::int64_t column_end) {
    for (std::int64_t row = row_begin; row < row_end; row++) {
      float* y = context.at(spec_.y) + row * spec_.y.ld + column;
      const float* weights = context.at(spec_.slots) + row * spec_.slots.ld + spec_.top_k;
      std::fill(y, y + (column_end - column), 0.0f);
      for (std::int64_t k = 0; k < spec_.top_k; k++) {
        const std::int64_t place = at.place[row * spec_.top_k + k];
        if (place >= 0)
          context.kernels.add_scaled(spec_.weigh_input ? 1.0f : weights[k], at.out + place * width + column, y,
                                     column_end - column);
      }
    }
  };
  if (at.rows >= 2 * worker.num_threads)
    return worker.runs(at.rows, [&](std::int64_t begin, std::int64_t end) { add(begin, end, 0, width); });
  worker.runs(blocks_of(width, 64), [&](std::int64_t begin, std::int64_t end) {
    add(0, at.rows, begin * 64, std::min(end * 64, width));
  });
}

void Experts::run(const StepContext& context, Worker& worker) {
  if (context.rows(spec_.y) == 0) return;
  Places at{};
  at.scratch = worker.scratch + tile_bytes(context.kernels);
  sort(context, at);
  give_rows(context, worker, at);
  worker.barrier();
  multiply_hidden(context, worker, at);
  worker.barrier();
  multiply_down(context, worker, at);
  worker.barrier();
  add_up(context, worker, at);
}

// ---- zero experts

ZeroExperts::ZeroExperts(std::string name, View x, View slots, View y, std::int64_t top_k, std::int64_t first)
    : Operator(std::move(name), "zero_experts"), x_(x), slots_(slots), y_(y), top_k_(top_k), first_(first) {}

void ZeroExperts::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; r++) {
      const float* slots = context.at(slots_) + r * slots_.ld;
      float weight = 0.0f;
      for (std::int64_t k = 0; k < top_k_; k++)
        if (slots[k] >= static_cast<float>(first_)) weight += slots[top_k_ + k];
      context.kernels.scale_rows(weight, context.at(x_) + r * x_.ld, x_.ld, context.at(y_) + r * y_.ld, y_.ld, 1,
                                 y_.width);
    }
  });
}

}  // namespace ridgeline
