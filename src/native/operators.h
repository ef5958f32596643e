// The operators of a bound graph: what each does in a step, on all threads together.
//
// run() is called by every thread that is there; between its phases stands a barrier, and the next operator begins when
// all of it is done. How work is parted over threads never changes a bit of the result: kernels see whole rows,
// channels, heads and chunks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cache_reads.h"
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
  CacheBlocks cache;
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

// How far a thread's share of a phase's items is given out, and of which phase that is told: nobody has to set back what
// an earlier phase has left, so that it does not matter who is there to do it.
class alignas(64) Cursor {
 public:
  // Between two runs.
  void reset() { word_.store(0, std::memory_order_relaxed); }
  // The next `count` items of a share of `size`: the first of them, or `size`. phase: not 0, and another one for each
  // phase of a run.
  std::int64_t take(std::uint32_t phase, std::int64_t count, std::int64_t size) {
    std::uint64_t word = word_.load(std::memory_order_relaxed);
    for (;;) {
      const std::int64_t next = word >> kItemBits == phase ? static_cast<std::int64_t>(word & kItems) : 0;
      if (next >= size) return size;
      const std::uint64_t then = std::uint64_t{phase} << kItemBits | static_cast<std::uint64_t>(std::min(next + count, size));
      if (word_.compare_exchange_weak(word, then, std::memory_order_relaxed)) return next;
    }
  }

 private:
  static constexpr int kItemBits = 40;
  static constexpr std::uint64_t kItems = (std::uint64_t{1} << kItemBits) - 1;
  std::atomic<std::uint64_t> word_{0};
};

// One thread's part in an operator. What a phase does is taken by calls of each, runs and stretches, one of them a phase:
// a thread does its share in order, then what others have left of theirs. Whoever is away does none of it; whoever
// comes late finds it taken. So all of an operator's work must lie in these calls, and what is beside them, which every
// thread does, may write nothing but the thread's own. What is computed does not depend on who does it.
struct Worker {
  int thread;
  int num_threads;
  ThreadPool& pool;
  std::byte* scratch;
  std::vector<Cursor>& cursors;
  Entry entry;
  Beside* beside = nullptr;  // what to ask memory for while products are computed
  int phase = 0;
  bool leaves = false;       // in the middle of a phase: what the thread has not taken is for others
  std::uint64_t waited = 0;  // ticks at the operator's own barriers

  // Between two phases of an operator.
  void barrier() {
    if (phase++ < entry.phase || leaves) return;
    const std::uint64_t arrived = ticks_now();
    pool.end_phase(thread);
    waited += ticks_now() - arrived;
  }
  // Where the thread's share of `count` items begins: it is likely to be given these first.
  std::int64_t first_of(std::int64_t count) const { return count * thread / num_threads; }
  // f(item) for items [0, count), each once over all threads.
  template <class F>
  void each(std::int64_t count, F f) {
    pieces(count, 1, [&](std::int64_t item, std::int64_t) { f(item); });
  }
  // f(begin, end) for runs of items that are little work.
  template <class F>
  void runs(std::int64_t count, F f) {
    const std::int64_t share = (count + num_threads - 1) / num_threads;
    pieces(count, count >= 4 * num_threads ? (share + kPieces - 1) / kPieces : share, f);
  }
  // f(begin, end) for runs of items that stream `item_bytes` each: a share is one run, or some that are long enough.
  template <class F>
  void stretches(std::int64_t count, std::size_t item_bytes, F f) {
    const std::int64_t share = (count + num_threads - 1) / num_threads;
    const auto least = static_cast<std::int64_t>(kStretchBytes / std::max<std::size_t>(item_bytes, 1)) + 1;
    pieces(count, share < 2 * least ? share : std::max(least, (share + kPieces - 1) / kPieces), f);
  }

 private:
  static constexpr std::int64_t kPieces = 8;  // of a share
  static constexpr std::size_t kStretchBytes = 256 << 10;

  // Where a share is one piece, it takes longer to look at what others have left than to wait for them: while all are
  // there, it is theirs. Where there are more, a thread whose turn is over takes no other: so it holds up nobody.
  template <class F>
  void pieces(std::int64_t count, std::int64_t piece, F f) {
    if (phase < entry.phase || leaves || count <= 0) return;
    const bool whole = piece >= (count + num_threads - 1) / num_threads;
    const auto number = static_cast<std::uint32_t>(entry.index * 64 + phase + 1);
    for (int i = 0; i < num_threads; i++) {
      const int owner = (thread + i) % num_threads;
      const std::int64_t first = count * owner / num_threads, size = count * (owner + 1) / num_threads - first;
      if (size == 0 || (i > 0 && whole && pool.all_are_in())) continue;
      Cursor& cursor = cursors[static_cast<std::size_t>(owner)];
      for (std::int64_t begin; (begin = cursor.take(number, piece, size)) < size;) {
        f(first + begin, first + std::min(begin + piece, size));
        if (!whole && begin + piece < size && pool.is_due(thread)) {
          leaves = true;
          return;
        }
      }
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

  // Of one with weights: asks memory for those that a thread reads first, while an operator before this one ends.
  virtual void ask_ahead(const StepContext&, int /*thread*/, int /*num_threads*/) const {}
  virtual bool has_weights() const { return false; }
  // Whether a thread that is through with its share asks for the next weights that an operator has.
  virtual bool asks_for_next() const { return has_weights(); }

  // Of one that reads the cache: tells what a thread will read there, for operators before it to ask memory for.
  virtual bool foretells() const { return false; }
  virtual void foretell(const StepContext&, int /*thread*/, int /*num_threads*/, CacheReads&) const {}

  // Beside the arena, for all threads, in a step of at most so many rows.
  virtual std::size_t shared_bytes(const Kernels&, std::int64_t) const { return 0; }

  const std::string name, type;
};

class Embed final : public Operator {
 public:
  Embed(std::string name, View y, std::string format, const std::byte* table, std::size_t row_bytes, float scale);
  void run(const StepContext& context, Worker& worker) override;
  bool asks_for_next() const override { return true; }

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
