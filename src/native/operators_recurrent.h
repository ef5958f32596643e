// The operators whose rows carry a state from token to token, parted over the threads by rows and parts of the state.
#pragma once

#include <cstring>

#include "operators.h"

namespace ridgeline {

// Where a layer's state begins in that of a row, and how many floats it has.
struct StatePlace {
  std::int64_t offset = 0, floats = 0;
};

// A part of a row's states, floats [begin, begin + floats): as they were or, before the row's first token, zero.
inline float* state_of(const StepContext& context, const StepRow& row, std::int64_t begin, std::int64_t floats) {
  float* state = context.states + row.slot * context.state_stride + begin;
  if (row.num_context == 0) std::memset(state, 0, static_cast<std::size_t>(floats) * sizeof(float));
  return state;
}

class CausalConv final : public Operator {
 public:
  CausalConv(std::string name, View x, View y, StatePlace place, ConvArgs args);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, y_;
  StatePlace place_;
  ConvArgs args_;
};

class Compress final : public Operator {
 public:
  Compress(std::string name, View x, View scores, View y, StatePlace place, CompressArgs args);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_, scores_, y_;
  StatePlace place_;
  CompressArgs args_;
};

class SelectiveScan final : public Operator {
 public:
  struct Spec {
    View x, dt, b, c, y;
    StatePlace place;
    const float *a, *d;
  };
  SelectiveScan(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;

 private:
  Spec spec_;
};

class SsdScan final : public Operator {
 public:
  struct Spec {
    View x, b, c, dt, y;
    StatePlace place;
    std::int64_t heads, groups;
    const float *a, *d, *dt_bias;
    float dt_low, dt_high;
  };
  SsdScan(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;

 private:
  Spec spec_;
};

// Mamba 2's recurrence where every dt is 1: s = e^a s + k v, y = s q.
class DecayAttention final : public Operator {
 public:
  struct Spec {
    View q, k, v, y;
    StatePlace place;
    std::int64_t heads;
    const float* a;
  };
  DecayAttention(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;

 private:
  Spec spec_;
};

class DeltaRule final : public Operator {
 public:
  struct Spec {
    View q, k, v, g, beta, y;
    StatePlace place;
    std::int64_t key_heads, value_heads;
    bool by_channel, tiled;
    float floor;  // 0: none
    const float *a, *dt_bias;
  };
  DeltaRule(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  Spec spec_;
};

class RgLru final : public Operator {
 public:
  struct Spec {
    View x, r, i, y;
    StatePlace place;
    const float* rate;
  };
  RgLru(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;

 private:
  Spec spec_;
};

class TokenShift final : public Operator {
 public:
  TokenShift(std::string name, View x, std::vector<View> outputs, StatePlace place, ShiftArgs args);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_;
  std::vector<View> outputs_;
  StatePlace place_;
  ShiftArgs args_;
};

class Wkv7 final : public Operator {
 public:
  struct Spec {
    View r, w, k, v, a, y, own;
    StatePlace place;
    std::int64_t heads;
    const float *direction, *change, *bonus;
  };
  Wkv7(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  Spec spec_;
};

class SplitGroups final : public Operator {
 public:
  SplitGroups(std::string name, View x, std::vector<View> outputs, std::int64_t groups);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_;
  std::vector<View> outputs_;
  std::int64_t groups_;
};

// b's columns after a's.
class Join final : public Operator {
 public:
  Join(std::string name, View a, View b, View y);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View a_, b_, y_;
};

}  // namespace ridgeline
