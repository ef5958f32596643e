// The operators of a bound graph: what each does in a step, on all threads together.
//
// run() is called by every thread; between its phases stands a barrier, and the program puts one after it. How work is
// parted over threads never changes a bit of the result: kernels see whole rows, channels, heads and chunks.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "rows.h"
#include "threads.h"
#include "ticks.h"

namespace ridgeline {

// A value in the arena: `width` floats a row, rows `ld` floats apart; a row for each of the step's tokens, or for each
// of its logits rows.
struct View {
  std::int64_t offset = 0;  // floats from the arena's begin
  std::int64_t ld = 0;
  std::int64_t width = 0;
  bool sampled = false;
};

// Up to this many rows every thread quantizes all of them for itself, which is cheaper than a barrier.
inline constexpr std::int64_t kOwnActivationRows = 4;

// What a step's operators share.
struct StepContext {
  const Kernels& kernels;
  const Step& step;
  float* arena;
  std::byte* kv;
  std::size_t kv_block_stride;
  std::byte* activations;   // rows of quantized activations, shared
  float* partials;          // attention over split contexts
  std::int64_t partials_floats;

  std::int64_t rows(const View& view) const { return view.sampled ? step.num_sampled : step.num_tokens; }
  float* at(const View& view) const { return arena + view.offset; }
};

// One thread's part in a step.
struct Worker {
  int thread;
  int num_threads;
  ThreadPool& pool;
  std::byte* scratch;
  std::byte* activations;  // of a few rows, its own
  std::uint64_t waited = 0;  // ticks at barriers since the program last took them

  void barrier() {
    const std::uint64_t arrived = ticks_now();
    pool.barrier(thread);
    waited += ticks_now() - arrived;
  }
  // The thread's share of `count` things: contiguous, sizes differing by at most one.
  void share(std::int64_t count, std::int64_t& begin, std::int64_t& end) const {
    begin = count * thread / num_threads;
    end = count * (thread + 1) / num_threads;
  }
};

// One thread's count, on a cache line of its own.
struct alignas(64) ThreadTicks {
  std::uint64_t ticks = 0;
};

class Operator {
 public:
  explicit Operator(std::string name, std::string type) : name(std::move(name)), type(std::move(type)) {}
  virtual ~Operator() = default;
  virtual void run(const StepContext& context, Worker& worker) = 0;
  virtual std::size_t scratch_bytes(const Kernels&) const { return 0; }

  const std::string name, type;
  std::uint64_t calls = 0, ticks = 0;
  std::vector<ThreadTicks> waited;  // of each thread
  // The next work item of a phase; the program zeroes it before a step.
  alignas(64) std::atomic<std::int64_t> next_item{0};
};

// One weight of a linear; its outputs are columns [column, column + matrix.n).
struct LinearPart {
  PackedMatrix matrix;
  ActivationKind kind;
  const float* bias;
  std::int64_t column;
};

class Linear final : public Operator {
 public:
  Linear(std::string name, View x, View y, std::vector<LinearPart> parts);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override { return kernels.linear_scratch_bytes(); }
  // Bytes of a row's activations in all the kinds that the parts take.
  std::size_t activation_bytes(const Kernels& kernels) const;
  // The operator before it has the same input and kinds, and its activations serve here, too.
  bool reuses_activations = false;
  const std::vector<ActivationKind>& kinds() const { return kinds_; }
  const View& input() const { return x_; }

 private:
  void quantize(const StepContext& context, std::int64_t begin, std::int64_t end, std::byte* out,
                std::int64_t rows) const;
  void multiply(const StepContext& context, Worker& worker, const std::byte* activations, std::int64_t strip_begin,
                std::int64_t strip_end, std::int64_t row_begin, std::int64_t row_end, std::int64_t rows) const;

  View x_, y_;
  std::vector<LinearPart> parts_;
  std::vector<ActivationKind> kinds_;
  std::int64_t num_strips_ = 0;
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

class Norm final : public Operator {
 public:
  Norm(std::string name, View x, View y, NormArgs args);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  NormArgs args_;
};

class AddNorm final : public Operator {
 public:
  AddNorm(std::string name, View a, View b, View total, View y, NormArgs args);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View a_, b_, total_, y_;
  NormArgs args_;
};

// Add, Scale, Softcap and GatedActivation, by which of their functions is called.
class Elementwise final : public Operator {
 public:
  enum class Kind { add, scale, softcap, gate };
  Elementwise(std::string name, std::string type, Kind kind, View a, View b, View y, float number,
              Activation activation);
  void run(const StepContext& context, Worker& worker) override;

 private:
  Kind kind_;
  View a_, b_, y_;
  float number_;
  Activation activation_;
};

class SelectRows final : public Operator {
 public:
  SelectRows(std::string name, View x, View y);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
};

}  // namespace ridgeline
