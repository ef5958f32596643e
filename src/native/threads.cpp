#include "threads.h"

#include <unistd.h>

#include <chrono>
#include <stdexcept>

namespace ridgeline {
namespace {

// A waiting thread first spins, then gives its core to whoever wants it between looks, then sleeps. Waking a sleeper
// takes about as long as a small operator: were the middle part shorter than that, two threads that disturbed each
// other once would take turns sleeping at every barrier from then on (measured: 50 us an operator instead of 1).
constexpr std::chrono::microseconds kSpin{40}, kYield{2000};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Until `word` is no longer `old`.
void wait_change(const std::atomic<std::uint32_t>& word, std::uint32_t old) {
  const auto begin = std::chrono::steady_clock::now();
  for (auto waited = begin - begin; waited < kYield; waited = std::chrono::steady_clock::now() - begin) {
    for (int i = 0; i < 32; i++) {
      if (word.load(std::memory_order_acquire) != old) return;
      pause();
    }
    if (waited > kSpin) std::this_thread::yield();
  }
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads), process_(getpid()) {
  if (num_threads < 1) throw std::invalid_argument("a thread pool needs at least 1 thread");
  threads_.reserve(static_cast<std::size_t>(num_threads - 1));
  try {
    for (int thread = 1; thread < num_threads; thread++) threads_.emplace_back([this, thread] { work(thread); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() == process_) {
    stop();
    return;
  }
  // After a fork the threads are the parent's; their handles here must not be joined.
  for (std::thread& thread : threads_) thread.detach();
}

void ThreadPool::stop() {
  stopping_ = true;
  start_.fetch_add(1, std::memory_order_release);
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run_erased(Call call, void* context) {
  if (getpid() != process_) throw std::runtime_error("the thread pool belongs to the process before the fork");
  call_ = call;
  context_ = context;
  if (num_threads_ > 1) {
    start_.fetch_add(1, std::memory_order_release);
    start_.notify_all();
  }
  call(context, 0);
  barrier();
}

void ThreadPool::work(int thread) {
  std::uint32_t seen = 0;
  for (;;) {
    wait_change(start_, seen);
    seen++;
    if (stopping_) return;
    call_(context_, thread);
    barrier();
  }
}

void ThreadPool::barrier() {
  if (num_threads_ == 1) return;
  const std::uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    generation_.notify_all();
  } else {
    wait_change(generation_, generation);
  }
}

}  // namespace ridgeline
