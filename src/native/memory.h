// Memory in huge pages, straight from the operating system. Pages cost nothing until they are touched.
#pragma once

#include <atomic>
#include <cstddef>
#include <span>
#include <vector>

namespace ridgeline {

// Zeroed, 64-byte aligned (page aligned, in fact). Throws std::bad_alloc.
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t num_bytes);
  // So many bytes that are not there: for who only counts.
  static Memory counted(std::size_t num_bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return num_bytes_; }

  // To this place, whose mapping of as many bytes it takes the place of; it is that mapping's owner's then, and may
  // only be read. Whole huge pages, at a multiple of one. Where the system refuses, false, and nothing has moved.
  bool move_to(std::byte* place);

 private:
  std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
};

// Memory that is made ready ahead of its use by a thread that has nothing else to do. The first touch of a page costs a
// virtual machine up to 3 ms a megabyte where its host must find the page first, in the middle of a step.
class ReadyMemory {
 public:
  // Once, before anything else. ahead: bytes that are made ready beyond what is in use. counted: see Memory. Throws
  // std::bad_alloc.
  void allocate(std::size_t num_bytes, std::size_t ahead, bool counted = false);
  std::byte* data() const { return memory_.data(); }
  std::size_t size() const { return memory_.size(); }
  // [0, end) is in use: more will be soon. end: size() at most.
  void used(std::size_t end);
  // Makes the next piece of what will be used ready, its content as it is; false if there is none. For one thread.
  bool prepare();
  // Whether there is none.
  bool is_ready() const { return ready_.load(std::memory_order_acquire) >= wanted_.load(std::memory_order_acquire); }

 private:
  Memory memory_;
  std::size_t ahead_ = 0, used_ = 0;
  std::atomic<std::size_t> wanted_{0}, ready_{0};
};

// Many long-lived allocations side by side, so that small ones do not cost a huge page each.
class Slabs {
 public:
  // 64-byte aligned, zeroed. Throws std::bad_alloc.
  std::byte* allocate(std::size_t num_bytes);
  // As if it were allocated: used_bytes grows, and nothing is there.
  void count(std::size_t num_bytes) { used_bytes_ += (num_bytes + 63) / 64 * 64; }
  std::size_t used_bytes() const { return used_bytes_; }
  // What is in use, slab by slab.
  std::vector<std::span<const std::byte>> areas() const;

 private:
  std::vector<Memory> slabs_;
  std::vector<std::size_t> slab_used_;  // of each slab, from its begin
  std::size_t used_bytes_ = 0;
};

}  // namespace ridgeline
