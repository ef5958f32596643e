// sample: the order of candidates, and selection in it. Written out, so that no template of the standard library is
// compiled for an instruction set.
#pragma once

#include "family_kernels.h"

namespace ridgeline::RIDGELINE_ISA {
// Whether a comes before b: higher score, or the same and a lower id.
inline bool before(const Candidate& a, const Candidate& b) {
  return a.score > b.score || (a.score == b.score && a.id < b.id);
}

inline void sift_down(Candidate* heap, std::int64_t root, std::int64_t count) {
  for (std::int64_t child; (child = 2 * root + 1) < count; root = child) {
    if (child + 1 < count && before(heap[child], heap[child + 1])) child++;
    if (!before(heap[root], heap[child])) return;
    const Candidate moved = heap[root];
    heap[root] = heap[child];
    heap[child] = moved;
  }
}

// Sorts by `before`: heapsort, since its worst case is its usual one. The heap's root is the last in the order.
inline void sort_candidates(Candidate* c, std::int64_t count) {
  for (std::int64_t i = count / 2; i-- > 0;) sift_down(c, i, count);
  for (std::int64_t end = count - 1; end > 0; end--) {
    const Candidate last = c[0];
    c[0] = c[end];
    c[end] = last;
    sift_down(c, 0, end);
  }
}

// Moves those before the pivot (a member's value) to the front; how many they are. The pivot comes right after them.
inline std::int64_t partition(Candidate* c, std::int64_t count) {
  const std::int64_t middle = count / 2;
  Candidate pivot = c[middle];
  c[middle] = c[count - 1];
  c[count - 1] = pivot;
  std::int64_t front = 0;
  for (std::int64_t i = 0; i < count - 1; i++)
    if (before(c[i], pivot)) {
      const Candidate moved = c[i];
      c[i] = c[front];
      c[front++] = moved;
    }
  c[count - 1] = c[front];
  c[front] = pivot;
  return front;
}

// Puts the first k of the order in front, in no order among themselves.
inline void select_first(Candidate* c, std::int64_t count, std::int64_t k) {
  while (count > 1 && k > 0 && k < count) {
    const std::int64_t front = partition(c, count);
    if (k <= front) {
      count = front;
    } else {
      c += front + 1;
      count -= front + 1;
      k -= front + 1;
    }
  }
}

// The k-th largest of `values`, which it reorders.
inline float kth_largest(float* values, std::int64_t count, std::int64_t k) {
  std::int64_t low = 0, high = count - 1;
  const std::int64_t target = k - 1;
  while (low < high) {
    const float pivot = values[low + (high - low) / 2];
    std::int64_t i = low, j = high;
    while (i <= j) {
      while (values[i] > pivot) i++;
      while (values[j] < pivot) j--;
      if (i <= j) {
        const float moved = values[i];
        values[i++] = values[j];
        values[j--] = moved;
      }
    }
    if (target <= j) {
      high = j;
    } else if (target >= i) {
      low = i;
    } else {
      break;
    }
  }
  return values[target];
}

}  // namespace ridgeline::RIDGELINE_ISA
