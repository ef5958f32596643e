// Caches with an entry for several tokens of a row, what selects among entries, and attention over them beside a window.
//
// An entry is a row of bfloat16 numbers, its key and its value, in the block of its last token: a block has one for each
// so many of its tokens, or one, which is used where an entry ends in it. Attention copies what a token sees, window and
// entries, side by side into tiles as a cache of tokens has them (attention.h), and goes over those.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "operators_attention.h"

namespace ridgeline {

// Entries of a block, and the bytes of one.
inline std::int64_t entries_in_block(std::int64_t every) { return every < kBlockTokens ? kBlockTokens / every : 1; }
inline std::size_t entry_bytes(std::int64_t channels) {
  return static_cast<std::size_t>(padded_to_16(channels)) * sizeof(std::uint16_t);
}

class EntryWrite final : public Operator {
 public:
  EntryWrite(std::string name, View x, KvPlace place);
  void run(const StepContext& context, Worker& worker) override;

 private:
  View x_;
  KvPlace place_;
};

class SelectEntries final : public Operator {
 public:
  struct Spec {
    View q, weights, out;
    KvPlace place;
    std::int64_t heads, max_entries;
  };
  SelectEntries(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  void score(const StepContext& context, const StepRow& row, std::int64_t begin, std::int64_t end, float* scores,
             std::byte* scratch) const;
  void choose(float* scores, std::int64_t complete, std::int32_t* order, float* out) const;

  Spec spec_;
};

class EntryAttention final : public Operator {
 public:
  struct Spec {
    View q, out;
    KvPlace window;
    std::optional<KvPlace> entries;
    std::optional<View> chosen;  // entries that a token looks at; else all that are complete
    std::int64_t heads, max_entries;
    float scale;
    const float* sinks;
  };
  EntryAttention(std::string name, Spec spec);
  void run(const StepContext& context, Worker& worker) override;
  std::size_t scratch_bytes(const Kernels& kernels) const override;

 private:
  struct Gathered;

  std::size_t tiles_bytes() const;
  void gather(const StepContext& context, const StepRow& row, std::int64_t token, std::byte* tiles,
              Gathered& held) const;
  std::int64_t gather_window(const StepContext& context, const StepRow& row, std::int64_t position,
                             std::byte* tiles) const;

  Spec spec_;
  Attention plain_;
  std::vector<std::int32_t> in_order_;  // the block table of what is gathered
};

}  // namespace ridgeline
