// beside: what a thread asks memory for while it multiplies what its caches hold.
//
// The operators of a step wait for different things, one after the other: linears of many rows for arithmetic, attention for
// keys and values. So while those multiply, memory brings what attention will read.
#pragma once

#include <algorithm>
#include <cstdint>

namespace ridgeline {

class Beside {
 public:
  virtual ~Beside() = default;

  // What is to be asked for next: at most `bytes` from `begin` on; 0: no more. (Inlined: kernel files are compiled for several
  // instruction sets, and the linker must not share their copies.)
  [[gnu::always_inline]] std::int64_t take(std::int64_t bytes, const std::uint8_t*& begin) {
    if (left_ <= 0 && !find()) return 0;
    const std::int64_t taken = std::min(bytes, left_);
    begin = at_;
    at_ += taken;
    left_ -= taken;
    return taken;
  }

 protected:
  // The next piece, of at least a byte. False: there is none.
  virtual bool find() = 0;

  const std::uint8_t* at_ = nullptr;
  std::int64_t left_ = 0;
};

}  // namespace ridgeline
