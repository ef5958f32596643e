// A fixed set of threads that run one function together, with a barrier inside it, or operators one after the other.
//
// Threads are not pinned: the host is shared. A process that forks keeps no worker in the child; run() there says so.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "phases.h"
#include "waiting.h"

namespace ridgeline {

class ThreadPool {
 public:
  // `num_threads` counts the caller. Where there is more than one, one of them calls `idle` while nothing runs, again
  // and again until it says false; run() may wait for a call to end. Throws std::invalid_argument below 1,
  // std::system_error if threads cannot be had.
  explicit ThreadPool(int num_threads, std::function<bool()> idle = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }

  // task(thread) on every thread, the caller being thread 0; returns when all have. One caller at a time. The task must
  // not throw. Throws std::runtime_error in the child of a fork.
  template <class Task>
  void run(Task task) {
    run_erased([](void* context, int thread) { (*static_cast<Task*>(context))(thread); }, &task);
  }

  // f(thread, entry) for operators [0, count), each by the threads that are there (phases.h), at least by one; returns when
  // all are done. f says whether the thread has come to the operator's end, as in Phases::walk. One caller at a time. f must not throw. Throws as run() does, and as Phases::open.
  template <class F>
  void run_operators(std::int64_t count, F f) {
    run_open(count, {[](void* context, int thread, const Entry& entry) { return (*static_cast<F*>(context))(thread, entry); }, &f});
  }
  // Inside of run_operators' f.
  bool is_due(int thread) const { return phases_.is_due(thread); }
  void end_phase(int thread) { phases_.end_phase(thread); }
  bool all_are_in() const { return phases_.all_are_in(); }

  // Inside run(): returns when every thread has come here; what they wrote before is visible after.
  void barrier(int thread);

 private:
  using Call = void (*)(void*, int);
  struct OperatorCall {
    bool (*call)(void*, int, const Entry&) = nullptr;
    void* context = nullptr;
  };
  void run_erased(Call call, void* context);
  void run_open(std::int64_t count, OperatorCall call);
  void walk(int thread, bool entered);
  void wake();
  void check_process() const;
  void work(int thread);
  void stop();
  bool rests(std::uint32_t seen) const;

  const int num_threads_;
  const int process_;
  const std::function<bool()> idle_;
  Waiting waiting_;
  Phases phases_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  OperatorCall operator_call_;  // read only by who is in an operator
  std::atomic<bool> stopping_ = false;
  std::atomic<std::uint32_t> runs_{0};                    // of run(): each thread does every one of them
  alignas(64) std::atomic<std::uint32_t> start_{0};       // one more for each run of either kind
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // one more for each barrier passed
  std::vector<std::thread> threads_;
};

}  // namespace ridgeline
