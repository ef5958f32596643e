// Memory in huge pages, straight from the operating system. Pages cost nothing until they are touched.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace ridgeline {

// Zeroed, 64-byte aligned (page aligned, in fact). Throws std::bad_alloc.
class Memory {
 public:
  Memory() = default;
  explicit Memory(std::size_t num_bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;

  std::byte* data() const { return data_; }
  std::size_t size() const { return num_bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
};

// Many long-lived allocations side by side, so that small ones do not cost a huge page each.
class Slabs {
 public:
  // 64-byte aligned, zeroed. Throws std::bad_alloc.
  std::byte* allocate(std::size_t num_bytes);
  std::size_t used_bytes() const { return used_bytes_; }
  // What is in use, slab by slab.
  std::vector<std::span<const std::byte>> areas() const;

 private:
  std::vector<Memory> slabs_;
  std::vector<std::size_t> slab_used_;  // of each slab, from its begin
  std::size_t used_bytes_ = 0;
};

}  // namespace ridgeline
