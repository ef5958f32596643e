// A run of operators by the threads that are there.
//
// An operator is one or more phases; a phase ends when all who are in it have come to its end, which they do when
// nothing of it is left to take. Between two operators a thread can be away: then nobody waits for it, the others take
// its share, and when it is back it goes on where they are. So a thread whose core another program has holds up the
// piece that it is at, and nothing after it.
//
// All of that is one word: run, operator, phase, how many threads are in it, how many of them have come to its end. Who
// is in an operator stays in until nothing of it is left, or leaves it between two pieces; it touches nothing of the
// operators while it is in none, so that the run may end and another begin without it.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "waiting.h"

namespace ridgeline {

// Where a thread came into an operator: phases before that one were over by then.
struct Entry {
  std::int64_t index = 0;
  int phase = 0;
};

class Phases {
 public:
  // Throws std::invalid_argument for more threads than the word can count.
  explicit Phases(Waiting& waiting);

  // Operators [0, num_operators) are open, and the caller is in the first. Nothing may be open. Throws
  // std::invalid_argument for more than the word can count.
  void open(std::int64_t num_operators);

  // f(Entry) for operators from the one that the thread is in until none is open. f returns true at an operator's end, where
  // nothing is left to take; false where the thread leaves before, after a phase's piece, in a phase of which each
  // thread may take everything. entered: it is in since open().
  template <class F>
  void walk(int thread, bool entered, F f) {
    Entry entry;
    std::uint64_t left = kNowhere;
    while (entered || enter(thread, left, entry)) {
      const bool ended = f(entry);
      entered = ended ? end_operator(thread, entry, left) : !leave_early(thread, entry, left);
    }
  }

  // Whether it is time to let others have the core.
  bool is_due(int thread) const;
  // Inside of f, at the end of a phase that is not the operator's last: returns when the phase is over.
  void end_phase(int thread);
  // Inside of f: whether all threads are in the operator; those who are have taken, or will take, their own shares.
  bool all_are_in() const;

 private:
  static constexpr std::uint64_t kNowhere = ~std::uint64_t{0};

  bool enter(int thread, std::uint64_t left, Entry& entry);
  bool end_operator(int thread, Entry& entry, std::uint64_t& left);
  template <class Next>
  void advance(Next next);
  bool leave_early(int thread, Entry& entry, std::uint64_t& left);
  void give_way(int thread);
  bool leave(std::uint64_t part);

  // Of a thread, in ticks: since when it has its core, and how long it keeps it; and how often it found itself on another's.
  struct alignas(64) Turn {
    std::uint64_t begin = 0, length = 0;
    int times_shared = 0;
  };

  Waiting& waiting_;
  const std::uint64_t num_threads_;
  std::uint64_t num_operators_ = 0;  // of the open run
  std::vector<Turn> turns_;
  alignas(64) std::atomic<std::uint64_t> word_;
};

}  // namespace ridgeline
