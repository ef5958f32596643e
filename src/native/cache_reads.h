// cache_reads: the tiles of keys and values that a thread will read when a step comes to an attention.
#pragma once

#include "beside.h"
#include "kv_place.h"
#include "rows.h"

namespace ridgeline {

// A line of its own: threads write theirs all the time.
class alignas(64) CacheReads final : public Beside {
 public:
  // Of a thread's share of the rows that have one new token, in the order in which attention reads them; nothing where
  // they are more together than the last-level cache keeps, or, in_own, the threads' own.
  void begin(const Step& step, const CacheBlocks& cache, const KvPlace& place, bool chunked, bool in_own, int thread,
             int num_threads);
  void end() { left_ = next_ = next_end_ = block_ = block_end_ = 0; }

 private:
  bool find() override;

  const Step* step_ = nullptr;
  CacheBlocks cache_{};
  const KvPlace* place_ = nullptr;
  bool chunked_ = false;
  std::int64_t kinds_ = 1;                // of tiles that a row has
  std::int64_t next_ = 0, next_end_ = 0;  // of all rows' kinds
  const StepRow* row_ = nullptr;          // whose blocks come, and which tile of them
  TilePlace tile_{};
  std::int64_t block_ = 0, block_end_ = 0;
};

}  // namespace ridgeline
