// What a screened head reads of rows that filter (operators_head.h): whether what has won with its noise passes, and if that is
// not certain, what the filters may leave.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include "filter_bounds.h"
#include "operators_head.h"

namespace ridgeline {
namespace {

// If so many strips may have what is before the winner, it is less work to compute all.
constexpr double kMostBefore = 0.125;

// If so many may have what a filter leaves, too.
constexpr double kMostLeft = 0.3;

}  // namespace

// The token that has won with its noise passes the row's filters if those before it are few, or have little mass: what must be
// read for that is what may be before it. If that is much, the row is uncertain at once.
void Head::find_winner(const StepContext& context, std::int64_t row, Seen& seen) const {
  const float* reach = reach_of(context) + row * num_strips();
  seen.winner = best_of(context, row);
  seen.is_certain = false;
  if (seen.winner < 0) return;
  const float least = context.at(y_)[row * y_.ld + seen.winner];
  const auto before = std::count_if(reach, reach + num_strips(), [&](float one) { return !(one < least); });
  seen.is_certain = static_cast<double>(before) < kMostBefore * static_cast<double>(num_strips());
  if (seen.is_certain) seen.least = least;
}

// By all logits that were computed.
void Head::certify(const StepContext& context, std::int64_t row, Seen& seen) const {
  const float *y = context.at(y_) + row * y_.ld, *reach = reach_of(context) + row * num_strips();
  FilterBounds bounds(wanted_[row], y[seen.winner]);
  for (std::int64_t strip = 0; strip < num_strips(); strip++)
    if (reach[strip] == -INFINITY) bounds.see(y + strip * kStripChannels, y + end_of(strip));
  seen.is_certain = bounds.pass();
}

bool Head::may_be_cut(std::int64_t row) const {
  return wanted_[row].is_filtered() && known_[static_cast<std::size_t>(row)] == Known::all && leaves_few(wanted_[row]);
}

// Of a row whose winner may not pass, the strips that reach furthest: the least logit that filters may leave is told by what
// they have, and other strips have none if they do not reach it. If many do, all logits are computed.
void Head::read_likeliest(const StepContext& context, Worker& worker, std::int64_t row, Seen& seen) {
  const Wanted& wanted = wanted_[row];
  const std::int64_t strips = num_strips(), first = wanted.top_k > 0 ? wanted.top_k : 1;
  const auto most = static_cast<std::int64_t>(kMostLeft * static_cast<double>(strips));
  float *reach = reach_of(context) + row * strips, *order = keys_of(context) + row * strips;
  if (first > most) return;
  std::transform(reach, reach + strips, order, [](float one) { return std::isnan(one) ? INFINITY : one; });
  std::nth_element(order, order + first - 1, order + strips, std::greater<>());
  const float furthest = order[first - 1];
  std::int64_t count = 0;
  for (std::int64_t strip = 0; strip < strips && count < first; strip++) {
    if (reach[strip] == -INFINITY || !(reach[strip] >= furthest)) continue;
    read(context, worker, row, row + 1, strip);
    reach[strip] = -INFINITY;
    count++;
  }
  num_read_.fetch_add(count, std::memory_order_relaxed);
  const float known = kth_of(context, row, first);
  if (!(std::fabs(known) < INFINITY)) return;
  const float least = least_left(wanted, known);
  const auto rest = std::count_if(reach, reach + strips, [&](float one) { return !(one < least); });
  if (rest > most) return;
  seen.least = least;
  known_[static_cast<std::size_t>(row)] = Known::first;
  num_excused_.fetch_add(count + rest, std::memory_order_relaxed);
}

// Of the logits that were read, the k-th of the order; -infinity if there are fewer.
float Head::kth_of(const StepContext& context, std::int64_t row, std::int64_t k) const {
  const float *y = context.at(y_) + row * y_.ld, *reach = reach_of(context) + row * num_strips();
  std::array<float, kMostKept> largest;  // a heap, the least of them in front
  std::fill(largest.begin(), largest.begin() + k, -INFINITY);
  for (std::int64_t strip = 0; strip < num_strips(); strip++) {
    if (reach[strip] != -INFINITY) continue;
    for (const float* logit = y + strip * kStripChannels; logit < y + end_of(strip); logit++) {
      if (!(*logit > largest[0])) continue;
      std::pop_heap(largest.begin(), largest.begin() + k, std::greater<>());
      largest[static_cast<std::size_t>(k - 1)] = *logit;
      std::push_heap(largest.begin(), largest.begin() + k, std::greater<>());
    }
  }
  return largest[0];
}

void Head::hide_rest(const StepContext& context, std::int64_t row) const {
  const float* reach = reach_of(context) + row * num_strips();
  float* y = context.at(y_) + row * y_.ld;
  for (std::int64_t strip = 0; strip < num_strips(); strip++)
    if (reach[strip] != -INFINITY) std::fill(y + strip * kStripChannels, y + end_of(strip), -INFINITY);
}

// What decides whether winners pass their rows' filters; of the rows of which that is not certain what filters may leave, or
// all logits.
void Head::filter(const StepContext& context, Worker& worker, Seen* seen) {
  const std::int64_t rows = context.rows(y_), strips = num_strips();
  worker.barrier();
  worker.each(rows, [&](std::int64_t row) {
    seen[row].least = INFINITY;
    if (wanted_[row].is_filtered()) find_winner(context, row, seen[row]);
  });
  worker.barrier();
  worker.runs(strips, [&](std::int64_t begin, std::int64_t end) { read_rest(context, worker, begin, end, seen, false); });
  worker.barrier();
  worker.each(rows, [&](std::int64_t row) {
    if (wanted_[row].is_filtered() && seen[row].is_certain) certify(context, row, seen[row]);
    known_[static_cast<std::size_t>(row)] = seen[row].is_certain ? Known::winner : Known::all;
  });
  worker.barrier();
  // A thread may come in later: how many phases there are was known before the step.
  if (leaves_few_) {
    worker.each(rows, [&](std::int64_t row) {
      seen[row].least = INFINITY;
      if (may_be_cut(row)) read_likeliest(context, worker, row, seen[row]);
    });
    worker.barrier();
    worker.runs(strips, [&](std::int64_t begin, std::int64_t end) { read_rest(context, worker, begin, end, seen, false); });
    worker.barrier();
    worker.each(rows, [&](std::int64_t row) {
      if (is_cut(row)) hide_rest(context, row);
    });
    worker.barrier();
  }
  const std::size_t strip_bytes = context.kernels.packed_bytes(part_.matrix.layout, kStripChannels, part_.matrix.k);
  worker.stretches(strips, strip_bytes, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t count = 0;
    for (std::int64_t row = 0; row < rows; row++) {
      if (known_[static_cast<std::size_t>(row)] != Known::all) continue;
      context.kernels.linear(part_.matrix, part_.kind, x_.at(context, part_.kind, row), 1, begin, end, part_.bias,
                             context.at(y_) + row * y_.ld, y_.ld, worker.scratch, worker.beside);
      count += end - begin;
    }
    if (count == 0) return;
    num_read_.fetch_add(count, std::memory_order_relaxed);
    num_excused_.fetch_add(count, std::memory_order_relaxed);
  });
}

}  // namespace ridgeline
