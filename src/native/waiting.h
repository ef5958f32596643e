// How threads of a pool wait for a word to change: they spin for a while, then sleep in the kernel; one that finds
// another of the pool on its core hands it over. So an answer comes at once while every thread has its core, and other
// programs cost what they take.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace ridgeline {

// Waking a sleeper takes longer than a small operator: were the spin shorter than that, two threads that disturbed each
// other once would take turns sleeping at every barrier from then on (measured: 50 us an operator instead of 1). Were it
// long, a core that spins would look busy to the system, which gives a thread that another program has driven off its
// core the core of one that sleeps.
constexpr std::chrono::microseconds kBarrierSpin{200};

class Waiting {
 public:
  explicit Waiting(int num_threads) : cores_(static_cast<std::size_t>(num_threads)) {}

  int num_threads() const { return static_cast<int>(cores_.size()); }

  // Says where a thread is.
  void note_core(int thread) {
    cores_[static_cast<std::size_t>(thread)].number.store(current_core(), std::memory_order_relaxed);
  }
  // Whether another thread of the pool was last seen where this one runs.
  bool shares_core(int thread) {
    const int core = current_core();
    if (core < 0) return true;
    cores_[static_cast<std::size_t>(thread)].number.store(core, std::memory_order_relaxed);
    for (int other = 0; other < num_threads(); other++)
      if (other != thread && cores_[static_cast<std::size_t>(other)].number.load(std::memory_order_relaxed) == core)
        return true;
    return false;
  }
  // To a core that the process may have and where no thread of the pool was last seen, if there is one. The system takes
  // two threads on one core and another program's on the next for balanced, which they are, and leaves them there.
  void move_away([[maybe_unused]] int thread) {
#if defined(__linux__)
    cpu_set_t all, others;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return;
    others = all;
    for (const Core& core : cores_) {
      const int number = core.number.load(std::memory_order_relaxed);
      if (number >= 0 && number < CPU_SETSIZE) CPU_CLR(number, &others);
    }
    if (CPU_COUNT(&others) == 0 || sched_setaffinity(0, sizeof others, &others) != 0) return;
    sched_setaffinity(0, sizeof all, &all);
    note_core(thread);
#endif
  }
  // Whether `done(word)` is true before `spin` is over.
  template <class Word, class Done>
  bool spin_until(const std::atomic<Word>& word, int thread, std::chrono::microseconds spin, Done done) {
    const auto deadline = std::chrono::steady_clock::now() + spin;
    do {
      for (int i = 0; i < 32; i++) {
        if (done(word.load(std::memory_order_acquire))) return true;
        pause();
      }
      if (shares_core(thread)) std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < deadline);
    return false;
  }
  template <class Word>
  bool spin_for_change(const std::atomic<Word>& word, Word old, int thread, std::chrono::microseconds spin) {
    return spin_until(word, thread, spin, [&](Word now) { return now != old; });
  }
  // Until `word` is no longer `old`; who changes it calls notify_all().
  template <class Word>
  void wait_change(const std::atomic<Word>& word, Word old, int thread, std::chrono::microseconds spin) {
    if (spin_for_change(word, old, thread, spin)) return;
    while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
  }

 private:
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
  static int current_core() {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
  }

  // The core that a thread was last seen on.
  struct alignas(64) Core {
    std::atomic<int> number{-1};
  };
  std::vector<Core> cores_;
};

}  // namespace ridgeline
