// A fixed set of threads that run one function together, with a barrier inside it.
//
// Waiting spins for a while, then sleeps in the kernel; threads that find themselves on one core hand it to each
// other. So barriers are answered at once when every thread has its core, and other programs cost what they take.
// Threads are not pinned: the host is shared. A process that forks keeps no worker in the child; run() there says so.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace ridgeline {

class ThreadPool {
 public:
  // `num_threads` counts the caller. Where there is more than one, one of them calls `idle` while nothing runs, again
  // and again until it says false; a run may wait for a call to end. Throws std::invalid_argument below 1,
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

  // Inside run(): returns when every thread has come here; what they wrote before is visible after.
  void barrier(int thread);

 private:
  using Call = void (*)(void*, int);
  void run_erased(Call call, void* context);
  void work(int thread);
  void stop();
  bool rests(std::uint32_t seen) const;
  bool spin_for_change(const std::atomic<std::uint32_t>& word, std::uint32_t old, int thread,
                       std::chrono::microseconds spin);
  void wait_change(const std::atomic<std::uint32_t>& word, std::uint32_t old, int thread,
                   std::chrono::microseconds spin);
  bool shares_core(int thread);

  // The core that a thread was last seen on.
  struct alignas(64) Core {
    std::atomic<int> number{-1};
  };

  const int num_threads_;
  const int process_;
  const std::function<bool()> idle_;
  std::vector<Core> cores_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  bool stopping_ = false;
  alignas(64) std::atomic<std::uint32_t> start_{0};       // one more for each run
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // one more for each barrier passed
  std::vector<std::thread> threads_;
};

}  // namespace ridgeline
