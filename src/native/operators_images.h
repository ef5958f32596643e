// Images in a step: rows that an encoder made of them stand in for the embeddings of their tokens.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "memory.h"
#include "operators.h"

namespace ridgeline {

// What was given for the next step; empty again when that is over.
class StepImages {
 public:
  // Room for a row of `width` numbers for each of a step's tokens. counts_only: see Program.
  StepImages(std::int64_t width, std::int64_t max_tokens, bool counts_only);

  // `count` rows of `width` numbers for the step's tokens from `token_begin` on, which stand at `position` and what
  // follows it in their row and are the rest of an image. In the order of the step's tokens. Throws
  // std::invalid_argument.
  void give(std::int64_t token_begin, std::int64_t position, const float* rows, std::int64_t count,
            std::int64_t width);
  // Which positions a gathered step's tokens see. Throws std::invalid_argument for tokens that the step has not.
  void show(Step& step) const;
  void clear();

  struct Part {
    std::int64_t token_begin, count, position;
    const float* rows;
  };
  const std::vector<Part>& parts() const { return parts_; }
  std::int64_t width() const { return width_; }
  std::size_t num_bytes() const { return rows_.size(); }

 private:
  const std::int64_t width_, max_tokens_;
  Memory rows_;
  std::int64_t num_rows_ = 0;
  std::vector<Part> parts_;
};

// What is told of the next step's tokens' places beside its plan; forgotten when that is over.
class StepPlaces {
 public:
  // Operators that turn by so many positions of a token, or see parts of rows.
  void need_axes(std::int64_t num_axes) { needed_axes_ = std::max(needed_axes_, num_axes); }
  void need_parts() { needs_parts_ = true; }
  // positions [tokens, num_axes]. part_ends [tokens], or empty: one past the last position of a token's part of its row.
  void give(std::vector<std::int32_t> positions, std::int64_t num_axes, std::vector<std::int32_t> part_ends);
  // Into a gathered step. Throws std::invalid_argument for positions that the step has not, or parts that are none.
  void tell(Step& step) const;
  void clear();

 private:
  void tell_parts(Step& step) const;

  std::int64_t needed_axes_ = 0;
  bool needs_parts_ = false;
  std::vector<std::int32_t> positions_, part_ends_;
  std::int64_t num_axes_ = 0;
};

// y = x, and the rows of images in place of those of their tokens.
class PlaceImages final : public Operator {
 public:
  PlaceImages(std::string name, View x, View y, const StepImages& images);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  const StepImages& images_;
};

// Means of squares of kernel * kernel tokens, in the order of lines, of rows that are squares of side * side tokens.
class GridPool final : public Operator {
 public:
  GridPool(std::string name, View x, View y, std::int64_t side, std::int64_t kernel);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  std::int64_t side_, kernel_;
};

// Each `count` successive tokens of rows side by side.
class JoinTokens final : public Operator {
 public:
  JoinTokens(std::string name, View x, View y, std::int64_t count);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  std::int64_t count_;
};

}  // namespace ridgeline
