// Attention to selected blocks of a row's tokens, and what selects them: the blocks are looked at where they lie, by a
// block table of their own.
#pragma once

#include <string>

#include "operators_attention.h"

namespace ridgeline {

// Of each head the `top` blocks of `tokens` tokens whose keys give the largest product, and the `local` last ones.
class SelectBlocks final : public Operator {
 public:
  struct Spec {
    View q, out;
    KvPlace place;
    std::int64_t heads, top, tokens, local, max_context;
  };
  SelectBlocks(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  std::int64_t max_blocks() const { return (spec_.max_context + spec_.tokens - 1) / spec_.tokens; }
  void select(const StepContext& context, const StepRow& row, std::int64_t token, std::byte* scratch) const;

  Spec spec_;
};

class BlockAttention final : public Operator {
 public:
  struct Spec {
    Attention::Spec plain;
    View chosen;  // of each KV head `top` numbers of blocks of `tokens` tokens, ascending, then -1
    std::int64_t top, tokens, first;  // first: the KV head of `chosen` that is the first here
  };
  BlockAttention(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;
  const Attention& plain() const { return plain_; }

 private:
  std::size_t table_bytes() const;
  // One token's head group: the entries of its row's block table that it looks at, side by side. Tokens that it sees.
  std::int64_t gather(const StepRow& row, std::int64_t position, const float* chosen, std::int32_t* table) const;

  Spec spec_;
  Attention plain_;
};

}  // namespace ridgeline
