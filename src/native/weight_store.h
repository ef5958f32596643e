// Where a program's weights lie: in memory of its own, or packed in a file that is mapped.
//
// A file of packed weights is written by one program and mapped by it and by others, all of which share its pages:
// it takes their place in memory, not a place beside them, and needs no packing the next time. Pages of a file that
// the system drops are read from disk again. Whether the system keeps a file in huge pages is a matter of what was free
// when it was written or read; where too little of it is, the weights are moved into memory of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "threads.h"

namespace ridgeline {

// One packed matrix of a file, in the order in which they were packed.
struct PackedRecord {
  std::string format;
  std::int64_t n, k;
  float prescale;
  std::size_t offset;
};

// A file mapped in huge pages where the system can. Owns the mapping and a descriptor of its own.
class WeightFile {
 public:
  // Maps `capacity` bytes of the open file `descriptor`, which may be shorter until it is written. Throws
  // std::system_error.
  WeightFile(int descriptor, std::size_t capacity);
  ~WeightFile();
  WeightFile(const WeightFile&) = delete;
  WeightFile& operator=(const WeightFile&) = delete;

  const std::byte* data() const { return data_; }
  std::size_t capacity() const { return capacity_; }
  // Of the whole huge pages of the first `num_bytes`, the share that is mapped as such. Of what was touched before.
  double huge_share(std::size_t num_bytes) const;
  // Memory of its own in place of the file's pages [begin, begin + num_bytes), which end where the file's weights do or
  // with a huge page; the system may forget the file's. Where it cannot be had, all is as it was, and false is returned.
  bool take_over(std::size_t begin, std::size_t num_bytes);

  // Room for `num_bytes` after what was appended so far. Throws std::bad_alloc beyond the capacity.
  std::byte* room(std::size_t num_bytes);
  // The room is filled; it reaches the file at the latest with flush(). Throws std::system_error.
  void append(std::size_t num_bytes);
  void flush();
  std::size_t size() const { return size_; }

 private:
  void write_out(std::size_t num_bytes);

  int descriptor_;
  std::byte* data_ = nullptr;
  std::size_t capacity_, size_ = 0;
  Memory pending_;  // the file's last bytes, from a multiple of a huge page on
  std::size_t num_pending_ = 0;
};

class WeightStore {
 public:
  // From here on nothing is packed or kept, only counted: matrices have no data.
  void only_count() { use_ = Use::counted; }
  // From here on matrices are packed into the file, which is empty, instead of into memory.
  void write_to(int descriptor, std::size_t capacity);
  // From here on matrices are those of the file, which must be asked for in the order of `records`. Throws
  // std::invalid_argument for records that do not fit `num_bytes`.
  void read_from(const Kernels& kernels, int descriptor, std::size_t num_bytes, std::vector<PackedRecord> records);
  // Before anything of it is used: a file of which less than this share is in huge pages becomes memory of its own. The
  // bytes that did.
  std::size_t settle(ThreadPool& pool, double least_huge_share);
  // What was packed; all of it is in the file.
  const std::vector<PackedRecord>& finish_file();

  // See Program::pack. Throws std::invalid_argument for a matrix that a file read from does not have next.
  PackedMatrix pack(const Kernels& kernels, ThreadPool& pool, const std::string& format, const std::byte* raw,
                    std::int64_t n, std::int64_t k, std::size_t row_bytes, const std::function<void()>& release);
  // See Program::pack_screen.
  PackedMatrix pack_screen(const Kernels& kernels, ThreadPool& pool, const RawRows& raw, std::int64_t n, std::int64_t k,
                           const std::function<void()>& release);
  // In memory. 64-byte aligned, zeroed; null where it is only counted. Throws std::bad_alloc.
  std::byte* allocate(std::size_t num_bytes) {
    if (use_ != Use::counted) return slabs_.allocate(num_bytes);
    slabs_.count(num_bytes);
    return nullptr;
  }

  // Of the file's weights, by all threads; any change of a bit changes it.
  std::uint64_t checksum(ThreadPool& pool) const;
  std::size_t used_bytes() const { return slabs_.used_bytes() + file_bytes(); }
  std::size_t file_bytes() const { return file_ ? file_bytes_ : 0; }
  std::vector<std::span<const std::byte>> areas() const;

 private:
  enum class Use : std::uint8_t { none, counted, written, read };

  PackedMatrix next_of_file(const std::string& format, std::int64_t n, std::int64_t k);
  // Room for a matrix, filled a piece at a time by `pack`(begin, strip): where the matrix begins, and which strip of it.
  // False from one of them is false at the end.
  bool place(const Kernels& kernels, ThreadPool& pool, const char* format, std::int64_t pieces, PackedMatrix& out,
             const std::function<bool(std::byte*, std::int64_t)>& pack, const std::function<void()>& release);

  Slabs slabs_;
  std::unique_ptr<WeightFile> file_;
  Use use_ = Use::none;
  std::size_t file_bytes_ = 0;
  std::vector<PackedRecord> records_;
  std::size_t next_record_ = 0;
};

// Whether this file's system maps files in huge pages: tried on the file, which is left empty.
bool maps_in_huge_pages(int descriptor);

}  // namespace ridgeline
