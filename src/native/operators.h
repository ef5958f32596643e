// The operators of a bound graph: what each does in a step, on all threads together.
//
// run() is called by every thread; between its phases stands a barrier, and the program puts one after it. How work is
// parted over threads never changes a bit of the result: kernels see whole rows, channels, heads and chunks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "rows.h"
#include "threads.h"
#include "ticks.h"

namespace ridgeline {

// A value in the arena: `width` numbers a row; a row for each of the step's tokens, or for each of its logits rows.
// They are floats, rows `ld` of them apart, or, if there is a kind, what linears multiply: rows of
// activation_row_bytes, one after another, in the place of the floats.
struct View {
  std::int64_t offset = 0;  // floats from the arena's begin
  std::int64_t ld = 0;
  std::int64_t width = 0;
  bool sampled = false;
  std::optional<ActivationKind> kind{};
};

constexpr std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

// What a step's operators share.
struct StepContext {
  const Kernels& kernels;
  const Step& step;
  float* arena;
  std::byte* kv;
  std::size_t kv_block_stride;
  std::byte* activations;   // of a value that does not lie as activations, shared
  float* partials;          // attention over split contexts
  std::int64_t partials_floats;
  float* states;  // recurrent: of each slot, state_stride floats apart
  std::int64_t state_stride;
  std::byte* shared;        // of an operator, while it runs: its shared_bytes

  std::int64_t rows(const View& view) const { return view.sampled ? step.num_sampled : step.num_tokens; }
  float* at(const View& view) const { return arena + view.offset; }
  // Of a view with a kind.
  std::byte* activations_at(const View& view, std::int64_t row) const {
    return reinterpret_cast<std::byte*>(at(view)) +
           static_cast<std::size_t>(row) * kernels.activation_row_bytes(*view.kind, view.width);
  }
  // Floats x [rows, columns], rows ldx apart, become a part of a view with a kind. `column` must be a multiple of 64,
  // and so must `columns` unless they are the view's last; of a kind that is not made by pieces it must be all.
  void store(const View& view, const float* x, std::int64_t ldx, std::int64_t row, std::int64_t rows,
             std::int64_t column, std::int64_t columns) const {
    kernels.quantize_rows(*view.kind, x, ldx, rows, columns,
                          activations_at(view, row) + kernels.activation_row_bytes(*view.kind, column),
                          kernels.activation_row_bytes(*view.kind, view.width));
  }
};

// How far a thread's share of a phase's items is given out; phases use the two counts in turn.
struct alignas(64) Cursor {
  std::atomic<std::int64_t> next[2] = {0, 0};
};

// One thread's part in a step.
struct Worker {
  int thread;
  int num_threads;
  ThreadPool& pool;
  std::byte* scratch;
  std::vector<Cursor>& cursors;
  int turn = 0;              // which of the cursors' counts the phase uses
  std::uint64_t waited = 0;  // ticks at an operator's own barriers since the program last took them

  // Between two phases of an operator.
  void barrier() {
    const std::uint64_t arrived = ticks_now();
    pool.barrier(thread);
    waited += ticks_now() - arrived;
    take_turn();
  }
  // The thread's share of `count` things: contiguous, sizes differing by at most one.
  void share(std::int64_t count, std::int64_t& begin, std::int64_t& end) const {
    begin = count * thread / num_threads;
    end = count * (thread + 1) / num_threads;
  }
  // f(item) for items [0, count), each once over all threads, as `pieces` gives them out.
  template <class F>
  void each(std::int64_t count, F f) {
    pieces(count, 1, [&](std::int64_t item, std::int64_t) { f(item); });
  }
  // f(begin, end) for runs of items that are little work: so few that it takes longer to look at what others have left
  // are shared.
  template <class F>
  void runs(std::int64_t count, F f) {
    constexpr std::int64_t kPieces = 8;  // of a share
    if (count >= 4 * num_threads) return pieces(count, (count - 1) / (kPieces * num_threads) + 1, f);
    std::int64_t begin, end;
    share(count, begin, end);
    if (begin < end) f(begin, end);
  }
  // Before every phase. Nobody uses the other count since the barrier before this phase, and nobody will until the next.
  void take_turn() {
    turn ^= 1;
    cursors[static_cast<std::size_t>(thread)].next[turn ^ 1].store(0, std::memory_order_relaxed);
  }

 private:
  // f(begin, end) for items [0, count), `piece` at a time, at most one call a phase. A thread does its share in order, then
  // what others have left of theirs: whom another program holds up holds up one piece, not half of the phase. What is
  // computed does not depend on who does it.
  template <class F>
  void pieces(std::int64_t count, std::int64_t piece, F f) {
    for (int i = 0; i < num_threads; i++) {
      const int owner = (thread + i) % num_threads;
      const std::int64_t first = count * owner / num_threads, last = count * (owner + 1) / num_threads;
      std::atomic<std::int64_t>& next = cursors[static_cast<std::size_t>(owner)].next[turn];
      for (std::int64_t begin; (begin = first + next.fetch_add(piece, std::memory_order_relaxed)) < last;)
        f(begin, std::min(begin + piece, last));
    }
  }
};

class Operator {
 public:
  explicit Operator(std::string name, std::string type) : name(std::move(name)), type(std::move(type)) {}
  virtual ~Operator() = default;
  virtual void run(const StepContext& context, Worker& worker) = 0;
  virtual std::size_t scratch_bytes(const Kernels&) const { return 0; }
  // Of a row of the shared activations.
  virtual std::size_t shared_activation_bytes(const Kernels&) const { return 0; }

  // Beside the arena, for all threads, in a step of at most so many rows.
  virtual std::size_t shared_bytes(const Kernels&, std::int64_t) const { return 0; }

  const std::string name, type;
};

class Embed final : public Operator {
 public:
  Embed(std::string name, View y, std::string format, const std::byte* table, std::size_t row_bytes, float scale);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View y_;
  std::string format_;
  const std::byte* table_;
  std::size_t row_bytes_;
  float scale_;
};

// A table's rows as its file has them.
struct LookupTable {
  std::string format;
  const std::byte* data;
  std::size_t row_bytes;
  std::int64_t rows;

  void row(const Kernels& kernels, std::int64_t index, std::int64_t width, float* out) const {
    kernels.decode_row(format.c_str(), data + static_cast<std::size_t>(index) * row_bytes, width, out);
  }
};

// Rows by the tokens' positions.
class PositionEmbed final : public Operator {
 public:
  PositionEmbed(std::string name, View y, LookupTable table, std::int64_t first);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View y_;
  LookupTable table_;
  std::int64_t first_;
};

// Rows by the number of separators before a token; steps have whole sequences. separator -1: there is none.
class TypeEmbed final : public Operator {
 public:
  TypeEmbed(std::string name, View y, LookupTable table, std::int32_t separator);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View y_;
  LookupTable table_;
  std::int32_t separator_;
};

// The mean of each whole sequence's tokens, or its first; a row of logits is a sequence.
class Pool final : public Operator {
 public:
  Pool(std::string name, View x, View y, bool mean);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  bool mean_;
};

class Norm final : public Operator {
 public:
  Norm(std::string name, View x, View y, NormArgs args);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels&) const override;

 private:
  View x_, y_;
  NormArgs args_;
};

class AddNorm final : public Operator {
 public:
  AddNorm(std::string name, View a, View b, View total, View y, NormArgs args);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels&) const override;

 private:
  View a_, b_, total_, y_;
  NormArgs args_;
};

// Add, Scale, Softcap, Weigh, GatedActivation and Activate, by which of their functions is called.
class Elementwise final : public Operator {
 public:
  enum class Kind { add, scale, softcap, weigh, gate, activate };
  Elementwise(std::string name, std::string type, Kind kind, View a, View b, View y, float number,
              Activation activation);
  void run(const StepContext& context, Worker& worker) override;

 private:
  Kind kind_;
  View a_, b_, y_;
  float number_;
  Activation activation_;
};

// (1 + beta log(1 + floor((position + first) / period))) * x, in float64 up to the factor.
class ScaleByPosition final : public Operator {
 public:
  struct Spec {
    double period, beta;
    std::int64_t first;
  };
  ScaleByPosition(std::string name, View x, View y, Spec spec);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  Spec spec_;
};

class SelectRows final : public Operator {
 public:
  SelectRows(std::string name, View x, View y);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
};

}  // namespace ridgeline
