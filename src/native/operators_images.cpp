#include "operators_images.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace ridgeline {

StepImages::StepImages(std::int64_t width, std::int64_t max_tokens, bool counts_only)
    : width_(width), max_tokens_(max_tokens) {
  if (width < 1 || width > INT32_MAX) throw std::invalid_argument("rows of images are empty or too wide");
  const std::size_t bytes = static_cast<std::size_t>(width) * static_cast<std::size_t>(max_tokens) * sizeof(float);
  rows_ = counts_only ? Memory::counted(bytes) : Memory(bytes);
}

void StepImages::give(std::int64_t token_begin, std::int64_t position, const float* rows, std::int64_t count,
                      std::int64_t width) {
  const std::int64_t free = parts_.empty() ? 0 : parts_.back().token_begin + parts_.back().count;
  if (width != width_ || count < 1 || token_begin < free || token_begin + count > max_tokens_ || position < 0 ||
      position + count > INT32_MAX)
    throw std::invalid_argument("an image does not fit into the step that it is given for");
  float* own = reinterpret_cast<float*>(rows_.data()) + num_rows_ * width_;
  std::memcpy(own, rows, static_cast<std::size_t>(count * width_) * sizeof(float));
  num_rows_ += count;
  parts_.push_back({token_begin, count, position, own});
}

void StepImages::show(Step& step) const {
  if (parts_.empty()) return;
  step.last_seen.resize(static_cast<std::size_t>(step.num_tokens));
  const StepRow* row = step.rows.data();
  const StepRow* const end = row + step.rows.size();
  for (const StepRow& each : step.rows)
    for (std::int64_t i = 0; i < each.num_new; i++)
      step.last_seen[static_cast<std::size_t>(each.token_begin + i)] = static_cast<std::int32_t>(each.num_context + i);
  for (const Part& part : parts_) {
    while (row != end && row->token_begin + row->num_new <= part.token_begin) row++;
    if (row == end || part.token_begin + part.count > row->token_begin + row->num_new ||
        part.position != row->num_context + part.token_begin - row->token_begin)
      throw std::invalid_argument("an image is given for tokens that the step has not");
    for (std::int64_t i = 0; i < part.count; i++)
      step.last_seen[static_cast<std::size_t>(part.token_begin + i)] = static_cast<std::int32_t>(part.position + part.count - 1);
  }
}

void StepImages::clear() {
  parts_.clear();
  num_rows_ = 0;
}

void StepPlaces::give(std::vector<std::int32_t> positions, std::int64_t num_axes, std::vector<std::int32_t> part_ends) {
  positions_ = std::move(positions);
  num_axes_ = num_axes;
  part_ends_ = std::move(part_ends);
}

void StepPlaces::tell(Step& step) const {
  if (needs_parts_ && part_ends_.empty()) throw std::invalid_argument("the step does not say what parts its rows have");
  if (!part_ends_.empty()) tell_parts(step);
  if (num_axes_ == 0) return;
  if (num_axes_ < needed_axes_ || static_cast<std::int64_t>(positions_.size()) != step.num_tokens * num_axes_)
    throw std::invalid_argument("a step's tokens need positions of " + std::to_string(needed_axes_) + " axes each");
  for (const std::int32_t position : positions_)
    if (position < 0 || position >= step.end_position)
      throw std::invalid_argument("a token is told to be at " + std::to_string(position) + ", beyond its step's end");
  step.axis_positions = positions_;
  step.num_axes = num_axes_;
}

void StepPlaces::tell_parts(Step& step) const {
  const auto refuse = [] { throw std::invalid_argument("parts of rows are runs of whole sequences' tokens"); };
  if (static_cast<std::int64_t>(part_ends_.size()) != step.num_tokens) refuse();
  step.first_seen.resize(part_ends_.size());
  step.last_seen.resize(part_ends_.size());
  for (const StepRow& row : step.rows) {
    std::int32_t begin = 0, end = 0;
    for (std::int64_t i = 0; i < row.num_new; i++) {
      const std::size_t token = static_cast<std::size_t>(row.token_begin + i);
      if (i == end) {
        begin = end;
        end = part_ends_[token];
      }
      if (row.num_context != 0 || part_ends_[token] != end || end <= i || end > row.num_new) refuse();
      step.first_seen[token] = begin;
      step.last_seen[token] = end - 1;
    }
  }
}

void StepPlaces::clear() {
  positions_.clear();
  part_ends_.clear();
  num_axes_ = 0;
}

PlaceImages::PlaceImages(std::string name, View x, View y, const StepImages& images)
    : Operator(std::move(name), "place_images"), x_(x), y_(y), images_(images) {}

void PlaceImages::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    const auto copy = [&](std::int64_t r, const float* from) {
      std::memcpy(context.at(y_) + r * y_.ld, from, static_cast<std::size_t>(y_.width) * sizeof(float));
    };
    for (std::int64_t r = begin; r < end; r++) copy(r, context.at(x_) + r * x_.ld);
    for (const StepImages::Part& part : images_.parts())
      for (std::int64_t r = std::max(begin, part.token_begin); r < std::min(end, part.token_begin + part.count); r++)
        copy(r, part.rows + (r - part.token_begin) * images_.width());
  });
}

GridPool::GridPool(std::string name, View x, View y, std::int64_t side, std::int64_t kernel)
    : Operator(std::move(name), "grid_pool"), x_(x), y_(y), side_(side), kernel_(kernel) {}

void GridPool::run(const StepContext& context, Worker& worker) {
  const std::int64_t cells = side_ / kernel_;
  const float share = 1.0f / static_cast<float>(kernel_ * kernel_);
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; r++) {
      const std::int64_t cell = r % (cells * cells), first = r / (cells * cells) * side_ * side_;
      float* out = context.at(y_) + r * y_.ld;
      std::fill(out, out + y_.width, 0.0f);
      for (std::int64_t i = 0; i < kernel_ * kernel_; i++) {
        const std::int64_t line = cell / cells * kernel_ + i / kernel_, place = cell % cells * kernel_ + i % kernel_;
        const float* x = context.at(x_) + (first + line * side_ + place) * x_.ld;
        for (std::int64_t d = 0; d < y_.width; d++) out[d] += x[d];
      }
      for (std::int64_t d = 0; d < y_.width; d++) out[d] *= share;
    }
  });
}

JoinTokens::JoinTokens(std::string name, View x, View y, std::int64_t count)
    : Operator(std::move(name), "join_tokens"), x_(x), y_(y), count_(count) {}

void JoinTokens::run(const StepContext& context, Worker& worker) {
  worker.runs(context.rows(y_), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; r++)
      for (std::int64_t i = 0; i < count_; i++)
        std::memcpy(context.at(y_) + r * y_.ld + i * x_.width, context.at(x_) + (r * count_ + i) * x_.ld,
                    static_cast<std::size_t>(x_.width) * sizeof(float));
  });
}

}  // namespace ridgeline
