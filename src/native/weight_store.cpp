#include "weight_store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <new>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace ridgeline {
namespace {

// Raw weights that are packed between two releases: little memory beside the packed ones, yet work for many threads.
constexpr std::int64_t kPieceBytes = std::int64_t{8} << 20;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
// Written at once: a file system that has huge pages makes them of writes that cover them.
constexpr std::size_t kWriteBytes = 4 * kHugePage;
constexpr std::size_t kChecksumBytes = std::size_t{1} << 20;

std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

[[noreturn]] void fail(const char* what) { throw std::system_error(errno, std::generic_category(), what); }

void touch(const std::byte* data) { asm volatile("" : : "r"(*reinterpret_cast<const volatile char*>(data))); }

// Eight chains, so that multiplying keeps up with memory. Each step can be undone, so no single change is lost.
std::uint64_t checksum_of(const std::byte* data, std::size_t num_bytes) {
  constexpr std::uint64_t kPrime = 0x9e3779b97f4a7c15;
  std::uint64_t chains[8] = {1, 2, 3, 4, 5, 6, 7, 8}, words[8];
  for (std::size_t at = 0; at < num_bytes; at += sizeof words) {
    std::memcpy(words, data + at, sizeof words);
    for (int i = 0; i < 8; i++) {
      chains[i] = (chains[i] ^ words[i]) * kPrime;
      chains[i] ^= chains[i] >> 32;
    }
  }
  std::uint64_t sum = num_bytes;
  for (const std::uint64_t chain : chains) {
    sum = (sum ^ chain) * kPrime;
    sum ^= sum >> 29;
  }
  return sum;
}

}  // namespace

// ---- a mapped file

WeightFile::WeightFile(int descriptor, std::size_t capacity)
    : descriptor_(dup(descriptor)), capacity_((capacity + kHugePage - 1) / kHugePage * kHugePage) {
  if (descriptor_ < 0) fail("dup");
  void* reserved = mmap(nullptr, capacity_ + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    close(descriptor_);
    fail("mmap");
  }
  const std::size_t address = reinterpret_cast<std::size_t>(reserved);
  const std::size_t front = (kHugePage - address % kHugePage) % kHugePage;
  std::byte* begin = static_cast<std::byte*>(reserved) + front;
  if (front) munmap(reserved, front);
  munmap(begin + capacity_, kHugePage - front);
  if (mmap(begin, capacity_, PROT_READ, MAP_SHARED | MAP_FIXED, descriptor_, 0) == MAP_FAILED) {
    const int error = errno;
    munmap(begin, capacity_);
    close(descriptor_);
    errno = error;
    fail("mmap");
  }
#ifdef MADV_HUGEPAGE
  madvise(begin, capacity_, MADV_HUGEPAGE);  // advice only, before anything is read: it decides how pages are read
#endif
  data_ = begin;
}

WeightFile::~WeightFile() {
  munmap(const_cast<std::byte*>(data_), capacity_);
  close(descriptor_);
}

double WeightFile::huge_share(std::size_t num_bytes) const {
  const std::size_t wanted = num_bytes / kHugePage * (kHugePage >> 10);
  if (wanted == 0) return 1.0;
  char begin[32];
  std::snprintf(begin, sizeof begin, "%" PRIxPTR "-", reinterpret_cast<std::uintptr_t>(data_));
  std::ifstream maps("/proc/self/smaps");
  bool found = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.starts_with(begin)) found = true;
    if (found && line.starts_with("FilePmdMapped:"))
      return std::strtod(line.c_str() + 14, nullptr) / static_cast<double>(wanted);
  }
  return 0.0;
}

bool WeightFile::take_over(std::size_t begin, std::size_t num_bytes) {
  try {
    Memory own((num_bytes + kHugePage - 1) / kHugePage * kHugePage);
    for (std::size_t done = 0; done < num_bytes;) {
      const ssize_t got = pread(descriptor_, own.data() + done, num_bytes - done, static_cast<off_t>(begin + done));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return false;
      done += static_cast<std::size_t>(got);
    }
    if (!own.move_to(data_ + begin)) return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  posix_fadvise(descriptor_, static_cast<off_t>(begin), static_cast<off_t>(num_bytes), POSIX_FADV_DONTNEED);
  return true;
}

std::byte* WeightFile::room(std::size_t num_bytes) {
  if (num_bytes > capacity_ - size_) throw std::bad_alloc();
  if (pending_.size() < num_pending_ + num_bytes) {
    Memory larger(num_pending_ + num_bytes + kWriteBytes);
    if (num_pending_) std::memcpy(larger.data(), pending_.data(), num_pending_);
    pending_ = std::move(larger);
  }
  return pending_.data() + num_pending_;
}

void WeightFile::append(std::size_t num_bytes) {
  num_pending_ += num_bytes;
  size_ += num_bytes;
  if (num_pending_ >= kWriteBytes) write_out(num_pending_ / kHugePage * kHugePage);
}

void WeightFile::flush() { write_out(num_pending_); }

void WeightFile::write_out(std::size_t num_bytes) {
  std::size_t at = size_ - num_pending_;
  for (std::size_t done = 0; done < num_bytes;) {
    const ssize_t written = pwrite(descriptor_, pending_.data() + done, num_bytes - done, static_cast<off_t>(at + done));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail("pwrite");
    done += static_cast<std::size_t>(written);
  }
  num_pending_ -= num_bytes;
  if (num_pending_) std::memmove(pending_.data(), pending_.data() + num_bytes, num_pending_);
}

bool maps_in_huge_pages(int descriptor) {
  bool huge = false;
  {
    WeightFile file(descriptor, kHugePage);
    std::memset(file.room(kHugePage), 1, kHugePage);
    file.append(kHugePage);
    file.flush();
    touch(file.data());
    huge = file.huge_share(kHugePage) > 0;
  }
  if (ftruncate(descriptor, 0) != 0) fail("ftruncate");
  return huge;
}

// ---- the store

void WeightStore::write_to(int descriptor, std::size_t capacity) {
  if (use_ != Use::none) throw std::invalid_argument("the weights have a file already");
  file_ = std::make_unique<WeightFile>(descriptor, capacity);
  use_ = Use::written;
}

void WeightStore::read_from(const Kernels& kernels, int descriptor, std::size_t num_bytes,
                            std::vector<PackedRecord> records) {
  if (use_ != Use::none) throw std::invalid_argument("the weights have a file already");
  if (num_bytes == 0 || num_bytes % 64) throw std::invalid_argument("a file of weights has another size");
  for (const PackedRecord& record : records) {
    const std::optional<Layout> layout = layout_of(record.format);
    const bool sound = layout && record.n > 0 && record.k > 0 && record.n <= INT32_MAX && record.k <= INT32_MAX &&
                       std::isfinite(record.prescale) && record.prescale > 0 && record.offset % 64 == 0 &&
                       record.offset <= num_bytes;
    if (!sound || kernels.packed_bytes(*layout, record.n, record.k) > num_bytes - record.offset)
      throw std::invalid_argument("a file of weights does not hold what it says");
  }
  file_ = std::make_unique<WeightFile>(descriptor, num_bytes);
  file_bytes_ = num_bytes;
  records_ = std::move(records);
  use_ = Use::read;
}

std::size_t WeightStore::settle(ThreadPool& pool, double least_huge_share) {
  if (!file_) return 0;
  // A fault on a huge page maps it whole, one on a small page a few of them.
  std::atomic<std::size_t> next{0}, moved{0};
  pool.run([&](int) {
    for (std::size_t begin; (begin = next.fetch_add(kHugePage)) < file_bytes_;) touch(file_->data() + begin);
  });
  if (file_->huge_share(file_bytes_) >= least_huge_share) return 0;
  next = 0;
  pool.run([&](int) {
    for (std::size_t begin; (begin = next.fetch_add(kWriteBytes)) < file_bytes_;) {
      const std::size_t num_bytes = std::min(kWriteBytes, file_bytes_ - begin);
      if (file_->take_over(begin, num_bytes)) moved += num_bytes;
    }
  });
  return moved;
}

const std::vector<PackedRecord>& WeightStore::finish_file() {
  if (use_ == Use::written) file_->flush();
  return records_;
}

PackedMatrix WeightStore::next_of_file(const std::string& format, std::int64_t n, std::int64_t k) {
  if (next_record_ == records_.size()) throw std::invalid_argument("a file of weights lacks a matrix");
  const PackedRecord& record = records_[next_record_++];
  if (record.format != format || record.n != n || record.k != k)
    throw std::invalid_argument("a file of weights has another matrix in this place");
  return {*layout_of(format), n, k, record.prescale, file_->data() + record.offset};
}

PackedMatrix WeightStore::pack(const Kernels& kernels, ThreadPool& pool, const std::string& format,
                               const std::byte* raw, std::int64_t n, std::int64_t k, std::size_t row_bytes,
                               const std::function<void()>& release) {
  const std::optional<Layout> layout = layout_of(format);
  if (!layout) throw std::invalid_argument("no packed layout for weights of format " + format);
  if (use_ == Use::read) return next_of_file(format, n, k);
  PackedMatrix out{*layout, n, k, 1.0f, nullptr};
  if (use_ == Use::counted) {
    slabs_.count(kernels.packed_bytes(*layout, n, k));
    return out;
  }
  const std::int64_t strips = out.num_strips();
  const std::int64_t raw_bytes = n * static_cast<std::int64_t>(row_bytes);
  const std::int64_t pieces = std::clamp<std::int64_t>((raw_bytes + kPieceBytes - 1) / kPieceBytes, 1, strips);

  // The smallest power of two that any piece needs. Pieces are of one size: a small one at the end could be rows of
  // padding, all zero, which would ask for 1.
  std::vector<float> prescales(static_cast<std::size_t>(pool.size()), 1.0f);
  for (std::int64_t piece = 0; piece < pieces; piece++) {
    const std::int64_t begin = n * piece / pieces, rows = n * (piece + 1) / pieces - begin;
    pool.run([&](int thread) {
      const std::int64_t first = begin + rows * thread / pool.size();
      const std::int64_t count = begin + rows * (thread + 1) / pool.size() - first;
      float& mine = prescales[static_cast<std::size_t>(thread)];
      if (count == 0) {
        mine = INFINITY;
        return;
      }
      const float wanted =
          kernels.pack_prescale(format.c_str(), raw + static_cast<std::size_t>(first) * row_bytes, count, k);
      mine = piece == 0 ? wanted : std::min(mine, wanted);
    });
    if (pieces > 1) release();  // a single piece is read once more at once
  }
  out.prescale = *std::min_element(prescales.begin(), prescales.end());

  const auto pack_strip = [&](std::byte* begin, std::int64_t strip) {
    return kernels.pack_strips(format.c_str(), raw, out, begin, strip, strip + 1);
  };
  if (!place(kernels, pool, format.c_str(), pieces, out, pack_strip, release))
    throw std::invalid_argument("no packing of weights of format " + format);
  return out;
}

bool WeightStore::place(const Kernels& kernels, ThreadPool& pool, const char* format, std::int64_t pieces,
                        PackedMatrix& out, const std::function<bool(std::byte*, std::int64_t)>& pack,
                        const std::function<void()>& release) {
  const std::int64_t strips = out.num_strips();
  const std::size_t num_bytes = aligned(kernels.packed_bytes(out.layout, out.n, out.k));
  const std::size_t pair_bytes = kernels.packed_bytes(out.layout, out.n, out.k) / static_cast<std::size_t>(strips);
  const std::size_t offset = file_ ? file_->size() : 0;
  std::byte* data = file_ ? nullptr : slabs_.allocate(num_bytes);
  std::atomic<bool> known{true};
  for (std::int64_t piece = 0; piece < pieces; piece++) {
    const std::int64_t first = strips * piece / pieces, end = strips * (piece + 1) / pieces;
    const std::size_t size = (piece + 1 == pieces ? num_bytes : static_cast<std::size_t>(end) * pair_bytes) -
                             static_cast<std::size_t>(first) * pair_bytes;
    // A matrix begins that many bytes before its piece; only the piece is there.
    std::byte* begin = file_ ? file_->room(size) - static_cast<std::size_t>(first) * pair_bytes : data;
    std::atomic<std::int64_t> next{first};
    pool.run([&](int) {
      for (std::int64_t strip; (strip = next.fetch_add(1)) < end;)
        if (!pack(begin, strip)) known = false;
    });
    if (file_) file_->append(size);
    release();
  }
  if (!known) return false;
  out.data = file_ ? file_->data() + offset : data;
  if (file_) {
    file_bytes_ = file_->size();
    records_.push_back({format, out.n, out.k, out.prescale, offset});
  }
  return true;
}

PackedMatrix WeightStore::pack_screen(const Kernels& kernels, ThreadPool& pool, const RawRows& raw, std::int64_t n,
                                      std::int64_t k, const std::function<void()>& release) {
  if (use_ == Use::read) return next_of_file(kScreenFormat, n, k);
  PackedMatrix out{*layout_of(kScreenFormat), n, k, 1.0f, nullptr};
  if (use_ == Use::counted) {
    slabs_.count(kernels.packed_bytes(out.layout, n, k));
    return out;
  }
  const std::int64_t raw_bytes = n * static_cast<std::int64_t>(raw.row_bytes);
  const std::int64_t pieces = std::clamp<std::int64_t>((raw_bytes + kPieceBytes - 1) / kPieceBytes, 1, out.num_strips());
  const std::size_t row_bytes = screen_row_bytes(k);
  const auto pack_strip = [&](std::byte* begin, std::int64_t strip) {
    thread_local std::vector<float> w;
    thread_local std::vector<std::byte> rows;
    w.resize(static_cast<std::size_t>(k));
    rows.resize(kStripChannels * row_bytes);
    const std::int64_t first = strip * kStripChannels, count = std::min(kStripChannels, n - first);
    for (std::int64_t c = 0; c < count; c++) {
      if (!kernels.decode_row(raw.format, raw.row(first + c), k, w.data())) return false;
      kernels.screen_row(w.data(), k, rows.data() + static_cast<std::size_t>(c) * row_bytes);
    }
    // Rows of the whole matrix begin that many bytes before these.
    return kernels.pack_strips(kScreenFormat, rows.data() - static_cast<std::size_t>(first) * row_bytes, out, begin, strip,
                               strip + 1);
  };
  if (!place(kernels, pool, kScreenFormat, pieces, out, pack_strip, release))
    throw std::invalid_argument("no screen of weights of format " + std::string(raw.format));
  return out;
}

std::uint64_t WeightStore::checksum(ThreadPool& pool) const {
  const std::size_t chunks = (file_bytes() + kChecksumBytes - 1) / kChecksumBytes;
  std::vector<std::uint64_t> sums(chunks);
  std::atomic<std::size_t> next{0};
  pool.run([&](int) {
    for (std::size_t chunk; (chunk = next.fetch_add(1)) < chunks;) {
      const std::size_t begin = chunk * kChecksumBytes;
      sums[chunk] = checksum_of(file_->data() + begin, std::min(kChecksumBytes, file_bytes() - begin));
    }
  });
  sums.resize((chunks + 7) / 8 * 8);
  return checksum_of(reinterpret_cast<const std::byte*>(sums.data()), sums.size() * sizeof(std::uint64_t));
}

std::vector<std::span<const std::byte>> WeightStore::areas() const {
  std::vector<std::span<const std::byte>> areas = slabs_.areas();
  if (file_bytes()) areas.emplace_back(file_->data(), file_bytes());
  return areas;
}

}  // namespace ridgeline
