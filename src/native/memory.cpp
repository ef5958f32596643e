#include "memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

namespace ridgeline {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kSlab = std::size_t{64} << 20;

}  // namespace

Memory::Memory(std::size_t num_bytes) : num_bytes_(num_bytes) {
  if (num_bytes == 0) return;
  // A mapping of a huge page or more is aligned to one, so that its first and last pages can be huge, too.
  const std::size_t slack = num_bytes >= kHugePage ? kHugePage : 0;
  if (num_bytes > SIZE_MAX - slack) throw std::bad_alloc();
  void* mapped = mmap(nullptr, num_bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                      -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  std::byte* begin = static_cast<std::byte*>(mapped);
  if (slack) {
    const std::size_t address = reinterpret_cast<std::size_t>(begin);
    const std::size_t front = (kHugePage - address % kHugePage) % kHugePage;
    if (front) munmap(begin, front);
    begin += front;
    const std::size_t kept = (num_bytes + 4095) / 4096 * 4096;
    if (slack - front > kept - num_bytes) munmap(begin + kept, num_bytes + slack - front - kept);
#ifdef MADV_HUGEPAGE
    madvise(begin, num_bytes, MADV_HUGEPAGE);  // advice only: without huge pages it is slower and right
#endif
  }
  data_ = begin;
}

Memory Memory::counted(std::size_t num_bytes) {
  Memory out;
  out.num_bytes_ = num_bytes;
  return out;
}

Memory::~Memory() {
  if (data_) munmap(data_, num_bytes_);
}

bool Memory::move_to(std::byte* place) {
  if (mprotect(data_, num_bytes_, PROT_READ) != 0) return false;
  if (mremap(data_, num_bytes_, num_bytes_, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED) return false;
  data_ = nullptr;
  num_bytes_ = 0;
  return true;
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), num_bytes_(std::exchange(other.num_bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(num_bytes_, other.num_bytes_);
  return *this;
}

void ReadyMemory::allocate(std::size_t num_bytes, std::size_t ahead, bool counted) {
  ahead_ = ahead;
  memory_ = counted ? Memory::counted(num_bytes) : Memory(num_bytes);
  used(0);
}

void ReadyMemory::used(std::size_t end) {
  used_ = std::max(used_, end);
  wanted_.store(memory_.size() - used_ > ahead_ ? used_ + ahead_ : memory_.size(), std::memory_order_release);
}

bool ReadyMemory::prepare() {
  if (is_ready()) return false;
  const std::size_t ready = ready_.load(std::memory_order_relaxed);
  const std::size_t num_bytes = std::min(kHugePage, memory_.size() - ready);
#ifdef MADV_POPULATE_WRITE
  madvise(memory_.data() + ready, num_bytes, MADV_POPULATE_WRITE);  // where it fails, the first use pays
#endif
  ready_.store(ready + num_bytes, std::memory_order_release);
  return true;
}

std::byte* Slabs::allocate(std::size_t num_bytes) {
  const std::size_t rounded = (num_bytes + 63) / 64 * 64;
  if (rounded < num_bytes) throw std::bad_alloc();
  if (slabs_.empty() || slabs_.back().size() - slab_used_.back() < rounded) {
    slabs_.emplace_back(std::max(rounded, kSlab));
    slab_used_.push_back(0);
  }
  std::byte* out = slabs_.back().data() + slab_used_.back();
  slab_used_.back() += rounded;
  used_bytes_ += rounded;
  return out;
}

std::vector<std::span<const std::byte>> Slabs::areas() const {
  std::vector<std::span<const std::byte>> areas;
  for (std::size_t i = 0; i < slabs_.size(); i++) areas.emplace_back(slabs_[i].data(), slab_used_[i]);
  return areas;
}

}  // namespace ridgeline
