#include "phases.h"

#include <algorithm>
#include <stdexcept>
#include <thread>

#include "ticks.h"

namespace ridgeline {
namespace {

// The word, from its low bits: threads that have come to the phase's end, threads in it, phase, operator, run.
constexpr int kCountBits = 14, kPhaseBits = 6, kOperatorBits = 16;
constexpr int kPhaseAt = 2 * kCountBits, kOperatorAt = kPhaseAt + kPhaseBits, kRunAt = kOperatorAt + kOperatorBits;
constexpr std::uint64_t kArrived = 1, kPresent = std::uint64_t{1} << kCountBits;
constexpr std::uint64_t kMostThreads = kPresent - 1, kClosed = (std::uint64_t{1} << kOperatorBits) - 1;

std::uint64_t arrived_of(std::uint64_t word) { return word & kMostThreads; }
std::uint64_t present_of(std::uint64_t word) { return word >> kCountBits & kMostThreads; }
std::uint64_t operator_of(std::uint64_t word) { return word >> kOperatorAt & kClosed; }
int phase_of(std::uint64_t word) { return static_cast<int>(word >> kPhaseAt & ((1u << kPhaseBits) - 1)); }
std::uint64_t run_of(std::uint64_t word) { return word >> kRunAt; }
// What stays while an operator does, and while a phase does.
std::uint64_t operator_part(std::uint64_t word) { return word >> kOperatorAt; }
std::uint64_t phase_part(std::uint64_t word) { return word >> kPhaseAt; }
std::uint64_t word_of(std::uint64_t run, std::uint64_t index, std::uint64_t present) {
  return run << kRunAt | index << kOperatorAt | present << kCountBits;
}

std::uint64_t next_operator(std::uint64_t word, bool last, std::uint64_t present) {
  return last ? word_of(run_of(word), kClosed, 0) : word_of(run_of(word), operator_of(word) + 1, present);
}

// A thread that has come to an operator's end stays in for the next one so long; then it leaves, so that nobody has to
// wait for it, should it lose its core. Longer than threads on cores of their own are apart.
constexpr std::chrono::microseconds kStay{10};

// The system takes a core from a thread wherever it is, mostly in the middle of a piece, and then all wait for that piece
// for a slice of some milliseconds. So a thread gives its core up by itself, out of every phase, before its own slice is
// over: soon while nobody wants the core, which costs a microsecond, and where another program has had it for a while, after
// nearly as long. Nanoseconds.
constexpr double kLeastTurn = 0.5e6, kMostTurn = 3.5e6, kTurnOfAway = 0.7;
// So many turns on one core with another thread of the pool, and a thread looks for a better one.
constexpr int kTimesShared = 2;

}  // namespace

Phases::Phases(Waiting& waiting)
    : waiting_(waiting),
      num_threads_(static_cast<std::uint64_t>(waiting.num_threads())),
      turns_(static_cast<std::size_t>(num_threads_)),
      word_(word_of(0, kClosed, 0)) {
  if (num_threads_ > kMostThreads) throw std::invalid_argument("too many threads");
}

void Phases::open(std::int64_t num_operators) {
  if (num_operators < 1 || static_cast<std::uint64_t>(num_operators) >= kClosed)
    throw std::invalid_argument("a run has at least one operator, and fewer than 65,535");
  num_operators_ = static_cast<std::uint64_t>(num_operators);
  const std::uint64_t runs = (std::uint64_t{1} << (64 - kRunAt)) - 1;
  word_.store(word_of(run_of(word_.load(std::memory_order_relaxed)) + 1 & runs, 0, 1), std::memory_order_release);
}

bool Phases::all_are_in() const { return present_of(word_.load(std::memory_order_relaxed)) == num_threads_; }

// What comes after a phase to whose end all have come, but for those who leave meanwhile; by the last of them.
template <class Next>
void Phases::advance(Next next) {
  std::uint64_t word = word_.load(std::memory_order_relaxed);
  while (!word_.compare_exchange_weak(word, next(word), std::memory_order_acq_rel)) {
  }
  word_.notify_all();
}

// Into whatever operator is open, but for the one that the thread has left; false when none is. Nobody comes into a
// phase that one has come to the end of: there is nothing left to do.
bool Phases::enter(int thread, std::uint64_t left, Entry& entry) {
  for (;;) {
    std::uint64_t word = word_.load(std::memory_order_acquire);
    if (operator_of(word) == kClosed) return false;
    if (operator_part(word) == left || arrived_of(word) > 0) {
      waiting_.wait_change(word_, word, thread, kBarrierSpin);
    } else if (word_.compare_exchange_weak(word, word + kPresent, std::memory_order_acq_rel)) {
      entry = {static_cast<std::int64_t>(operator_of(word)), phase_of(word)};
      return true;
    }
  }
}

void Phases::end_phase(int thread) {
  waiting_.note_core(thread);
  const std::uint64_t word = word_.fetch_add(kArrived, std::memory_order_acq_rel);
  if (arrived_of(word) + 1 == present_of(word)) {
    return advance([](std::uint64_t now) { return (phase_part(now) + 1) << kPhaseAt | present_of(now) << kCountBits; });
  }
  const auto over = [&](std::uint64_t now) { return phase_part(now) != phase_part(word); };
  if (waiting_.spin_until(word_, thread, kBarrierSpin, over)) return;
  for (std::uint64_t now; !over(now = word_.load(std::memory_order_acquire));)
    word_.wait(now, std::memory_order_acquire);
}

bool Phases::is_due(int thread) const {
  if (num_threads_ == 1) return false;
  const Turn& turn = turns_[static_cast<std::size_t>(thread)];
  return ticks_now() - turn.begin > turn.length;
}

// Lets another thread have the core that wants it. The caller is in nothing, and may only now find itself on the core of
// another of the pool.
void Phases::give_way(int thread) {
  Turn& turn = turns_[static_cast<std::size_t>(thread)];
  turn.times_shared = waiting_.shares_core(thread) ? turn.times_shared + 1 : 0;
  if (turn.times_shared >= kTimesShared) {
    waiting_.move_away(thread);
    turn.times_shared = 0;
  }
  const std::uint64_t begin = ticks_now();
  std::this_thread::yield();
  turn.begin = ticks_now();
  const double per_tick = nanoseconds_per_tick(), away = static_cast<double>(turn.begin - begin) * per_tick;
  turn.length = static_cast<std::uint64_t>(std::clamp(kTurnOfAway * away, kLeastTurn, kMostTurn) / per_tick);
}

// Out of the middle of an operator; false if others are at the end of its phase: then the thread goes on with what is
// left there.
bool Phases::leave_early(int thread, Entry& entry, std::uint64_t& left) {
  std::uint64_t word = word_.load(std::memory_order_acquire);
  do {
    if (arrived_of(word) > 0) {
      entry.phase = phase_of(word);
      turns_[static_cast<std::size_t>(thread)].begin = ticks_now();
      return false;
    }
  } while (!word_.compare_exchange_weak(word, word - kPresent, std::memory_order_acq_rel));
  left = kNowhere;
  give_way(thread);
  return true;
}

// Whether the thread is in the next operator; if not, `left` is what it has left.
bool Phases::end_operator(int thread, Entry& entry, std::uint64_t& left) {
  waiting_.note_core(thread);
  const bool last = static_cast<std::uint64_t>(entry.index) + 1 == num_operators_;  // may change as soon as it has come
  if (is_due(thread)) {
    std::uint64_t word = word_.load(std::memory_order_acquire), next;
    bool ends;
    do {
      ends = arrived_of(word) + 1 == present_of(word);
      next = ends ? next_operator(word, last, present_of(word) - 1) : word - kPresent;
    } while (!word_.compare_exchange_weak(word, next, std::memory_order_acq_rel));
    if (ends) word_.notify_all();
    left = operator_part(word);
    give_way(thread);
    return false;
  }
  const std::uint64_t word = word_.fetch_add(kArrived, std::memory_order_acq_rel);
  left = operator_part(word);
  if (arrived_of(word) + 1 == present_of(word)) {
    advance([&](std::uint64_t now) { return next_operator(now, last, present_of(now)); });
  } else {
    const auto over = [&](std::uint64_t now) { return operator_part(now) != left; };
    if (!waiting_.spin_until(word_, thread, kStay, over) && leave(left)) return false;
  }
  entry = {entry.index + 1, 0};
  return !last;
}

// Out of an operator at whose end the thread is; false if it is in the next one by now.
bool Phases::leave(std::uint64_t part) {
  std::uint64_t word = word_.load(std::memory_order_acquire);
  while (operator_part(word) == part)
    if (word_.compare_exchange_weak(word, word - kPresent - kArrived, std::memory_order_acq_rel)) return true;
  return false;
}

}  // namespace ridgeline
