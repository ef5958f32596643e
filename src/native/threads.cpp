#include "threads.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <utility>

namespace ridgeline {
namespace {

// Between steps work comes again as soon as the last one is booked, 0.3 to 0.5 ms for a few dozen rows: a thread that
// sleeps by then costs the next step its waking, 0.7 ms in a virtual machine.
constexpr std::chrono::microseconds kIdleSpin{2000};
// Idle work begins after so much more, looking for work so often. It holds the process's map of memory for
// milliseconds, in which the thread that plans the next step can stand still: between two steps of a server, which
// take more than the spin where requests come in, it made gaps of 2 ms 10 to 40 ms long.
constexpr std::chrono::microseconds kIdleLook{200};
constexpr int kIdleLooks = 100;

}  // namespace

ThreadPool::ThreadPool(int num_threads, std::function<bool()> idle)
    : num_threads_(num_threads),
      process_(getpid()),
      idle_(std::move(idle)),
      waiting_(std::max(num_threads, 1)),
      phases_(waiting_) {
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

// Whether no work has come for so long that idle work will not be in its way.
bool ThreadPool::rests(std::uint32_t seen) const {
  for (int look = 0; look < kIdleLooks; look++) {
    if (start_.load(std::memory_order_acquire) != seen) return false;
    std::this_thread::sleep_for(kIdleLook);
  }
  return true;
}

void ThreadPool::stop() {
  stopping_ = true;
  wake();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::wake() {
  start_.fetch_add(1, std::memory_order_release);
  start_.notify_all();
}

void ThreadPool::check_process() const {
  if (getpid() != process_) throw std::runtime_error("the thread pool belongs to the process before the fork");
}

void ThreadPool::run_erased(Call call, void* context) {
  check_process();
  call_ = call;
  context_ = context;
  if (num_threads_ > 1) {
    runs_.fetch_add(1, std::memory_order_release);
    wake();
  }
  call(context, 0);
  barrier(0);
}

void ThreadPool::run_open(std::int64_t count, OperatorCall call) {
  check_process();
  operator_call_ = call;
  phases_.open(count);
  if (num_threads_ > 1) wake();
  walk(0, true);
}

void ThreadPool::walk(int thread, bool entered) {
  phases_.walk(thread, entered, [&](const Entry& entry) { return operator_call_.call(operator_call_.context, thread, entry); });
}

void ThreadPool::work(int thread) {
  std::uint32_t seen = 0, runs = 0;
  for (;;) {
    if (thread == 1 && idle_ && !waiting_.spin_for_change(start_, seen, thread, kIdleSpin) && rests(seen))
      while (start_.load(std::memory_order_acquire) == seen && idle_()) {
      }
    waiting_.wait_change(start_, seen, thread, kIdleSpin);
    seen = start_.load(std::memory_order_acquire);
    if (stopping_) return;
    if (runs_.load(std::memory_order_acquire) != runs) {
      runs++;
      call_(context_, thread);
      barrier(thread);
    } else {
      walk(thread, false);
    }
  }
}

void ThreadPool::barrier(int thread) {
  if (num_threads_ == 1) return;
  waiting_.note_core(thread);
  const std::uint32_t generation = generation_.load(std::memory_order_acquire);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    generation_.store(generation + 1, std::memory_order_release);
    generation_.notify_all();
  } else {
    waiting_.wait_change(generation_, generation, thread, kBarrierSpin);
  }
}

}  // namespace ridgeline
