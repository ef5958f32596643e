// Head: the linear that makes logits. Of a step whose rows' tokens depend on few of them, it reads a screen (screen.h) in
// place of the weights, and then the weights of those channels that a token may depend on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "operators_linear.h"
#include "sample.h"
#include "screen.h"

namespace ridgeline {

// integers: the activations that the copy multiplies. whole_begin to below whole_end: rows in two terms of a step that is not
// screened. most_rows: of a step that is screened by the copy. Of more, arithmetic is what a
// step waits for, and the weights themselves are the better screen: of int8x2 rows by activations' first terms, off by a
// hundredth of what the copy is, for two thirds of what both terms take; of int16 rows by weights' first bytes, off by a quarter,
// for half.
// most_term_rows: of such a step. learn_rows: rows of which is learned what is usual of activations.
// usual, apart [n], along [kDirections, n], strips, as screen.h has them, and the rows learned from, seen [learn_rows, k]:
// memory that the head fills.
struct HeadScreen {
  PackedMatrix matrix;
  RawRows weights;
  ActivationKind integers;
  std::int64_t whole_begin, whole_end, most_rows, most_term_rows, learn_rows;
  ScreenUsual usual;
  float *apart, *along, *seen;
  StripNorms* strips;
};

class Head final : public Operator {
 public:
  Head(std::string name, View x, View y, const LinearPart& part, const HeadScreen& screen);
  // Before a step of so many rows of logits. wanted: of each of them, none of which is Wanted::Kind::all; or nothing, and
  // then all logits are computed, as where something comes between it and sampling (is_last). Of rows that are screened the
  // logits that are wanted are anywhere, with those of their strips, and `gather` finds them.
  void begin(std::int64_t rows, const std::vector<Wanted>& wanted, bool is_last);
  void run(const StepContext& context, Worker& worker) override;
  void ask_ahead(const StepContext& context, int thread, int num_threads) const override;
  bool has_weights() const override { return true; }
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  std::size_t shared_activation_bytes(const Kernels& kernels) const override { return x_.shared_bytes(kernels); }
  std::size_t shared_bytes(const Kernels& kernels, std::int64_t rows) const override;

  // Since it was made: rows that were screened, and strips of weights that were read for them.
  struct Counts {
    std::int64_t rows, strips;
  };
  // Whether a row of the last step has only what was read of the weights: all but filtered ones whose winner may not pass.
  bool is_sparse(std::int64_t row) const {
    return mode_ == Mode::screen && !(wanted_[row].is_filtered() && known_[static_cast<std::size_t>(row)] != Known::winner);
  }
  // Whether such a one has what its filters may leave, and -infinity elsewhere; what requests take has been taken. Else it
  // has all logits.
  bool is_cut(std::int64_t row) const {
    return mode_ == Mode::screen && wanted_[row].is_filtered() && known_[static_cast<std::size_t>(row)] == Known::first;
  }
  // Of such a row that is drawn: the channel that has won with its noise, and passed the row's filters; -1 if there is none.
  std::int32_t winner(const StepContext& context, std::int64_t row) const;
  // Of such a row, after that, once: moves what was read to its front, in order, and says how many channels it is; then,
  // which channel one of them is.
  std::int64_t gather(const StepContext& context, std::int64_t row) const;
  std::int64_t channel_of(const StepContext& context, std::int64_t row, std::int64_t at) const;
  // What was learned, as it is kept: so many numbers, once it has learned. learn: false if it is not of this head, or cannot be.
  std::size_t num_learned() const;
  void tell_learned(float* out) const;
  bool learn(const float* learned, std::size_t count);
  // Whether it read weights as they are stored in the last step, and whether it will again.
  bool is_learning() const { return mode_ == Mode::learn; }
  bool has_learned() const { return learn_end_ == num_strips(); }
  Counts counts() const { return {num_screened_, num_read_.load(std::memory_order_relaxed)}; }

 private:
  enum class Mode : std::uint8_t { whole, watch, learn, screen };
  // Of a row that is filtered: its logits; the tokens that filters may leave; which of them has won.
  enum class Known : std::uint8_t { all, first, winner };

  // Of one row of a screened step.
  struct Seen {
    RowNorms norms;
    float least;             // a strip that may have a logit of so much is wanted
    float best;              // of a row that is drawn: a score with its noise that one channel has at least
    std::int32_t winner;     // of a row that is filtered: what is largest with its noise
    std::uint8_t is_certain;  // that it passes
  };

  // ---- operators_head_learning.cpp
  template <class F>
  void each_learned(F f) const;
  void forget();
  void watch(const StepContext& context, Worker& worker);
  void settle() const;
  void learn(const StepContext& context, Worker& worker, std::int64_t strip) const;
  // ---- operators_head_filters.cpp
  void filter(const StepContext& context, Worker& worker, Seen* seen);
  void find_winner(const StepContext& context, std::int64_t row, Seen& seen) const;
  void certify(const StepContext& context, std::int64_t row, Seen& seen) const;
  bool may_be_cut(std::int64_t row) const;
  void read_likeliest(const StepContext& context, Worker& worker, std::int64_t row, Seen& seen);
  float kth_of(const StepContext& context, std::int64_t row, std::int64_t k) const;
  void hide_rest(const StepContext& context, std::int64_t row) const;
  // ---- operators_head.cpp
  void book(double useful);
  void measure(const StepContext& context, Worker& worker, std::int64_t row, Seen& seen) const;
  void screen(const StepContext& context, Worker& worker, std::int64_t begin, std::int64_t end, Seen* seen) const;
  // Of a thread: room for what a screen makes of so many strips.
  std::int64_t strips_at_once(std::int64_t rows) const;
  std::size_t block_bytes() const;
  float* block_of(const StepContext& context, const Worker& worker) const;
  // Of the step, [rows, strips]: the most that a strip's logits can be; of rows that are drawn, the most that they can be with
  // their noise. -infinity where the strip was read.
  float* reach_of(const StepContext& context) const;
  float* keys_of(const StepContext& context) const { return reach_of(context) + context.rows(y_) * num_strips(); }
  // Of a row of the step, [strips]: whether requests take something from the strip's logits.
  std::uint8_t* lowered_of(const StepContext& context, std::int64_t row) const {
    return reinterpret_cast<std::uint8_t*>(keys_of(context) + context.rows(y_) * num_strips()) + row * num_strips();
  }
  void mark_lowered(const Wanted& wanted, std::uint8_t* lowered) const;
  void read_first(const StepContext& context, Worker& worker, std::int64_t row, Seen& seen);
  bool is_drawn(std::int64_t row) const { return wanted_[row].kind == Wanted::Kind::drawn; }
  std::int64_t end_of(std::int64_t strip) const { return std::min((strip + 1) * kStripChannels, part_.matrix.n); }
  void read_rest(const StepContext& context, Worker& worker, std::int64_t begin, std::int64_t end, const Seen* seen,
                 bool by_noise);
  std::int32_t best_of(const StepContext& context, std::int64_t row) const;
  ScreenDraw draw_of(const StepContext& context, std::int64_t row, float best) const {
    const Wanted& one = wanted_[row];
    return {one.temperature, one.seed, one.position, best, one.is_lowered() ? lowered_of(context, row) : nullptr};
  }
  // Of a thread: room for three rows.
  float* floats_of(const StepContext& context, const Worker& worker) const;
  void read(const StepContext& context, Worker& worker, std::int64_t begin, std::int64_t end, std::int64_t strip) const;
  // What a screen multiplies, and with what, in a step of so many rows.
  bool is_by_terms(std::int64_t rows) const;
  ActivationKind kind_of(std::int64_t rows) const;
  const PackedMatrix& matrix_of(std::int64_t rows) const { return is_by_terms(rows) ? part_.matrix : screen_.matrix; }
  bool has_terms() const { return part_.kind == ActivationKind::int8x2 || part_.kind == ActivationKind::int16; }
  std::int64_t most_rows() const { return std::max(screen_.most_rows, has_terms() ? screen_.most_term_rows : 0); }
  // Of a row as the weights multiply it and as the screen does, in a thread's scratch; both are the same place where that
  // is the same.
  struct Decoded {
    const float *exact, *screened;
  };
  Decoded decoded(const StepContext& context, Worker& worker, std::int64_t row, ActivationKind kind) const;
  std::int64_t num_strips() const { return part_.matrix.num_strips(); }

  Linear whole_;
  LinearPart part_;
  HeadScreen screen_;
  LinearInput x_;
  View y_;
  Mode mode_ = Mode::whole;
  const Wanted* wanted_ = nullptr;  // of each row of the step
  std::int64_t num_seen_ = 0, learn_begin_ = 0, learn_end_ = 0, num_screened_ = 0;
  std::int64_t num_paused_ = 0;
  Counts before_{};     // the last screened step
  double debt_ = 0;     // strips that were read and did not pay
  double strange_ = 0;  // strips that were read of rows unlike those that it has learned from; with most_strange_ times all
  double most_strange_; // it learns anew
  bool was_screened_ = false;
  bool is_filtered_ = false, leaves_few_ = false;  // one of the step's rows
  std::vector<Known> known_;
  std::atomic<std::int64_t> num_read_{0}, num_excused_{0};  // strips; since the last step, of rows whose winner did not pass
};

}  // namespace ridgeline
