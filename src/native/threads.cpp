#include "threads.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

namespace ridgeline {
namespace {

// A waiting thread spins; while a thread of the pool shares its core, it gives that one the core instead; in the end
// it sleeps. Waking a sleeper takes longer than a small operator: were the spin shorter than that, two threads that
// disturbed each other once would take turns sleeping at every barrier from then on (measured: 50 us an operator
// instead of 1). Were it long, a core that spins would look busy to the system, which gives a thread that another
// program has driven off its core the core of one that sleeps (benchmarks/busy_core.py: decoding beside a busy process
// keeps 66 % of its speed, of 75 % that are fair, and 58 % with 2 ms).
// Between steps work comes again as soon as the last one is booked, 0.3 to 0.5 ms for a few dozen rows: a thread that
// sleeps by then costs the next step its waking, 0.7 ms in a virtual machine.
constexpr std::chrono::microseconds kBarrierSpin{200}, kIdleSpin{2000};
// Idle work begins after so much more, looking for work so often. It holds the process's map of memory for
// milliseconds, in which the thread that plans the next step can stand still: between two steps of a server, which
// take more than the spin where requests come in, it made gaps of 2 ms 10 to 40 ms long.
constexpr std::chrono::microseconds kIdleLook{200};
constexpr int kIdleLooks = 100;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int current_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, std::function<bool()> idle)
    : num_threads_(num_threads),
      process_(getpid()),
      idle_(std::move(idle)),
      cores_(static_cast<std::size_t>(std::max(num_threads, 1))) {
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

// Whether `word` is no longer `old` before `spin` is over.
bool ThreadPool::spin_for_change(const std::atomic<std::uint32_t>& word, std::uint32_t old, int thread,
                             std::chrono::microseconds spin) {
  const auto deadline = std::chrono::steady_clock::now() + spin;
  do {
    for (int i = 0; i < 32; i++) {
      if (word.load(std::memory_order_acquire) != old) return true;
      pause();
    }
    if (shares_core(thread)) std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// Whether no work has come for so long that idle work will not be in its way.
bool ThreadPool::rests(std::uint32_t seen) const {
  for (int look = 0; look < kIdleLooks; look++) {
    if (start_.load(std::memory_order_acquire) != seen) return false;
    std::this_thread::sleep_for(kIdleLook);
  }
  return true;
}

// Until `word` is no longer `old`.
void ThreadPool::wait_change(const std::atomic<std::uint32_t>& word, std::uint32_t old, int thread,
                             std::chrono::microseconds spin) {
  if (spin_for_change(word, old, thread, spin)) return;
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

// Whether another thread of the pool was last seen where this one runs.
bool ThreadPool::shares_core(int thread) {
  const int core = current_core();
  if (core < 0) return true;
  cores_[static_cast<std::size_t>(thread)].number.store(core, std::memory_order_relaxed);
  for (int other = 0; other < num_threads_; other++)
    if (other != thread && cores_[static_cast<std::size_t>(other)].number.load(std::memory_order_relaxed) == core)
      return true;
  return false;
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
  barrier(0);
}

void ThreadPool::work(int thread) {
  std::uint32_t seen = 0;
  for (;;) {
    if (thread == 1 && idle_ && !spin_for_change(start_, seen, thread, kIdleSpin) && rests(seen))
      while (start_.load(std::memory_order_acquire) == seen && idle_()) {
      }
    wait_change(start_, seen, thread, kIdleSpin);
    seen++;
    if (stopping_) return;
    call_(context_, thread);
    barrier(thread);
  }
}

void ThreadPool::barrier(int thread) {
  if (num_threads_ == 1) return;
  cores_[static_cast<std::size_t>(thread)].number.store(current_core(), std::memory_order_relaxed);
  const std::uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    generation_.notify_all();
  } else {
    wait_change(generation_, generation, thread, kBarrierSpin);
  }
}

}  // namespace ridgeline
