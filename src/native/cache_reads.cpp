#include "cache_reads.h"

#include <unistd.h>

namespace ridgeline {
namespace {

// Where attention reads more than this share of a cache, what came first would be gone when it is read: of the last-level
// cache, or of each thread's own, where linears ask for more and slower than is won from the last one.
constexpr double kCacheShare = 0.375, kOwnShare = 0.5;

// Where the system does not say.
constexpr std::int64_t kUsualCacheBytes = std::int64_t{16} << 20, kUsualOwnBytes = std::int64_t{1} << 20;

std::int64_t share_of(double share, long cache, std::int64_t usual) {
  return static_cast<std::int64_t>(share * static_cast<double>(cache > 0 ? cache : usual));
}

std::int64_t most_bytes() {
#ifdef _SC_LEVEL3_CACHE_SIZE
  static const long found = sysconf(_SC_LEVEL3_CACHE_SIZE);
#else
  constexpr long found = 0;
#endif
  return share_of(kCacheShare, found, kUsualCacheBytes);
}

std::int64_t most_own_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
  constexpr long found = 0;
#endif
  return share_of(kOwnShare, found, kUsualOwnBytes);
}

// Blocks that a row's one new token sees.
struct Seen {
  std::int64_t begin, end;
};
Seen seen_blocks(const KvPlace& place, bool chunked, const StepRow& row) {
  const std::int64_t begin = first_visible(place.window, chunked, row.num_context) / kBlockTokens;
  return {begin, row.num_new == 1 ? row.num_context / kBlockTokens + 1 : begin};
}

}  // namespace

void CacheReads::begin(const Step& step, const CacheBlocks& cache, const KvPlace& place, bool chunked, bool in_own,
                       int thread, int num_threads) {
  end();
  step_ = &step;
  cache_ = cache;
  place_ = &place;
  chunked_ = chunked;
  kinds_ = place.latent ? 1 : 2 * place.kv_heads;
  std::int64_t blocks = 0;
  for (const StepRow& row : step.rows) {
    const Seen seen = seen_blocks(place, chunked, row);
    blocks += seen.end - seen.begin;
  }
  const std::size_t values = place.latent ? 0 : place.values(0).num_bytes;
  const std::int64_t most = in_own ? num_threads * most_own_bytes() : most_bytes();
  if (blocks * place.kv_heads * static_cast<std::int64_t>(place.keys().num_bytes + values) > most) return;
  const auto rows = static_cast<std::int64_t>(step.rows.size());
  next_ = kinds_ * (rows * thread / num_threads);
  next_end_ = kinds_ * (rows * (thread + 1) / num_threads);
}

// Of a row, tiles of one kind after the other: each head's keys, then its values. What follows one another in memory is one
// piece.
bool CacheReads::find() {
  while (block_ >= block_end_) {
    if (next_ >= next_end_) return false;
    row_ = &step_->rows[static_cast<std::size_t>(next_ / kinds_)];
    const std::int64_t kind = next_++ % kinds_;
    tile_ = kind % 2 ? place_->values(kind / 2) : place_->keys(kind / 2);
    const Seen seen = seen_blocks(*place_, chunked_, *row_);
    block_ = seen.begin;
    block_end_ = seen.end;
  }
  const std::int32_t* table = row_->block_tables[place_->column];
  const std::byte* begin = cache_.tile(table[block_], tile_);
  at_ = reinterpret_cast<const std::uint8_t*>(begin);
  do {
    block_++;
    left_ += static_cast<std::int64_t>(tile_.num_bytes);
  } while (block_ < block_end_ && cache_.tile(table[block_], tile_) == begin + left_);
  return true;
}

}  // namespace ridgeline
