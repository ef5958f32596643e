#include "operators_head.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <utility>

#include "filter_bounds.h"

namespace ridgeline {
namespace {

// Up to so many rows memory is what a step waits for, and activations in two terms cost no more than in one.
constexpr std::int64_t kFewRows = 2;

// Of what kernels may round of the copy and of the weights, what they may round of sums alone.
constexpr float kSumsShare = 0.07f;

// Strips that are read first of a row that is drawn, or has channels that are lowered.
constexpr std::int64_t kMostFirst = 4;

// Learning is parted over so many steps, so that none of them takes long.
constexpr std::int64_t kLearnSteps = 16;

// A step that reads this share of the weights' strips after all, for one row or another, takes as long as without a screen;
// with more rows than kFullRows a larger share, since they share strips. What steps read beyond it adds up, less what others
// have left of it: with so many times it, as of texts that could go on in any way, so many steps are not screened.
constexpr double kUsefulShare = 0.2, kMostDebt = 12;
constexpr std::int64_t kFullRows = 8, kPausedSteps = 16;

// What a row usually reads of the strips where the screen has learned from rows like it. What rows read beyond it adds up,
// too: with so many times all strips, which is what it takes to learn, it learns anew, each time with twice as many.
constexpr double kUsualShare = 0.01, kLearningStrips = 32;

// All rows read a strip that one in so many wants.
constexpr std::int64_t kManyShare = 4;

// What a screen makes of so many bytes of logits stays in a core's own cache, beside weights that come by, and memory never
// sees it. Its rows lie apart by a line more, so that they do not share the first-level cache's sets.
constexpr std::size_t kBlockBytes = 256 << 10;
constexpr std::int64_t kApart = 16;

// What the weights and their screen are multiplied by.
std::vector<LinearPart> with_kinds(const LinearPart& part, ActivationKind integers) {
  std::vector<LinearPart> out{part, part, part};
  out[1].kind = integers == ActivationKind::int8 ? ActivationKind::int8x2 : integers;
  out[2].kind = integers;
  return out;
}

// Of a thread's scratch, behind a linear's: of the row being screened and of the channel being learned.
constexpr std::size_t kScratchRows = 3;

}  // namespace

Head::Head(std::string name, View x, View y, const LinearPart& part, const HeadScreen& screen)
    : Operator(name, "linear"),
      whole_(name, x, y, {part}),
      part_(part),
      screen_(screen),
      x_(x, with_kinds(part, screen.integers)),
      y_(y),
      most_strange_(kLearningStrips),
      known_(static_cast<std::size_t>(most_rows())) {}

void Head::begin(std::int64_t rows, const std::vector<Wanted>& wanted, bool is_last) {
  mode_ = Mode::whole;
  if (wanted.empty() || !is_last || rows == 0 || rows > (is_by_terms(rows) ? screen_.most_term_rows : screen_.most_rows)) return;
  if (has_terms() && rows >= screen_.whole_begin && rows < screen_.whole_end) return;
  wanted_ = wanted.data();
  is_filtered_ = std::any_of(wanted.begin(), wanted.end(), [](const Wanted& one) { return one.is_filtered(); });
  leaves_few_ = std::any_of(wanted.begin(), wanted.end(), [](const Wanted& one) { return one.is_filtered() && leaves_few(one); });
  if (num_seen_ < screen_.learn_rows) {
    mode_ = Mode::watch;
    return;
  }
  if (learn_end_ < num_strips()) {
    mode_ = Mode::learn;
    learn_begin_ = learn_end_;
    learn_end_ = std::min(num_strips(), learn_end_ + (num_strips() + kLearnSteps - 1) / kLearnSteps);
    return;
  }
  const double strips = static_cast<double>(num_strips());
  const double useful = kUsefulShare * strips * static_cast<double>(std::max(rows, kFullRows)) / kFullRows;
  book(useful);
  if (strange_ > most_strange_ * strips) {
    most_strange_ *= 2;
    strange_ = 0;
    forget();
    mode_ = Mode::watch;
    return;
  }
  if (debt_ > kMostDebt * useful) {
    num_paused_ = kPausedSteps;
    debt_ = 0;
  }
  if (num_paused_ > 0) {
    num_paused_--;
    return;
  }
  was_screened_ = true;
  mode_ = Mode::screen;
  num_screened_ += rows;
}

// What the last screened step has read, of which `useful` strips are none too many.
void Head::book(double useful) {
  const Counts now{num_screened_, num_read_.load(std::memory_order_relaxed)};
  if (was_screened_) {
    const auto read = static_cast<double>(now.strips - before_.strips), rows = static_cast<double>(now.rows - before_.rows);
    const auto excused = static_cast<double>(num_excused_.exchange(0, std::memory_order_relaxed));
    debt_ = std::max(0.0, debt_ + read - useful);
    // Of more rows most is read since their activations have one term.
    if (rows <= kFewRows)
      strange_ = std::max(0.0, strange_ + read - excused - kUsualShare * rows * static_cast<double>(num_strips()));
  }
  before_ = now;
  was_screened_ = false;
}

std::size_t Head::scratch_bytes(const Kernels& kernels) const {
  const std::size_t k = static_cast<std::size_t>(part_.matrix.k);
  return aligned(kernels.linear_scratch_bytes()) + aligned(kScratchRows * k * sizeof(float)) + block_bytes();
}

std::int64_t Head::strips_at_once(std::int64_t rows) const {
  const std::size_t strip_bytes = static_cast<std::size_t>(rows * kStripChannels) * sizeof(float);
  return std::clamp(static_cast<std::int64_t>(kBlockBytes / strip_bytes), std::int64_t{1}, num_strips());
}

std::size_t Head::block_bytes() const {
  const auto rows = static_cast<std::size_t>(most_rows());
  return std::max(kBlockBytes, rows * kStripChannels * sizeof(float)) + rows * kApart * sizeof(float);
}

float* Head::floats_of(const StepContext& context, const Worker& worker) const {
  return reinterpret_cast<float*>(worker.scratch + aligned(context.kernels.linear_scratch_bytes()));
}

float* Head::block_of(const StepContext& context, const Worker& worker) const {
  const std::size_t row_bytes = static_cast<std::size_t>(part_.matrix.k) * sizeof(float);
  return floats_of(context, worker) + aligned(kScratchRows * row_bytes) / sizeof(float);
}

float* Head::reach_of(const StepContext& context) const {
  return reinterpret_cast<float*>(context.shared + aligned(static_cast<std::size_t>(most_rows()) * sizeof(Seen)));
}

std::size_t Head::shared_bytes(const Kernels&, std::int64_t rows) const {
  const auto most = static_cast<std::size_t>(most_rows()), strips = static_cast<std::size_t>(num_strips());
  return aligned(most * sizeof(Seen)) + std::min(static_cast<std::size_t>(rows), most) * strips * (2 * sizeof(float) + 1);
}

bool Head::is_by_terms(std::int64_t rows) const { return has_terms() && rows > screen_.most_rows; }

ActivationKind Head::kind_of(std::int64_t rows) const {
  if (screen_.integers == ActivationKind::int16) return is_by_terms(rows) ? ActivationKind::int16_first : ActivationKind::int16;
  return rows <= kFewRows && !is_by_terms(rows) ? ActivationKind::int8x2 : ActivationKind::int8;
}

Head::Decoded Head::decoded(const StepContext& context, Worker& worker, std::int64_t row, ActivationKind kind) const {
  const std::int64_t k = part_.matrix.k;
  float* exact = floats_of(context, worker);
  context.kernels.decode_activations(part_.kind, x_.at(context, part_.kind, row), k, exact, nullptr);
  if (stored_kind(kind) == part_.kind) return {exact, exact};
  context.kernels.decode_activations(kind, x_.at(context, kind, row), k, exact + k, nullptr);
  return {exact, exact + k};
}

void Head::mark_lowered(const Wanted& wanted, std::uint8_t* lowered) const {
  std::fill(lowered, lowered + num_strips(), std::uint8_t{0});
  const auto mark = [&](const std::int32_t* ids, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i++)
      if (ids[i] >= 0 && ids[i] < part_.matrix.n) lowered[ids[i] / kStripChannels] = 1;
  };
  mark(wanted.forbidden, wanted.num_forbidden);
  if (!wanted.penalties.is_none()) mark(wanted.penalties.tokens, wanted.penalties.num_tokens);
}

void Head::measure(const StepContext& context, Worker& worker, std::int64_t row, Seen& seen) const {
  const std::int64_t rows = context.rows(y_), k = part_.matrix.k;
  const ActivationKind kind = kind_of(rows);
  const auto [exact, screened] = decoded(context, worker, row, kind);
  seen.norms = context.kernels.screen_activations(exact, screened, screen_.usual, k);
  seen.norms.size *= kBoundMargin;
  seen.norms.whole *= kBoundMargin;
  seen.norms.residue *= kBoundMargin;
  seen.best = -INFINITY;
  if (wanted_[row].is_lowered()) mark_lowered(wanted_[row], lowered_of(context, row));
  if (kind == ActivationKind::int16) {
    float *x = floats_of(context, worker) + k, *rest = x + k;
    context.kernels.decode_activations(kind, x_.at(context, kind, row), k, x, rest);
    std::fill(x, x + k, 0.0f);
    seen.norms.copy_rest = kBoundMargin * context.kernels.screen_activations(rest, x, screen_.usual, k).residue;
  }
  if (!is_by_terms(rows)) return;
  // The weights are no copy: nothing but their later bytes is apart, and scales are rounded alike.
  seen.norms.rest = seen.norms.whole;
  seen.norms.size = 0;
  if (kind == ActivationKind::int8) seen.norms.whole *= kSumsShare;
  std::fill(seen.norms.along, seen.norms.along + kDirections, 0.0f);
}

// Strips [begin, end) of all rows, by the screen.
void Head::screen(const StepContext& context, Worker& worker, std::int64_t begin, std::int64_t end, Seen* seen) const {
  const std::int64_t rows = context.rows(y_), most = strips_at_once(rows), ld = most * kStripChannels + kApart;
  const ActivationKind kind = kind_of(rows);
  for (std::int64_t next; begin < end; begin = next) {
    next = std::min(end, begin + most);
    const std::int64_t first = begin * kStripChannels, channels = std::min(next * kStripChannels, part_.matrix.n) - first;
    const StripNorms* strips = screen_.strips + begin;
    const float* apart = is_by_terms(rows) ? nullptr : screen_.apart + first;
    float* y = block_of(context, worker);
    context.kernels.linear(from_strip(context.kernels, matrix_of(rows), begin), kind, x_.at(context, stored_kind(kind), 0),
                           rows, 0, next - begin, part_.bias ? part_.bias + first : nullptr, y, ld, worker.scratch,
                           worker.beside);
    for (std::int64_t row = 0; row < rows; row++, y += ld) {
      float* out = reach_of(context) + row * num_strips() + begin;
      if (apart) {
        context.kernels.screen_reach(y, channels, part_.matrix.n, apart, screen_.along + first, strips, seen[row].norms, out);
      } else {
        context.kernels.terms_reach(y, channels, strips, seen[row].norms, out);
      }
      // That is what those have that were read.
      std::replace(out, out + (next - begin), -INFINITY, -FLT_MAX);
      if (!is_drawn(row)) continue;
      const std::atomic_ref<float> best(seen[row].best);
      const ScreenDraw draw = draw_of(context, row, best.load(std::memory_order_relaxed));
      float *keys = keys_of(context) + row * num_strips() + begin, known = draw.best;
      const float found = context.kernels.screen_drawn(y, channels, apart, strips, seen[row].norms, draw, begin, out, keys);
      while (found > known && !best.compare_exchange_weak(known, found, std::memory_order_relaxed)) {}
    }
  }
}

// A strip of rows [begin, end), by the weights.
void Head::read(const StepContext& context, Worker& worker, std::int64_t begin, std::int64_t end, std::int64_t strip) const {
  context.kernels.linear(part_.matrix, part_.kind, x_.at(context, part_.kind, begin), end - begin, strip, strip + 1,
                         part_.bias, context.at(y_) + begin * y_.ld, y_.ld, worker.scratch, worker.beside);
  for (std::int64_t row = begin; row < end; row++) {
    const Wanted& wanted = wanted_[row];
    if (!wanted.is_lowered() || !lowered_of(context, row)[strip]) continue;
    const std::int64_t first = strip * kStripChannels;
    if (!wanted.penalties.is_none())
      penalize<kStripChannels>(wanted.penalties, first, end_of(strip) - first, context.at(y_) + row * y_.ld + first);
    for (std::int64_t i = 0; i < wanted.num_forbidden; i++)
      if (wanted.forbidden[i] / kStripChannels == strip) context.at(y_)[row * y_.ld + wanted.forbidden[i]] = -INFINITY;
  }
}

// The strip that reaches furthest most likely has the largest: what it has is what others must reach. Where that is lowered
// the ones behind it are looked at, too, and of a row that is drawn, since bounds with noise are close to one another.
void Head::read_first(const StepContext& context, Worker& worker, std::int64_t row, Seen& seen) {
  const float* y = context.at(y_) + row * y_.ld;
  float *reach = reach_of(context) + row * num_strips(), *keys = is_drawn(row) ? keys_of(context) + row * num_strips() : reach;
  const std::int64_t most = is_drawn(row) || wanted_[row].is_lowered() ? kMostFirst : 1;
  seen.is_certain = true;
  seen.least = seen.best;
  std::int64_t count = 0;
  for (; count < most; count++) {
    const std::int64_t strip = std::max_element(keys, keys + num_strips()) - keys, begin = strip * kStripChannels;
    if (count > 0 && keys[strip] < seen.least) break;
    read(context, worker, row, row + 1, strip);
    reach[strip] = keys[strip] = -INFINITY;
    const float largest =
        is_drawn(row) ? context.kernels.screen_best(y + begin, strip, end_of(strip) - begin, draw_of(context, row, -INFINITY)).score
                      : *std::max_element(y + begin, y + end_of(strip));
    seen.least = std::max(seen.least, largest);
  }
  if (count > 1) num_read_.fetch_add(count - 1, std::memory_order_relaxed);
}

// Of what was read of a row.
std::int32_t Head::best_of(const StepContext& context, std::int64_t row) const {
  const float *y = context.at(y_) + row * y_.ld, *reach = reach_of(context) + row * num_strips();
  Candidate best{-INFINITY, -1};
  for (std::int64_t strip = 0; strip < num_strips(); strip++) {
    if (reach[strip] != -INFINITY) continue;
    const std::int64_t begin = strip * kStripChannels;
    const Candidate one = context.kernels.screen_best(y + begin, strip, end_of(strip) - begin, draw_of(context, row, best.score));
    if (one.id >= 0) best = one;
  }
  return best.id;
}

std::int32_t Head::winner(const StepContext& context, std::int64_t row) const {
  return wanted_[row].is_filtered() ? reinterpret_cast<const Seen*>(context.shared)[row].winner : best_of(context, row);
}

// Strips [begin, end) by the weights, of rows that want what may be there, with noise or without. Where many want a strip all
// rows have it: together they take less time than those alone.
void Head::read_rest(const StepContext& context, Worker& worker, std::int64_t begin, std::int64_t end, const Seen* seen,
                     bool by_noise) {
  const std::int64_t rows = context.rows(y_), strips = num_strips();
  float *reach = reach_of(context), *keys = keys_of(context);
  std::int64_t count = 0, next = begin;
  const auto is_wanted = [&](std::int64_t row, std::int64_t strip) {
    return !((by_noise && is_drawn(row) ? keys : reach)[row * strips + strip] < seen[row].least);
  };
  const auto wanted = [&](std::int64_t strip) {
    std::int64_t found = 0;
    for (std::int64_t row = 0; row < rows; row++) found += is_wanted(row, strip);
    return found;
  };
  while (next < end && wanted(next) == 0) next++;
  while (next < end) {
    const std::int64_t strip = next, found = wanted(strip);
    do next++;
    while (next < end && wanted(next) == 0);
    if (next < end) ask_for_weights(from_strip(context.kernels, part_.matrix, next).data, 1);
    count += found;
    const bool of_all = found > 1 && found * kManyShare >= rows;
    if (of_all) read(context, worker, 0, rows, strip);
    for (std::int64_t row = 0; row < rows; row++) {
      if (!of_all && !is_wanted(row, strip)) continue;
      if (!of_all) read(context, worker, row, row + 1, strip);
      reach[row * strips + strip] = -INFINITY;
      if (is_drawn(row)) keys[row * strips + strip] = -INFINITY;
    }
  }
  if (count > 0) num_read_.fetch_add(count, std::memory_order_relaxed);
}

void Head::run(const StepContext& context, Worker& worker) {
  const std::int64_t rows = context.rows(y_), strips = num_strips();
  if (rows == 0) return;
  if (mode_ != Mode::screen) {
    if (mode_ == Mode::watch) worker.each(1, [&](std::int64_t) { watch(context, worker); });
    if (mode_ == Mode::learn)
      worker.each(learn_end_ - learn_begin_, [&](std::int64_t i) { learn(context, worker, learn_begin_ + i); });
    if (mode_ != Mode::whole) worker.barrier();
    return whole_.run(context, worker);
  }
  auto* seen = reinterpret_cast<Seen*>(context.shared);
  worker.runs(rows, [&](std::int64_t begin, std::int64_t end) {
    x_.quantize(context, begin, end);
    for (std::int64_t row = begin; row < end; row++) measure(context, worker, row, seen[row]);
  });
  worker.barrier();
  const std::size_t strip_bytes = context.kernels.packed_bytes(matrix_of(rows).layout, kStripChannels, part_.matrix.k);
  worker.stretches(strips, strip_bytes, [&](std::int64_t begin, std::int64_t end) {
    screen(context, worker, begin, end, seen);
  });
  worker.barrier();
  worker.each(rows, [&](std::int64_t row) { read_first(context, worker, row, seen[row]); });
  worker.barrier();
  worker.runs(strips, [&](std::int64_t begin, std::int64_t end) { read_rest(context, worker, begin, end, seen, true); });
  if (is_filtered_) filter(context, worker, seen);
}

std::int64_t Head::gather(const StepContext& context, std::int64_t row) const {
  const float* reach = reach_of(context) + row * num_strips();
  float *y = context.at(y_) + row * y_.ld, *out = y;
  for (std::int64_t strip = 0; strip < num_strips(); strip++) {
    if (reach[strip] != -INFINITY) continue;
    const std::int64_t begin = strip * kStripChannels, count = end_of(strip) - begin;
    std::memmove(out, y + begin, static_cast<std::size_t>(count) * sizeof(float));
    out += count;
  }
  return out - y;
}

std::int64_t Head::channel_of(const StepContext& context, std::int64_t row, std::int64_t at) const {
  const float* reach = reach_of(context) + row * num_strips();
  std::int64_t strip = 0;
  for (std::int64_t before = at / kStripChannels;; strip++)
    if (reach[strip] == -INFINITY && before-- == 0) break;
  return strip * kStripChannels + at % kStripChannels;
}

void Head::ask_ahead(const StepContext& context, int thread, int num_threads) const {
  if (mode_ != Mode::screen) return whole_.ask_ahead(context, thread, num_threads);
  const std::int64_t strip = num_strips() * thread / num_threads;
  ask_for_weights(from_strip(context.kernels, matrix_of(context.rows(y_)), strip).data, context.rows(y_));
}

}  // namespace ridgeline
