// What a decoder sees of its row's encoder: keys and values of as many positions in every row, written once a request
// and read by every step. They lie in tiles as the cache's do (attention.h), but at the row's number, not in blocks
// that a scheduler hands out. As in operators.h, every thread calls run().
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "operators_attention.h"

namespace ridgeline {

// Of all rows: a row is whole blocks of kBlockTokens positions, and a block has the tiles of every layer. The program
// of the encoder and that of the decoder share it.
class CrossMemory {
 public:
  struct Layer {
    std::int64_t kv_heads, key_dim, value_dim;
  };
  // Throws std::invalid_argument for sizes below 1, std::bad_alloc. counts_only: nothing is there.
  CrossMemory(std::int64_t positions, std::int64_t rows, const std::vector<Layer>& layers, CacheFormat format,
              bool counts_only);

  std::int64_t positions() const { return positions_; }
  std::int64_t rows() const { return rows_; }
  std::size_t row_bytes() const { return block_stride_ * table_.size(); }
  const KvPlace& layer(int index) const { return places_.at(static_cast<std::size_t>(index)); }
  CacheBlocks blocks(std::int64_t row) const {
    return {memory_.data() + static_cast<std::size_t>(row) * row_bytes(), block_stride_, 0};
  }
  // Blocks of a row, one after another.
  const std::int32_t* table() const { return table_.data(); }

 private:
  const std::int64_t positions_, rows_;
  std::vector<KvPlace> places_;
  std::vector<std::int32_t> table_;
  std::size_t block_stride_ = 0;
  Memory memory_;
};

// k and v of all positions of each of the step's rows.
class CrossWrite final : public Operator {
 public:
  CrossWrite(std::string name, View k, View v, const CrossMemory& memory, KvPlace place);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View k_, v_;
  const CrossMemory& memory_;
  KvPlace place_;
};

class CrossAttention final : public Operator {
 public:
  CrossAttention(std::string name, View q, View out, const CrossMemory& memory, KvPlace place, std::int64_t num_heads,
                 float scale);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  AttentionArgs args(const StepContext& context, const StepRow& row, std::int64_t kv_head) const;

  View q_, out_;
  const CrossMemory& memory_;
  KvPlace place_;
  std::int64_t num_heads_;
  float scale_;
};

}  // namespace ridgeline
